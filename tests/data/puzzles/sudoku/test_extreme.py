import gzip
import json
import sys
import types

import numpy as np
import pytest

from configs import SudokuExtreme, UserError
from data.puzzles.dataset import Metadata, PuzzleDataset
from data.puzzles.sudoku.board import BOXES, is_solved
from data.puzzles.sudoku.extreme import build, read_csv

HEADER = "source,question,answer,rating"
QUESTION = (
    "7.....8....2..5....3..6..9..7.6....1...1.3.7.....7.9.....4.2....9..3..1..2..1643."
)
ANSWER = (
    "769341852142895367538267194273689541954123678681574923316452789495738216827916435"
)


def row(question=QUESTION, answer=ANSWER, rating: int | str = 12):
    return f"test,{question},{answer},{rating}"


def relabelled(shift):
    """Another puzzle: every digit of the first moved on by `shift`."""
    names = str.maketrans("123456789", "123456789"[shift:] + "123456789"[:shift])
    return row(QUESTION.translate(names), ANSWER.translate(names), rating=shift)


@pytest.fixture
def files(tmp_path):
    train = [HEADER, *(relabelled(shift) for shift in range(6))]
    test = [HEADER, *(relabelled(shift) for shift in (7, 8))]
    (tmp_path / "train.csv").write_text("\n".join(train) + "\n")
    (tmp_path / "test.csv").write_text("\n".join(test) + "\n")
    return tmp_path


def config(files, **settings):
    names = {s: (str(files / f"{s}.csv"),) for s in ("train", "test")}
    settings = {"subsample": None, "augmentations": 3, **settings}
    return SudokuExtreme(train_csv=names["train"], test_csv=names["test"], **settings)


# -- reading ---------------------------------------------------------------------------


@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_rows_become_digits(tmp_path, end):
    path = tmp_path / "a.csv"
    path.write_bytes(end.join([HEADER, row(), relabelled(3)]).encode())
    questions, answers = read_csv(path)
    assert questions.shape == answers.shape == (2, 81)
    assert questions.dtype == np.uint8
    assert "".join(map(str, questions[0])) == QUESTION.replace(".", "0")
    assert "".join(map(str, answers[0])) == ANSWER


def test_gzip_and_difficulty(tmp_path):
    path = tmp_path / "a.csv.gz"
    lines = [HEADER, *(relabelled(shift) for shift in range(9))]
    path.write_bytes(gzip.compress("\n".join(lines).encode()))
    assert len(read_csv(path)[0]) == 9
    assert len(read_csv(path, 5)[0]) == 4
    assert len(read_csv(path, 9)[0]) == 0
    path.write_bytes(b"no gzip")
    with pytest.raises(UserError, match=r"a\.csv\.gz"):
        read_csv(path)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("a,b,c", "4 columns: got 3"),
        (row() + ",1", "4 columns: got 5"),
        (row(QUESTION[:-1]), "81 cells as its question: got 80"),
        (row(answer=ANSWER + "1"), "must have 81 cells as its answer: got 82"),
        (row(rating=10**30), "integer rating of 64 bits: got '1000"),
        (row(rating="9" * 5000), "integer rating of 64 bits: got '9999"),
        (row(rating="hard"), "integer rating of 64 bits: got 'hard'"),
        (row(QUESTION.replace(".", "x", 1)), "question of digits and dots"),
        (row(QUESTION.replace(".", "é", 1)), "question of digits and dots"),
        (row(answer=ANSWER.replace("1", "0", 1)), "answer of digits 1 to 9"),
        (row(answer=ANSWER.replace("1", ".", 1)), "answer of digits 1 to 9"),
        (row(answer=ANSWER.replace("7", "6", 1)), "keeps the givens"),
        (row("." * 81, "123456789" * 9), "each row, column and box"),
    ],
)
def test_a_bad_row_is_named(tmp_path, line, message):
    path = tmp_path / "bad.csv"
    path.write_text("\n".join([HEADER, row(), row(), line, row()]), encoding="utf-8")
    with pytest.raises(UserError, match=rf"bad\.csv, line 4: .*{message}"):
        read_csv(path)


