"""The rows of a batch that a process loads."""

import numpy as np
from jaxtyping import Int, Integer

from configs import require


def rows_of(
    batch_size: int, rows: Integer[np.ndarray, " rows"] | None
) -> Int[np.ndarray, " rows"]:
    """Return `rows` as indices of a batch; None means all rows.

    Raises:
        UserError: if the batch has no such row.
    """
    if rows is None:
        return np.arange(batch_size)
    rows = rows.astype(int)
    require(
        bool(((rows >= 0) & (rows < batch_size)).all()),
        f"`rows` must lie in 0 .. batch_size - 1 = {batch_size - 1}: got {rows}. Pass "
        "this process's row numbers in the global batch.",
    )
    return rows
