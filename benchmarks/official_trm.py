"""The official PyTorch TRM train step as an arm of the benchmark.

The official model, loss head, puzzle-table optimizer and weight average are imported
from a checkout; what its training loop does around them for one process is done here.
Its network optimizer, the package adam-atan2, needs CUDA: elsewhere, or where it is not
installed, the same rule is written with PyTorch's own operations.

Source: `pretrain.py`, `create_model` and `train_batch`, of
github.com/SamsungSAILMontreal/TinyRecursiveModels.
"""

import importlib
import sys
from collections.abc import Iterable, Mapping
from itertools import cycle
from pathlib import Path
from typing import Any

import numpy as np
import torch  # pyright: ignore[reportMissingImports]

from benchmarks.torch_arm import TorchArm, after_first_step, host
from benchmarks.cases import (
    ACT,
    MAX_STEPS,
    OPTIM,
    PREFIX,
    SEQ,
    TABLE,
    VOCAB,
    Case,
    boards,
)

_FOREACH: Any = torch
"""PyTorch, untyped: what its own optimizers call is private to a type checker."""


class AdamATan2(torch.optim.Optimizer):
    """Adam with `atan2(m, sqrt(v_hat)) / (1 - b1^t)` for the quotient: our rule.

    Source: the package adam-atan2 0.0.3; arXiv 2407.05872.
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: float,
        betas: tuple[float, float],
        weight_decay: float,
    ):
        super().__init__(params, {"lr": lr, "decay": weight_decay, "betas": betas})
        self.count = 0

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        """One update of every parameter, in place, over lists of tensors."""
        self.count += 1
        for group in self.param_groups:
            params = [p for p in group["params"] if p.grad is not None]
            for p in params:
                if not self.state[p]:
                    self.state[p]["exp_avg"] = torch.zeros_like(p)
                    self.state[p]["exp_avg_sq"] = torch.zeros_like(p)
            self._update(params, group["lr"], group["decay"], *group["betas"])

    def _update(
        self, params: list[Any], lr: float, decay: float, b1: float, b2: float
    ) -> None:
        grads = [p.grad for p in params]
        first = [self.state[p]["exp_avg"] for p in params]
        second = [self.state[p]["exp_avg_sq"] for p in params]
        _FOREACH._foreach_lerp_(first, grads, 1.0 - b1)
        _FOREACH._foreach_mul_(second, b2)
        _FOREACH._foreach_addcmul_(second, grads, grads, 1.0 - b2)
        roots = _FOREACH._foreach_sqrt(second)
        _FOREACH._foreach_div_(roots, (1.0 - b2**self.count) ** 0.5)
        for m, root in zip(first, roots, strict=True):
            torch.atan2(m, root, out=root)
        _FOREACH._foreach_mul_(params, 1.0 - lr * decay)
        _FOREACH._foreach_add_(params, roots, alpha=-lr / (1.0 - b1**self.count))


def optimizer_class(device: str) -> Any:
    """The package's AdamATan2 on a GPU where it can be imported, else ours."""
    if device == "cpu":
        return AdamATan2
    try:
        return importlib.import_module("adam_atan2").AdamATan2
    except ImportError:
        return AdamATan2


def build_head(case: Case, device: str) -> Any:
    """The official model in its loss head, with the recipe's settings."""
    official = importlib.import_module("models.recursive_reasoning.trm")
    losses = importlib.import_module("models.losses")
    config = {
        "batch_size": case.batch_size,
        "seq_len": SEQ,
        "vocab_size": VOCAB,
        "num_puzzle_identifiers": 1,
        "puzzle_emb_ndim": case.dim,
        "puzzle_emb_len": PREFIX,
        "H_cycles": case.H_cycles,
        "L_cycles": case.L_cycles,
        "H_layers": 0,
        "L_layers": case.model.layers,
        "hidden_size": case.dim,
        "num_heads": case.heads,
        "expansion": case.model.expansion,
        "pos_encodings": case.model.positions,
        "halt_max_steps": MAX_STEPS,
        "halt_exploration_prob": ACT.exploration,
        "forward_dtype": case.precision,
        "mlp_t": case.mixer == "mlp",
        "no_ACT_continue": True,
    }
    with torch.device(device):
        model = official.TinyRecursiveReasoningModel_ACTV1(config)
        return losses.ACTLossHead(model, "stablemax_cross_entropy").train()


