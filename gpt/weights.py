"""The weights of a GPT under their names elsewhere: nanoGPT's and Hugging Face's.

The two share names. A linear weight is `[out, in]` in nanoGPT; `[in, out]`, as ours, in
Hugging Face's `Conv1D`.

Source: nanoGPT, `model.py`; `transformers`, `models/gpt2/modeling_gpt2.py`.
"""

from collections.abc import Collection, Mapping
from typing import Any, Literal

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from configs import require
from gpt.layers import RMSNorm
from gpt.model import GPT

Naming = Literal["nanogpt", "hugging_face"]
"""Whose names and axes."""

Named = Mapping[str, np.ndarray]
"""Arrays by the names of others."""

LARGEST = 1 << 20
"""No size of a GPT-2 comes near; beyond it a description is damaged."""

GPT2_ACTIVATIONS = ("gelu", "gelu_tanh")

_TOP, _TOKENS, _HEAD = "transformer.", "transformer.wte.weight", "lm_head.weight"
_COMPILED = "_orig_mod."  # what `torch.compile` puts in front of every name
_MASKS = (".attn.bias", ".attn.masked_bias")  # constants that old files hold too
# Our field of a block -> their name.
_BLOCK = {
    "attention_norm": "ln_1",
    "qkv": "attn.c_attn",
    "attention_out": "attn.c_proj",
    "mlp_norm": "ln_2",
    "up": "mlp.c_fc",
    "down": "mlp.c_proj",
}


def to_named(model: GPT, naming: Naming) -> dict[str, np.ndarray]:
    """The weights of a model in float32; nanoGPT's with the head that is tied.

    Args:
        model: its biases, where it has none, are left out.
        naming: whose names and axes.
    """
    named: dict[str, np.ndarray] = {}
    for name, leaf in _leaves(model).items():
        array = _turned(np.asarray(leaf, np.float32), naming)
        if "{}" in name:
            named |= {name.format(layer): part for layer, part in enumerate(array)}
        else:
            named[name] = array
    if naming == "nanogpt":
        named[_HEAD] = named[_TOKENS]
    return named


def from_named(weights: Named, like: GPT, naming: Naming) -> GPT:
    """The model `like` with other weights, in float32.

    Args:
        weights: names with or without `_orig_mod.` and `transformer.` in front; the
            tied head may be missing.
        like: a model of the same sizes; its own weights may be abstract.
        naming: whose names and axes.

    Raises:
        UserError: if an array is missing, too many, of another shape, not of floats or
            not finite, or if the head is not the token embedding.
    """
    weights = _plain(weights)
    require(
        like.blocks.length <= len(weights),
        f"The weights must be those of {like.blocks.length:,} blocks: got "
        f"{len(weights)} arrays. Use weights and configuration of the same model.",
    )
    _require_same(weights, _shapes(like, naming))
    require_finite(weights)
    leaves = _leaves(like)
    replaced = []
    for name in leaves:
        if "{}" in name:
            layers = range(like.blocks.length)
            array = np.stack([weights[name.format(layer)] for layer in layers])
        else:
            array = weights[name]
        replaced.append(jnp.array(_turned(array, naming), jnp.float32))
    return eqx.tree_at(lambda model: list(_leaves(model).values()), like, replaced)


def require_finite(weights: Named) -> None:
    """Raise `UserError` unless all of these numbers are finite in float32."""
    for name, array in weights.items():
        with np.errstate(over="ignore"):  # float64 beyond float32 becomes infinite
            finite = np.isfinite(np.asarray(array, np.float32)).all()
        require(
            bool(finite),
            f"Weights must be finite numbers: `{name}` holds some that are infinite or "
            "undefined. Use weights from before the training diverged.",
        )


def _leaves(model: GPT) -> dict[str, Any]:
    """Their name, `{}` for the number of the block -> our array."""
    _require_gpt2(model)
    modules: dict[str, Any] = {"ln_f": model.norm} | {
        f"h.{{}}.{name}": getattr(model.blocks.layers, field)
        for field, name in _BLOCK.items()
    }
    leaves = {"wte.weight": model.embedding.weight, "wpe.weight": model.positions}
    for name, module in modules.items():
        leaves |= {f"{name}.weight": module.weight, f"{name}.bias": module.bias}
    return {_TOP + name: leaf for name, leaf in leaves.items() if leaf is not None}


def _require_gpt2(model: GPT) -> None:
    """Raise `UserError` unless the model computes what GPT-2 does."""
    block = model.blocks.layers
    said = {
        "positions=rope": model.positions is None,
        "norm=rms": isinstance(model.norm, RMSNorm),
        "qk_norm=True": isinstance(block.qk_norm, RMSNorm),
        f"activation={block.activation}": block.activation not in GPT2_ACTIVATIONS,
        "tied_head=False": model.head is not None,
        f"logit_cap={model.logit_cap}": model.logit_cap > 0,
    }
    other = ", ".join(name for name, differs in said.items() if differs)
    require(
        not other,
        f"A model under GPT-2's names must compute what GPT-2 does: got {other}. Such "
        "a model has no other form than its run; GPT-2's weights need the defaults.",
    )


def _turned(array: np.ndarray, naming: Naming) -> np.ndarray:
    """From our axes to theirs, or back; only stacked linear weights have three."""
    turns = naming == "nanogpt" and array.ndim == 3
    return array.swapaxes(1, 2) if turns else array


def _shapes(like: GPT, naming: Naming) -> dict[str, tuple[int, ...]]:
    """The names and shapes of a model's arrays, without the tied head."""
    empty = lambda leaf: np.broadcast_to(np.float32(0.0), leaf.shape)
    named = to_named(jax.tree.map(empty, like), naming)
    return {name: array.shape for name, array in named.items() if name != _HEAD}


def _plain(weights: Named) -> dict[str, np.ndarray]:
    """Weights under their full names, without what is tied or constant."""
    named = {}
    for name, array in weights.items():
        short = name.removeprefix(_COMPILED).removeprefix(_TOP)
        if not short.endswith(_MASKS):
            named[short if short == _HEAD else _TOP + short] = array
    head, tokens = named.pop(_HEAD, None), named.get(_TOKENS)
    require(
        head is None or tokens is None or np.array_equal(head, tokens),
        f"`{_HEAD}` must equal the token embedding `{_TOKENS}`: it differs. Use a "
        "model whose head is tied to its embedding.",
    )
    return named


def _require_same(weights: Named, shapes: Mapping[str, tuple[int, ...]]) -> None:
    """Raise `UserError` unless these are arrays of these names and shapes."""
    missing, extra = shapes.keys() - weights.keys(), weights.keys() - shapes.keys()
    require(
        not missing and not extra,
        f"The weights must be the {len(shapes)} arrays of a GPT-2 of the configured "
        f"layers and biases: missing {_some(missing)}; too many {_some(extra)}. Use "
        "weights and configuration of the same model.",
    )
    for name, shape in shapes.items():
        got = weights[name]
        require(
            got.shape == shape,
            f"`{name}` must have shape {shape}: got {got.shape}. Use weights and "
            "configuration of the same model.",
        )
        require(
            jnp.issubdtype(got.dtype, jnp.floating),
            f"`{name}` must hold floating-point numbers: got {got.dtype}. Use weights "
            "that are not quantized.",
        )


def _some(names: Collection[str]) -> str:
    """The first of these names, for a message."""
    first = ", ".join(f"`{name}`" for name in sorted(names)[:3])
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return first + more if names else "none"
