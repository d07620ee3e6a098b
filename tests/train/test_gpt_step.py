"""A GPT in the train step: meshes, slices, dropout, float16."""

import math
from dataclasses import replace
from functools import cache, partial
from typing import Any
from unittest.mock import create_autospec

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import Mesh

from configs import GPTConfig, OptimConfig, RunConfig, TrainGPT
from data.text.dataset import IGNORE, Tokens
from gpt.model import GPT, build_gpt, crop
from tests import tiny
from tests.tiny import assert_close, assert_equal, mesh_of
from train.experiment import StepConfig
from train.gpt import GPTExperiment
from train.gradients import accumulate_grads, make_gradients
from train.mesh import global_batch
from train.optim import Optimizer, make_tx, matrices, nanogpt_cosine
from train.runs.checkpoint import Checkpoints, NonFiniteError
from train.state import (
    PATIENCE,
    LossScale,
    TrainState,
    abstract_state,
    init_state,
    new_state,
)
from train.step import make_train_step
from train.watch.log import Log
from train.watch.terminal import Terminal
from train.watch.trackers import Tracker

SLOW = pytest.mark.slow
MESHES = [(4, 2), pytest.param((8, 1), marks=SLOW), pytest.param((1, 8), marks=SLOW)]
BATCH, SEQ, VOCAB = 16, 8, 24
CONFIG = GPTConfig(n_layer=2, n_head=2, n_embd=16, block_size=SEQ, bias=True)
PLAN = StepConfig(batch_size=BATCH, precision="float32", seed=0)


def optimizer(optimizer: optax.GradientTransformation | None = None) -> Optimizer:
    constant = lambda count: jnp.asarray(0.1, jnp.float32)
    return Optimizer(tx=optimizer or optax.sgd(0.1), schedule=constant, ema=0.9)


SGD = optimizer()


def init(config: GPTConfig = CONFIG, optimizer: Optimizer = SGD, scaled: bool = False):
    build = lambda: build_gpt(config, tokens=VOCAB, key=jax.random.key(0))
    return lambda: new_state(build(), (), (), optimizer.tx, ema=True, scaled=scaled)


def make_objective(chunk: int) -> GPTExperiment:
    config = TrainGPT(model=replace(CONFIG, loss_chunk=chunk))
    return GPTExperiment(config, sizes={"tokens": VOCAB})


def tokens(seed: int) -> Tokens:
    """Return random text; the number of ignored targets differs between rows."""
    rng = np.random.default_rng(seed)
    drawn = rng.integers(0, VOCAB, (BATCH, SEQ + 1)).astype(np.int32)
    hidden = rng.random((BATCH, SEQ)) < np.linspace(0, 0.6, BATCH)[:, None]
    targets = np.where(hidden, IGNORE, drawn[:, 1:]).astype(np.int32)
    return Tokens(drawn[:, :-1], targets)


def batch(mesh: Mesh, seed: int) -> Tokens:
    stacked = jax.tree.map(lambda a: a[None, None], tokens(seed))
    return global_batch(mesh, BATCH, 2)(stacked)


@cache
def run(
    mesh: Mesh, config: GPTConfig = CONFIG, slices: int = 1
) -> tuple[TrainState, list[dict]]:
    """Return the state after three SGD updates, and all metrics, on the host."""
    state = init_state(init(config), mesh)
    step_config = replace(PLAN, accumulation=slices)
    objective = make_objective(5)
    step = make_train_step(objective, optimizer(), mesh, step_config, state)
    history = []
    for t in range(3):
        state, metrics = step(state, batch(mesh, t))
        history.append(jax.device_get(metrics))
    return jax.device_get(state), history


@pytest.mark.parametrize("sizes", MESHES)
def test_meshes_compute_the_same(sizes: tuple[int, int]) -> None:
    """Dropout too: it depends only on the row."""
    config = replace(CONFIG, dropout=0.3)
    state, metrics = run(mesh_of(*sizes), config)
    expected, expected_metrics = run(mesh_of(1, 1), config)
    assert_close(metrics, expected_metrics)
    assert_close((state.model, state.ema), (expected.model, expected.ema))


MODERN = replace(
    CONFIG,
    positions="rope",
    norm="rms",
    qk_norm=True,
    activation="swiglu",
    tied_head=False,
    logit_cap=15.0,
)


