"""The configuration that a command line starts from."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
from gcsfs import GCSFileSystem
from gcsfs.retry import HttpError

from configs import GeneratedSudoku, UserError
from data.remote import local_dataset
from data.storage import is_run, open_path
from tests import runs
from train import cli
from train.presets import GPT_PRESETS, TRM_PRESETS
from train.runs.metrics_file import scores
from train.runs.record import settings
from train.runs.stored import saved_steps

SUDOKU, QUICK = (TRM_PRESETS[name][1] for name in ("sudoku", "quickstart"))


def parse(*words: str, presets=TRM_PRESETS):
    return cli.parse(presets, "", words)


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run of `quickstart` with another seed, that has a checkpoint."""
    folder = tmp_path / "run"
    (folder / "checkpoints" / "8").mkdir(parents=True)
    tree = settings(replace(QUICK, seed=3, run_dir="elsewhere"))
    tree["recorded"] = {"kind": "trm", "preset": "quickstart"}
    (folder / "config.json").write_text(json.dumps(tree))
    return folder


def test_a_run_is_its_own_base(run: Path) -> None:
    """It may have moved; flags override its settings."""
    expected = replace(QUICK, seed=3, run_dir=str(run))
    assert parse("--config.run-dir", str(run)) == ("quickstart", expected)
    name, config = parse(f"--config.run-dir={run}", "--config.epochs", "32")
    assert (name, config) == ("quickstart", replace(expected, epochs=32.0))
    assert parse("--config.run_dir", str(run)) == ("quickstart", expected)


def test_a_named_preset_precedes_the_run(run: Path) -> None:
    got = parse("quickstart", "--config.run-dir", str(run))
    assert got == ("quickstart", replace(QUICK, run_dir=str(run)))


def test_a_run_without_a_checkpoint_is_no_base(run: Path) -> None:
    (run / "checkpoints" / "8").rmdir()
    got = parse("--config.run-dir", str(run))
    assert got == ("sudoku", replace(SUDOKU, run_dir=str(run)))


def test_any_file_begins_a_new_run(run: Path) -> None:
    got = parse("--config-file", str(run / "config.json"), "--config.batch-size", "8")
    assert got == ("quickstart", replace(QUICK, seed=3, batch_size=8))
    assert parse(f"--config_file={run}/config.json")[1] == replace(QUICK, seed=3)
    with pytest.raises(UserError, match="quickstart"):
        parse("quickstart", "--config-file", str(run / "config.json"))
    with pytest.raises(UserError, match="`nowhere`"):
        parse("--config-file", "nowhere")


def test_a_run_of_the_other_script(run: Path) -> None:
    with pytest.raises(UserError, match=r"train\.trm"):
        parse("--config.run-dir", str(run), presets=GPT_PRESETS)


def test_a_store_without_credentials(
    bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every read raises an `OSError`, which scripts print as one line."""

    async def refuse(*args: object, **options: object) -> None:
        raise HttpError({"code": 401, "message": "Anonymous caller has no access"})

    monkeypatch.setattr(GCSFileSystem, "_call", refuse)
    path = f"{bucket}/closed"
    for action in (
        lambda: parse("--config.run-dir", path),
        lambda: parse("--config-file", f"{path}/config.json"),
        lambda: is_run(open_path(path)),
        lambda: saved_steps(open_path(path)),
        lambda: scores(open_path(path)),
        lambda: local_dataset(path),
    ):
        with pytest.raises(OSError, match="Anonymous caller"):
            action()


def test_data_at_other_paths_are_not_built(run: Path) -> None:
    assert parse("quickstart")[1].data == QUICK.data
    moved = parse("quickstart", "--config.data.paths", "mistyped")[1].data
    assert (moved.paths, moved.build) == (("mistyped",), None)
    words = ("--config.data.paths", "mine", "--config.data.build.size", "4")
    made = parse("quickstart", *words)[1].data.build
    assert isinstance(made, GeneratedSudoku)
    assert made.size == 4
    assert parse("--config.run-dir", str(run))[1].data == QUICK.data
    text = parse("--config.data.path", "mistyped", presets=GPT_PRESETS)[1].data
    assert (text.path, text.build) == ("mistyped", None)


def test_a_mistyped_run_is_not_evaluated(run: Path) -> None:
    words = ("--config.run.eval-only", "--config.run-dir")
    with pytest.raises(UserError, match="`mistyped`"):
        parse("quickstart", *words, "mistyped")
    assert parse(*words, str(run))[1].run.eval_only


def test_a_mistyped_path_downloads_nothing(tmp_path: Path) -> None:
    words = ["--config.data.paths", "mistyped", "--config.run-dir", str(tmp_path)]
    _, err = runs.finish(runs.start("train.trm", words), 2)
    assert "`mistyped`" in err
    assert list(tmp_path.iterdir()) == []