class OfficialStep(TorchArm):
    """Model, loss, backward pass, both optimizers and average, as officially."""

    def __init__(
        self, case: Case, checkout: Path, device: str, *, compiled: bool, batches: int
    ):
        """Build everything; `device` is PyTorch's: `cpu` or `cuda`."""
        super().__init__("official", device, compiled=compiled)
        if str(checkout) not in sys.path:
            sys.path.append(str(checkout))
        self.case = case
        self.head = build_head(case, device)
        self.forward = torch.compile(self.head) if compiled else self.head
        self.table, self.network = self._optimizers()
        self.ema = importlib.import_module("models.ema").EMAHelper(OPTIM.ema)
        self.batches = cycle([self._place(b) for b in boards(case, batches)])
        self.carry: Any = None
        self.metrics: dict[str, float] = {}

    def _optimizers(self) -> tuple[Any, Any]:
        sparse = importlib.import_module("models.sparse_embedding")
        table = sparse.CastedSparseEmbeddingSignSGD_Distributed(
            self.head.model.puzzle_emb.buffers(),
            lr=TABLE.lr,
            weight_decay=TABLE.weight_decay,
            world_size=1,
        )
        network = optimizer_class(self.device)(
            self.head.parameters(),
            lr=OPTIM.lr,
            betas=(OPTIM.beta1, OPTIM.beta2),
            weight_decay=OPTIM.weight_decay,
        )
        return table, network

    def _place(self, puzzle: Any) -> dict[str, Any]:
        names = ("inputs", "labels", "puzzle_identifiers")
        return {
            name: torch.as_tensor(array).to(self.device)
            for name, array in zip(names, puzzle, strict=True)
        }

    def weights(self) -> dict[str, np.ndarray]:
        """The network's state dict, for `trm.official.load_official`."""
        state = self.head.model.inner.state_dict()
        return {name: host(tensor) for name, tensor in state.items()}

    def load(self, weights: Mapping[str, np.ndarray]) -> None:
        """Take over another arm's weights, and begin the average from them."""
        tensors = {n: torch.as_tensor(w) for n, w in weights.items()}
        self.head.model.inner.load_state_dict(tensors)
        self.ema.register(self.head)

    def step(self) -> None:
        """One update; as officially, its metrics come to the host at once."""
        batch = next(self.batches)
        if self.carry is None:
            with torch.device(self.device):
                self.carry = self.head.initial_carry(batch)
        self.carry, loss, metrics, _, _ = self.forward(
            carry=self.carry, batch=batch, return_keys=[]
        )
        ((1 / self.case.batch_size) * loss).backward()
        for optimizer in (self.table, self.network):
            optimizer.step()
            optimizer.zero_grad()
        names = sorted(metrics)
        values = torch.stack([metrics[name] for name in names]).cpu().numpy()
        self.metrics = dict(zip(names, values, strict=True))
        self.ema.update(self.head)

    def outcome(self) -> dict[str, np.ndarray]:
        """After the first step: losses, latents, gradients and weights, named."""
        inner = self.head.model.inner
        found = {
            "lm_loss": np.asarray(self.metrics["lm_loss"]),
            "q_halt_loss": np.asarray(self.metrics["q_halt_loss"]),
            "z_H": host(self.carry.inner_carry.z_H),
            "z_L": host(self.carry.inner_carry.z_L),
            "table": host(inner.puzzle_emb.weights),
        }
        return found | after_first_step(inner, self.network, OPTIM.beta1)
