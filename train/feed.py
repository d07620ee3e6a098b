"""What the feeds of all models share: making data that is missing, stacking batches."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils
from jaxtyping import PyTree

from configs import require
from data.build import prepare


def prepare_missing(folder: str, build: Any) -> None:
    """Make the dataset in `folder` if it is missing and a build is configured.

    The first process makes it; all learn whether that went well.

    Raises:
        ValueError: if it cannot be made.
    """
    path, failure = Path(folder), None
    if build is not None and not path.exists() and jax.process_index() == 0:
        print(f"No dataset at `{path}`: making it.", flush=True)
        try:
            prepare(build, path)
        except (ValueError, OSError) as error:
            failure = error
    if jax.process_count() > 1:
        failed = multihost_utils.process_allgather(np.array(failure is not None))
        require(
            failure is not None or not np.any(failed),
            f"The dataset `{path}` must be made by the first process: it could not. "
            "Its output says why.",
        )
    if failure is not None:
        raise ValueError(str(failure)) from failure


def stacked_batches(
    batch: Callable[[int], PyTree[np.ndarray]], first: int, calls: int, passes: int
) -> PyTree[np.ndarray]:
    """Batches from `first` on, with axes `calls, passes` in front."""
    parts = [batch(number) for number in range(first, first + calls * passes)]
    stack = lambda *a: np.stack(a).reshape(calls, passes, *a[0].shape)
    return jax.tree.map(stack, *parts)
