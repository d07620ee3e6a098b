"""Draw the next token: temperature, top-k, top-p."""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Key

from configs import require

COLDEST, HOTTEST = 1e-6, 1_000_000
"""Bounds of a temperature above 0: logits divided by it must fit float32."""


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """Rules to draw tokens: `top_k` first, then `top_p` of the remaining tokens."""

    temperature: float = 1.0
    """Divides the logits. 0: always the likeliest token."""

    top_k: int | None = None
    """Draw from the `top_k` likeliest tokens. None: from all."""

    top_p: float = 1.0
    """Draw from the smallest set of likeliest tokens with this total probability."""

    def __post_init__(self) -> None:
        require(
            self.temperature == 0.0 or COLDEST <= self.temperature <= HOTTEST,
            f"`temperature` must be 0 or in {COLDEST} .. {HOTTEST:,}: got "
            f"{self.temperature}. Use 0 for the likeliest token, 1 for no change.",
        )
        require(
            self.top_k is None or self.top_k >= 1,
            f"`top_k` must be None or at least 1: got {self.top_k}. Use None to draw "
            "from all tokens.",
        )
        require(
            0.0 < self.top_p <= 1.0,
            f"`top_p` must be in (0, 1]: got {self.top_p}. Use 1 to draw from all.",
        )

    @property
    def greedy(self) -> bool:
        """True if the likeliest token is always taken."""
        return self.temperature == 0.0 or self.top_k == 1


def sample_token(
    logits: Float[Array, "batch vocab"],
    sampling: Sampling,
    keys: Key[Array, " batch"],
    tokens: int,
) -> Int[Array, " batch"]:
    """Draw a token for each row; logits from column `tokens` onwards are padding.

    Source: nanoGPT, `GPT.generate`, for temperature and `top_k` (ties with the last
    candidate are candidates too); Holtzman et al. 2019, arXiv 1904.09751, for `top_p`.
    """
    logits = logits[:, :tokens]
    if sampling.greedy:
        return jnp.argmax(logits, axis=-1).astype(jnp.int32)
    logits = logits / sampling.temperature
    most = min(sampling.top_k or tokens, tokens)
    if most < tokens or sampling.top_p < 1.0:
        best = jax.lax.top_k(logits, most)[0]
        logits = jnp.where(logits < best[:, -1:], -jnp.inf, logits)
        if sampling.top_p < 1.0:
            logits = _nucleus(logits, best, sampling.top_p)
    return jax.vmap(jax.random.categorical)(keys, logits).astype(jnp.int32)


def _nucleus(
    logits: Float[Array, "batch tokens"], best: Float[Array, "batch k"], top_p: float
) -> Float[Array, "batch tokens"]:
    """Mask all but the smallest set of likeliest tokens with probability `top_p`."""
    mass = jnp.exp(best - jax.nn.logsumexp(logits, axis=-1, keepdims=True))
    before = jnp.cumsum(mass, axis=-1) - mass
    count = jnp.maximum(jnp.sum(before < top_p, axis=-1, keepdims=True), 1)
    last = jnp.take_along_axis(best, count - 1, axis=-1)
    return jnp.where(logits < last, -jnp.inf, logits)
