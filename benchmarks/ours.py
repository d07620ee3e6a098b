"""Our train steps and generation as programs of a benchmark.

The only file of the benchmarks that imports models and training.
"""

import time
import warnings
from collections import deque
from collections.abc import Callable, Mapping
from itertools import cycle
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import PyTree

from benchmarks.cases import SEQ, VOCAB, Writing, boards, texts
from configs import GPTConfig, MeshConfig, TrainGPT, TrainTRM
from gpt.decode import Decoder, generate, row_keys
from gpt.hugging_face import save_hugging_face
from gpt.metrics import Metrics
from gpt.model import GPT
from gpt.model import cast as cast_gpt
from gpt.sampling import Sampling
from gpt.size import flops_per_token
from gpt.weights import from_named, to_named
from train.experiment import AbstractExperiment
from train.gpt import GPTExperiment
from train.mesh import global_batch, make_mesh
from train.models import build_model
from train.state import TrainState, init_state
from train.step import make_train_step
from train.trm import TRMExperiment
from trm.official.names import load_official, to_official

Weights = Mapping[str, np.ndarray]
Outcome = Callable[[TrainState, Metrics], dict[str, np.ndarray]]
"""`state, metrics -> arrays` to compare after the first step, by name."""


# -- what a run trains, and how --------------------------------------------------------


def make_experiment(
    config: TrainTRM | TrainGPT,
    tokens: int,
    load: Callable[[Any], Any] = lambda model: model,
) -> tuple[AbstractExperiment, list[PyTree[np.ndarray]]]:
    """Return an experiment on one device, and random batches.

    A TRM trains on 9x9 Sudoku with one puzzle identifier.

    Args:
        config: of the run.
        tokens: size of the vocabulary.
        load: `fresh model -> first model`.
    """
    mesh = make_mesh(MeshConfig(data=1))
    if isinstance(config, TrainTRM):
        sizes = {"vocab": tokens, "seq": SEQ, "puzzles": 1}
        experiment = TRMExperiment(config, mesh=mesh, sizes=sizes)
        batches: list[Any] = boards(config.batch_size)
    else:
        experiment = GPTExperiment(config, mesh=mesh, sizes={"tokens": tokens})
        batches = texts(config, tokens)

    def build() -> tuple[Any, PyTree]:
        model, rows = build_model(config, experiment.sizes, experiment.kernel)
        return load(model), rows

    experiment.build, experiment.total = build, 10**6
    return experiment, batches


# -- the step --------------------------------------------------------------------------


class OurStep:
    """The step of `train/step.py` on one device."""

    name = "ours"

    def __init__(
        self,
        experiment: AbstractExperiment,
        batches: list[PyTree[np.ndarray]],
        outcome: Outcome,
    ):
        """Initialize the state; nothing is compiled."""
        mesh, config = experiment.mesh, experiment.step_config
        self.state = init_state(experiment.init, mesh)
        self._run: Any = make_train_step(
            experiment, experiment.optimizer, mesh, config, self.state
        )
        stack = lambda batch: jax.tree.map(lambda a: a[None, None], batch)
        self._batches = cycle([stack(batch) for batch in batches])
        self._place = global_batch(mesh, config.batch_size, 2)
        self._ready: deque[PyTree] = deque()
        self._outcome = outcome
        self._metrics: Metrics = {}

    def compile_facts(self) -> dict[str, float]:
        """Compile the step for `step`; return the seconds, and its memory in bytes."""
        self.prepare(1)
        start = time.perf_counter()
        with warnings.catch_warnings(action="ignore"):  # a batch is donated to no use
            lowered = self._run.lower(self.state, self._ready[0])
        middle = time.perf_counter()
        self._run = lowered.compile()
        facts = {"lower_s": middle - start, "compile_s": time.perf_counter() - middle}
        memory = self._run.compiled.memory_analysis()
        if memory is not None:
            facts["temp_bytes"] = memory.temp_size_in_bytes
            facts["argument_bytes"] = memory.argument_size_in_bytes
        return facts

    def prepare(self, steps: int) -> None:
        """Place a batch on the device for each step, which donates it."""
        while len(self._ready) < steps:
            self._ready.append(self._place(next(self._batches)))
        jax.block_until_ready(list(self._ready))

    def step(self) -> None:
        """Make one update."""
        self.state, self._metrics = self._run(self.state, self._ready.popleft())

    def wait(self) -> None:
        """Wait for the device."""
        jax.block_until_ready((self.state, self._metrics))

    def outcome(self) -> dict[str, np.ndarray]:
        """Return the arrays to compare after the first step."""
        return self._outcome(self.state, self._metrics)


