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
from gpt.layers import truncated_normal
from trm.model import TRM

PREFIX = "_orig_mod.model.inner."
EMBEDDING = "embed_tokens.embedding_weight"
TABLE = "puzzle_emb.weights"
# Rows of the last batch, which some codes save too.
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
    """Official name -> (our array, how it is turned): `""`, `T`, `qkv` or `out`.

    Raises:
        UserError: if the official code has no such model.
    """
    require(
        config.variant in _NETWORKS
        and config.mixer in ("attention", "mlp")
        and (config.gate, config.inner_multiple) == ("silu", 256),
        "Official weights must be of a model that the official code has: got "
        f"variant={config.variant}, mixer={config.mixer}, gate={config.gate}, "
        f"inner_multiple={config.inner_multiple}. Keep it as a run of ours, or add its "
        "names to `trm/official/names.py`.",
    )
    named: dict[str, tuple[Any, str]] = {
        EMBEDDING: (model.embedding.weight, ""),
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
        weights: official names, with or without a prefix, to arrays. A puzzle table
            among them is left out.
        model: a model of the same sizes; its own weights may be abstract.
        config: the configuration that `model` was built from.

    Raises:
        UserError: if a weight is missing, too many, of another shape, or not of finite
            floating-point numbers.
    """
    _, weights = split_prefix(weights)
    require_same(weights, official_shapes(model, config))
    ours, replaced = [], []
    for name, (leaf, turn) in _leaves(model, config).items():
        value = np.asarray(weights[name])
        ours.append(leaf)
        replaced.append(jnp.asarray(_to_ours(value, leaf.shape, turn), leaf.dtype))
    identities = {id(leaf): new for leaf, new in zip(ours, replaced, strict=True)}
    leaves, structure = jax.tree.flatten(model)
    leaves = [identities.get(id(leaf), leaf) for leaf in leaves]
    return jax.tree.map(_drawn, jax.tree.unflatten(structure, leaves))


def _drawn(leaf: Any) -> jax.Array:
    """A weight, or a fresh latent in place of an abstract one.

    Only latents can be left: those that a variant has, and its checkpoints do not.
    """
    if isinstance(leaf, jax.ShapeDtypeStruct):
        return truncated_normal(jax.random.key(0), leaf.shape, 1.0)
    return leaf


def split_prefix(
    weights: Mapping[str, np.ndarray],
) -> tuple[str, dict[str, np.ndarray]]:
    """The prefix that all names share, and the weights without it.

    It is `_orig_mod.model.inner.` where the official `pretrain.py` has compiled the
    model, `model.inner.` where it has not, and nothing for the network alone.

    Raises:
        UserError: if these are the names of no TRM.
    """
    first = next((name for name in weights if name.endswith(EMBEDDING)), None)
    listed = ", ".join(f"`{name}`" for name in list(weights)[:3])
    require(
        first is not None,
        f"A checkpoint of a TRM must hold `{EMBEDDING}`: got {len(weights)} arrays of "
        f"other names ({listed}). Use what the official `pretrain.py` saves.",
    )
    assert first is not None
    prefix = first.removesuffix(EMBEDDING)
    other = [name for name in weights if not name.startswith(prefix)]
    require(
        not other,
        f"All names in a checkpoint must begin with `{prefix}`, as `{first}` does: "
        f"`{other[0] if other else ''}` does not. Use what `pretrain.py` saves.",
    )
    plain = {name.removeprefix(prefix): array for name, array in weights.items()}
    return prefix, {n: array for n, array in plain.items() if n not in _LOCAL}


def require_same(
    weights: Mapping[str, np.ndarray], shapes: Mapping[str, tuple[int, ...]]
) -> None:
    """Raise `UserError` unless these are finite weights of these names and shapes."""
    missing = sorted(shapes.keys() - weights.keys())
    extra = sorted(weights.keys() - shapes.keys() - {TABLE})
    require(
        not missing and not extra,
        f"The checkpoint must hold the {len(shapes)} arrays of the configured model: "
        f"missing {_some(missing)}; too many {_some(extra)}. Use the variant, mixer "
        "and number of layers that it was trained with.",
    )
    for name, array in weights.items():
        expected = shapes.get(name, array.shape)
        require(
            array.shape == expected,
            f"`{name}` must have shape {expected}: got {array.shape}. Use the sizes "
            "that the checkpoint was trained with.",
        )
        floating = jnp.issubdtype(array.dtype, jnp.floating)
        require(
            bool(floating) and array.dtype.itemsize <= 4,
            f"`{name}` must hold floating-point numbers of at most 32 bits: got "
            f"{array.dtype}. Use weights that are not quantized.",
        )
        require(
            bool(np.isfinite(array).all()),
            f"Weights must be finite numbers: `{name}` holds some that are infinite or "
            "undefined. Use weights from before the training diverged.",
        )


def official_shapes(model: TRM, config: TRMConfig) -> dict[str, tuple[int, ...]]:
    """The official names and shapes of a model's weights, which may be abstract."""
    empty = lambda shape: np.broadcast_to(np.float32(0.0), shape)
    return {
        name: _to_official(empty(leaf.shape), turn).shape
        for name, (leaf, turn) in _leaves(model, config).items()
    }


def to_official(model: TRM, config: TRMConfig) -> dict[str, np.ndarray]:
    """The weights under their official names (without prefix) and shapes."""
    arrays = eqx.filter(model, eqx.is_array)
    return {
        name: _to_official(np.asarray(leaf), turn)
        for name, (leaf, turn) in _leaves(arrays, config).items()
        if leaf is not None
    }


def _some(names: list[str]) -> str:
    """The first of these names, for a message."""
    first = ", ".join(f"`{name}`" for name in names[:3])
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return first + more if names else "none"
