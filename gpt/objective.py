"""The training loss and the evaluation of a GPT."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from data.text.dataset import IGNORE, Tokens
from gpt.loss import summed_cross_entropy
from gpt.metrics import Loss, Metrics
from gpt.model import GPT


def next_token_loss(
    model: GPT,
    rows: tuple[()],
    carry: Tokens,
    keys: Key[Array, " batch"] | None,
    *,
    chunk: int,
) -> Loss:
    """Return the loss summed over tokens, the number of tokens, and the metrics.

    The batch is `carry`; `chunk` tokens at most have logits in memory at once.
    """
    total, count = _summed_loss(model, model.hidden(carry.inputs, keys), carry, chunk)
    return total, (count, (), {"loss": (total, count)})


def _summed_loss(
    model: GPT, x: Float[Array, "batch seq dim"], carry: Tokens, chunk: int
) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """Return the loss summed over the targets, and their number."""
    with jax.named_scope("loss"):
        total: Array = summed_cross_entropy(  # pyright: ignore[reportAssignmentType]
            x.reshape(-1, x.shape[-1]),
            model.unembedding.weight,
            carry.targets.reshape(-1),
            chunk,
            model.logit_cap,
        )
    count = jnp.sum(carry.targets != IGNORE).astype(jnp.float32)
    return total, count


def evaluate(
    model: GPT, rows: tuple[()], carry: Tokens, *, chunk: int
) -> tuple[Metrics, tuple[()]]:
    """Return the loss without dropout, and no predictions.

    For rows of ARC also `exact_accuracy`: the share of rows whose targets are all the
    likeliest tokens. Written token by token, the output would be right.
    """
    x = model.hidden(carry.inputs)
    metrics = {"loss": _summed_loss(model, x, carry, chunk)}
    if model.labels:  # few outputs: all logits fit
        scored = carry.targets != IGNORE
        likeliest = jnp.argmax(model.logits(x), axis=-1)
        right = jnp.all(~scored | (likeliest == carry.targets), axis=-1)
        real = jnp.any(scored, axis=-1)
        total = lambda flags: jnp.sum(flags).astype(jnp.float32)
        metrics["exact_accuracy"] = total(right & real), total(real)
    return metrics, ()
