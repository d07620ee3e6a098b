"""Build a dataset of generated mazes like Maze-Hard, without a download.

Each cell is a wall with a probability drawn for each maze, start and goal are anywhere,
and only the few mazes with a long shortest path are kept. These have the walls and the
path lengths of Maze-Hard. To avoid drawing 50,000 mazes for each kept one, the goal is
drawn last, from the cells far from the start. The distribution is the same if a maze is
kept with a probability proportional to the number of far cells.
"""

from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Int

from configs import GeneratedMaze, UserError
from data.folder import check_vacant, parallel_map
from data.puzzles.maze.flood import distances, flood, to_cells, to_words
from data.puzzles.maze.hard import dihedral_views, write_mazes
from data.puzzles.maze.kind import FREE, GOAL, PATH, START, WALL, Mazes
from data.puzzles.symmetry import SYMMETRIES
from data.puzzles.writer import Examples

BATCH = 2048  # mazes drawn at once: their bits then fit into a cache
DENSITIES = (77, 129)  # share of walls in 256ths: 30 to 50 %
SHARE = 16  # a maze is always kept if one in `SHARE` cells is far enough
PATIENCE = 2000  # batches without a new maze before giving up


def build(config: GeneratedMaze, out: Path) -> None:
    """Build the dataset in `out`; only training mazes are augmented.

    Raises:
        UserError: if `out` is not vacant, or there are too few such mazes.
    """
    check_vacant(out)
    questions, answers = generate(config, config.train + config.test)
    train, test = slice(config.train), slice(config.train, None)
    source = f"generated {config.size}x{config.size}"
    write_mazes(
        Examples(questions[train], answers[train]),
        Examples(questions[test], answers[test]),
        out,
        dihedral=config.dihedral,
        extra={"seed": config.seed, "source": source},
    )


def generate(config: GeneratedMaze, count: int) -> tuple[Mazes, Mazes]:
    """Return `count` mazes, different also when turned or mirrored, and answers.

    Raises:
        UserError: if no new maze is found for a long time.
    """
    mazes: dict[bytes, tuple[np.ndarray, np.ndarray]] = {}
    last = 0
    for number, (questions, answers) in enumerate(_batches(config)):
        views = dihedral_views(questions).reshape(-1, SYMMETRIES, config.size**2)
        for views_of_one, question, answer in zip(
            views, questions, answers, strict=True
        ):
            key = min(view.tobytes() for view in views_of_one)
            if key not in mazes:
                mazes[key] = (question, answer)
                last = number
        if len(mazes) >= count:
            break
        if number - last > PATIENCE:
            raise UserError(
                f"Only {len(mazes):,} of {count:,} different mazes found, none of them "
                f"in the last {PATIENCE * BATCH:,} drawn ({config.size}x{config.size}, "
                f"shortest path of {config.least_path} cells or more). Use a smaller "
                "`--least-path`, `--train` or `--test`."
            )
    all_questions, all_answers = zip(*mazes.values(), strict=True)
    return np.stack(all_questions[:count]), np.stack(all_answers[:count])


def _batches(config: GeneratedMaze) -> Iterator[tuple[Mazes, Mazes]]:
    """Yield the kept mazes of batches without end."""
    numbers = iter(range(2**31))
    yield from parallel_map(partial(draw, config), numbers, config.processes)


def draw(config: GeneratedMaze, number: int) -> tuple[Mazes, Mazes]:
    """Return the kept mazes of batch `number`: a function of it and the seed."""
    rng = np.random.default_rng((config.seed, number))
    size, each = config.size, np.arange(BATCH)
    walls = rng.integers(*DENSITIES, size=(BATCH, 1, 1), dtype=np.uint8)
    free = rng.integers(256, size=(BATCH, size, size), dtype=np.uint8) >= walls
    starts = rng.integers(size**2, size=BATCH)
    free.reshape(BATCH, -1)[each, starts] = True
    at_start = np.zeros((BATCH, size**2), bool)
    at_start[each, starts] = True

    # A path of n cells is n - 1 steps: cells are far if n - 2 steps do not reach them.
    words = to_words(at_start.reshape(free.shape))
    near = flood(words, to_words(free), config.least_path - 2)
    far = flood(near.wet, near.free).wet & ~near.wet
    chance = np.bitwise_count(far).sum(axis=0) * SHARE / size**2
    kept = rng.random(len(chance)) < chance
    index, far = near.mazes[kept], to_cells(far[:, kept], size).reshape(-1, size**2)
    questions, answers, single = _pose(free[index], starts[index], _pick(far, rng))
    return (
        (questions[single], answers[single]) if config.unique else (questions, answers)
    )


def _pick(
    cells: Bool[np.ndarray, "mazes seq"], rng: np.random.Generator
) -> Int[np.ndarray, " mazes"]:
    """Draw one of the cells of each maze, all equally likely."""
    return np.where(cells, rng.random(cells.shape), -1.0).argmax(axis=1)


def _pose(
    free: Bool[np.ndarray, "mazes rows columns"],
    starts: Int[np.ndarray, " mazes"],
    goals: Int[np.ndarray, " mazes"],
) -> tuple[Mazes, Mazes, Bool[np.ndarray, " mazes"]]:
    """Return questions, answers, and if there is only one shortest path."""
    mazes, side, _ = free.shape
    each = np.arange(mazes)
    questions = np.where(free, FREE, WALL).astype(np.uint8).reshape(mazes, side**2)
    questions[each, starts], questions[each, goals] = START, GOAL
    at_goal = (questions == GOAL).reshape(free.shape)
    path, single = trace(distances(at_goal, free), starts)
    answers = np.where(path & (questions == FREE), np.uint8(PATH), questions)
    return questions, answers, single


def trace(
    from_goal: Int[np.ndarray, "mazes rows columns"], starts: Int[np.ndarray, " mazes"]
) -> tuple[Bool[np.ndarray, "mazes seq"], Bool[np.ndarray, " mazes"]]:
    """Return a shortest path of each maze, and if it is the only one.

    From the start, a path goes down if that is nearer to the goal, else right, else
    left, else up, as in all known answers of Maze-Hard (8 of 2,000).

    Args:
        from_goal: steps from every cell to the goal; -1 if there is no way.
        starts: a cell of each maze that has a way to the goal.
    """
    mazes, side, _ = from_goal.shape
    wide = np.pad(from_goal, ((0, 0), (1, 1), (1, 1)), constant_values=-1)
    flat = wide.reshape(mazes, (side + 2) ** 2)
    moves = np.array([side + 2, 1, -1, -side - 2])  # down, right, left, up
    row, column = np.divmod(starts, side)
    cells = (row + 1) * (side + 2) + column + 1
    path, single = np.zeros(flat.shape, bool), np.ones(mazes, bool)
    path[np.arange(mazes), cells] = True
    walking = np.arange(mazes)
    while len(walking):
        here = flat[walking, cells]
        ahead = flat[walking[:, None], cells[:, None] + moves] == here[:, None] - 1
        walking, cells, ahead = walking[here > 0], cells[here > 0], ahead[here > 0]
        single[walking] &= ahead.sum(axis=1) == 1
        cells = cells + moves[ahead.argmax(axis=1)]
        path[walking, cells] = True
    inner = path.reshape(wide.shape)[:, 1:-1, 1:-1]
    return inner.reshape(mazes, side**2), single
