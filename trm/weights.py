"""Between the official PyTorch names and ours, for checkpoints and for parity tests.

Source: `models/recursive_reasoning/*.py`; linear weights are `[out, in]` there.
"""

from collections.abc import Mapping
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from configs import TRMConfig, require
from trm.model import TRM

PREFIX = "_orig_mod.model.inner."
TABLE = "puzzle_emb.weights"

# Buffers of each variant: official name -> field of the recursion.
_BUFFERS = {
    "trm": {"H_init": "fresh_y", "L_init": "fresh_z"},
    "hrm": {"H_init": "fresh_y", "L_init": "fresh_z"},
    "single_z": {"L_init": "fresh_z"},
    "transformer": {"H_init": "fresh_z"},
    "hier6": {"H_init": "fresh_y"},
    "eqr": {},  # fresh latents are drawn
}
# Networks of each variant: official name -> field of the recursion.
_NETWORKS = {
    "trm": {"L_level": "network"},
    "single_z": {"L_level": "network"},
    "hier6": {"L_level": "network"},
    "hrm": {"L_level": "low", "H_level": "high"},
    "transformer": {"H_level": "network"},
    "eqr": {"L_level": "network"},
}


def _leaves(model: TRM, config: TRMConfig) -> dict[str, tuple[Any, str]]:
    """Official name -> (our array, how it is turned): `""`, `T`, `qkv` or `out`."""
    named: dict[str, tuple[Any, str]] = {
        "embed_tokens.embedding_weight": (model.embedding.weight, ""),
        "lm_head.weight": (model.head.weight, "T"),
        "q_head.weight": (model.halt_head.weight, "T"),
        "q_head.bias": (model.halt_head.bias, ""),
    }
    if model.positions is not None:
        named["embed_pos.embedding_weight"] = (model.positions, "")
    recursion: Any = model.recursion
    for official, field in _BUFFERS[config.variant].items():
        named[official] = (getattr(recursion, field).value, "")
    if config.variant == "hier6":
        for i, fresh in enumerate(recursion.fresh_z):
            named[f"L{i + 1}_init"] = (fresh.value, "")
    for level, field in _NETWORKS[config.variant].items():
        for i, block in enumerate(getattr(recursion, field).blocks):
            here = f"{level}.layers.{i}."
            if config.mixer == "attention":
                named[here + "self_attn.qkv_proj.weight"] = (block.mixer.qkv, "qkv")
                named[here + "self_attn.o_proj.weight"] = (block.mixer.out, "out")
            else:
                mlp = block.mixer.mlp
                named[here + "mlp_t.gate_up_proj.weight"] = (mlp.gate_up, "T")
                named[here + "mlp_t.down_proj.weight"] = (mlp.down, "T")
            named[here + "mlp.gate_up_proj.weight"] = (block.mlp.gate_up, "T")
            named[here + "mlp.down_proj.weight"] = (block.mlp.down, "T")
    return named


def _to_ours(value: np.ndarray, shape: tuple[int, ...], turn: str) -> np.ndarray:
    return (value.T if turn else value).reshape(shape)


def _to_official(value: np.ndarray, turn: str) -> np.ndarray:
    match turn:
        case "qkv":
            return value.reshape(value.shape[0], -1).T
        case "out":
            return value.reshape(-1, value.shape[-1]).T
        case "T":
            return value.T
        case _:
            return value


def load_official(
    weights: Mapping[str, np.ndarray], model: TRM, config: TRMConfig
) -> TRM:
    """`model` with the weights of an official state dict.

    Args:
        weights: official names, with or without `_orig_mod.model.inner.`, to arrays.
        model: a model of the same sizes.
        config: the configuration that `model` was built from.

    Raises:
        ValueError: if a weight is missing or has another shape.
    """
    weights = {name.removeprefix(PREFIX): array for name, array in weights.items()}
    ours, replaced = [], []
    for name, (leaf, turn) in _leaves(model, config).items():
        require(
            name in weights,
            f"The checkpoint must hold `{name}`: got {len(weights)} other names. Use "
            "the variant, mixer and number of layers that it was trained with.",
        )
        value = np.asarray(weights[name])
        expected = _to_official(np.empty(leaf.shape, bool), turn).shape
        require(
            value.shape == expected,
            f"`{name}` must have shape {expected}: got {value.shape}. Use the sizes "
            "that the checkpoint was trained with.",
        )
        ours.append(leaf)
        replaced.append(jnp.asarray(_to_ours(value, leaf.shape, turn), leaf.dtype))
    identities = {id(leaf): new for leaf, new in zip(ours, replaced, strict=True)}
    leaves, structure = jax.tree.flatten(model)
    return jax.tree.unflatten(
        structure, [identities.get(id(leaf), leaf) for leaf in leaves]
    )


def load_official_table(
    weights: Mapping[str, np.ndarray], shape: tuple[int, int]
) -> np.ndarray:
    """The puzzle table of an official state dict; of another size: its mean row.

    Source: `pretrain.py`, `load_checkpoint`.
    """
    weights = {name.removeprefix(PREFIX): array for name, array in weights.items()}
    table = np.asarray(weights[TABLE], np.float32)
    if table.shape == shape:
        return table
    return np.broadcast_to(table.mean(axis=0, keepdims=True), shape).copy()


def to_official(model: TRM, config: TRMConfig) -> dict[str, np.ndarray]:
    """The weights under their official names (without prefix) and shapes."""
    arrays = eqx.filter(model, eqx.is_array)
    return {
        name: _to_official(np.asarray(leaf), turn)
        for name, (leaf, turn) in _leaves(arrays, config).items()
        if leaf is not None
    }
