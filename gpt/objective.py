"""What a GPT learns from text: the functions of its `Objective` (`train/gpt.py`)."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from data.text.dataset import IGNORE, Tokens
from gpt.loss import summed_cross_entropy
from gpt.model import GPT

Metrics = dict[str, tuple[Float[Array, ""], Float[Array, ""]]]


def next_token_loss(
    model: GPT,
    rows: tuple[()],
    carry: Tokens,
    keys: Key[Array, " batch"] | None,
    *,
    chunk: int,
) -> tuple[Float[Array, ""], tuple[Float[Array, ""], tuple[()], Metrics]]:
    """The loss summed over tokens, their number, nothing to carry, the metrics.

    Args:
        model: cast.
        rows: none, as there is no table.
        carry: the batch.
        keys: for dropout, one for each sequence; none for no dropout.
        chunk: most tokens whose logits stand in memory at once.
    """
    x = model.hidden(carry.inputs, keys)
    with jax.named_scope("loss"):
        total: Array = summed_cross_entropy(  # pyright: ignore[reportAssignmentType]
            x.reshape(-1, x.shape[-1]),
            model.unembedding.weight,
            carry.targets.reshape(-1),
            chunk,
            model.logit_cap,
        )
    count = jnp.sum(carry.targets != IGNORE).astype(jnp.float32)
    return total, (count, (), {"loss": (total, count)})


def evaluate(
    model: GPT, rows: tuple[()], carry: Tokens, *, chunk: int
) -> tuple[Metrics, tuple[()]]:
    """The loss without dropout; no predictions."""
    _, (_, _, metrics) = next_token_loss(model, rows, carry, None, chunk=chunk)
    return metrics, ()
