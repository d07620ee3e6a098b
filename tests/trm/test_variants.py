"""The contract of every variant with every mixer that `TRMConfig` names."""

from dataclasses import replace
from typing import get_args, get_type_hints

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from configs import ACTConfig, TRMConfig
from tests import tiny
from tests.tiny import assert_close
from train.optim import scale_by_adam_atan2, split_trainable
from trm.build import build_trm
from trm.model import TRM
from trm.official.names import load_official, to_official
from trm.recursion import deep_recursion

VARIANTS, MIXERS = (
    get_args(get_type_hints(TRMConfig)[name]) for name in ("variant", "mixer")
)
CONFIGS = {
    f"{variant}-{mixer}": replace(
        tiny.MODEL,
        variant=variant,
        mixer=mixer,
        positions="rope" if mixer == "attention" else "none",
        H_cycles=1 if variant == "transformer" else 3,
    )
    for variant in VARIANTS
    for mixer in MIXERS
}
# Those with official weights.
OFFICIAL = ("trm", "single_z", "hier6", "hrm", "transformer")
# Their tests tell little beside those of `trm` with the mixer, and of them with `mlp`.
LONG = {
    f"{variant}-{mixer}"
    for variant in ("single_z", "hier6", "hrm", "eqr", "infiloop")
    for mixer in ("attention", "units")
}
every = pytest.mark.parametrize(
    "config",
    [
        pytest.param(config, id=name, marks=[pytest.mark.slow] * (name in LONG))
        for name, config in CONFIGS.items()
    ],
)


