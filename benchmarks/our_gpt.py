"""Our generation as an arm of the benchmark."""

from collections.abc import Mapping

import jax
import numpy as np

from benchmarks.gpt_case import Case
from gpt.build import build_gpt
from gpt.decode import Decoder
from gpt.generate import generate, row_keys
from gpt.sample import compiled
from gpt.sampling import Sampling
from gpt.weights import from_named


class OurGeneration:
    """`gpt/generate.py`, as `gpt.sample` runs it."""

    name = "ours"
    top_k: int | None

    def __init__(self, case: Case, weights: Mapping[str, np.ndarray]):
        self.case, self.top_k = case, 1
        build = lambda: build_gpt(case.model, tokens=case.vocab, key=jax.random.key(0))
        model = from_named(weights, jax.eval_shape(build), "nanogpt")
        self.decoder = Decoder(jax.tree.map(lambda a: a.astype(case.precision), model))
        self.programs = compiled(case.precision)
        self.new = np.zeros((case.batch_size, 0), np.int32)

    def step(self) -> None:
        """All new tokens of all rows."""
        case = self.case
        pieces = generate(
            self.decoder,
            case.prompt(),
            case.new_tokens,
            Sampling(top_k=self.top_k),
            row_keys(0, np.arange(case.batch_size)),
            tokens=case.vocab,
            programs=self.programs,
        )
        self.new = np.concatenate(list(pieces), axis=1)

    def wait(self) -> None:
        """Nothing: the tokens have come."""
