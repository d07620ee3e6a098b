"""Losses and metrics of one puzzle after one supervision step.

A number that `puzzle_loss` returns for a puzzle is reported by training and by every
evaluation. `metrics` makes a pair (sum, count) of it: both are summed over rows,
devices and steps, and divided at the end. Losses count every row, scores only the rows
that halted in this step (official).

Source: `models/losses.py`; paper section 4.1 and figure 3.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Shaped

from configs import ACTConfig
from data.puzzles.dataset import IGNORE
from gpt.metrics import Metrics
from trm.model import Prediction

Parts = dict[str, Shaped[Array, "*batch"]]
"""Values of a puzzle by the name of a metric."""

PuzzleLoss = Callable[
    [Prediction, Int[Array, " seq"], Float[Array, ""] | None],
    tuple[Float[Array, ""], Parts, Parts],
]
"""`puzzle_loss` with a configuration: prediction, labels and the target of q_continue
in; the loss, losses to report and scores to report out."""

NOTES = {
    "exact_accuracy": "puzzles solved",
    "by_the_rules": "answers that keep the rules, whatever the labels",
    "accuracy": "cells right",
    "q_halt_accuracy": "puzzles where q_halt predicts whether they are solved",
    "steps": "mean supervision steps",
}
"""Metrics to print after an evaluation, and their meaning."""


def log_stablemax(logits: Float[Array, "*axes vocab"]) -> Float[Array, "*axes vocab"]:
    """`log(s / sum(s))` with `s(x) = x + 1` for x >= 0, `1 / (1 - x)` below; float32.

    Each side of 0 sees only its own logits, since the gradient of the plain form is
    `0 * inf` at a logit of exactly 1, and that of `maximum` is halved at 0. The
    official code computes it in float64.

    Source: arXiv 2501.04697; `models/losses.py`, `log_stablemax`.
    """
    x = logits.astype(jnp.float32)
    positive = x >= 0
    log_s = jnp.where(
        positive,
        jnp.log1p(jnp.where(positive, x, 0.0)),
        -jnp.log1p(jnp.where(positive, 0.0, -x)),
    )
    return log_s - jax.nn.logsumexp(log_s, axis=-1, keepdims=True)


def log_softmax(logits: Float[Array, "*axes vocab"]) -> Float[Array, "*axes vocab"]:
    """Return the log probabilities of a softmax, in float32."""
    return jax.nn.log_softmax(logits.astype(jnp.float32))


def cross_entropy(
    logit: Float[Array, ""], target: Shaped[Array, ""]
) -> Float[Array, ""]:
    """Return the cross-entropy, in nats, of `target` under a probability's logit."""
    return jax.nn.softplus(logit) - target * logit


@jax.named_scope("loss")
def puzzle_loss(
    prediction: Prediction,
    labels: Int[Array, " seq"],
    q_target: Float[Array, ""] | None,
    config: ACTConfig,
) -> tuple[Float[Array, ""], Parts, Parts]:
    """Return the loss of one puzzle in nats, its parts, and the scores.

    The loss is the mean cross-entropy over scored cells, plus `q_weight` times the
    cross-entropy of q_halt against "all cells are right" (and of q_continue against
    `q_target`). `lm_loss` includes label smoothing.
    """
    log_p = log_stablemax if config.loss == "stablemax" else log_softmax
    valid = labels != IGNORE
    cells = jnp.maximum(valid.sum(), 1).astype(jnp.float32)
    targets = jnp.where(valid, labels, 0)
    logs = log_p(prediction.logits)
    nll = -jnp.take_along_axis(logs, targets[:, None], axis=-1)
    if share := config.label_smoothing:
        nll = (1.0 - share) * nll - share * jnp.mean(logs, axis=-1, keepdims=True)
    right = valid & (jnp.argmax(prediction.logits, axis=-1) == labels)
    solved = right.sum() == valid.sum()

    lm_loss = jnp.where(valid, nll[:, 0], 0.0).sum() / cells
    q_losses = {"q_halt_loss": cross_entropy(prediction.q_halt, solved)}
    if q_target is not None:
        q_losses["q_continue_loss"] = cross_entropy(prediction.q_continue, q_target)
    scores = {
        "accuracy": right.sum() / cells,
        "exact_accuracy": solved,
        "q_halt_accuracy": (prediction.q_halt >= 0) == solved,
    }
    loss = lm_loss + config.q_weight * sum(q_losses.values())
    return loss, {"lm_loss": lm_loss, **q_losses}, scores


def metrics(
    losses: Parts,
    scores: Parts,
    *,
    active: Bool[Array, " batch"],
    scored: Bool[Array, " batch"],
) -> Metrics:
    """Sum and count over a batch: losses over active rows, scores over scored rows.

    Leading batch axis on every leaf of `losses` and `scores`.
    """

    def mean(values: Array, mask: Bool[Array, " batch"]) -> tuple[Array, Array]:
        weight = mask.astype(jnp.float32)
        return jnp.sum(values * weight), jnp.sum(weight)

    return {
        **{name: mean(value, active) for name, value in losses.items()},
        **{name: mean(value, scored) for name, value in scores.items()},
    }