@pytest.mark.parametrize(
    "lines",
    [
        ("quizzes,solutions", f"{QUESTION},{ANSWER}", ""),
        (
            "id,puzzle,solution,clues,difficulty",
            f"1,{QUESTION},{ANSWER},23,2.2",
            "",
            "",
        ),
        ("\ufeffanswer,question", "", f"{ANSWER},{QUESTION}"),
    ],
)
def test_columns_are_found_by_their_titles(tmp_path, lines):
    path = tmp_path / "a.csv"
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    questions, answers = read_csv(path)
    assert "".join(map(str, questions[0])) == QUESTION.replace(".", "0")
    assert ["".join(map(str, answer)) for answer in answers] == [ANSWER]
    with pytest.raises(UserError, match="rating"):
        read_csv(path, 1)


def test_bad_rows_count_even_if_too_easy(tmp_path):
    path = tmp_path / "bad.csv"
    path.write_text("\n".join([HEADER, row(answer="1" * 81, rating=0), row()]))
    with pytest.raises(UserError, match="line 2"):
        read_csv(path, 5)


def test_header_and_file_must_be_there(tmp_path):
    with pytest.raises(UserError, match=r"none\.csv"):
        read_csv(tmp_path / "none.csv")
    path = tmp_path / "a.csv"
    for text in ("", row(), "question,rating"):
        path.write_text(text)
        with pytest.raises(UserError, match=r"a\.csv, line 1: .*header"):
            read_csv(path)


# -- building --------------------------------------------------------------------------


def test_the_official_format_is_written(files):
    out = files / "deep" / "out"
    build(config(files, seed=4), out)
    metadata = Metadata.read(out / "train")
    assert (metadata.vocab_size, metadata.seq_len) == (11, 81)
    assert (metadata.total_groups, metadata.total_puzzles) == (6, 6)
    assert metadata.ignore_label_id == metadata.pad_id == 0
    assert metadata.num_puzzle_identifiers == metadata.mean_puzzle_examples == 1
    assert metadata.extra["seed"] == 4
    assert json.loads((out / "identifiers.json").read_text()) == ["<blank>"]
    load = lambda name: np.load(out / "train" / f"all__{name}.npy")
    assert load("inputs").dtype == load("labels").dtype == np.uint8
    assert load("inputs").shape == (24, 81)
    np.testing.assert_array_equal(load("group_indices"), np.arange(0, 25, 4))
    np.testing.assert_array_equal(load("puzzle_indices"), np.arange(25))
    np.testing.assert_array_equal(load("puzzle_identifiers"), np.zeros(24))
    questions, answers = read_csv(files / "train.csv")
    np.testing.assert_array_equal(load("inputs")[::4], questions + 1)
    np.testing.assert_array_equal(load("labels")[::4], answers + 1)
    assert is_solved(load("labels") - np.uint8(1), BOXES[9]).all()
    assert Metadata.read(out / "test").total_groups == 2
    assert not list(out.parent.glob(".*"))


def test_a_built_dataset_can_be_read(files):
    build(config(files), files / "out")
    dataset = PuzzleDataset([files / "out"], "train", batch_size=6, epochs_per_block=2)
    puzzle = dataset.batch(3)
    assert puzzle.labels.min() == 2
    assert puzzle.labels.max() == 10
    given = puzzle.inputs != 1
    assert (puzzle.inputs == puzzle.labels)[given].all()


def hashes(out):
    splits = ("train", "test")
    return [Metadata.read(out / split).extra["content_hash"] for split in splits]


def test_the_hash_is_that_of_the_seed(files):
    found = []
    for i, seed in enumerate((0, 0, 1)):
        build(config(files, seed=seed), files / f"out{i}")
        found.append(hashes(files / f"out{i}"))
    assert found[0] == found[1]
    assert found[0][0] != found[2][0]
    assert found[0][1] == found[2][1]  # the test split is not drawn


def test_the_subsample_is_drawn_by_seed(files):
    def drawn(seed, size):
        out = files / f"{seed}-{size}"
        build(config(files, subsample=size, seed=seed, augmentations=0), out)
        assert Metadata.read(out / "test").total_groups == 2
        return {tuple(x) for x in np.load(out / "train" / "all__inputs.npy")}

    samples = [drawn(seed, 3) for seed in range(4)]
    assert {len(sample) for sample in samples} == {3}
    assert any(sample != samples[0] for sample in samples)
    assert len(drawn(0, 100)) == 6


