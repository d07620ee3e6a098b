"""GPTs in PyTorch as programs of a benchmark: nanoGPT's, and Hugging Face's.

nanoGPT's model and optimizer are imported from a checkout; its loop for one process and
one microbatch is written here. On a GPU, as there: autocast to bfloat16, fused AdamW.

Source: github.com/karpathy/nanoGPT, the loops of `train.py` and `bench.py`,
`GPT.generate` of `model.py`, `sample.py`; `generate` of `transformers`.
"""

import contextlib
import importlib.util
import io
import sys
import tempfile
from collections.abc import Callable
from itertools import cycle
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch  # pyright: ignore[reportMissingImports]

from benchmarks.cases import Writing, texts
from benchmarks.compare import Arrays, TorchProgram, after_first_step, host
from benchmarks.ours import abstract_gpt, export, to_named
from configs import GPTConfig, TrainGPT
from gpt.model import GPT


def import_nanogpt(checkout: Path) -> ModuleType:
    """Import `model.py` of a checkout.

    Raises:
        SystemExit: if there is none.
    """
    name, path = "nanogpt_model", checkout / "model.py"
    if name in sys.modules:
        return sys.modules[name]
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None or not path.is_file():
        raise SystemExit(
            f"A checkout of nanoGPT must have a file `model.py`: there is no {path}. "
            "Pass `--nanogpt` the folder of a clone of github.com/karpathy/nanoGPT."
        )
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # where torch.compile looks for it
    spec.loader.exec_module(module)
    return module


def build_nanogpt(config: GPTConfig, tokens: int, checkout: Path) -> Any:
    """Build nanoGPT's `GPT` in our configuration, on the CPU, with new weights."""
    code = import_nanogpt(checkout)
    names = ("n_layer", "n_head", "n_embd", "block_size", "bias", "dropout")
    options = {name: getattr(config, name) for name in names}
    rows = abstract_gpt(config, tokens).embedding.weight.shape[0]
    with quiet():
        return code.GPT(code.GPTConfig(**options, vocab_size=rows))


def quiet() -> contextlib.AbstractContextManager[Any]:
    """Suppress nanoGPT's output about its parameters."""
    return contextlib.redirect_stdout(io.StringIO())


def autocast(precision: str, device: str) -> contextlib.AbstractContextManager:
    """Return nanoGPT's mixed precision; no-op in float32."""
    if precision == "float32":
        return contextlib.nullcontext()
    return torch.autocast(device, torch.bfloat16)


class NanoGPTStep(TorchProgram):
    """Forward, backward, clipping, AdamW."""

    def __init__(
        self, config: TrainGPT, tokens: int, checkout: Path, device: str, compiled: bool
    ):
        """Build everything; `device` is PyTorch's: `cpu` or `cuda`."""
        super().__init__(f"nanoGPT {'compiled' if compiled else 'eager'}", device)
        self.precision, self.optim = config.precision, config.optim
        # As in `bench.py`; where float32 is asked for, our products are not rounded.
        torch.backends.cuda.matmul.allow_tf32 = config.precision != "float32"
        self.model = build_nanogpt(config.model, tokens, checkout).to(device)
        with quiet():
            self.optimizer = self.model.configure_optimizers(
                weight_decay=self.optim.weight_decay,
                learning_rate=self.optim.lr,
                betas=(self.optim.beta1, self.optim.beta2),
                device_type=device,
            )
        self.forward = torch.compile(self.model) if compiled else self.model
        place = lambda a: torch.as_tensor(a, dtype=torch.int64, device=device)
        self.batches = cycle([tuple(map(place, b)) for b in texts(config, tokens)])
        self.loss: Any = None
        self.norm: Any = None

    def weights(self) -> Arrays:
        """Return the state dict, for `gpt.weights.from_named`."""
        return {name: host(t) for name, t in self.model.state_dict().items()}

    def load(self, weights: Arrays) -> None:
        """Copy another program's weights."""
        tensors = {name: torch.as_tensor(array) for name, array in weights.items()}
        self.model.load_state_dict(tensors)

    def step(self) -> None:
        """Make one update; its loss stays on the device."""
        with autocast(self.precision, self.device):
            _, loss = self.forward(*next(self.batches))
        loss.backward()
        weights = self.model.parameters()
        self.norm = torch.nn.utils.clip_grad_norm_(weights, self.optim.clip)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.loss = loss.detach()

    def outcome(self) -> Arrays:
        """Return loss, gradient norm, gradients and weights after the first step."""
        found = after_first_step(self.model, self.optimizer, self.optim.beta1)
        return {"loss": host(self.loss), "norm": host(self.norm), **found}


class TorchGeneration(TorchProgram):
    """A generation: `generate(prompt, top_k)` returns the prompt and the new tokens."""

    top_k: int | None

    def __init__(
        self,
        name: str,
        case: Writing,
        device: str,
        generate: Callable[[Any, int | None], Any],
    ):
        super().__init__(name, device)
        self.case, self.generate, self.top_k = case, generate, 1
        self.prompt = torch.tensor(case.prompt(), dtype=torch.long, device=device)
        self.tokens: Any = None

    @property
    def new(self) -> np.ndarray:
        """Return the tokens of the last step."""
        return self.tokens[:, self.case.prompt_tokens :].cpu().numpy()

    def step(self) -> None:
        """Generate all new tokens of all rows."""
        with torch.no_grad(), autocast(self.case.precision, self.device):
            self.tokens = self.generate(self.prompt, self.top_k)


def nanogpt_generation(
    case: Writing, ours: GPT, checkout: Path, device: str
) -> TorchGeneration:
    """Return nanoGPT's `generate`, as its `sample.py` runs it, with our weights."""
    model = build_nanogpt(case.model, case.vocab, checkout)
    named = to_named(ours, "nanogpt")
    tensors = {name: torch.tensor(array) for name, array in named.items()}
    model.load_state_dict(tensors, strict=False)  # masks are no weights
    model = model.to(device).eval()

    def generate(prompt: Any, top_k: int | None) -> Any:
        return model.generate(prompt, case.new_tokens, top_k=top_k)

    return TorchGeneration("nanogpt", case, device, generate)


def hugging_face_generation(case: Writing, ours: GPT, device: str) -> TorchGeneration:
    """Return `GPT2LMHeadModel.generate` with a static cache and our weights."""
    from transformers import GPT2LMHeadModel  # pyright: ignore[reportMissingImports]

    with tempfile.TemporaryDirectory() as folder:
        export(ours, Path(folder) / "model")
        model: Any = GPT2LMHeadModel.from_pretrained(Path(folder) / "model")
    model = model.to(device).eval()

    def generate(prompt: Any, top_k: int | None) -> Any:
        return model.generate(
            prompt,
            attention_mask=torch.ones_like(prompt),
            max_new_tokens=case.new_tokens,
            min_new_tokens=case.new_tokens,
            do_sample=top_k != 1,
            top_k=top_k or 0,
            eos_token_id=None,
            pad_token_id=0,
            cache_implementation="static",
        )

    return TorchGeneration("hugging face", case, device, generate)
