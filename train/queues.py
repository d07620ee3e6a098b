"""Queues of puzzles: read ahead, split over the mesh, answered by one program each."""

from collections.abc import Callable, Iterator
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array, PyTree

from data.puzzles.dataset import Puzzle, PuzzleDataset
from train.feed import Prefetch
from train.gradients import StepConfig
from train.mesh import BATCH, gather, global_batch, layout, process_rows
from train.table import TABLE, lookup

Answer = Callable[[Any, PyTree, Puzzle, Array], PyTree]
"""Model, rows of the puzzle table, their puzzles, their numbers in, answers out."""

Step = Callable[[Any, PyTree, Puzzle, Array], PyTree]
"""Model, puzzle table, puzzles and their numbers in, answers out."""


def make_queue_step(
    answer: Answer,
    cast: Callable[[Any, jnp.dtype], Any],
    mesh: Mesh,
    config: StepConfig,
    model: Any,
) -> Step:
    """The compiled answer to a global queue, of which each device answers its part.

    Args:
        answer: what a device does, with a whole model that is cast.
        cast: `model, compute type -> model`.
        mesh: the devices.
        config: its precision.
        model: a model, or its shapes.
    """
    specs = layout(model, mesh)

    def device(model: Any, table: PyTree, puzzles: Puzzle, numbers: Array) -> PyTree:
        whole = gather(cast(model, config.dtype), specs)
        return answer(whole, lookup(table, puzzles.puzzle_id), puzzles, numbers)

    split = jax.shard_map(
        device,
        mesh=mesh,
        in_specs=(specs, TABLE, BATCH, BATCH),
        out_specs=BATCH,
        check_vma=False,
    )

    @eqx.filter_jit
    def step(model: Any, table: PyTree, puzzles: Puzzle, numbers: Array) -> PyTree:
        with config.matmuls():
            return split(model, table, puzzles, numbers)

    return step


def queues(
    dataset: PuzzleDataset, examples: int, mesh: Mesh
) -> Iterator[tuple[Puzzle, Array]]:
    """The puzzles in their order, in global queues of one size, and their numbers.

    The last queue is filled up with puzzles of the number -1.

    Args:
        dataset: whose batch is a queue.
        examples: how many, from its beginning.
        mesh: the devices.
    """
    size, count = dataset.batch_size, dataset.num_test_batches(examples)
    place, local = global_batch(mesh, size, 0), process_rows(mesh, size)

    def make(index: int) -> tuple[Puzzle, Array]:
        numbers = index * size + local
        numbers = np.where(numbers < examples, numbers, -1).astype(np.int32)
        return place((dataset.test_batch(index, examples), numbers))

    with Prefetch(make, range(count), 2) as ready:
        for _ in range(count):
            yield ready.get()
