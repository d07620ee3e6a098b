import numpy as np
import pytest

from configs import GeneratedSudoku, UserError
from data.puzzles.dataset import Metadata
from data.puzzles.sudoku.board import BOXES, is_solved
from data.puzzles.sudoku.generate import build
from data.puzzles.sudoku.solver import count_solutions


def load(out, split, name):
    return np.load(out / split / f"all__{name}.npy")


def boards(out, split):
    one = np.uint8(1)
    return load(out, split, "inputs") - one, load(out, split, "labels") - one


@pytest.mark.parametrize("size", [4, 6, 9])
def test_puzzles_have_one_solution_and_splits_share_no_grid(tmp_path, size):
    build(GeneratedSudoku(size=size, train=30, test=20), tmp_path / "out")
    grids = []
    for split, count in (("train", 30), ("test", 20)):
        questions, answers = boards(tmp_path / "out", split)
        assert len(questions) == count
        assert is_solved(answers, BOXES[size]).all()
        assert ((questions == 0) | (questions == answers)).all()
        assert ((questions == 0).sum(axis=1) <= round(size * size / 2)).all()
        assert (questions == 0).mean() > 0.4
        for question in questions:
            assert count_solutions(question.tolist(), BOXES[size]) == 1
        grids.append({grid.tobytes() for grid in answers})
        assert len(grids[-1]) == count
    assert not grids[0] & grids[1]


def test_the_few_grids_of_4x4_are_shared_out(tmp_path):
    config = GeneratedSudoku(size=4, train=600, test=200, augmentations=4)
    build(config, tmp_path / "out")
    train, test = (
        {grid.tobytes() for grid in boards(tmp_path / "out", split)[1]}
        for split in ("train", "test")
    )
    assert not train & test  # images too
    assert len(train) == 216
    assert len(test) == 72
    questions, answers = boards(tmp_path / "out", "train")
    assert len(questions) == 3000
    assert ((questions == 0) | (questions == answers)).all()


def test_metadata_fits_the_size(tmp_path):
    config = GeneratedSudoku(size=6, train=5, test=3, augmentations=2, seed=8)
    build(config, tmp_path / "out")
    metadata = Metadata.read(tmp_path / "out" / "train")
    assert (metadata.vocab_size, metadata.seq_len) == (8, 36)
    assert metadata.total_groups == 5
    assert metadata.extra["seed"] == 8
    assert load(tmp_path / "out", "train", "inputs").shape == (15, 36)
    assert load(tmp_path / "out", "test", "inputs").shape == (3, 36)


def test_the_seed_decides(tmp_path):
    found = []
    for i, seed in enumerate((0, 0, 1)):
        out = tmp_path / str(i)
        build(GeneratedSudoku(train=9, test=9, seed=seed), out)
        metadata = [Metadata.read(out / split) for split in ("train", "test")]
        found.append([m.extra["content_hash"] for m in metadata])
    assert found[0] == found[1]
    assert found[0][0] != found[2][0]
    assert found[0][1] != found[2][1]


def test_a_folder_in_use_is_not_touched(tmp_path):
    (tmp_path / "mine").touch()
    with pytest.raises(UserError, match=str(tmp_path)):
        build(GeneratedSudoku(train=1, test=1), tmp_path)
