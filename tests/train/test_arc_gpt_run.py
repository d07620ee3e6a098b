"""A GPT learns tasks of ARC: from the files to the votes, by the commands."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import gpt.arc
from configs import GPTConfig, PuzzleDataConfig, TrainGPT, UserError
from data.puzzles.arc.rows import longest_row
from tests import runs
from tests.runs import Settings, finish, last_step, metrics, wait_for
from train import cli, export, push
from train.gpt import GPTExperiment
from train.presets import GPT_PRESETS

SIDE = 4


def write_tasks(folder: Path) -> None:
    """Write four tasks: copy, mirror, transpose, swap colors.

    Their test pairs are also shown: a tiny model has to remember them.
    """
    rng = np.random.default_rng(0)
    swap = np.array([0, 2, 1, *range(3, 10)])
    rules = {
        "copy": lambda grid: grid,
        "mirror": lambda grid: grid[:, ::-1],
        "transpose": lambda grid: grid.T,
        "swap": lambda grid: swap[grid],
    }
    challenges, solutions = {}, {}
    for name, rule in rules.items():
        grids = [rng.integers(0, 4, rng.integers(2, SIDE, 2)) for _ in range(8)]
        pairs = [
            {"input": grid.tolist(), "output": rule(grid).tolist()} for grid in grids
        ]
        test = {"input": pairs[-1]["input"]}
        challenges[name] = {"train": pairs, "test": [test]}
        solutions[name] = [pairs[-1]["output"]]
    folder.mkdir()
    for name, content in (("challenges", challenges), ("solutions", solutions)):
        (folder / f"mine_{name}.json").write_text(json.dumps(content))


def settings_of(folder: Path, run: str, **more: object) -> Settings:
    return {
        "data.build.source": folder / "tasks",
        "data.build.subsets": "mine",
        "data.build.test": "mine",
        "data.build.augmentations": 0,
        "data.build.side": SIDE - 1,
        "data.paths": folder / "data",
        "run-dir": folder / run,
        "model.n-layer": 3,
        "model.n-embd": 48,
        "model.block-size": longest_row(SIDE - 1) - 1,
        "max-iters": 200,
        "eval.interval": 200,
        "run.save-every": 25,
        "run.log-every": 1,
        **more,
    }


def words(settings: Settings) -> list[str]:
    return runs.words("arc-gpt-small", settings)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A trained run, and the tasks."""
    folder = tmp_path_factory.mktemp("arc")
    write_tasks(folder / "tasks")
    out, _ = finish(runs.start("train.gpt", words(settings_of(folder, "run"))))
    (folder / "out").write_text(out)
    return folder


@pytest.mark.slow
def test_a_run_solves_its_tasks(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert (
        f"python -m gpt.arc --run-dir {folder / 'run'}" in (folder / "out").read_text()
    )
    last = metrics(folder / "run")[-1]
    assert last["val_exact_accuracy"] == 1.0
    files = ["--out", str(folder / "o.json"), "--submission", str(folder / "s.json")]
    gpt.arc.main(["--run-dir", str(folder / "run"), *files])
    assert "1.0000  ARC/pass@1" in capsys.readouterr().out
    result = json.loads((folder / "o.json").read_text())["result"]
    assert (result["answers"], result["exact_accuracy"]) == (4, 1.0)
    solutions = json.loads((folder / "tasks" / "mine_solutions.json").read_text())
    submission = json.loads((folder / "s.json").read_text())
    assert {
        name: [part["attempt_1"] for part in parts]
        for name, parts in (submission.items())
    } == solutions


@pytest.mark.slow
def test_killed_and_resumed_bit_for_bit(folder: Path) -> None:
    settings = settings_of(folder, "killed")
    for step in (40, 110):
        process = runs.start("train.gpt", words(settings))
        wait_for(lambda step=step: last_step(folder / "killed") >= step, process)
        process.kill()
        process.communicate()
    finish(runs.start("train.gpt", words(settings)))
    assert metrics(folder / "killed") == metrics(folder / "run")


@pytest.mark.slow
def test_commands_for_text_refuse_it(folder: Path, tmp_path: Path) -> None:
    run = str(folder / "run")
    with pytest.raises(UserError, match=r"python -m gpt\.arc"):
        push.push(run, out=tmp_path / "model")
    assert not (tmp_path / "model").exists()
    with pytest.raises(UserError, match=r"python -m gpt\.arc"):
        export.write(run, str(tmp_path / "program"))
    with pytest.raises(UserError, match="is another"):
        gpt.arc.main(["--run-dir", "shakespeare"])


def test_settings_that_do_not_fit() -> None:
    grids = GPT_PRESETS["arc-gpt"][1]
    with pytest.raises(UserError, match=r"`model\.labels` must"):
        TrainGPT(model=grids.model)
    with pytest.raises(UserError, match=r"`model\.labels` must"):
        TrainGPT(data=PuzzleDataConfig(build=None))
    with pytest.raises(UserError, match=r"`model\.labels` must"):
        TrainGPT(model=GPTConfig(positions="rope3d"))
    with pytest.raises(UserError, match="`hints`"):
        replace(grids, data=replace(grids.data, hints=0.5))


def test_the_preset_is_a_model_of_75_million() -> None:
    """Its parameters, but for the vectors of tasks and tokens, as in its source."""
    config = cli.parse(GPT_PRESETS, "Train.", ["arc-gpt"])[1]
    assert config == GPT_PRESETS["arc-gpt"][1]
    experiment = GPTExperiment(config, sizes={"tokens": 981})
    weights = 8 * (4 * 768**2 + 3 * 768 * 3072)
    outputs = 13 * 768
    tokens = 1863
    per_token = 6 * (weights + outputs) + 12 * 8 * 768 * tokens
    assert weights == 75_497_472
    assert experiment.flops == tokens * per_token
