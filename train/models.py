"""The kinds of model: from a configuration to a model."""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import PyTree

from configs import TrainGPT, TrainTRM
from gpt.attention import Kernel
from gpt.model import build_gpt
from trm.build import build_trm

Sizes = dict[str, int]
"""Sizes from the data. TRM: `vocab`, `seq`, `puzzles`; GPT: `tokens`."""


def build_model(
    config: TrainTRM | TrainGPT, sizes: Sizes, kernel: Kernel = "xla"
) -> tuple[Any, PyTree]:
    """Return a fresh model and the rows of its puzzle table; () for a GPT."""
    key = jax.random.key(config.seed)
    match config:
        case TrainTRM(model=model):
            rows = jnp.zeros((sizes["puzzles"], model.puzzle_dim))
            vocab, seq = sizes["vocab"], sizes["seq"]
            return build_trm(model, vocab=vocab, seq=seq, kernel=kernel, key=key), rows
        case TrainGPT(model=model):
            return build_gpt(model, tokens=sizes["tokens"], kernel=kernel, key=key), ()


def at_depth(
    model: Any, config: TrainTRM | TrainGPT, sizes: Sizes, kernel: Kernel
) -> Any:
    """Return a model with its own leaves and the depth of another configuration.

    Depth is no weight: the same leaves go into the structure of another model.
    """
    like, _ = jax.eval_shape(lambda: build_model(config, sizes, kernel))
    return jax.tree.unflatten(jax.tree.structure(like), jax.tree.leaves(model))
