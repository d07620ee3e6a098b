"""Answer puzzles in global queues; each device answers its part."""

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array, PyTree

from data.puzzles.dataset import Puzzle, PuzzleDataset
from train.experiment import StepConfig
from train.feed import Prefetch
from train.mesh import BATCH, gather, global_batch, layout, process_rows
from train.table import TABLE, lookup

QueueStep = Callable[[Any, PyTree, Puzzle, Array], PyTree]
"""Takes model, puzzle table (or its rows of the puzzles), puzzles and their numbers;
returns answers."""


def make_queue_step(
    answer: QueueStep,
    cast: Callable[[Any, jnp.dtype], Any],
    mesh: Mesh,
    config: StepConfig,
    model: Any,
) -> QueueStep:
    """Compile the answer to a global queue.

    Args:
        answer: called on each device with a whole, cast model and rows of the table.
        cast: `model, compute type -> model`.
        mesh: the devices.
        config: its precision.
        model: a model, or its shapes.
    """
    specs = layout(model, mesh)

    @partial(
        jax.shard_map,
        mesh=mesh,
        in_specs=(specs, TABLE, BATCH, BATCH),
        out_specs=BATCH,
        check_vma=False,
    )
    def device(model: Any, table: PyTree, puzzles: Puzzle, numbers: Array) -> PyTree:
        whole = gather(cast(model, config.dtype), specs)
        return answer(whole, lookup(table, puzzles.puzzle_id), puzzles, numbers)

    @eqx.filter_jit
    def step(model: Any, table: PyTree, puzzles: Puzzle, numbers: Array) -> PyTree:
        with config.matmuls():
            return device(model, table, puzzles, numbers)

    return step


def spread(
    puzzles: Puzzle, numbers: np.ndarray, size: int, mesh: Mesh
) -> tuple[Puzzle, Array, np.ndarray]:
    """Return at most `size` puzzles as a global queue, evenly over the devices.

    Also returns their numbers, -1 for padding, and the place of each in the queue.
    """
    places = np.arange(size).reshape(mesh.size, -1).T.ravel()[: len(numbers)]

    def put(a: np.ndarray, padding: int) -> np.ndarray:
        whole = np.full((size, *a.shape[1:]), padding, np.int32)
        whole[places] = a
        return whole[process_rows(mesh, size)]

    whole = jax.tree.map(lambda a: put(a, 0), puzzles), put(numbers, -1)
    return *global_batch(mesh, size, 0)(whole), places


def queues(
    dataset: PuzzleDataset, examples: int, mesh: Mesh
) -> Iterator[tuple[Puzzle, Array]]:
    """Yield the first `examples` puzzles in order, as global queues, with numbers.

    A number is the puzzle's place in the file.

    The last queue is filled up with puzzles of the number -1.

    Args:
        dataset: its batch is a queue.
        examples: number of puzzles.
        mesh: the devices.
    """
    size, count = dataset.batch_size, dataset.num_test_batches(examples)
    to_mesh, local = global_batch(mesh, size, 0), process_rows(mesh, size)

    def make(index: int) -> tuple[Puzzle, Array]:
        rows = index * size + local
        real = dataset.places(np.minimum(rows, examples - 1))
        numbers = np.where(rows < examples, real, -1).astype(np.int32)
        return to_mesh((dataset.test_batch(index, examples), numbers))

    with Prefetch(make, range(count), 2) as ready:
        for _ in range(count):
            yield ready.get()
