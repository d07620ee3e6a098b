"""Attention with the kernels XLA, cuDNN and splash, and the choice between them."""

import math
from functools import partial
from typing import Any, Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Key

from configs import require
from gpt.layers import drop, dropout_mask

Kernel = Literal["xla", "tiles", "cudnn", "splash"]
"""`xla`: any device. `tiles`: `xla` on a TPU, where a token MLP works on whole tiles.
`cudnn`: NVIDIA, 16 bits. `splash`: JAX's Pallas kernel, TPU."""

TILE = 8
"""Rows of a TPU's tile."""

SPLASH_BLOCK, SPLASH_LENGTH = 128, 512
"""The splash kernel needs a multiple of `SPLASH_BLOCK` positions. Padding to one pays
off from `SPLASH_LENGTH` positions onwards."""

CUDNN_WIDTH = 128
"""Maximum head width for cuDNN's gradient on every supported GPU."""


def pick_kernel(
    wanted: Literal["auto", "xla", "cudnn", "splash"],
    *,
    precision: str,
    length: int,
    head_dim: int,
    device: Any = None,
) -> Kernel:
    """Choose the attention kernel.

    Args:
        wanted: the setting; `auto`: the fastest available kernel with a gradient.
        precision: the compute type.
        length: positions of a sequence.
        head_dim: width of a head.
        device: to compile for. None: JAX's default.

    Raises:
        UserError: if the kernel is not available here.
    """
    backend = device.platform if device else jax.default_backend()
    can = {
        "splash": backend == "tpu"
        and (length % SPLASH_BLOCK == 0 or length >= SPLASH_LENGTH),
        "cudnn": backend == "gpu"
        and compute_capability(device or jax.local_devices()[0]) >= 8.0
        and precision != "float32"
        and head_dim <= CUDNN_WIDTH,
        "tiles": backend == "tpu",
        "xla": True,
    }
    if wanted == "auto":
        kernels: tuple[Kernel, ...] = ("splash", "cudnn", "tiles", "xla")
        return next(kernel for kernel in kernels if can[kernel])
    needs = {
        "splash": f"a TPU and a length of at least {SPLASH_LENGTH}, or a multiple of "
        f"{SPLASH_BLOCK}",
        "cudnn": "an NVIDIA GPU of compute capability 8.0 or more, 16 bits and heads "
        f"no wider than {CUDNN_WIDTH}",
        "xla": "nothing",
    }
    require(
        can[wanted],
        f"The attention kernel `{wanted}` needs {needs[wanted]}: got {backend}, "
        f"{precision}, length {length}, heads {head_dim} wide. Use "
        "`--config.model.attention auto`.",
    )
    return wanted


def padding(kernel: Kernel, length: int) -> int:
    """Return the positions to append to a sequence so that the kernel need not pad.

    cuDNN's gradient needs an even number.
    """
    return length % 2 if kernel == "cudnn" else 0


def compute_capability(device: Any) -> float:
    """Return a GPU's compute capability; 0 if it is not NVIDIA's."""
    try:
        return float(device.compute_capability)
    except (AttributeError, ValueError):
        return 0.0


def attend(
    query: Float[Array, "*batch seq heads head_dim"],
    key: Float[Array, "*batch memory heads head_dim"],
    value: Float[Array, "*batch memory heads head_dim"],
    *,
    causal: bool = False,
    seen: int | None = None,
    kernel: Kernel = "xla",
    rate: float = 0.0,
    keys: Key[Array, " rows"] | None = None,
) -> Float[Array, "*batch seq heads head_dim"]:
    """Return `softmax(q k / sqrt(head_dim)) v`; the softmax is computed in float32.

    If `causal`, position i attends only to positions 0 to i. Memory from position
    `seen` onwards is padding. Attention weights are dropped with probability `rate` if
    there are `keys`, one per example; the kernel is then always `xla`.
    """
    if rate == 0.0:
        keys = None
    if kernel == "cudnn" and keys is None:
        return cudnn(query, key, value, causal=causal, seen=seen)
    key, value = key[..., :seen, :, :], value[..., :seen, :, :]
    scaled = query * (1.0 / math.sqrt(query.shape[-1]))
    if kernel == "splash" and keys is None:
        return splash(scaled, key, value, causal=causal)
    # With heads before positions, XLA multiplies batches of plain matrices.
    query, key, value = _heads_first(scaled), _heads_first(key), _heads_first(value)
    shape = (*query.shape[1:-1], key.shape[-2])
    mask = None if keys is None else dropout_mask(keys, rate, shape)
    return _heads_first(mix(causal, rate, query, key, value, mask))


def _heads_first(
    x: Float[Array, "*batch seq heads head_dim"],
) -> Float[Array, "*batch heads seq head_dim"]:
    """Swap the axes of positions and heads."""
    return jnp.swapaxes(x, -2, -3)