@pytest.mark.slow
@pytest.mark.parametrize("sizes", [(4, 2), (8, 1), (1, 8)])
def test_meshes_compute_the_same_of_a_modern_gpt(sizes: tuple[int, int]) -> None:
    state, metrics = run(mesh_of(*sizes), MODERN)
    expected, expected_metrics = run(mesh_of(1, 1), MODERN)
    assert_close(metrics, expected_metrics)
    assert_close(state.model, expected.model)


@pytest.mark.parametrize("sizes", [*MESHES[:1], pytest.param((1, 1), marks=SLOW)])
def test_slices_are_the_whole_batch(sizes: tuple[int, int]) -> None:
    state, metrics = run(mesh_of(*sizes), slices=2)
    expected, expected_metrics = run(mesh_of(1, 1))
    assert_close(metrics, expected_metrics)
    assert_close(state.model, expected.model)


@pytest.mark.slow
def test_slices_are_of_nearly_equal_size() -> None:
    """13 sequences in 2 slices: 7 and 6."""
    sizes: list[int] = []

    def loss(model: GPT, rows: tuple[()], carry: Tokens, keys: jax.Array) -> Any:
        jax.debug.callback(lambda: sizes.append(keys.shape[0]))
        return objective.loss(model, rows, carry, keys)

    objective = make_objective(64)
    model = build_gpt(CONFIG, tokens=VOCAB, key=jax.random.key(0))
    batch = jax.tree.map(lambda a: jnp.asarray(a[:13]), tokens(0))
    recorded = make_objective(64)
    recorded.loss = loss
    run = partial(accumulate_grads, recorded, 2)
    grads, _ = jax.jit(run)(
        model, None, (), batch, jax.random.split(jax.random.key(0), 13)
    )
    jax.effects_barrier()
    assert sorted(sizes) == [6, 7]
    assert float(grads.weight) == float((batch.targets != IGNORE).sum())


@pytest.mark.parametrize(
    ("sizes", "slices"),
    [((1, 1), 5), pytest.param((4, 2), 2, marks=pytest.mark.slow)],
)
@pytest.mark.slow
def test_uneven_slices_are_the_whole_batch(sizes: tuple[int, int], slices: int) -> None:
    """With dropout, which depends only on the row."""
    text = jax.tree.map(lambda *a: np.concatenate(a)[:24], tokens(0), tokens(1))

    def gradients(mesh: Mesh, slices: int) -> object:
        step_config = replace(PLAN, batch_size=24, accumulation=slices)
        state = init_state(init(replace(CONFIG, dropout=0.3)), mesh)
        made = make_gradients(make_objective(64), mesh, step_config, state, refill=True)
        placed = global_batch(mesh, 24, 1)(jax.tree.map(lambda a: a[None], text))
        grads, _, _, metrics = tiny.gradients(made, state, placed)
        return jax.device_get((grads, metrics))

    assert_close(gradients(mesh_of(*sizes), slices), gradients(mesh_of(1, 1), 1))


@pytest.mark.parametrize("sizes", MESHES)
def test_meshes_compute_the_same_gradients(sizes: tuple[int, int]) -> None:
    def gradients(mesh: Mesh) -> object:
        state = init_state(init(), mesh)
        made = make_gradients(make_objective(64), mesh, PLAN, state, refill=True)
        one = jax.tree.map(lambda a: a[0], batch(mesh, 0))
        return jax.device_get(tiny.gradients(made, state, one)[0])

    assert_close(gradients(mesh_of(*sizes)), gradients(mesh_of(1, 1)))


def test_dropout_is_new_at_every_step() -> None:
    mesh = mesh_of(1, 1)
    frozen = optimizer(optax.sgd(0.0))
    config = replace(CONFIG, dropout=0.5)
    state = init_state(init(config, frozen), mesh)
    step = make_train_step(make_objective(64), frozen, mesh, PLAN, state)
    losses = []
    for _ in range(3):
        state, metrics = step(state, batch(mesh, 0))
        losses.append(float(metrics["loss"][0]))
    assert len(set(losses)) == 3


