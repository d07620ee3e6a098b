import gzip

import numpy as np
import pytest

from configs import MazeHard, UserError
from data.puzzles.dataset import Metadata, PuzzleDataset
from data.puzzles.maze.hard import build, dihedral_views, read_csv
from data.puzzles.maze.kind import is_solution, to_tokens

HEADER = "source,question,answer,rating"
QUESTION = ["S  #", " #  ", "   #", "##G "]
ANSWER = ["S  #", "o#  ", "ooo#", "##G "]
OTHER = ["Soo#", " #o ", "  o#", "##G "]  # as short


def tokens(*mazes):
    return to_tokens(["".join(rows) for rows in mazes])


def row(question=QUESTION, answer=ANSWER, rating=6):
    return f",{''.join(question)},{''.join(answer)},{rating}"


def write(path, *rows):
    path.write_text("\n".join([HEADER, *rows, ""]), encoding="utf-8")
    return path


def test_images_are_the_eight_in_the_official_order():
    first = np.arange(9, dtype=np.uint8)[None]
    grid = first.reshape(3, 3)
    expected = [
        *(np.rot90(grid, turns) for turns in range(4)),
        np.fliplr(grid),
        np.flipud(grid),
        grid.T,
        np.fliplr(np.rot90(grid)),
    ]
    both = dihedral_views(np.concatenate([first, first + 9]))
    np.testing.assert_array_equal(both[:8].reshape(8, 3, 3), expected)
    np.testing.assert_array_equal(both[8:], both[:8] + 9)
    assert len(np.unique(both[:8], axis=0)) == 8


def test_a_list_becomes_a_dataset_with_images(tmp_path):
    turned = ["G## ", "   #", " #  ", "S  #"]
    train, test = tmp_path / "train.csv", tmp_path / "test.csv"
    write(train, row(), row(QUESTION, OTHER))
    write(test, row(turned, ["G## ", "o  #", "o#  ", "S  #"]))
    config = MazeHard(train_csv=(str(train),), test_csv=(str(test),))
    out = tmp_path / "out"
    build(config, out)
    metadata = Metadata.read(out / "train")
    assert (metadata.vocab_size, metadata.seq_len, metadata.kind) == (6, 16, "maze")
    assert (metadata.total_groups, metadata.total_puzzles) == (2, 2)
    load = lambda split, name: np.load(out / split / f"all__{name}.npy")
    inputs, labels = load("train", "inputs"), load("train", "labels")
    assert inputs.shape == (16, 16)
    assert inputs.dtype == np.uint8
    assert is_solution(inputs, labels).all()
    np.testing.assert_array_equal(inputs[0], tokens(QUESTION)[0])
    np.testing.assert_array_equal(labels[8], tokens(OTHER)[0])
    np.testing.assert_array_equal(load("train", "group_indices"), [0, 8, 16])
    assert load("test", "inputs").shape == (1, 16)

    dataset = PuzzleDataset([out], "test", batch_size=1)
    batch = dataset.test_batch(0)
    solved = dataset.kind.is_solution(batch.inputs, batch.labels)
    assert solved is not None
    assert solved.all()


def test_without_images_and_with_a_subsample(tmp_path):
    rows = [row(), row(QUESTION, OTHER), row()]
    for split in ("train", "test"):
        with gzip.open(tmp_path / f"{split}.csv.gz", "wt") as file:
            file.write("\n".join([HEADER, *rows]))
    config = MazeHard(source=str(tmp_path), subsample=2, dihedral=False)
    with pytest.warns(UserWarning, match="of 2 training"):
        build(config, tmp_path / "out")
    assert np.load(tmp_path / "out" / "train" / "all__inputs.npy").shape == (2, 16)
    assert np.load(tmp_path / "out" / "test" / "all__inputs.npy").shape == (3, 16)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (row(["S  #", " #x ", "   #", "##G "]), "a question of `#`, spaces"),
        (row(ANSWER), "a question of `#`, spaces"),
        (row(["   #", " #  ", "   #", "##G "]), "one start"),
        (row(["S  #", " #  ", "   #", "##  "]), "one goal"),
        (row(["S  #", " # G", "   #", "##G "]), "one goal"),
        (row(QUESTION, QUESTION), "marks a shortest path"),
        (row(["S# #", "##  ", "   #", "##G "]), "marks a shortest path"),
        (row(QUESTION[:3]), "16 cells as its question"),
        (row(QUESTION, ANSWER[:3]), "16 cells as its answer"),
    ],
)
def test_a_bad_row_is_named(tmp_path, line, message):
    path = write(tmp_path / "mazes.csv", row(), line)
    with pytest.raises(UserError, match=r"line 3: .*" + message):
        read_csv(path)


def test_mazes_must_be_squares_of_one_size(tmp_path):
    path = write(tmp_path / "long.csv", row(["SG "], ["SG "]))
    with pytest.raises(UserError, match="got 3 cells"):
        read_csv(path)
    with pytest.raises(UserError, match=r"empty\.csv"):
        read_csv(write(tmp_path / "empty.csv"))
    small = write(tmp_path / "small.csv", row(["SG", "  "], ["SG", "  "]))
    config = MazeHard(
        train_csv=(str(small),), test_csv=(str(write(tmp_path / "big.csv", row())),)
    )
    with pytest.raises(UserError, match="got 4, 16 cells"):
        build(config, tmp_path / "out")


def test_the_hub_is_missed_with_a_command_that_works(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    import huggingface_hub

    def fail(*_, **__):
        raise OSError("no network")

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", fail)
    config = MazeHard(dihedral=False, subsample=5)
    with pytest.raises(UserError) as caught:
        build(config, tmp_path / "out")
    assert "data.prepare maze --out" in str(caught.value)
    assert "--subsample 5 --no-dihedral" in str(caught.value)
