"""Optimizers, schedules, and which leaves of a model are trained.

Built from optax, with AdamATan2 and PyTorch's clipping added.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, assert_never

import equinox as eqx
import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int, PyTree

from configs import OptimConfig
from train.muon import is_hidden, scale_hidden, with_muon

Schedule = Callable[[Int[Array, ""]], Float[Array, ""]]


def split_trainable(model: PyTree) -> tuple[PyTree, PyTree]:
    """Split a model into trained leaves and buffers (None elsewhere).

    Modules with `trained = False` hold buffers (`train/experiment.py`).
    """

    def is_buffer(node: Any) -> bool:
        return getattr(node, "trained", True) is False

    trained = jax.tree.map(lambda node: not is_buffer(node), model, is_leaf=is_buffer)
    return eqx.partition(model, trained)


def warmup_cosine(peak: float, warmup: int, total: int, min_ratio: float) -> Schedule:
    """Return the rate of update `count + 1`: linear, then cosine to `min_ratio * peak`.

    Source: `pretrain.py`, `cosine_schedule_with_warmup_lr_lambda`; updates count
    from 1.
    """
    schedule = optax.warmup_cosine_decay_schedule(
        0.0, peak, warmup, max(total, warmup + 1), peak * min_ratio
    )
    return lambda count: jnp.asarray(schedule(count + 1), jnp.float32)


def nanogpt_cosine(peak: float, warmup: int, total: int, min_ratio: float) -> Schedule:
    """Return the rate of update `count`: linear, then cosine to `min_ratio * peak`.

    Source: nanoGPT, `train.py`, `get_lr`: the warm-up begins at 1 / (warmup + 1), and
    updates count from 0.
    """
    cosine = optax.cosine_decay_schedule(peak, max(total - warmup, 1), min_ratio)

    def schedule(count: Int[Array, ""]) -> Float[Array, ""]:
        warm = peak * (count + 1) / (warmup + 1)
        return jnp.asarray(
            jnp.where(count < warmup, warm, cosine(count - warmup)), jnp.float32
        )

    return schedule


def warmup_stable_decay(
    peak: float, warmup: int, total: int, min_ratio: float, decay_share: float
) -> Schedule:
    """Return the rate of update `count`: linear up, constant, linear down.

    The rate would be `min_ratio * peak` at update `total`, one after the last.

    Source: Hu et al. 2024, arXiv 2404.06395 (WSD); Haegele et al. 2024, arXiv
    2405.18392, for a linear end of a fifth of the run or more.
    """

    def schedule(count: Int[Array, ""]) -> Float[Array, ""]:
        warm = jnp.minimum((count + 1) / max(warmup, 1), 1.0)
        left = jnp.clip((total - count) / max(decay_share * total, 1.0), 0.0, 1.0)
        low = min_ratio + (1.0 - min_ratio) * left
        return jnp.asarray(peak * jnp.minimum(warm, low), jnp.float32)

    return schedule


def make_schedule(
    config: OptimConfig,
    peak: float,
    total: int,
    cosine: Callable[[float, int, int, float], Schedule],
) -> Schedule:
    """Return the schedule that a configuration selects.

    Args:
        config: kind of schedule, and its shape.
        peak: largest rate.
        total: updates.
        cosine: the model's cosine schedule: `peak, warmup, total, min_ratio`.
    """
    shape = peak, config.warmup, total, config.min_ratio
    if config.schedule == "wsd":
        return warmup_stable_decay(*shape, config.decay_share)
    return cosine(*shape)


# atan(r) / r as a polynomial in r^2 on 0 <= r <= 1, fitted to relative error 1e-9.
_ATAN = (
    0.999999998,
    -0.333332836,
    0.19998266,
    -0.142619331,
    0.109420305,
    -0.08377315,
    0.0575520942,
    -0.0308045892,
    0.0107269397,
    -0.00175392918,
)


def atan2_positive(y: Float[Array, "*axes"], x: Float[Array, "*axes"]) -> Array:
    """Return `arctan2(y, x)` for x >= 0, to a relative 2e-7, with 0 at the origin.

    On a CPU, XLA calls the C library's scalar function for each entry, which takes
    longer than the rest of the update.
    """
    size = jnp.abs(y)
    low, high = jnp.minimum(size, x), jnp.maximum(size, x)
    ratio = jnp.where(low == high, jnp.sign(high), low / high)  # 0 / 0 and inf / inf
    square = ratio * ratio
    series = jnp.full_like(square, _ATAN[-1])
    for coefficient in _ATAN[-2::-1]:
        series = series * square + coefficient
    angle = series * ratio
    return jnp.copysign(jnp.where(size > x, math.pi / 2 - angle, angle), y)


class AdamATan2State(eqx.Module):
    """The number of updates made, and the two moments."""

    count: Int[Array, ""]
    mu: PyTree
    nu: PyTree


def scale_by_adam_atan2(b1: float, b2: float) -> optax.GradientTransformation:
    """Return Adam with `atan2(m, sqrt(v_hat)) / (1 - b1^t)` as its update; no epsilon.

    Source: the package adam-atan2 0.0.3, used by the official code (it corrects the
    first moment outside of atan2, and has no factor); arXiv 2407.05872.
    """

    def init(params: PyTree) -> AdamATan2State:
        zeros = lambda: jax.tree.map(jnp.zeros_like, params)
        return AdamATan2State(jnp.zeros((), jnp.int32), zeros(), zeros())

    def update(
        grads: PyTree, state: AdamATan2State, params: PyTree | None = None
    ) -> tuple[PyTree, AdamATan2State]:
        del params
        count = state.count + 1
        mu = jax.tree.map(lambda m, g: m + (1 - b1) * (g - m), state.mu, grads)
        nu = jax.tree.map(lambda v, g: v + (1 - b2) * (g * g - v), state.nu, grads)
        correct1 = 1 - b1 ** count.astype(jnp.float32)
        correct2 = jnp.sqrt(1 - b2 ** count.astype(jnp.float32))
        updates = jax.tree.map(
            lambda m, v: atan2_positive(m, jnp.sqrt(v) / correct2) / correct1, mu, nu
        )
        return updates, AdamATan2State(count, mu, nu)

    # optax types its callables for any tree and extra arguments.
    return optax.GradientTransformation(init, update)  # pyright: ignore[reportArgumentType]


def clip_by_global_norm(largest: float) -> optax.GradientTransformation:
    """Scale gradients down to a global norm of at most `largest`.

    Multiplies by one factor; optax divides each entry, which costs another pass.

    Source: PyTorch, `clip_grad_norm_`, its 1e-6 included.
    """

    def clip(grads: PyTree, params: PyTree | None = None) -> PyTree:
        del params
        factor = jnp.minimum(largest / (optax.tree.norm(grads) + 1e-6), 1.0)
        return jax.tree.map(lambda g: g * factor, grads)

    return optax.stateless(clip)


def matrices(params: PyTree) -> PyTree[bool]:
    """Return which parameters have two or more axes, not counting stacked layers.

    Source: nanoGPT, `configure_optimizers`.
    """

    def mark(node: Any) -> Any:
        least = 3 if is_stacked(node) else 2
        return jax.tree.map(lambda leaf: leaf.ndim >= least, node)

    is_stacked = lambda node: getattr(node, "stacked", False) is True
    return jax.tree.map(mark, params, is_leaf=is_stacked)


TableUpdate = Callable[[Array, tuple[Array, Array], Int[Array, ""]], Array]
"""`rows, (row numbers, gradients), updates made -> rows`: see `train/table.py`."""


@dataclass(frozen=True, kw_only=True)
class Optimizer:
    """Updates of the parameters, of their average and of the puzzle table."""

    tx: optax.GradientTransformation

    schedule: Schedule
    """The learning rate, which is reported; `tx` has one of its own."""

    ema: float
    ema_from: int = 0
    """Updates before the average starts."""

    table_update: TableUpdate | None = None

    table_schedule: Schedule | None = None
    """The table's learning rate, which is reported; None: nothing is."""

    def average(self, ema: Any, model: Any, updates: Int[Array, ""]) -> Any:
        """Return the average after update `updates`, counted from 0."""
        averaged = update_ema(ema, model, self.ema)
        if not self.ema_from:
            return averaged
        return optax.tree.where(updates >= self.ema_from, averaged, model)