@pytest.mark.slow
def test_a_sharded_checkpoint_is_restored_on_one_device(tmp_path) -> None:
    optim = make_tx(
        OptimConfig(name="adamw", decay="matrices", ema=0.0),
        lambda count: jnp.asarray(1e-3, jnp.float32),
    )
    adam, mesh = optimizer(optim), mesh_of(1, 8)
    state = init_state(init(optimizer=adam), mesh)
    state, _ = make_train_step(make_objective(64), adam, mesh, PLAN, state)(
        state, batch(mesh, 0)
    )
    parts = state.model.blocks.layers.up.weight.addressable_shards
    assert {part.data.shape for part in parts} == {(2, 16, 8)}
    saved = Checkpoints(tmp_path, RunConfig())
    saved.save(state)
    saved.wait()
    restored = saved.restore(
        lambda step: abstract_state(init(optimizer=adam), mesh_of(1, 1))
    )
    saved.close()
    assert_equal(restored, state)


@pytest.mark.slow
def test_float16_survives_an_overflow(one_device: Mesh) -> None:
    """A step with too large a scale changes nothing but the scale, which is halved."""
    state = init_state(init(scaled=True), one_device)
    state = eqx.tree_at(lambda s: s.scale.factor, state, jnp.array(2.0**40))
    step_config = replace(PLAN, precision="float16")
    step = make_train_step(
        make_objective(64), optimizer(), one_device, step_config, state
    )
    before = jax.tree.map(np.array, state)  # a copy: the state is donated
    skipped, metrics = [], {}
    for t in range(40):
        state, metrics = step(state, batch(one_device, t))
        skipped.append(float(metrics["skipped"][0]))
        if t == 0:
            assert_equal(jax.device_get((state.model, state.ema)), (before.model,) * 2)
            assert float(metrics["grad_norm"][1]) == 0
            assert int(state.updates) == 0
    good = skipped.index(0.0)
    assert 5 < good < 35
    assert set(skipped[good:]) == {0.0}
    assert int(state.step) == 40
    assert int(state.updates) == 40 - good
    assert state.scale is not None
    assert float(state.scale.factor) == 2.0 ** (40 - good)
    assert np.isfinite(float(metrics["loss"][0]))


def overflowing(model: GPT, token: int) -> GPT:
    """Return the model with a unit that overflows float16 for `token`; else it is 0."""
    layers = model.blocks.layers
    first = lambda weight, value: weight.at[:, 0].set(value)
    return eqx.tree_at(
        lambda m: (
            m.embedding.weight,
            m.blocks.layers.up.weight,
            m.blocks.layers.down.weight,
        ),
        model,
        (
            first(50 * model.embedding.weight, -1.0).at[token, 0].set(100.0),
            layers.up.weight.at[:, :, 0].set(0.0).at[:, 0, 0].set(3e4),
            first(layers.down.weight, 0.0),
        ),
    )