def test_difficulty_holds_for_both_splits(files):
    build(config(files, min_difficulty=5), files / "out")
    assert Metadata.read(files / "out" / "train").total_groups == 1
    with pytest.raises(UserError, match="train"):
        build(config(files, min_difficulty=6), files / "other")
    assert not (files / "other").exists()


def test_more_images_than_memory_are_refused(files):
    with pytest.raises(UserError, match="6 puzzles with 2,000,000,000 "):
        build(config(files, augmentations=2 * 10**9), files / "out")
    assert not (files / "out").exists()


def test_several_files_are_joined(files):
    names = (str(files / "train.csv"), str(files / "test.csv"))
    both = SudokuExtreme(train_csv=names, test_csv=names[1:], augmentations=0)
    with pytest.warns(UserWarning, match="2 of 8 training"):
        build(both, files / "out")
    assert Metadata.read(files / "out" / "train").total_groups == 8


def test_a_local_folder_is_a_source(files):
    build(SudokuExtreme(source=str(files), augmentations=0), files / "out")
    assert Metadata.read(files / "out" / "train").total_groups == 6
    train = files / "train.csv"
    (files / "train.csv.gz").write_bytes(gzip.compress(train.read_bytes()))
    train.unlink()
    build(SudokuExtreme(source=str(files), augmentations=0), files / "zipped")
    assert hashes(files / "out") == hashes(files / "zipped")
    (files / "test.csv").unlink()
    with pytest.raises(UserError, match=r"`test\.csv` .*`test\.csv\.gz`"):
        build(SudokuExtreme(source=str(files)), files / "none")


def test_a_folder_in_use_is_not_touched(files):
    out = files / "out"
    out.mkdir()
    (out / "mine").touch()
    with pytest.raises(UserError, match="out"):
        build(config(files), out)
    assert [file.name for file in out.iterdir()] == ["mine"]
    (out / "mine").unlink()
    build(config(files), out)
    assert (out / "train").is_dir()


def test_an_interrupted_build_leaves_nothing(files, monkeypatch):
    def interrupt(*args):
        raise KeyboardInterrupt

    monkeypatch.setattr("data.puzzles.writer._content_hash", interrupt)
    before = sorted(files.iterdir())
    with pytest.raises(KeyboardInterrupt):
        build(config(files), files / "out")
    assert sorted(files.iterdir()) == before


def fake_hub(monkeypatch, download):
    hub = types.ModuleType("huggingface_hub")
    hub.hf_hub_download = download  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "huggingface_hub", hub)


def test_the_hub_is_asked_for_both_splits(files, monkeypatch):
    asked = []

    def download(repo, file, repo_type):
        asked.append((repo, file, repo_type))
        return str(files / file)

    fake_hub(monkeypatch, download)
    build(SudokuExtreme(source="someone/sudoku", augmentations=0), files / "out")
    assert asked == [
        ("someone/sudoku", "train.csv", "dataset"),
        ("someone/sudoku", "test.csv", "dataset"),
    ]


def test_without_the_hub_the_local_command_is_given(tmp_path, monkeypatch):
    def download(*args, **kwargs):
        raise ConnectionError("no route")

    fake_hub(monkeypatch, download)
    wanted = SudokuExtreme(augmentations=7, min_difficulty=3)
    with pytest.raises(UserError, match="ConnectionError: no route") as error:
        build(wanted, tmp_path / "out")
    command = (
        f"python -m data.prepare sudoku --out {tmp_path / 'out'} --train-csv train.csv "
        "--test-csv test.csv --augmentations 7 --min-difficulty 3"
    )
    assert str(error.value).endswith(command)
    assert not list(tmp_path.iterdir())


def test_what_is_built_is_drawn_as_boards(files):
    build(config(files), files / "out")
    dataset = PuzzleDataset([files / "out"], "test", batch_size=2)
    inputs, labels, _ = (field[0] for field in dataset.test_batch(0))
    lines = dataset.kind.draw(inputs, labels, labels).splitlines()
    assert len(lines) == 12
    assert lines[1].count("|") == 4
    assert dataset.metadata.kind == "sudoku"
