"""The official PyTorch TRM train step as a program of the benchmark.

The official model, loss head, puzzle-table optimizer and weight average are imported
from a checkout; its training loop for one process is written here. Its network
optimizer, the package adam-atan2, needs CUDA. Without the package the same rule is
computed with PyTorch's own operations.

Source: `pretrain.py`, `create_model` and `train_batch`, of
github.com/SamsungSAILMontreal/TinyRecursiveModels.
"""

import importlib
import sys
from collections.abc import Iterable
from itertools import cycle
from pathlib import Path
from typing import Any

import numpy as np
import torch  # pyright: ignore[reportMissingImports]

from benchmarks.cases import SEQ, VOCAB, boards
from benchmarks.compare import Arrays, TorchProgram, after_first_step, host
from configs import TrainTRM

_FOREACH: Any = torch
"""PyTorch, untyped: what its own optimizers call is private to a type checker."""


class AdamATan2:
    """Adam with `atan2(m, sqrt(v_hat)) / (1 - b1^t)` for the quotient.

    Source: the package adam-atan2 0.0.3; arXiv 2407.05872.
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: float,
        betas: tuple[float, float],
        weight_decay: float,
    ):
        self.params, self.lr, self.betas = list(params), lr, betas
        self.decay, self.count = weight_decay, 0
        self.first = [torch.zeros_like(p) for p in self.params]
        self.second = [torch.zeros_like(p) for p in self.params]
        pairs = zip(self.params, self.first, strict=True)
        self.state = {p: {"exp_avg": m} for p, m in pairs}

    @torch.no_grad()
    def step(self) -> None:
        """Update every parameter in place, over lists of tensors."""
        self.count += 1
        b1, b2 = self.betas
        grads = [p.grad for p in self.params]
        _FOREACH._foreach_lerp_(self.first, grads, 1.0 - b1)
        _FOREACH._foreach_mul_(self.second, b2)
        _FOREACH._foreach_addcmul_(self.second, grads, grads, 1.0 - b2)
        roots = _FOREACH._foreach_sqrt(self.second)
        _FOREACH._foreach_div_(roots, (1.0 - b2**self.count) ** 0.5)
        for m, root in zip(self.first, roots, strict=True):
            torch.atan2(m, root, out=root)
        rate = self.lr / (1.0 - b1**self.count)
        _FOREACH._foreach_mul_(self.params, 1.0 - self.lr * self.decay)
        _FOREACH._foreach_add_(self.params, roots, alpha=-rate)

    def zero_grad(self) -> None:
        """Clear the gradients."""
        for p in self.params:
            p.grad = None


def optimizer_class(device: str) -> Any:
    """Return the package's AdamATan2 on a GPU if it can be imported, else ours."""
    if device == "cpu":
        return AdamATan2
    try:
        return importlib.import_module("adam_atan2").AdamATan2
    except ImportError:
        return AdamATan2


def build_head(config: TrainTRM, device: str) -> Any:
    """Build the official model in its loss head, with the recipe's settings."""
    official = importlib.import_module("models.recursive_reasoning.trm")
    losses = importlib.import_module("models.losses")
    shape, act = config.model, config.act
    options = {
        "batch_size": config.batch_size,
        "seq_len": SEQ,
        "vocab_size": VOCAB,
        "num_puzzle_identifiers": 1,
        "puzzle_emb_ndim": shape.puzzle_dim,
        "puzzle_emb_len": shape.prefix,
        "H_cycles": shape.H_cycles,
        "L_cycles": shape.L_cycles,
        "H_layers": 0,
        "L_layers": shape.layers,
        "hidden_size": shape.dim,
        "num_heads": shape.heads,
        "expansion": shape.expansion,
        "pos_encodings": shape.positions,
        "halt_max_steps": act.max_steps,
        "halt_exploration_prob": act.exploration,
        "forward_dtype": config.precision,
        "mlp_t": shape.mixer == "mlp",
        "no_ACT_continue": True,
    }
    with torch.device(device):
        model = official.TinyRecursiveReasoningModel_ACTV1(options)
        return losses.ACTLossHead(model, "stablemax_cross_entropy").train()


class OfficialStep(TorchProgram):
    """The official step: model, loss, backward pass, both optimizers and average."""

    def __init__(self, config: TrainTRM, checkout: Path, device: str, compiled: bool):
        """Build everything; `device` is PyTorch's: `cpu` or `cuda`."""
        super().__init__(f"official {'compiled' if compiled else 'eager'}", device)
        if str(checkout) not in sys.path:
            sys.path.append(str(checkout))
        self.config, optim = config, config.optim
        self.head = build_head(config, device)
        self.forward = torch.compile(self.head) if compiled else self.head
        sparse = importlib.import_module("models.sparse_embedding")
        self.table = sparse.CastedSparseEmbeddingSignSGD_Distributed(
            self.head.model.puzzle_emb.buffers(),
            lr=config.table.lr,
            weight_decay=config.table.weight_decay,
            world_size=1,
        )
        self.network = optimizer_class(device)(
            self.head.parameters(),
            lr=optim.lr,
            betas=(optim.beta1, optim.beta2),
            weight_decay=optim.weight_decay,
        )
        self.ema = importlib.import_module("models.ema").EMAHelper(optim.ema)
        place = lambda array: torch.as_tensor(array).to(device)
        self.batches = cycle(
            [
                {
                    "inputs": place(puzzle.inputs),
                    "labels": place(puzzle.labels),
                    "puzzle_identifiers": place(puzzle.puzzle_id),
                }
                for puzzle in boards(config.batch_size)
            ]
        )
        self.carry: Any = None
        self.metrics: dict[str, float] = {}

    def weights(self) -> Arrays:
        """Return the network's state dict, for `trm.official.names.load_official`."""
        state = self.head.model.inner.state_dict()
        return {name: host(tensor) for name, tensor in state.items()}

    def load(self, weights: Arrays) -> None:
        """Copy another program's weights, and start the average from them."""
        tensors = {n: torch.as_tensor(w) for n, w in weights.items()}
        self.head.model.inner.load_state_dict(tensors)
        self.ema.register(self.head)

    def step(self) -> None:
        """Make one update and, like the official code, copy its metrics to the host."""
        batch = next(self.batches)
        if self.carry is None:
            with torch.device(self.device):
                self.carry = self.head.initial_carry(batch)
        self.carry, loss, metrics, _, _ = self.forward(
            carry=self.carry, batch=batch, return_keys=[]
        )
        ((1 / self.config.batch_size) * loss).backward()
        for optimizer in (self.table, self.network):
            optimizer.step()
            optimizer.zero_grad()
        names = sorted(metrics)
        values = torch.stack([metrics[name] for name in names]).cpu().numpy()
        self.metrics = dict(zip(names, values, strict=True))
        self.ema.update(self.head)

    def outcome(self) -> Arrays:
        """Return losses, latents, gradients and weights after the first step."""
        inner = self.head.model.inner
        found = {
            "lm_loss": np.asarray(self.metrics["lm_loss"]),
            "q_halt_loss": np.asarray(self.metrics["q_halt_loss"]),
            "z_H": host(self.carry.inner_carry.z_H),
            "z_L": host(self.carry.inner_carry.z_L),
            "table": host(inner.puzzle_emb.weights),
        }
        beta1 = self.config.optim.beta1
        return {**found, **after_first_step(inner, self.network, beta1)}
