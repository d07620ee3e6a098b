"""Generation in PyTorch as arms of the benchmark: nanoGPT's and Hugging Face's.

Source: `model.py`, `GPT.generate`, and `sample.py` of github.com/karpathy/nanoGPT;
`generate` of `transformers`.
"""

import contextlib
import tempfile
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import numpy as np
import torch  # pyright: ignore[reportMissingImports]

from benchmarks.gpt_case import Case
from benchmarks.nanogpt import build_nanogpt
from benchmarks.torch_arm import settle
from gpt.build import build_gpt
from gpt.hugging_face import save_hugging_face
from gpt.weights import from_named


class TorchGeneration:
    """What the two have in common."""

    name: str
    top_k: int | None

    def __init__(self, case: Case, model: Any, device: str):
        settle(device)
        self.case, self.device, self.top_k = case, device, 1
        self.model = model.to(device).eval()
        self.prompt = torch.tensor(case.prompt(), dtype=torch.long, device=device)
        self.tokens: Any = None

    @property
    def new(self) -> np.ndarray:
        """The tokens of the last step."""
        return self.tokens[:, self.case.prompt_tokens :].cpu().numpy()

    def step(self) -> None:
        """All new tokens of all rows."""
        mixed = torch.autocast(self.device, torch.bfloat16)
        exact = contextlib.nullcontext()
        with torch.no_grad(), exact if self.case.precision == "float32" else mixed:
            self.tokens = self.generate()

    def generate(self) -> Any:
        """The prompt and the new tokens."""
        raise NotImplementedError

    def wait(self) -> None:
        """Until the device is done."""
        if self.device != "cpu":
            torch.cuda.synchronize()


class NanoGPT(TorchGeneration):
    """nanoGPT's `generate`, as its `sample.py` runs it."""

    name = "nanogpt"

    def __init__(
        self, case: Case, weights: Mapping[str, np.ndarray], checkout: Path, device: str
    ):
        config = replace(case.model, dropout=0.0)
        model = build_nanogpt(config, case.vocab, checkout)
        tensors = {name: torch.from_numpy(array) for name, array in weights.items()}
        model.load_state_dict(tensors, strict=False)  # masks are no weights
        super().__init__(case, model, device)

    def generate(self) -> Any:
        """The prompt and the new tokens."""
        case = self.case
        return self.model.generate(self.prompt, case.new_tokens, top_k=self.top_k)


class HuggingFace(TorchGeneration):
    """`GPT2LMHeadModel.generate` with a static cache."""

    name = "hugging face"

    def __init__(self, case: Case, weights: Mapping[str, np.ndarray], device: str):
        from transformers import (  # pyright: ignore[reportMissingImports]
            GPT2LMHeadModel,
        )

        build = lambda: build_gpt(case.model, tokens=case.vocab, key=jax.random.key(0))
        ours = from_named(weights, jax.eval_shape(build), "nanogpt")
        with tempfile.TemporaryDirectory() as folder:
            save_hugging_face(ours, case.model, Path(folder) / "model")
            model = GPT2LMHeadModel.from_pretrained(Path(folder) / "model")
        super().__init__(case, model, device)

    def generate(self) -> Any:
        """The prompt and the new tokens."""
        case = self.case
        return self.model.generate(
            self.prompt,
            attention_mask=torch.ones_like(self.prompt),
            max_new_tokens=case.new_tokens,
            min_new_tokens=case.new_tokens,
            do_sample=self.top_k != 1,
            top_k=self.top_k or 0,
            eos_token_id=None,
            pad_token_id=0,
            cache_implementation="static",
        )