def _learned(
    state: TrainState, beta1: float, named: Callable[[Any], Weights]
) -> dict[str, np.ndarray]:
    """Return the first step's gradients and the weights after it, by `named`."""
    moment = next(s.mu for s in state.opt_state if hasattr(s, "mu"))
    grads, weights = named(moment), named(state.model)
    return {f"gradient {n}": grad / (1.0 - beta1) for n, grad in grads.items()} | {
        f"weight {n}": weights[n] for n in grads
    }


def trm_step(config: TrainTRM, weights: Weights | None) -> OurStep:
    """Return the step of `train/trm.py`, from official weights if there are some."""
    shape = config.model
    load = lambda model: load_official(weights, model, shape) if weights else model

    def outcome(state: TrainState, metrics: Metrics) -> dict[str, np.ndarray]:
        y, z = state.carry.latents
        named = lambda model: to_official(model, shape)
        return {
            "lm_loss": np.asarray(metrics["lm_loss"][0]),
            "q_halt_loss": np.asarray(metrics["q_halt_loss"][0]),
            "z_H": np.asarray(y.astype(jnp.float32)),
            "z_L": np.asarray(z.astype(jnp.float32)),
            "table": np.asarray(state.table.rows),
            **_learned(state, config.optim.beta1, named),
        }

    return OurStep(*make_experiment(config, VOCAB, load), outcome)


def gpt_step(config: TrainGPT, tokens: int, weights: Weights | None) -> OurStep:
    """Return the step of `train/gpt.py`, from nanoGPT's weights if there are some."""
    load = lambda model: from_named(weights, model, "nanogpt") if weights else model

    def named(model: Any) -> dict[str, np.ndarray]:
        weights = to_named(model, "nanogpt")
        del weights["lm_head.weight"]  # tied
        return weights

    def outcome(state: TrainState, metrics: Metrics) -> dict[str, np.ndarray]:
        total, count = metrics["loss"]
        return {
            "loss": np.asarray(total / count),
            "norm": np.asarray(metrics["grad_norm"][0]),
            **_learned(state, config.optim.beta1, named),
        }

    return OurStep(*make_experiment(config, tokens, load), outcome)


def trm_flops(config: TrainTRM) -> int:
    """Return the operations of one step, in the count of MFU."""
    sizes = {"vocab": VOCAB, "seq": SEQ, "puzzles": 1}
    return config.batch_size * TRMExperiment(config, sizes=sizes).flops


def gpt_flops(config: TrainGPT, tokens: int) -> int:
    """Return the operations of one step, in nanoGPT's count."""
    each = flops_per_token(abstract_gpt(config.model, tokens))
    return config.batch_size * config.model.block_size * each


# -- generation ------------------------------------------------------------------------


def build(config: GPTConfig, tokens: int) -> GPT:
    """Return a fresh GPT."""
    return build_model(TrainGPT(model=config), {"tokens": tokens})[0]


def abstract_gpt(config: GPTConfig, tokens: int) -> GPT:
    """Return the shapes of a GPT."""
    return jax.eval_shape(lambda: build(config, tokens))


def random_gpt(case: Writing, scale: float = 0.08) -> GPT:
    """Return a GPT with weights large enough that no two tokens are nearly equal."""
    rng = np.random.default_rng(1)
    draw = lambda shape: scale * rng.standard_normal(shape, np.float32)
    model = build(case.model, case.vocab)
    return jax.tree.map(lambda leaf: leaf + draw(leaf.shape), model)


def export(model: GPT, folder: Path) -> None:
    """Write a model for `transformers`, as `gpt.export` does."""
    save_hugging_face(model, folder)


class Generation:
    """Generation by `gpt/decode.py`, as in `gpt.sample`."""

    name = "ours"
    top_k: int | None

    def __init__(self, case: Writing, model: GPT):
        self.case, self.top_k = case, 1
        self._decoder = Decoder(cast_gpt(model, jnp.dtype(case.precision)))
        self.new = np.zeros((case.batch_size, 0), np.int32)

    def prepare(self, steps: int) -> None:
        """Do nothing."""

    def step(self) -> None:
        """Generate all new tokens of all rows."""
        case = self.case
        chunks = generate(
            self._decoder,
            case.prompt(),
            case.new_tokens,
            Sampling(top_k=self.top_k),
            row_keys(0, np.arange(case.batch_size)),
            tokens=case.vocab,
        )
        self.new = np.concatenate(list(chunks), axis=1)

    def wait(self) -> None:
        """Do nothing: `step` returns with the tokens."""
