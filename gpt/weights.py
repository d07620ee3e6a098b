"""Convert weights of a GPT to and from the names of nanoGPT and Hugging Face.

Both use the same names. A linear weight is `[out, in]` in nanoGPT; `[in, out]`, like
ours, in Hugging Face's `Conv1D`.

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
"""The convention of names and axes."""

Named = Mapping[str, np.ndarray]
"""Arrays by these names."""

LARGEST = 1 << 20
"""Upper bound of each size of a GPT-2, far above any real model."""

GPT2_ACTIVATIONS = ("gelu", "gelu_tanh")

_TOP, _TOKENS, _HEAD = "transformer.", "transformer.wte.weight", "lm_head.weight"
_COMPILED = "_orig_mod."  # prefix of `torch.compile`
_MASKS = (".attn.bias", ".attn.masked_bias")  # constants in old files
# Field of `Block` -> name.
_BLOCK = {
    "attention_norm": "ln_1",
    "qkv": "attn.c_attn",
    "attention_out": "attn.c_proj",
    "mlp_norm": "ln_2",
    "up": "mlp.c_fc",
    "down": "mlp.c_proj",
}


def to_named(model: GPT, naming: Naming) -> dict[str, np.ndarray]:
    """Return the weights of a model in float32; for nanoGPT including the tied head."""
    named: dict[str, np.ndarray] = {}
    for name, leaf in _leaves(model).items():
        array = _transpose(np.asarray(leaf, np.float32), naming)
        if "{}" in name:
            named |= {name.format(layer): part for layer, part in enumerate(array)}
        else:
            named[name] = array
    if naming == "nanogpt":
        named[_HEAD] = named[_TOKENS]
    return named


def from_named(weights: Named, like: GPT, naming: Naming) -> GPT:
    """Return the model `like` with other weights, in float32.

    The weights of `like` may be abstract. The prefixes `_orig_mod.` and `transformer.`
    and the tied head may be absent.

    Raises:
        UserError: if an array is missing or unknown, has another shape, is not
            floating-point or not finite, or if the head differs from the embedding.
    """
    weights = _plain(weights)
    require(
        like.blocks.length <= len(weights),
        f"The weights must contain {like.blocks.length:,} blocks: got {len(weights)} "
        "arrays. Use weights and configuration of the same model.",
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
        replaced.append(jnp.array(_transpose(array, naming), jnp.float32))
    return eqx.tree_at(lambda model: list(_leaves(model).values()), like, replaced)


def require_finite(weights: Named) -> None:
    """Raise `UserError` unless all numbers are finite in float32."""
    for name, array in weights.items():
        with np.errstate(over="ignore"):  # float64 beyond float32 becomes infinite
            finite = np.isfinite(np.asarray(array, np.float32)).all()
        require(
            bool(finite),
            f"Weights must be finite: `{name}` is not. Use weights from before the "
            "training diverged.",
        )


def _leaves(model: GPT) -> dict[str, Any]:
    """Return arrays by name, with `{}` for the number of the block."""
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
    """Raise `UserError` unless the architecture of the model is GPT-2's."""
    block = model.blocks.layers
    rotary = "rope3d" if model.in_grids else "rope"
    differences = {
        f"labels={model.labels}": model.labels > 0,
        f"expansion={block.expansion:g}": block.expansion != 4.0,
        f"positions={rotary}": model.positions is None,
        "norm=rms": isinstance(model.norm, RMSNorm),
        "qk_norm=True": isinstance(block.qk_norm, RMSNorm),
        f"activation={block.activation}": block.activation not in GPT2_ACTIVATIONS,
        "tied_head=False": model.head is not None,
        f"logit_cap={model.logit_cap}": model.logit_cap > 0,
        f"loops={model.order}": len(model.order) > model.blocks.length,
    }
    other = ", ".join(name for name, differs in differences.items() if differs)
    require(
        not other,
        f"The format of GPT-2 needs the architecture of GPT-2: got {other}. Use the "
        "defaults of these settings.",
    )


def _transpose(array: np.ndarray, naming: Naming) -> np.ndarray:
    """Convert between axes of both conventions; stacked linear weights have three."""
    turns = naming == "nanogpt" and array.ndim == 3
    return array.swapaxes(1, 2) if turns else array


def _shapes(like: GPT, naming: Naming) -> dict[str, tuple[int, ...]]:
    """Return shapes by name, without the tied head."""
    empty = lambda leaf: np.broadcast_to(np.float32(0.0), leaf.shape)
    named = to_named(jax.tree.map(empty, like), naming)
    return {name: array.shape for name, array in named.items() if name != _HEAD}


def _plain(weights: Named) -> dict[str, np.ndarray]:
    """Return weights by full name, without the tied head and constants."""
    named = {}
    for name, array in weights.items():
        short = name.removeprefix(_COMPILED).removeprefix(_TOP)
        if not short.endswith(_MASKS):
            named[short if short == _HEAD else _TOP + short] = array
    head, tokens = named.pop(_HEAD, None), named.get(_TOKENS)
    require(
        head is None or tokens is None or np.array_equal(head, tokens),
        f"`{_HEAD}` must equal the token embedding `{_TOKENS}`: it differs. Use a "
        "model with a tied head.",
    )
    return named


def _require_same(weights: Named, shapes: Mapping[str, tuple[int, ...]]) -> None:
    """Raise `UserError` unless the arrays have these names and shapes."""
    missing, extra = shapes.keys() - weights.keys(), weights.keys() - shapes.keys()
    require(
        not missing and not extra,
        f"The weights must have the {len(shapes)} arrays of the configured GPT-2: "
        f"missing {_some(missing)}; unknown {_some(extra)}. Use weights and "
        "configuration of the same model.",
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
            f"`{name}` must be floating-point: got {got.dtype}. Use weights without "
            "quantization.",
        )


def _some(names: Collection[str]) -> str:
    """Return the first names, for a message."""
    first = ", ".join(f"`{name}`" for name in sorted(names)[:3])
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return first + more if names else "none"
