"""One function over many items, in several processes, with the results in order."""

from collections.abc import Callable, Iterable, Iterator
from multiprocessing import get_context
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


def parallel_map(
    function: Callable[[Item], Result], items: Iterable[Item], processes: int
) -> Iterator[Result]:
    """Give `function` of each item, in order; items are taken as they are needed.

    Args:
        function: that can be pickled, unless there is one process.
        items: that can be pickled.
        processes: to compute in; 1 computes here.
    """
    if processes == 1:
        yield from map(function, items)
        return
    # Not forked: a training run, which may have JAX's threads, builds datasets as well.
    with get_context("spawn").Pool(processes) as pool:
        yield from pool.imap(function, items)
