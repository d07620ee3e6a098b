import subprocess
import sys
from pathlib import Path

import pytest

import data.build
from configs import GeneratedSudoku, SudokuExtreme, UserError
from data.build import prepare
from data.prepare import main
from data.puzzles.dataset import Metadata

ROW = (
    "test,7.....8....2..5....3..6..9..7.6....1...1.3.7.....7.9.....4.2....9..3..1..2.."
    "1643.,7693418521428953675382671942736895419541236786815749233164527894957382168279"
    "16435,12"
)


@pytest.fixture
def csv(tmp_path):
    path = tmp_path / "list.csv"
    path.write_text(f"source,question,answer,rating\n{ROW}\n")
    return str(path)


def test_sudoku_from_the_command_line(tmp_path, csv, capsys):
    out = tmp_path / "out"
    files = ["--train-csv", csv, csv, "--test-csv", csv]
    options = ["--subsample", "None", "--augmentations", "2", "--seed", "3"]
    with pytest.warns(UserWarning, match="2 of 6 training"):
        main(["sudoku", "--out", str(out), *files, *options])
    metadata = Metadata.read(out / "train")
    assert metadata.total_groups == 2
    assert metadata.extra["seed"] == 3
    printed = capsys.readouterr().out
    assert "train: 2 puzzles, 6 examples of 81 cells" in printed
    assert str(metadata.extra["content_hash"]) in printed


def test_generate_from_the_command_line(tmp_path, capsys):
    out = tmp_path / "out"
    main(["generate", "--out", str(out), "--size", "4", "--train", "5", "--test", "2"])
    assert Metadata.read(out / "test").total_groups == 2
    assert "test: 2 puzzles, 2 examples of 16 cells" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["sudoku", "--train-csv", "none.csv", "--test-csv", "a"], r"none\.csv"),
        (["sudoku", "--train-csv", "none.csv"], "got 1 and 0"),
        (["sudoku", "--augmentations", "-1"], "got -1"),
        (["generate", "--blanks", "2"], "got 2"),
    ],
)
def test_errors_leave_nothing(tmp_path, args, message):
    out = tmp_path / "out"
    with pytest.raises(UserError, match=message):
        main([*args, "--out", str(out)])
    assert not out.exists()


def test_wrong_options_have_status_2(capsys):
    for args in (["mazes"], ["generate", "--size", "6"], ["sudoku", "--nope"]):
        with pytest.raises(SystemExit) as stop:
            main(args)
        assert stop.value.code == 2


def test_prepare_goes_by_the_type(tmp_path, csv, capsys):
    extreme = SudokuExtreme(train_csv=(csv,), test_csv=(csv,), augmentations=0)
    with pytest.warns(UserWarning, match="of 1 training"):
        prepare(extreme, tmp_path / "extreme")
    prepare(GeneratedSudoku(train=2, test=1), tmp_path / "generated")
    assert Metadata.read(tmp_path / "extreme" / "train").seq_len == 81
    assert Metadata.read(tmp_path / "generated" / "train").seq_len == 36


def test_it_runs_as_a_module(tmp_path):
    root = Path(data.build.__file__).parents[1]
    command = [sys.executable, "-m", "data.prepare", "sudoku", "--out", str(tmp_path)]
    command += ["--train-csv", "none.csv", "--test-csv", "none.csv"]
    run = subprocess.run(command, cwd=root, capture_output=True, text=True, check=False)
    assert run.returncode == 2
    assert run.stderr.startswith("error: ")


def test_training_imports_no_builder():
    modules = "data.build", "data.puzzles.dataset", "data.remote"
    code = f"import sys, {', '.join(modules)}; print(*sys.modules)"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    loaded = set(run.stdout.split())
    assert loaded >= set(modules)
    assert not loaded & {*data.build.BUILDERS.values(), "data.puzzles.writer"}
    assert not {"data.text", "huggingface_hub", "tiktoken"} & loaded
