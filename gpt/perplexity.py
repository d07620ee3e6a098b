"""Score a text with a GPT: windows, their losses, means with standard errors."""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Integer

from data.text.dataset import IGNORE, Tokens
from gpt.loss import summed_cross_entropy
from gpt.model import GPT


def windows(
    tokens: Integer[np.ndarray, " tokens"],
    first: int,
    count: int,
    *,
    block_size: int,
    stride: int,
) -> Tokens:
    """Return the windows `first` to `first + count - 1` of a text.

    Window `k` scores the tokens `k * stride + 1` to `(k + 1) * stride`. Its input
    begins so early that the last of them has a context of `block_size` tokens, or with
    the text. So every token but the first is scored once; with `stride = block_size`,
    windows do not overlap. Windows beyond the end score nothing.

    Args:
        tokens: the text, counted from 0.
        first: number of the first window.
        count: number of windows.
        block_size: tokens of a window.
        stride: tokens that a window scores, at most `block_size`.
    """
    scored = stride * np.arange(first, first + count)[:, None]
    start = np.maximum(scored + stride - block_size, 0)
    at = start + np.arange(block_size + 1)
    text = tokens[np.minimum(at, len(tokens) - 1)].astype(np.int32)
    target = at[:, 1:]
    inside = (target > scored) & (target <= scored + stride) & (target < len(tokens))
    return Tokens(text[:, :-1], np.where(inside, text[:, 1:], np.int32(IGNORE)))


def window_losses(
    model: GPT,
    inputs: Int[Array, "batch seq"],
    targets: Int[Array, "batch seq"],
    *,
    chunk: int,
) -> Float[Array, " batch"]:
    """Return each window's loss in nats, summed over its scored tokens.

    Args:
        model: cast.
        inputs: tokens.
        targets: the next token at each position, or `IGNORE`.
        chunk: maximum of tokens with logits in memory.
    """
    head, cap = model.unembedding.weight, model.logit_cap

    def loss(row: tuple[Array, Array]) -> Array:
        x, targets = row
        return summed_cross_entropy(x, head, targets, chunk, cap)

    exact = "highest" if model.compute_type == jnp.float32 else None
    with jax.default_matmul_precision(exact):
        return jax.lax.map(loss, (model.hidden(inputs), targets))


def ratio(
    totals: Float[np.ndarray, " groups"], weights: Float[np.ndarray, " groups"]
) -> tuple[float, float | None]:
    """Return `sum(totals) / sum(weights)` and its standard error; None for one group.

    Groups count as independent samples, tokens of a group do not.

    Source: Cochran, Sampling Techniques (1977), chapter 6: the ratio estimator.
    """
    groups, weight = len(totals), weights.sum()
    mean = totals.sum() / weight
    if groups < 2:
        return float(mean), None
    squares = np.square(totals - mean * weights).sum()
    return float(mean), float(np.sqrt(groups / (groups - 1) * squares) / weight)
