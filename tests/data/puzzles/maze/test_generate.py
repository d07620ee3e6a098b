from dataclasses import replace

import numpy as np
import pytest

from configs import GeneratedMaze, UserError
from data.puzzles.dataset import Metadata
from data.puzzles.maze import generate as maze_generate
from data.puzzles.maze import kind as maze
from data.puzzles.maze.flood import distances

SMALL = GeneratedMaze(size=8, least_path=12, train=150, test=50)


def load(out, split, name):
    return np.load(out / split / f"all__{name}.npy")


def test_answers_are_shortest_paths_that_are_long_enough(tmp_path):
    maze_generate.build(SMALL, tmp_path / "out")
    for split, count in (("train", 150), ("test", 50)):
        inputs, labels = (
            load(tmp_path / "out", split, n) for n in ("inputs", "labels")
        )
        assert inputs.shape == (count, 64)
        assert maze.is_solution(inputs, labels).all()
        cells = (labels == maze.PATH).sum(axis=1) + 2
        assert cells.min() == 12
        assert cells.max() > 12
        assert 0.25 < (inputs == maze.WALL).mean() < 0.5
    assert Metadata.read(tmp_path / "out" / "test").kind == "maze"


def test_no_test_maze_is_an_image_of_a_training_maze(tmp_path):
    """Of mazes so small that images would occur."""
    config = GeneratedMaze(size=4, least_path=6, train=60, test=20, dihedral=True)
    maze_generate.build(config, tmp_path / "out")
    train, test = (load(tmp_path / "out", s, "inputs") for s in ("train", "test"))
    assert len(train) == 8 * 60
    known = {one.tobytes() for one in train}
    assert not known & {one.tobytes() for one in test}
    assert len({one.tobytes() for one in test}) == 20


def test_unique_mazes_have_one_shortest_path():
    questions, _ = maze_generate.generate(replace(SMALL, unique=True), 100)
    assert (count_paths(questions) == 1).all()
    questions, _ = maze_generate.generate(SMALL, 100)
    assert (count_paths(questions) > 1).any()


def count_paths(questions):
    """Shortest paths of each maze: sums over neighbours, from the start outwards."""
    found = []
    for grid in questions.reshape(-1, 8, 8):
        steps = distances((grid == maze.START)[None], (grid > maze.WALL)[None])[0]
        ways = np.where(steps == 0, 1, 0)
        for step in range(1, steps.max() + 1):
            near = np.pad(np.where(steps == step - 1, ways, 0), 1)
            around = near[2:, 1:-1] + near[:-2, 1:-1] + near[1:-1, 2:] + near[1:-1, :-2]
            ways = np.where(steps == step, around, ways)
        found.append(int(ways[grid == maze.GOAL][0]))
    return np.array(found)


def test_start_and_goal_are_as_if_drawn_blindly():
    """All pairs far enough apart in a small maze are equally likely."""
    rng = np.random.default_rng(0)
    found, wanted, batch = [], [], maze_generate.BATCH
    for number in range(40):
        questions, _ = maze_generate.draw(replace(SMALL, least_path=14), number)
        found += (questions == maze.WALL).mean(axis=1).tolist()
    while len(wanted) < 1500:
        walls = rng.integers(*maze_generate.DENSITIES, size=(batch, 1, 1)) / 256
        free = rng.random((batch, 8, 8)) >= walls
        start, goal = rng.integers(64, size=(2, batch))
        free.reshape(batch, -1)[np.arange(batch), start] = True
        at_start = np.zeros((batch, 64), bool)
        at_start[np.arange(batch), start] = True
        steps = distances(at_start.reshape(free.shape), free).reshape(batch, -1)
        kept = steps[np.arange(batch), goal] >= 13
        wanted += (1 - free[kept].mean(axis=(1, 2))).tolist()
    error = np.hypot(np.std(found) / len(found) ** 0.5, np.std(wanted) / 1500**0.5)
    assert abs(np.mean(found) - np.mean(wanted)) < 4 * error + 0.002


def test_the_seed_decides_and_not_the_processes(tmp_path):
    found = []
    for i, config in enumerate(
        (SMALL, replace(SMALL, processes=2), replace(SMALL, seed=1))
    ):
        maze_generate.build(config, tmp_path / str(i))
        found.append(Metadata.read(tmp_path / str(i) / "train").extra["content_hash"])
    assert found[0] == found[1]
    assert found[0] != found[2]


def test_hard_mazes_of_30x30():
    config = GeneratedMaze(train=4, test=1)
    questions, answers = maze_generate.generate(config, 5)
    assert maze.is_solution(questions, answers).all()
    assert ((answers == maze.PATH).sum(axis=1) >= 108).all()


def test_what_cannot_be_found_is_given_up(monkeypatch):
    monkeypatch.setattr(maze_generate, "PATIENCE", 3)
    with pytest.raises(UserError, match=r"1,000 .* 6,144"):
        maze_generate.generate(GeneratedMaze(size=3, least_path=7, unique=True), 1000)


@pytest.mark.parametrize(
    "wrong",
    [
        {"size": 1},
        {"size": 65},
        {"least_path": 1},
        {"size": 4, "least_path": 13},
        {"train": 0},
        {"test": 0},
        {"seed": -1},
        {"processes": 0},
    ],
)
def test_bad_settings_are_refused(wrong):
    with pytest.raises(UserError):
        GeneratedMaze(**wrong)


def test_the_path_goes_down_before_right_left_and_up():
    question = maze.to_tokens(["S  # #     ###G "])
    free = (question > maze.WALL).reshape(1, 4, 4)
    to_goal = distances((question == maze.GOAL).reshape(1, 4, 4), free)
    path, single = maze_generate.trace(to_goal, np.array([0]))
    marked = np.flatnonzero(path[0]).tolist()
    assert marked == [0, 4, 8, 9, 10, 14]
    assert not single[0]
    _, alone = maze_generate.trace(to_goal, np.array([8]))
    assert alone[0]
