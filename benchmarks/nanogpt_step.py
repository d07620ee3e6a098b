"""nanoGPT's train step as an arm of the benchmark.

The model and its optimizer come from a checkout; what the training script does around
them for one process and one microbatch is done here. On a GPU, as there: autocast to
bfloat16, fused AdamW.

Source: github.com/karpathy/nanoGPT, the loops of `train.py` and `bench.py`.
"""

import contextlib
from collections.abc import Mapping
from itertools import cycle
from pathlib import Path
from typing import Any

import numpy as np
import torch  # pyright: ignore[reportMissingImports]

from benchmarks.gpt_step_case import Case, texts
from benchmarks.nanogpt import build_nanogpt, quiet
from benchmarks.torch_arm import TorchArm, after_first_step, host
from data.text.dataset import Tokens
from gpt.build import embedding_rows


class NanoGPTStep(TorchArm):
    """Forward, backward, clipping, AdamW."""

    def __init__(
        self, case: Case, checkout: Path, device: str, *, compiled: bool, batches: int
    ):
        """Build everything; `device` is PyTorch's: `cpu` or `cuda`."""
        super().__init__("nanoGPT", device, compiled=compiled)
        self.case = case
        # As in `bench.py`; where float32 is asked for, our products are not rounded.
        torch.backends.cuda.matmul.allow_tf32 = case.precision != "float32"
        rows = embedding_rows(case.model, case.tokens)
        self.model = build_nanogpt(case.model, rows, checkout).to(device)
        self.optimizer = self._optimizer()
        self.forward = torch.compile(self.model) if compiled else self.model
        self.batches = cycle([self._place(batch) for batch in texts(case, batches)])
        self.loss: Any = None
        self.norm: Any = None

    def _optimizer(self) -> Any:
        optim = self.case.optim
        with quiet():
            return self.model.configure_optimizers(
                weight_decay=optim.weight_decay,
                learning_rate=optim.lr,
                betas=(optim.beta1, optim.beta2),
                device_type=self.device,
            )

    def _place(self, batch: Tokens) -> tuple[Any, Any]:
        inputs, targets = (
            torch.as_tensor(array, dtype=torch.int64, device=self.device)
            for array in batch
        )
        return inputs, targets

    def _autocast(self) -> contextlib.AbstractContextManager[Any]:
        if self.case.precision == "float32":
            return contextlib.nullcontext()
        return torch.autocast(self.device, torch.bfloat16)

    def weights(self) -> dict[str, np.ndarray]:
        """The state dict, for `gpt.weights.from_named`."""
        return {name: host(t) for name, t in self.model.state_dict().items()}

    def load(self, weights: Mapping[str, np.ndarray]) -> None:
        """Take over another arm's weights."""
        tensors = {name: torch.as_tensor(array) for name, array in weights.items()}
        self.model.load_state_dict(tensors)

    def step(self) -> None:
        """One update; its loss stays on the device."""
        with self._autocast():
            _, loss = self.forward(*next(self.batches))
        loss.backward()
        clip = self.case.optim.clip
        self.norm = torch.nn.utils.clip_grad_norm_(self.model.parameters(), clip)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.loss = loss.detach()

    def outcome(self) -> dict[str, np.ndarray]:
        """After the first step: loss, gradients' norm, gradients and weights, named."""
        beta1 = self.case.optim.beta1
        found = {"loss": host(self.loss), "norm": host(self.norm)}
        return found | after_first_step(self.model, self.optimizer, beta1)
