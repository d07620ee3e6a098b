import math

import numpy as np
import pytest

from data.puzzles.arc.augment import (
    Augmentations,
    augmented_tokens,
    distinct,
    draw_augmentations,
)
from data.puzzles.arc.grid import crop
from data.puzzles.arc.tasks import Pair
from data.puzzles.symmetry import turn

RNG = np.random.default_rng(0)
PAIRS = [
    Pair(*(RNG.integers(10, size=shape).astype(np.uint8) for shape in shapes))
    for shapes in (((3, 3), (2, 5)), ((4, 1), (30, 30)), ((7, 30), (1, 1)))
]


def grid(*rows: list[int]) -> np.ndarray:
    return np.array(rows, np.uint8)


def each(images: Augmentations):
    """Symmetry and colors of each image."""
    return zip(images.symmetries.tolist(), images.colors, strict=True)


def image(pairs, symmetry, colors):
    """An image as what is compared: all pairs, in any order."""
    turned = [[colors[turn(own, symmetry)] for own in pair] for pair in pairs]
    return tuple(sorted(str([own.tolist() for own in pair]) for pair in turned))


def test_the_task_is_its_first_image():
    images = draw_augmentations(PAIRS, 20, RNG)
    assert images.size == 21
    assert images.symmetries[0] == 0
    assert images.colors[0].tolist() == list(range(10))
    assert (images.colors[:, 0] == 0).all()
    assert (np.sort(images.colors, axis=1) == np.arange(10)).all()


@pytest.mark.parametrize(
    ("pairs", "different"),
    [
        # One color, all symmetric: 9 names. Two: 9 * 8, and a turn changes nothing.
        ([Pair(grid([1, 1], [1, 1]), grid([1]))], 9),
        ([Pair(grid([1, 1], [1, 1]), grid([2]))], 72),
        ([Pair(grid([0]), grid([0]))], 1),
        # Swapping the colors swaps the pairs, which changes nothing: 9 * 8 / 2.
        ([Pair(grid([1]), grid([1])), Pair(grid([2]), grid([2]))], 36),
        # Input and output may not change places: 9 * 8.
        ([Pair(grid([1]), grid([2])), Pair(grid([1]), grid([2]))], 72),
        # One line: it lies or stands.
        ([Pair(grid([1, 1]), grid([1]))], 18),
    ],
)
def test_equal_images_are_dropped(pairs, different):
    images = draw_augmentations(pairs, 1000, np.random.default_rng(1))
    found = {image(pairs, symmetry, colors) for symmetry, colors in each(images)}
    assert images.size == len(found) == different


def test_images_are_kept_in_order_and_up_to_the_number_wanted():
    pairs = [Pair(grid([1, 2]), grid([2]))]
    rng = np.random.default_rng(2)
    count = 400
    colors = np.tile(np.arange(10, dtype=np.uint8), (count, 1))
    rng.permuted(colors[:, 1:], axis=1, out=colors[:, 1:])
    drawn = Augmentations(rng.integers(8, size=count), colors)
    seen: dict[tuple[str, ...], int] = {}
    for i, (symmetry, own) in enumerate(each(drawn)):
        seen.setdefault(image(pairs, symmetry, own), i)
    wanted = list(seen.values())[:100]
    kept = distinct(pairs, drawn, 100)
    assert len(seen) > 100
    assert (kept.symmetries == drawn.symmetries[wanted]).all()
    assert (kept.colors == drawn.colors[wanted]).all()


def test_every_symmetry_and_naming_is_equally_likely():
    images = draw_augmentations(PAIRS, 8000, np.random.default_rng(3))
    counts = np.bincount(images.symmetries[1:], minlength=8)
    assert np.abs(counts - 1000).max() < 150  # five standard deviations
    for color in range(1, 10):
        counts = np.bincount(images.colors[1:, color], minlength=10)[1:]
        assert np.abs(counts - 8000 / 9).max() < 150


def located(tokens):
    """Where the grid of a canvas begins, and the canvas moved back to the corner."""
    row, column = np.argwhere(tokens.reshape(30, 30) >= 2).min(axis=0)
    back = np.zeros((30, 30), np.uint8)
    back[: 30 - row, : 30 - column] = tokens.reshape(30, 30)[row:, column:]
    return (row, column), back.reshape(-1)


def test_tokens_are_moved_images_of_the_pairs():
    images = draw_augmentations(PAIRS, 200, RNG)
    tokens = augmented_tokens(PAIRS, images, RNG)
    assert tokens.shape == (2, 201, 3, 900)
    for i, (symmetry, colors) in enumerate(each(images)):
        moved = 0
        for j, pair in enumerate(PAIRS):
            places = []
            for side, own in enumerate(pair):
                place, back = located(tokens[side, i, j])
                places.append(place)
                (found,) = crop(back[None])
                wanted = colors[turn(own, symmetry)]
                assert found.shape == wanted.shape
                assert (found == wanted).all()
                assert (back == 1).sum() <= sum(wanted.shape)
            assert places[0] == places[1]
            moved += places[0] != (0, 0)
        assert moved < len(PAIRS)


def test_a_pair_moves_to_every_place_it_has_equally_often():
    pairs = [Pair(grid([1] * 28), grid([2])), Pair(grid([1]), grid([2] * 29))]
    colors = np.tile(np.arange(10, dtype=np.uint8), (4000, 1))
    images = Augmentations(np.zeros(4000, int), colors)
    tokens = augmented_tokens(pairs, images, np.random.default_rng(4))
    places = np.array([located(own)[0] for own in tokens[0, :, 0]])
    fixed = (places == 0).all(axis=1).sum()
    # Half of the time this one of two pairs stays; else it has 30 * 3 places.
    assert abs(fixed - 4000 * (1 / 2 + 1 / 180)) < 5 * math.sqrt(1000)
    counts = np.bincount(places[:, 1], minlength=3)[1:]
    assert np.abs(counts - 4000 / 6).max() < 5 * math.sqrt(4000 / 6)
    assert places.max(axis=0).tolist() == [29, 2]


def test_test_pairs_stay():
    images = draw_augmentations(PAIRS, 5, RNG)
    tokens = augmented_tokens(PAIRS, images, None)
    for i, (symmetry, colors) in enumerate(each(images)):
        (found,) = crop(tokens[1, i, :1])
        assert (found == colors[turn(PAIRS[0].output, symmetry)]).all()
