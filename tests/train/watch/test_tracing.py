"""A trace of a run: its steps, its names, and the unchanged program."""

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import pytest
from jax._src.source_info_util import NameStack
from jax.profiler import ProfileData
from jax.sharding import Mesh

from configs import (
    EvalConfig,
    GeneratedSudoku,
    MeshConfig,
    PuzzleDataConfig,
    RunConfig,
    TrainTRM,
)
from data.build import prepare
from tests import tiny
from train.presets import TRM_PRESETS
from train.state import abstract_state
from train.step import make_train_step
from train.trm import main
from train.watch import tracing
from train.watch.tracing import Tracing


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> TrainTRM:
    """A run of eight steps that traces the third to the fifth."""
    folder = tmp_path_factory.mktemp("traced")
    prepare(GeneratedSudoku(size=4, train=16, test=4), folder / "data")
    return replace(
        TRM_PRESETS["quickstart"][1],
        batch_size=8,
        epochs=4.0,
        run_dir=str(folder / "run"),
        data=PuzzleDataConfig(paths=(str(folder / "data"),)),
        mesh=MeshConfig(data=1),
        eval=EvalConfig(batch_size=4),
        run=RunConfig(compilation_cache=None, profile="3:3", save_every=100),
    )


@pytest.fixture(scope="module")
def trace(config: TrainTRM) -> Any:
    """The trace that the run has written."""
    assert main("quickstart", config) == 0
    (path,) = Path(config.run_dir).glob("profile/plugins/profile/*/*.xplane.pb")
    return ProfileData.from_file(str(path))


@pytest.mark.slow
def test_the_configured_steps_are_traced(trace: Any) -> None:
    steps = [
        dict(event.stats)["step_num"]
        for plane in trace.planes
        for line in plane.lines
        for event in line.events
        if event.name == "train"
    ]
    assert steps == [3, 4, 5]


@pytest.mark.slow
@pytest.mark.usefixtures("trace")
def test_the_parts_of_a_step_have_names(config: TrainTRM) -> None:
    (path,) = Path(config.run_dir).glob("profile/plugins/profile/*/*.xplane.pb")
    paths = re.findall(rb"jit\(step\)/[\w()/]+", path.read_bytes())
    found = {name for path in paths for name in re.findall(r"\w+", path.decode())}
    assert found >= {"embed", "cycles", "heads", "loss", "optimizer", "table"}


def test_names_do_not_change_the_program(
    one_device: Mesh, monkeypatch: pytest.MonkeyPatch
) -> None:
    make, rules = tiny.init(tiny.optimizer()), tiny.optimizer()
    state, batch = abstract_state(make, one_device), tiny.batch(one_device, 0)

    def lowered() -> jax.stages.Lowered:
        parts = tiny.objective(), rules, one_device, tiny.PLAN, state
        return jax.jit(make_train_step(*parts, compiled=False)).lower(state, batch)

    names = ("/optimizer/", "cycles)/", "/table/")
    named, count = lowered(), lambda text: [name in text for name in names]
    assert all(count(named.as_text(debug_info=True)))
    monkeypatch.setattr(NameStack, "extend", lambda self, name: self)
    plain = lowered()
    assert not any(count(plain.as_text(debug_info=True)))
    assert named.as_text() == plain.as_text()


def test_a_trace_is_started_and_stopped_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By dispatches of two steps."""
    calls: list[str] = []
    monkeypatch.setattr(
        jax.profiler, "start_trace", lambda *a, **k: calls.append("start")
    )
    monkeypatch.setattr(jax.profiler, "stop_trace", lambda: calls.append("stop"))
    for done, expected in ((0, [2, 4]), (3, [3, 5])):
        made, seen = Tracing(range(4, 5), tmp_path, range(done + 1, 11)), []
        calls.clear()
        while done < 10:
            if made.starts(done + 1, done + 2):
                made.start()
                seen.append(done)
            done += 2
            if made.stops(done):
                made.stop()
                seen.append(done)
        made.stop()
        assert seen == expected
        assert calls == ["start", "stop"]


@pytest.mark.parametrize(("done", "total"), [(24, 100), (0, 19), (30, 30)])
def test_steps_that_are_not_made(tmp_path: Path, done: int, total: int) -> None:
    """A warning, unless there is a trace already."""
    steps, made = range(20, 25), range(done + 1, total + 1)
    with pytest.warns(UserWarning, match="20 to 24") as caught:
        tracing = Tracing(steps, tmp_path / "profile", made)
    assert len(caught) == 1
    assert not tracing.starts(1, 100)
    (tmp_path / "profile").mkdir()
    assert not Tracing(steps, tmp_path / "profile", made).starts(1, 100)


def test_gpus_of_several_processes_are_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If this version of JAX can do that; else nothing is traced, with a warning."""
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    assert tracing.can_trace()
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")

    class Older:
        python_tracer_level = 1

    class Other(Older):
        device_tracer_level = 1

    monkeypatch.setattr(jax.profiler, "ProfileOptions", Other)
    assert tracing.can_trace()
    assert tracing.options().device_tracer_level == 0
    monkeypatch.setattr(jax.profiler, "ProfileOptions", Older)
    with pytest.warns(UserWarning, match=jax.__version__):
        made = Tracing(range(1, 9), tmp_path, range(1, 9))
    assert not made.starts(1, 8)