def make_optimizer(
    config: OptimConfig,
    schedule: Schedule,
    total: int,
    table_update: TableUpdate | None = None,
) -> Optimizer:
    """Return the optimizer of a run of `total` updates, with the rate of a schedule."""
    return Optimizer(
        tx=make_tx(config, schedule),
        schedule=schedule,
        ema=config.ema,
        ema_from=int(config.ema_start * total),
        table_update=table_update,
    )


def make_tx(config: OptimConfig, schedule: Schedule) -> optax.GradientTransformation:
    """Return the gradient transformation of a model, with decoupled weight decay."""
    match config.name:
        case "adam_atan2":
            scale = scale_by_adam_atan2(config.beta1, config.beta2)
        case "adamw":
            scale = optax.scale_by_adam(config.beta1, config.beta2, eps=config.eps)
        case _:
            assert_never(config.name)
    rate = optax.identity()
    if config.muon:
        scale, rate = with_muon(config, scale), scale_hidden(config.muon_rate)
    clip = clip_by_global_norm(config.clip) if config.clip else optax.identity()
    return optax.chain(
        clip,
        scale,
        decay_weights(config),
        rate,
        # optax's type also allows numbers.
        optax.scale_by_learning_rate(schedule),  # pyright: ignore[reportArgumentType]
    )


