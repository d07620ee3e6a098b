"""The input of training: datasets built on the way, dispatches, first states."""

import itertools
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import jax
import numpy as np
import pytest

from configs import GeneratedSudoku, RunConfig
from tests.runs import quick
from tests.tiny import assert_equal
from train import devices
from train.feed import prepare_missing
from train.presets import TRM_PRESETS
from train.programs import dispatch
from train.runs.checkpoint import Checkpoints
from train.state import abstract_state, init_state
from train.step import make_train_step
from train.trm import TRMExperiment


def test_the_first_process_prepares_for_all(
    puzzles: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Repeated calls use new keys of JAX's coordination service."""
    keys: list[str] = []

    def key_value_set(key: str, value: str) -> None:
        assert key not in keys, "ALREADY_EXISTS"
        keys.append(key)

    client = SimpleNamespace(
        key_value_set=key_value_set,
        blocking_key_value_get=lambda key, _: keys.remove(key),
    )
    state = SimpleNamespace(client=client)
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    monkeypatch.setattr(devices, "_coordination", lambda: state)
    calls = []
    for process in range(2):
        monkeypatch.setattr(jax, "process_index", lambda process=process: process)
        monkeypatch.setattr(devices, "_CALLS", itertools.count())
        for _ in range(2):
            devices.first_process_does(lambda: calls.append("made"))
            prepare_missing(str(puzzles), GeneratedSudoku(size=4))
    assert calls == ["made"] * 2
    assert keys == []


def test_steps_are_whole_dispatches(puzzles: Path) -> None:
    """4 epochs of 40 puzzles in batches of 8 are 20 batches."""
    total = lambda **changes: TRMExperiment(quick(puzzles, **changes)).total
    assert total() == 20
    assert total(steps_per_call=3) == 21
    assert total(supervision_steps=4) == 5


def test_dispatches_take_the_same_batches(puzzles: Path) -> None:
    """Batch numbers do not depend on the shape of the input."""
    single = partial(dispatch, TRMExperiment(quick(puzzles)))
    both = TRMExperiment(quick(puzzles, steps_per_call=2, supervision_steps=2))
    stacked = dispatch(both, 2)
    assert stacked.inputs.shape == (2, 2, 8, 16)
    for i in range(4):
        expected = single(4 + i).inputs[0, 0]
        np.testing.assert_array_equal(stacked.inputs[i // 2, i % 2], expected)


@pytest.mark.slow
def test_a_model_without_puzzle_table(puzzles: Path, tmp_path: Path) -> None:
    """It is trained, saved and restored like any other."""
    model = replace(TRM_PRESETS["quickstart"][1].model, prefix=0, puzzle_dim=0)
    experiment = TRMExperiment(quick(puzzles, model=model))
    mesh, state = experiment.mesh, init_state(experiment.init, experiment.mesh)
    step = make_train_step(
        experiment, experiment.optimizer, mesh, experiment.step_config, state
    )
    state, _ = step(state, dispatch(experiment, 0))
    checkpoints = Checkpoints(tmp_path / "checkpoints", RunConfig())
    checkpoints.save(state)
    checkpoints.wait()
    restored = checkpoints.restore(lambda step: abstract_state(experiment.init, mesh))
    checkpoints.close()
    assert_equal(restored, jax.device_get(state))


def test_the_first_state_has_the_types_of_every_state(puzzles: Path) -> None:
    """With a weak type, the second step would be compiled again."""
    state = jax.eval_shape(TRMExperiment(quick(puzzles)).init)
    assert not any(leaf.weak_type for leaf in jax.tree.leaves(state))
