import gzip

import numpy as np
import pytest

from configs import MazeHard, UserError
from data.puzzles.dataset import Metadata, PuzzleDataset
from data.puzzles.maze import kind as maze
from data.puzzles.maze.flood import distances
from data.puzzles.render import render_solution
from data.puzzles.writer import Examples, write_puzzles

HEADER = "source,question,answer,rating"
QUESTION = ["S  #", " #  ", "   #", "##G "]
ANSWER = ["S  #", "o#  ", "ooo#", "##G "]
OTHER = ["Soo#", " #o ", "  o#", "##G "]  # as short


def tokens(*mazes):
    return maze.to_tokens(["".join(rows) for rows in mazes])


def row(question=QUESTION, answer=ANSWER, rating=6):
    return f",{''.join(question)},{''.join(answer)},{rating}"


def write(path, *rows):
    path.write_text("\n".join([HEADER, *rows, ""]), encoding="utf-8")
    return path


def solves(answer, question=QUESTION):
    return bool(maze.is_solution(tokens(question), tokens(answer))[0])


def test_every_shortest_path_is_a_solution():
    assert solves(ANSWER)
    assert solves(OTHER)


@pytest.mark.parametrize(
    "answer",
    [
        QUESTION,  # nothing
        ["S  #", "o#  ", "o o#", "##G "],  # a gap
        ["Soo#", "o#o ", "ooo#", "##G "],  # both paths
        ["So #", "o#  ", "ooo#", "##G "],  # one cell more
        ["S  #", "o#  ", "ooo#", "##Go"],
        ["S  #", "oo  ", " oo#", "##G "],  # through a wall
        ["o  #", "o#  ", "ooo#", "##G "],  # without start
        ["S  #", "o#  ", "ooo#", "##o "],  # without goal
        ["S ##", "o#  ", "ooo#", "##G "],  # a new wall
    ],
)
def test_other_answers_are_none(answer):
    assert not solves(answer)


def test_a_longer_path_is_no_solution():
    question = ["S   ", " ## ", " ## ", "G   "]
    assert solves(["S   ", "o## ", "o## ", "G   "], question)
    assert not solves(["Sooo", " ##o", " ##o", "Gooo"], question)


def test_a_path_between_neighbours_has_no_cell():
    assert solves(["SG", "  "], ["SG", "  "])
    assert not solves(["SG", "oo"], ["SG", "  "])


@pytest.mark.parametrize(
    "question", [["S ", "  "], [" G", "  "], ["SS", " G"], ["S#", "#G"], ["  ", "  "]]
)
def test_what_is_no_puzzle_has_no_solution(question):
    assert not solves(question, question)


def test_tokens_of_any_size_are_judged():
    inputs = tokens(QUESTION, QUESTION).astype(np.int32)
    wild = np.array([tokens(ANSWER)[0], np.arange(16) - 8], np.int32)
    np.testing.assert_array_equal(maze.is_solution(inputs, wild), [True, False])
    with pytest.raises(UserError, match="must be a square"):
        maze.is_solution(np.ones((1, 6), int), np.ones((1, 6), int))


def test_the_path_goes_down_before_right_left_and_up():
    question = tokens(QUESTION)
    free = (question > maze.WALL).reshape(1, 4, 4)
    to_goal = distances((question == maze.GOAL).reshape(1, 4, 4), free)
    path, single = maze.trace(to_goal, np.array([0]))
    marked = np.flatnonzero(path[0]).tolist()
    assert marked == [0, 4, 8, 9, 10, 14]
    assert not single[0]
    _, alone = maze.trace(to_goal, np.array([8]))
    assert alone[0]


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
    both = maze.images(np.concatenate([first, first + 9]))
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
    maze.build(config, out)
    metadata = Metadata.read(out / "train")
    assert (metadata.vocab_size, metadata.seq_len, metadata.kind) == (6, 16, "maze")
    assert (metadata.total_groups, metadata.total_puzzles) == (2, 2)
    load = lambda split, name: np.load(out / split / f"all__{name}.npy")
    inputs, labels = load("train", "inputs"), load("train", "labels")
    assert inputs.shape == (16, 16)
    assert inputs.dtype == np.uint8
    assert maze.is_solution(inputs, labels).all()
    np.testing.assert_array_equal(inputs[0], tokens(QUESTION)[0])
    np.testing.assert_array_equal(labels[8], tokens(OTHER)[0])
    np.testing.assert_array_equal(load("train", "group_indices"), [0, 8, 16])
    assert load("test", "inputs").shape == (1, 16)

    dataset = PuzzleDataset([out], "test", batch_size=1)
    batch = dataset.test_batch(0)
    solved = dataset.is_solution(batch.inputs, batch.labels)
    assert solved is not None
    assert solved.all()


