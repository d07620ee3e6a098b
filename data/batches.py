"""How large the batches of a run are, and which rows of them a process loads."""

from collections.abc import Callable

import numpy as np
from jaxtyping import Int, Integer

from configs import Piecewise, require


def sizes_of(batch_size: int | Piecewise[int]) -> Piecewise[int]:
    """The size of each batch, where it may be the same for all."""
    return Piecewise((0,), (batch_size,)) if isinstance(batch_size, int) else batch_size


def rows_of(
    size: int,
    rows: Integer[np.ndarray, " rows"] | Callable[[int], np.ndarray] | None,
) -> Int[np.ndarray, " rows"]:
    """The rows to load of a batch of some size, in order; None means all.

    Raises:
        UserError: if the batch has no such row.
    """
    if rows is None:
        return np.arange(size)
    found = (rows(size) if callable(rows) else rows).astype(int)
    require(
        bool(((found >= 0) & (found < size)).all()),
        f"`rows` must lie in 0 .. batch_size - 1 = {size - 1}: got {found}. Pass this "
        "process's row numbers in the global batch.",
    )
    return found
