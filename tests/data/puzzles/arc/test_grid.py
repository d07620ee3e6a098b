import itertools

import numpy as np
import pytest

from data.puzzles.arc.grid import (
    SIDE,
    augmented_name,
    crop,
    parse_name,
    to_grid,
    to_tokens,
    undo,
)
from data.puzzles.symmetry import INVERSE, turn

GRID = np.arange(6, dtype=np.uint8).reshape(2, 3)
# Source: `dihedral_transform` of the official `dataset/common.py`, in NumPy's words.
OFFICIAL = (
    lambda a: a,
    lambda a: np.rot90(a, k=1),
    lambda a: np.rot90(a, k=2),
    lambda a: np.rot90(a, k=3),
    np.fliplr,
    np.flipud,
    np.transpose,
    lambda a: np.fliplr(np.rot90(a, k=1)),
)


@pytest.mark.parametrize("symmetry", range(8))
def test_symmetries_have_the_official_numbers_and_are_undone(symmetry):
    turned = turn(GRID, symmetry)
    assert (turned == OFFICIAL[symmetry](GRID)).all()
    assert (turn(turned, INVERSE[symmetry]) == GRID).all()
    assert (turn(np.stack([GRID, GRID + 1]), symmetry)[1] == turned + 1).all()


def test_there_are_eight_symmetries():
    images = {turn(GRID, i).tobytes() + bytes(turn(GRID, i).shape) for i in range(8)}
    assert len(images) == 8
    with pytest.raises(ValueError, match="0 to 7: got 8"):
        turn(GRID, 8)


def test_a_name_says_how_to_undo_an_image():
    colors = np.array([0, 3, 1, 2, 9, 8, 7, 6, 5, 4], np.uint8)
    name = augmented_name("007bbfb7", 3, colors)
    assert name == "007bbfb7|||t3|||0312987654"
    task, symmetry, found = parse_name(name)
    assert (task, symmetry, found.tolist()) == ("007bbfb7", 3, colors.tolist())
    image = colors[turn(GRID, 3)]
    assert (undo(image, symmetry, found) == GRID).all()
    task, symmetry, found = parse_name("007bbfb7")
    assert (undo(GRID, symmetry, found) == GRID).all()


@pytest.mark.parametrize("shape", [(1, 1), (2, 3), (30, 4), (3, 30), (30, 30)])
def test_tokens_are_a_grid_and_its_border(shape):
    rng = np.random.default_rng(0)
    grid = rng.integers(10, size=shape).astype(np.uint8)
    tokens = to_tokens(grid)
    assert (to_grid(tokens) == grid).all()
    rows, columns = shape
    canvas = tokens.reshape(SIDE, SIDE)
    assert (canvas[rows : rows + 1, :columns] == 1).all()
    assert (canvas[:rows, columns : columns + 1] == 1).all()
    assert (canvas[rows + 1 :] == 0).all()
    assert (canvas[:, columns + 1 :] == 0).all()
    assert (canvas[rows:, columns:] == 0).all()


def largest(canvas):
    """The crop by trying all sizes."""
    best, size = 0, (0, 0)
    for rows, columns in itertools.product(range(1, SIDE + 1), repeat=2):
        corner = canvas[:rows, :columns]
        fits = ((corner >= 2) & (corner <= 11)).all()
        if fits and rows * columns > best:
            best, size = rows * columns, (rows, columns)
    return canvas[: size[0], : size[1]] - 2


def test_the_crop_is_the_largest_rectangle_of_colors():
    rng = np.random.default_rng(0)
    tokens = rng.integers(2, 12, size=(12, 900))
    for i, odd in enumerate(tokens):
        odd[rng.integers(900, size=5 * i)] = rng.integers([0, 12], [2, 15])[i % 2]
    tokens[7, 0] = 1
    for found, own in zip(crop(tokens), tokens, strict=True):
        wanted = largest(own.reshape(SIDE, SIDE))
        assert found.shape == wanted.shape
        assert (found == wanted).all()


def test_of_equally_large_crops_the_one_with_fewest_rows_wins():
    canvas = np.zeros((SIDE, SIDE), int)
    canvas[:1, :4] = canvas[:2, :2] = canvas[:4, :1] = 5
    assert to_grid(canvas.reshape(-1)).shape == (1, 4)