@pytest.mark.parametrize("ema", [False, True])
@pytest.mark.slow
def test_float16_survives_an_overflow_of_the_forward_pass(
    one_device: Mesh, ema: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    """The batch is skipped: nothing changes, and its metrics are empty."""
    slow = optimizer(optax.sgd(1e-3))
    fresh = lambda: build_gpt(CONFIG, tokens=VOCAB, key=jax.random.key(0))
    build = lambda: overflowing(fresh(), VOCAB - 1)
    make = lambda: new_state(build(), (), (), slow.tx, ema=ema, scaled=True)
    state = init_state(make, one_device)
    state = eqx.tree_at(lambda s: s.scale.factor, state, jnp.array(4.0))
    step = make_train_step(
        make_objective(64), slow, one_device, replace(PLAN, precision="float16"), state
    )
    tracker = create_autospec(Tracker, instance=True)
    log = Log([tracker], Terminal(4), lambda: None, 0)
    for t in range(4):
        text = tokens(t)
        inputs = np.minimum(text.inputs, VOCAB - 2)
        inputs[3, 2] = VOCAB - 1 if t == 2 else 0
        one = jax.tree.map(
            lambda a: jnp.asarray(a)[None, None], Tokens(inputs, text[1])
        )
        before = jax.tree.map(np.array, state)  # a copy: the state is donated
        state, metrics = step(state, one)
        log.note(t, metrics, examples=1, waited=0.0, rates=lambda rate: {})
        same = jax.tree.map(np.array_equal, state.model, before.model)
        assert all(jax.tree.leaves(same)) == (t == 2)
        assert float(metrics["skipped"][0]) == (t == 2)
        assert float(metrics["loss"][1] > 0) == (t != 2)
    assert (int(state.step), int(state.updates)) == (4, 3)
    assert state.scale is not None
    assert float(state.scale.factor) == 2.0
    with log.pause("save"):
        pass
    log.close()
    rows = [call.args[0] for call in tracker.log.call_args_list]
    losses = [row["train/loss"] for row in rows if "train/loss" in row]
    assert "step 2" in capsys.readouterr().out
    assert [loss is None for loss in losses] == [False, False, True, False]


def test_float16_that_always_overflows_ends_the_run() -> None:
    log = Log([], Terminal(), lambda: None, 6)
    pair = lambda value: (jnp.float32(value), jnp.ones(()))
    metrics = {"loss_scale": pair(0.5), "skipped": pair(1.0)}
    log.note(7, metrics, examples=1, waited=0.0)
    with pytest.raises(NonFiniteError), log.pause("save"):
        pytest.fail("saved")
    log.close()


def test_the_scale_grows_after_many_good_updates() -> None:
    scale = eqx.tree_at(lambda s: s.good, LossScale(), jnp.array(PATIENCE - 1))
    grown = scale.after(jnp.array(True))
    assert float(grown.factor) == 2 * float(scale.factor)
    assert int(grown.good) == 0


def test_float16_follows_float32(one_device: Mesh) -> None:
    state = init_state(init(scaled=True), one_device)
    step_config = replace(PLAN, precision="float16")
    step = make_train_step(
        make_objective(64), optimizer(), one_device, step_config, state
    )
    history = []
    for t in range(3):
        state, metrics = step(state, batch(one_device, t))
        history.append(float(metrics["loss"][0] / metrics["loss"][1]))
    _, expected = run(mesh_of(1, 1))
    losses = [float(m["loss"][0] / m["loss"][1]) for m in expected]
    np.testing.assert_allclose(history, losses, rtol=2e-3)


def test_decay_is_for_matrices_of_each_layer() -> None:
    model = build_gpt(CONFIG, tokens=VOCAB, key=jax.random.key(0))
    mask = matrices(model)
    layers = mask.blocks.layers
    assert (mask.embedding.weight, mask.positions) == (True, True)
    assert (layers.qkv.weight, layers.down.weight) == (True, True)
    assert (layers.qkv.bias, layers.attention_norm.weight) == (False, False)
    assert (mask.norm.weight, mask.norm.bias) == (False, False)


def test_schedule_of_nanogpt() -> None:
    """Against its formula in plain Python."""
    peak, warmup, total, low = 6e-4, 10, 100, 6e-5

    def expected(it: int) -> float:
        if it < warmup:
            return peak * (it + 1) / (warmup + 1)
        if it > total:
            return low
        ratio = (it - warmup) / (total - warmup)
        return low + 0.5 * (1 + math.cos(math.pi * ratio)) * (peak - low)

    schedule = nanogpt_cosine(peak, warmup, total, 0.1)
    for it in (0, 1, 9, 10, 11, 50, 99, 100, 101, 1000):
        rate = float(schedule(jnp.array(it)))
        assert rate == pytest.approx(expected(it), rel=1e-5)
    constant = nanogpt_cosine(3e-5, 0, 20, 1.0)
    assert {float(constant(jnp.array(i))) for i in (0, 7, 30)} == {np.float32(3e-5)}


def test_crop() -> None:
    model = build_gpt(CONFIG, tokens=VOCAB, key=jax.random.key(0))
    short = crop(model, 4)
    inputs = jnp.asarray(tokens(0).inputs)
    assert_close(short(inputs[:, :4]), model(inputs)[:, :4])
    with pytest.raises(ValueError, match="9"):
        crop(model, 9)


def test_a_later_token_changes_nothing_before_it() -> None:
    model = build_gpt(CONFIG, tokens=VOCAB, key=jax.random.key(0))
    inputs = jnp.asarray(tokens(0).inputs)
    changed = inputs.at[:, 5].set((inputs[:, 5] + 1) % VOCAB)
    difference = jnp.abs(model(inputs) - model(changed)).max((0, 2))
    assert float(difference[:5].max()) == 0.0
    assert float(difference[5:].min()) > 0.0