def cudnn(
    query: Float[Array, "*batch seq heads head_dim"],
    key: Float[Array, "*batch memory heads head_dim"],
    value: Float[Array, "*batch memory heads head_dim"],
    *,
    causal: bool,
    seen: int | None = None,
    implementation: Literal["cudnn", "xla"] = "cudnn",
) -> Float[Array, "*batch seq heads head_dim"]:
    """Compute attention with NVIDIA's kernel, which keeps no scores in memory.

    Its gradient needs even lengths and widths that are multiples of 8. Inputs are
    padded with zeros; the added position is masked, and its output cut off. With
    `implementation="xla"` it runs on any device.
    """
    seq, head_dim, memory = query.shape[-3], query.shape[-1], key.shape[-3]
    seen = memory if seen is None else seen

    def pad(x: Array) -> Array:
        x = x.reshape(-1, *x.shape[-3:])
        return jnp.pad(x, ((0, 0), (0, x.shape[1] % 2), (0, 0), (0, -head_dim % 8)))

    padded = tuple(map(pad, (query, key, value)))
    lengths = None
    # With a causal mask, no position attends to the added one.
    if seen < memory or (memory % 2 and not causal):
        lengths = jnp.full(padded[1].shape[0], seen, jnp.int32)
    mixed = jax.nn.dot_product_attention(
        *padded,
        scale=1.0 / math.sqrt(head_dim),
        is_causal=causal,
        key_value_seq_lengths=lengths,
        implementation=implementation,
    )
    return mixed[:, :seq, :, :head_dim].reshape(query.shape)


def splash(
    query: Float[Array, "batch seq heads head_dim"],
    key: Float[Array, "batch memory heads head_dim"],
    value: Float[Array, "batch memory heads head_dim"],
    *,
    causal: bool,
    interpret: bool = False,
) -> Float[Array, "batch seq heads head_dim"]:
    """Compute attention with JAX's Pallas kernel for TPUs; scores are not in memory.

    Positions are padded to whole blocks; added keys are masked, added outputs cut off.
    The query must be scaled. With `interpret` it runs on any device.
    """
    from jax.experimental.pallas.ops.tpu.splash_attention import (
        splash_attention_kernel as kernels,
    )
    from jax.experimental.pallas.ops.tpu.splash_attention import (
        splash_attention_mask as masks,
    )

    seq, memory = query.shape[1], key.shape[1]
    pad = lambda x: jnp.pad(
        x, ((0, 0), (0, -x.shape[1] % SPLASH_BLOCK), (0, 0), (0, 0))
    )
    padded = tuple(_heads_first(pad(x)) for x in (query, key, value))
    shape = (padded[0].shape[2], padded[1].shape[2])
    mask = masks.CausalMask(shape) if causal else masks.FullMask(shape)
    kernel = kernels.make_splash_mha_single_device(
        masks.MultiHeadMask([mask] * query.shape[2]), interpret=interpret
    )
    added = None
    if shape[1] > memory:
        seen, given = jnp.zeros(shape[0], jnp.int32), jnp.arange(shape[1]) < memory
        added = kernels.SegmentIds(seen, jnp.where(given, 0, 1))
    mixed: Any = jax.vmap(partial(kernel, segment_ids=added))(*padded)
    return _heads_first(mixed)[:, :seq]


def _einsum(equation: str, *arrays: Array) -> Array:
    """Return the product in float32."""
    return jnp.einsum(equation, *arrays, preferred_element_type=jnp.float32)


def _transpose(x: Float[Array, "*batch rows cols"]) -> Float[Array, "*batch cols rows"]:
    return jnp.swapaxes(x, -1, -2)


@partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def mix(
    causal: bool,
    rate: float,
    query: Float[Array, "*batch seq head_dim"],
    key: Float[Array, "*batch memory head_dim"],
    value: Float[Array, "*batch memory head_dim"],
    mask: Bool[Array, "*batch seq memory"] | None,
) -> Float[Array, "*batch seq head_dim"]:
    """Return `softmax(query key) value`; the softmax is computed in float32.

    The custom gradient keeps one array of weights, in the type of `value`. It sums over
    the width of a head where JAX's own sums over all weights, and does not transpose
    the weights, which a CPU would copy first.

    The query must be scaled. `mask` marks the weights that dropout keeps.

    Source: Dao et al. 2022, arXiv 2205.14135 (FlashAttention), appendix B, for the
    gradient; there the weights are computed again.
    """
    return _forward(causal, rate, query, key, value, mask)[0]


def _forward(
    causal: bool,
    rate: float,
    query: Array,
    key: Array,
    value: Array,
    mask: Array | None,
) -> tuple[Array, Any]:
    scores = _einsum("...ld,...md->...lm", query, key)
    if causal:
        scores = jnp.where(
            jnp.tril(jnp.ones(scores.shape[-2:], bool)), scores, -jnp.inf
        )
    weights = jax.nn.softmax(scores, axis=-1)
    dropped = drop(weights, rate, mask).astype(value.dtype)
    mixed = _einsum("...lm,...md->...ld", dropped, value).astype(value.dtype)
    return mixed, (query, key, value, mask, weights.astype(value.dtype), mixed)


def _backward(
    causal: bool, rate: float, residuals: Any, grad: Array
) -> tuple[Array | None, ...]:
    del causal  # a weight of 0 stops the gradient
    query, key, value, mask, weights, mixed = residuals
    dropped = drop(weights, rate, mask)
    rise = drop(_einsum("...ld,...md->...lm", grad, value), rate, mask)
    along = jnp.sum(grad.astype(jnp.float32) * mixed, axis=-1, keepdims=True)
    scores_grad = (weights * (rise - along)).astype(value.dtype)
    query_grad = _einsum("...lm,...md->...ld", scores_grad, key)
    key_grad = _transpose(_einsum("...dl,...lm->...dm", _transpose(query), scores_grad))
    value_grad = _transpose(_einsum("...dl,...lm->...dm", _transpose(grad), dropped))
    return (
        query_grad.astype(query.dtype),
        key_grad.astype(key.dtype),
        value_grad.astype(value.dtype),
        None,
    )


mix.defvjp(_forward, _backward)
