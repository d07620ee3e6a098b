"""The directory of a run: its configuration and its lock."""

import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from configs import (
    GeneratedSudoku,
    PuzzleDataConfig,
    TrainGPT,
    TrainTRM,
    UserError,
)
from tests.runs import ROOT
from train.presets import GPT_PRESETS, TRM_PRESETS
from train.runs.loading import resumed_config
from train.runs.record import recorded_run, run_and_step
from train.runs.run_dir import RunDir, require_same_model

RECORD = {"kind": "trm", "sizes": {"vocab": 6, "seq": 16, "puzzles": 1}}
RECORD |= {"data_hash": "a"}


def config(folder: Path, **changes: Any) -> TrainTRM:
    return replace(TRM_PRESETS["quickstart"][1], run_dir=str(folder), **changes)


def begin(folder: Path, saved: bool = True, **record: Any) -> RunDir:
    """Make the directory of a run; `saved`: with a checkpoint."""
    run_dir = RunDir(config(folder), "quickstart", RECORD | record)
    run_dir.write_config()
    if saved:
        (folder / "checkpoints" / "4").mkdir(parents=True)
    run_dir.close()
    return run_dir


# -- the configuration -----------------------------------------------------------------


@pytest.mark.parametrize(
    "changes",
    [
        {"accumulation": 4},
        {"epochs": 99.0},
        {"model": replace(TRM_PRESETS["quickstart"][1].model, attention="xla")},
        {"data": PuzzleDataConfig(paths=("elsewhere",), build=GeneratedSudoku())},
    ],
)
def test_what_may_change(tmp_path: Path, changes: dict[str, Any]) -> None:
    begin(tmp_path)
    RunDir(config(tmp_path, **changes), "quickstart", RECORD).close()


def test_what_may_not_change(tmp_path: Path) -> None:
    begin(tmp_path)
    with pytest.raises(UserError, match="seed: 0 -> 3"):
        RunDir(config(tmp_path, seed=3), "quickstart", RECORD)


def test_changes_of_the_recipe_are_recorded(tmp_path: Path) -> None:
    """Those of each resume, with the step; a checkpoint of before tells no more."""
    first = begin(tmp_path)
    slower = replace(config(tmp_path).optim, lr=2e-5, clip=1.0)
    expected = ["optim.clip: 0.0 -> 1.0", "optim.lr: 0.003 -> 2e-05"]
    for step, changes, told in (
        (4, {"optim": slower}, expected),
        (6, {"optim": slower}, []),
        (8, {"optim": slower, "epochs": 9.0}, ["epochs: 10.0 -> 9.0"]),
    ):
        run_dir = RunDir(config(tmp_path, **changes), "quickstart", RECORD)
        run_dir.require_same_as(first.settings)
        assert run_dir.changes == told
        run_dir.record_changes(step)
        run_dir.write_config()
        run_dir.close()
    assert recorded_run(tmp_path)[1]["changes"] == [
        {"step": 4, "settings": expected},
        {"step": 8, "settings": ["epochs: 10.0 -> 9.0"]},
    ]


@pytest.mark.parametrize("change", [{"ema": 0.5}, {"muon": True}, {"name": "adamw"}])
def test_the_state_of_the_optimizer_stays(tmp_path: Path, change: Any) -> None:
    begin(tmp_path)
    optim = replace(config(tmp_path).optim, **change)
    with pytest.raises(UserError, match=f"optim.{next(iter(change))}: "):
        RunDir(config(tmp_path, optim=optim), "quickstart", RECORD)


def test_an_experiment_of_ones_own_is_not_lost(tmp_path: Path) -> None:
    begin(tmp_path, experiment="settled:Settled")
    plain, renamed = "train.trm:TRMExperiment", "settled:Calm"
    with pytest.raises(UserError, match=r"experiment `settled:Settled`, and this"):
        RunDir(config(tmp_path), "quickstart", RECORD | {"experiment": plain})
    with pytest.raises(UserError, match=r"experiment `settled:Settled`, and this"):
        require_same_model(tmp_path, config(tmp_path), plain)
    require_same_model(tmp_path, config(tmp_path), "settled:Settled")
    run_dir = RunDir(config(tmp_path), "quickstart", RECORD | {"experiment": renamed})
    run_dir.close()
    assert run_dir.changes == ["experiment: settled:Settled -> settled:Calm"]


def test_a_run_of_another_kind_is_refused(tmp_path: Path) -> None:
    begin(tmp_path)
    gpt = replace(GPT_PRESETS["shakespeare-char-cpu"][1], run_dir=str(tmp_path))
    with pytest.raises(UserError, match=r"train\.trm"):
        RunDir(gpt, "shakespeare-char-cpu", RECORD | {"kind": "gpt"})
    with pytest.raises(UserError, match=r"train\.trm"):
        resumed_config(TrainGPT, str(tmp_path))


def test_other_data_at_the_same_path_are_refused(tmp_path: Path) -> None:
    begin(tmp_path)
    with pytest.raises(UserError, match="was a and is b"):
        RunDir(config(tmp_path), "quickstart", RECORD | {"data_hash": "b"})


def test_anything_may_change_without_a_checkpoint(tmp_path: Path) -> None:
    begin(tmp_path, saved=False)
    run_dir = RunDir(config(tmp_path, seed=3), "quickstart", RECORD)
    run_dir.write_config()
    run_dir.close()
    assert recorded_run(tmp_path)[0].seed == 3


def test_a_checkpoint_has_the_settings_if_the_file_is_lost(tmp_path: Path) -> None:
    run_dir = begin(tmp_path)
    (tmp_path / "config.json").unlink()
    other = RunDir(config(tmp_path, seed=3), "quickstart", RECORD)
    with pytest.raises(UserError, match="seed: 0 -> 3"):
        other.require_same_as(run_dir.settings)
    other.close()


def test_a_checkpoint_names_its_run(tmp_path: Path) -> None:
    begin(tmp_path)
    assert run_and_step(tmp_path) == (tmp_path, None)
    assert run_and_step(f"{tmp_path}/checkpoints/4") == (tmp_path, 4)
    assert recorded_run(tmp_path / "checkpoints" / "4") == recorded_run(tmp_path)


def test_the_identifier_stays(tmp_path: Path) -> None:
    first = begin(tmp_path / "a" / "seed0")
    again = RunDir(config(tmp_path / "a" / "seed0"), "quickstart", RECORD)
    again.close()
    other = begin(tmp_path / "b" / "seed0")
    assert first.recorded["id"] == again.recorded["id"] != other.recorded["id"]


# -- the lock --------------------------------------------------------------------------

HOLD = """
import sys, time
from pathlib import Path
from tests.train.runs.test_run_dir import RECORD, config
from train.runs.run_dir import RunDir, require_same_model
run_dir = RunDir(config(Path(sys.argv[1])), "quickstart", RECORD)
print("held", flush=True)
time.sleep(60)
"""


def test_a_second_process_is_refused_until_the_first_ends(tmp_path: Path) -> None:
    command = [sys.executable, "-c", HOLD, str(tmp_path)]
    holder = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    try:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(UserError, match=f"process {holder.pid} on "):
            RunDir(config(tmp_path), "quickstart", RECORD)
    finally:
        holder.kill()
        holder.communicate()
    RunDir(config(tmp_path), "quickstart", RECORD).close()