@pytest.fixture(autouse=True)
def puzzles_with_a_geometry(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    """For a mixer that is told it: a Sudoku of 4x4."""
    callspec = getattr(request.node, "callspec", None)
    config = callspec.params.get("config") if callspec else None
    if config is not None and config.mixer == "units":
        monkeypatch.setattr(tiny, "SEQ", 16)


def fresh(model: TRM, *batch: int) -> tuple:
    """Latents and question of one fresh puzzle, or of a batch."""
    axes = (*batch, model.prefix + tiny.SEQ)
    spread = lambda a: jnp.broadcast_to(a, (*axes, *a.shape))
    latents = jax.tree.map(spread, model.recursion.init())
    return latents, jax.random.normal(jax.random.key(5), (*axes, tiny.MODEL.dim))


@every
def test_a_cycle_keeps_structure_shape_and_type(config: TRMConfig) -> None:
    model = tiny.model(config)
    assert all(eqx.is_array(leaf) for leaf in jax.tree.leaves(model))
    for dtype in (jnp.float32, jnp.bfloat16):
        cast = jax.tree.map(lambda a, d=dtype: a.astype(d), model)
        latents, x = fresh(cast, 2)
        after = jax.eval_shape(cast.refine, latents, x.astype(dtype))
        before = jax.eval_shape(lambda tree: tree, latents)
        assert jax.tree.structure(after) == jax.tree.structure(before)
        for a, b in zip(jax.tree.leaves(after), jax.tree.leaves(before), strict=True):
            assert (a.shape, a.dtype) == (b.shape, b.dtype)


@every
def test_only_the_last_cycle_has_gradient(config: TRMConfig) -> None:
    """More cycles before it, at the latents they lead to, do not change it."""
    model = tiny.model(config)
    latents, x = fresh(model)

    def loss(recursion, latents, cycles: int) -> jax.Array:
        after = model.recursion.answer(deep_recursion(recursion, latents, x, cycles))
        return jnp.sum(jnp.sin(after))

    after_two = deep_recursion(model.recursion, latents, x, 2)
    gradient = jax.jit(jax.grad(loss, argnums=(0, 1)), static_argnums=2)
    three, latent_grads = gradient(model.recursion, latents, 3)
    one, _ = gradient(model.recursion, after_two, 1)
    assert_close(three, one, 1e-4)
    assert all(not g.any() for g in jax.tree.leaves(latent_grads))


@every
def test_every_trained_weight_gets_gradient(config: TRMConfig) -> None:
    model, objective = tiny.model(config), tiny.objective()
    trained, buffers = split_trainable(model)
    batch = jax.tree.map(jnp.asarray, tiny.puzzles(0, 4))
    carry = objective.refill(model, objective.init_carry(model, 4), batch)
    rows = jnp.ones((4, config.puzzle_dim))
    keys = jax.random.split(jax.random.key(0), 4)
    loss = lambda t: objective.loss(eqx.combine(t, buffers), rows, carry, keys)[0]
    grads = jax.jit(jax.grad(loss))(trained)
    assert all(bool(jnp.isfinite(g).all()) for g in jax.tree.leaves(grads))
    assert all(bool(g.any()) for g in jax.tree.leaves(grads))


@every
@pytest.mark.slow
def test_four_puzzles_are_memorised(config: TRMConfig) -> None:
    """And so recursion, halting and refill work together."""
    act = ACTConfig(max_steps=3, exploration=0.1, loss="softmax")
    objective, model = (
        tiny.objective(act),
        tiny.model(replace(config, H_cycles=1, L_cycles=2)),
    )
    batch = jax.tree.map(jnp.asarray, tiny.puzzles(0, 4))
    rows = jnp.zeros((4, config.puzzle_dim))
    trained, buffers = split_trainable(model)
    rate = optax.cosine_decay_schedule(5e-3, 400)
    optimizer = optax.chain(
        scale_by_adam_atan2(0.9, 0.95), optax.scale_by_learning_rate(rate)
    )

    @jax.jit
    def update(trained, opt_state, carry, key):
        model = eqx.combine(trained, buffers)
        carry = objective.refill(model, carry, batch)
        keys = jax.random.split(key, 4)
        loss = lambda t: objective.loss(eqx.combine(t, buffers), rows, carry, keys)
        grads, (_, carry, _) = jax.grad(loss, has_aux=True)(trained)
        changes, opt_state = optimizer.update(grads, opt_state)
        return optax.apply_updates(trained, changes), opt_state, carry

    opt_state, carry = optimizer.init(trained), objective.init_carry(model, 4)
    for t in range(400):
        trained, opt_state, carry = update(trained, opt_state, carry, jax.random.key(t))
    model = eqx.combine(trained, buffers)
    carry = objective.refill(model, objective.init_carry(model, 4), batch)
    metrics, _ = jax.jit(lambda m: objective.evaluate(m, rows, carry))(model)
    total, count = metrics["exact_accuracy"]
    assert float(total) == float(count) == 4


@pytest.mark.parametrize(
    "config",
    [
        config
        for config in CONFIGS.values()
        if config.variant in OFFICIAL and config.mixer in ("attention", "mlp")
    ],
)
def test_official_names_round_trip(config: TRMConfig) -> None:
    build = lambda seed: build_trm(
        config, vocab=tiny.VOCAB, seq=tiny.SEQ, key=jax.random.key(seed)
    )
    source, target = build(0), build(1)
    weights = to_official(source, config)
    named = {f"_orig_mod.model.inner.{name}": w for name, w in weights.items()}
    loaded = load_official(named, target, config)
    for a, b in zip(jax.tree.leaves(loaded), jax.tree.leaves(source), strict=True):
        np.testing.assert_array_equal(a, b)


def test_official_checkpoints_of_other_sizes_are_refused() -> None:
    model = tiny.model()
    weights = to_official(model, tiny.MODEL)
    missing = {k: v for k, v in weights.items() if k != "lm_head.weight"}
    with pytest.raises(ValueError, match=r"missing `lm_head\.weight`"):
        load_official(missing, model, tiny.MODEL)
    wrong = {**weights, "lm_head.weight": np.zeros((3, 3))}
    with pytest.raises(ValueError, match="must have shape"):
        load_official(wrong, model, tiny.MODEL)