def decay_weights(config: OptimConfig) -> optax.GradientTransformation:
    """Add the decay of the configured parameters to their updates."""
    decay = cautious_decay if config.cautious else optax.add_decayed_weights
    mask = {"all": None, "matrices": matrices}[config.decay]
    if config.muon_decay is None:
        return decay(config.weight_decay, mask)

    def others(params: PyTree) -> PyTree[bool]:
        hidden = is_hidden(params)
        decayed = mask(params) if mask else jax.tree.map(lambda _: True, params)
        return jax.tree.map(lambda a, b: a and not b, decayed, hidden)

    return optax.chain(
        decay(config.muon_decay, is_hidden), decay(config.weight_decay, others)
    )


def cautious_decay(
    rate: float, mask: Callable[[PyTree], PyTree[bool]] | None = None
) -> optax.GradientTransformation:
    """Add `rate` times each weight where its update has the same sign, or is 0.

    Elsewhere the decay would act against the update.

    Source: Chen et al. 2025, arXiv 2510.12402.

    Args:
        rate: of the decay.
        mask: from parameters to those that decay. None: all.
    """

    def add(update: Array, weight: Array) -> Array:
        agrees = jnp.sign(update) * jnp.sign(weight) >= 0  # a product could underflow
        return update + jnp.where(agrees, rate * weight, 0.0)

    decay = optax.stateless(lambda updates, params: jax.tree.map(add, updates, params))
    return decay if mask is None else optax.masked(decay, mask)


def update_ema(ema: Any, model: Any, decay: float) -> Any:
    """Return `decay * ema + (1 - decay) * model` on trained leaves; keep buffers.

    Source: `models/ema.py`, `EMAHelper`; paper section 4.7.
    """
    averaged, buffers = split_trainable(ema)
    trained, _ = split_trainable(model)
    averaged = jax.tree.map(
        lambda e, p: decay * e + (1.0 - decay) * p, averaged, trained
    )
    return eqx.combine(averaged, buffers)