def test_without_images_and_with_a_subsample(tmp_path):
    rows = [row(), row(QUESTION, OTHER), row()]
    for split in ("train", "test"):
        with gzip.open(tmp_path / f"{split}.csv.gz", "wt") as file:
            file.write("\n".join([HEADER, *rows]))
    config = MazeHard(source=str(tmp_path), subsample=2, dihedral=False)
    with pytest.warns(UserWarning, match="are test puzzles as well"):
        maze.build(config, tmp_path / "out")
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
    with pytest.raises(UserError, match=r"line 3: a row must have .*" + message):
        maze.read_csv(path)


def test_mazes_must_be_squares_of_one_size(tmp_path):
    path = write(tmp_path / "long.csv", row(["SG "], ["SG "]))
    with pytest.raises(UserError, match="a square of 2 to 64 rows: got 3 cells"):
        maze.read_csv(path)
    with pytest.raises(UserError, match="must have a maze"):
        maze.read_csv(write(tmp_path / "empty.csv"))
    small = write(tmp_path / "small.csv", row(["SG", "  "], ["SG", "  "]))
    config = MazeHard(
        train_csv=(str(small),), test_csv=(str(write(tmp_path / "big.csv", row())),)
    )
    with pytest.raises(UserError, match="must be of one size"):
        maze.build(config, tmp_path / "out")


def test_the_hub_is_missed_with_a_command_that_works(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    import huggingface_hub

    def fail(*_, **__):
        raise OSError("no network")

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", fail)
    config = MazeHard(dihedral=False, subsample=5)
    with pytest.raises(UserError) as caught:
        maze.build(config, tmp_path / "out")
    assert "data.prepare maze --out" in str(caught.value)
    assert "--subsample 5 --no-dihedral" in str(caught.value)


def test_a_maze_is_drawn_and_read_again():
    lines = maze.render(tokens(QUESTION)[0], np.zeros(16, bool))
    assert lines == ["S . . #", ". # . .", ". . . #", "# # G ."]
    text = "\n".join(QUESTION)
    for written in (text, text + "\n", "".join(QUESTION), text.replace(" ", ".")):
        np.testing.assert_array_equal(maze.parse(written), tokens(QUESTION)[0])
    cut = "\n".join(line.rstrip() for line in QUESTION)
    np.testing.assert_array_equal(maze.parse(cut), tokens(QUESTION)[0])
    prediction = tokens(OTHER)[0].astype(int)
    prediction[0] = 77
    drawn = render_solution(tokens(QUESTION)[0], prediction, tokens(ANSWER)[0], "maze")
    assert "?!o!o!#" in drawn
    assert "prediction (7 wrong)" in drawn


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("S \n #", "one goal, `G`: got 0"),
        (" G\n #", "one start, `S`: got 0"),
        ("SG\nG#", "one goal, `G`: got 2"),
        ("SG\nx#", "must be written in"),
        ("SG\n   ", "a square of 2 to 64 rows"),
        ("S G", "a square of 2 to 64 rows"),
        ("", "a square of 2 to 64 rows"),
        ("\n".join(["S" * 65] * 65), "a square of 2 to 64 rows"),
    ],
)
def test_what_is_no_maze_is_refused(text, message):
    with pytest.raises(UserError, match=message):
        maze.parse(text)


def test_a_dataset_knows_its_rules_or_none(tmp_path):
    splits = {
        "train": Examples(tokens(QUESTION), tokens(ANSWER)),
        "test": Examples(tokens(OTHER[::-1]), tokens(OTHER[::-1])),
    }
    for kind in ("maze", "chess"):
        write_puzzles(splits, tmp_path / kind, kind=kind, vocab_size=6, extra={})
    chess, mazes = (
        PuzzleDataset([tmp_path / kind], "train", batch_size=1)
        for kind in ("chess", "maze")
    )
    assert (chess.kind, mazes.kind) == ("chess", "maze")
    batch = mazes.batch(0)
    assert chess.is_solution(batch.inputs, batch.labels) is None
    np.testing.assert_array_equal(mazes.is_solution(batch.inputs, batch.labels), True)
