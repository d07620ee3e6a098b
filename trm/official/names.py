"""Translate between the official PyTorch names and ours.

Source: `models/recursive_reasoning/*.py`; linear weights are `[out, in]` there.
"""

from collections.abc import Mapping
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from configs import TRMConfig, UserError, require
from gpt.layers import truncated_normal
from trm.model import TRM

PREFIX = "_orig_mod.model.inner."
EMBEDDING = "embed_tokens.embedding_weight"
TABLE = "puzzle_emb.weights"
# Rows of the last batch, which some versions save too.
_LOCAL = ("puzzle_emb.local_weights", "puzzle_emb.local_ids")

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
    """Return our array and its layout (`""`, `T`, `qkv` or `out`) by official name.

    Raises:
        UserError: if the official code has no such model.
    """
    require(
        config.variant in _NETWORKS
        and config.mixer in ("attention", "mlp")
        and (config.gate, config.flow, config.inner_multiple) == ("silu", "none", 256),
        "The official code has no such model: "
        f"variant={config.variant}, mixer={config.mixer}, gate={config.gate}, "
        f"flow={config.flow}, inner_multiple={config.inner_multiple}. Keep it as a "
        "run, or add its names "
        "to `trm/official/names.py`.",
    )
    embedding: Any = model.embedding
    named: dict[str, tuple[Any, str]] = {
        EMBEDDING: (embedding.weight, ""),
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
    """Return `model` with the weights of an official state dict.

    Args:
        weights: arrays by official names, with or without a prefix. A puzzle table
            among them is ignored.
        model: a model of the same sizes; its own weights may be abstract.
        config: the configuration of `model`.

    Raises:
        UserError: if a weight is missing, unknown, of another shape, or not finite.
    """
    _, weights = split_prefix(weights)
    require_same(weights, official_shapes(model, config))
    leaves = _leaves(model, config)
    where = lambda model: [leaf for leaf, _ in _leaves(model, config).values()]
    ours = [
        jnp.asarray(_to_ours(np.asarray(weights[name]), leaf.shape, turn), leaf.dtype)
        for name, (leaf, turn) in leaves.items()
    ]
    return jax.tree.map(_drawn, eqx.tree_at(where, model, ours))


def _drawn(leaf: Any) -> jax.Array:
    """Return a weight, or a random latent in place of an abstract one.

    Only fresh latents can still be abstract: some variants' checkpoints have none.
    """
    if isinstance(leaf, jax.ShapeDtypeStruct):
        return truncated_normal(jax.random.key(0), leaf.shape, 1.0)
    return leaf


def split_prefix(
    weights: Mapping[str, np.ndarray],
) -> tuple[str, dict[str, np.ndarray]]:
    """Return the prefix of all names, and the weights without it.

    It is `_orig_mod.model.inner.` where the official `pretrain.py` compiled the model,
    `model.inner.` where it did not, and empty for the network alone.

    Raises:
        UserError: if these are not the names of a TRM.
    """
    first = next((name for name in weights if name.endswith(EMBEDDING)), None)
    if first is None:
        raise UserError(
            f"A checkpoint of a TRM must contain `{EMBEDDING}`: got {len(weights)} "
            f"arrays of other names ({_some(list(weights))}). Use a checkpoint of the "
            "official `pretrain.py`."
        )
    prefix = first.removesuffix(EMBEDDING)
    other = [name for name in weights if not name.startswith(prefix)]
    require(
        not other,
        f"All names in a checkpoint must begin with `{prefix}`, like `{first}`: got "
        f"{_some(other)}. Use a checkpoint of the official `pretrain.py`.",
    )
    plain = {name.removeprefix(prefix): array for name, array in weights.items()}
    return prefix, {n: array for n, array in plain.items() if n not in _LOCAL}


def require_same(
    weights: Mapping[str, np.ndarray], shapes: Mapping[str, tuple[int, ...]]
) -> None:
    """Raise `UserError` unless the weights are finite and have these shapes."""
    missing = sorted(shapes.keys() - weights.keys())
    extra = sorted(weights.keys() - shapes.keys() - {TABLE})
    require(
        not missing and not extra,
        f"The checkpoint must contain the {len(shapes)} arrays of the configured "
        f"model: missing {_some(missing)}; unknown {_some(extra)}. Use the variant, "
        "mixer and number of layers that it was trained with.",
    )
    for name, array in weights.items():
        expected = shapes.get(name, array.shape)
        require(
            array.shape == expected,
            f"`{name}` must have shape {expected}: got {array.shape}. Use the sizes "
            "of the checkpoint.",
        )
        floating = jnp.issubdtype(array.dtype, jnp.floating)
        require(
            bool(floating) and array.dtype.itemsize <= 4,
            f"`{name}` must be floating-point numbers of at most 32 bits: got "
            f"{array.dtype}. Use weights that are not quantized.",
        )
        require(
            bool(np.isfinite(array).all()),
            f"`{name}` must be finite: got NaN or infinity. Use weights from before "
            "the training diverged.",
        )


def official_shapes(model: TRM, config: TRMConfig) -> dict[str, tuple[int, ...]]:
    """Return the official shapes of a model's weights, which may be abstract."""
    empty = lambda shape: np.broadcast_to(np.float32(0.0), shape)
    return {
        name: _to_official(empty(leaf.shape), turn).shape
        for name, (leaf, turn) in _leaves(model, config).items()
    }


def to_official(model: TRM, config: TRMConfig) -> dict[str, np.ndarray]:
    """Return the weights with their official names (without prefix) and shapes."""
    arrays = eqx.filter(model, eqx.is_array)
    return {
        name: _to_official(np.asarray(leaf), turn)
        for name, (leaf, turn) in _leaves(arrays, config).items()
        if leaf is not None
    }


def _some(names: list[str]) -> str:
    """Return the first names, for a message."""
    first = ", ".join(f"`{name}`" for name in names[:3])
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return first + more if names else "none"
