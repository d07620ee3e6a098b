"""The puzzle table, with its rows split over all devices.

An ARC table has a million rows; a step looks up a few hundred. Ids are gathered on all
devices; each device returns and updates only the rows it holds.
"""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, PyTree

from train.mesh import AXES, BATCH

TABLE = BATCH
"""The partition of the rows."""


class Table(eqx.Module):
    """Rows, padded so that every device has the same number."""

    rows: Float[Array | np.ndarray, "padded width"]
    length: int = eqx.field(static=True)
    """Number of rows without padding."""

    def over(self, devices: int) -> "Table":
        """Return the table padded to a multiple of `devices` rows."""
        missing = -self.length % devices + self.length - len(self.rows)
        if not missing:
            return self
        pad = np.pad if isinstance(self.rows, np.ndarray) else jnp.pad
        return Table(pad(self.rows, ((0, missing), (0, 0))), self.length)


def is_table(node: Any) -> bool:
    """Return whether a node of a tree is a table."""
    return isinstance(node, Table)


def make_table(rows: PyTree, devices: int = 1) -> PyTree:
    """Return the table of these rows; () for a model without one."""
    return jax.tree.map(lambda r: Table(r, len(r)).over(devices), rows)


def _places(table: Table, ids: Int[Array, " ids"]) -> Int[Array, " ids"]:
    """Return the ids' positions in this device's part; its length for missing ids."""
    size = len(table.rows)
    place = ids - jax.lax.axis_index(AXES) * size
    return jnp.where((place >= 0) & (place < size), place, size)


@jax.named_scope("table")
def lookup(table: PyTree, ids: PyTree) -> PyTree:
    """Return the rows of this device's ids, inside `shard_map`.

    Ids beyond the table give zeros. The sum is exact: all other devices add zeros.
    """

    def find(table: Table, ids: Int[Array, " ids"]) -> Float[Array, "ids width"]:
        places = _places(table, jax.lax.all_gather(ids, AXES, tiled=True))
        rows = jnp.asarray(table.rows).at[places].get(mode="fill", fill_value=0)
        return jax.lax.psum_scatter(rows, AXES, tiled=True)

    return jax.tree.map(find, table, ids, is_leaf=is_table)


def update_rows(
    update: Callable[[Array, tuple[Array, Array], Array], Array],
    table: Table,
    ids: Int[Array, " ids"],
    grads: Float[Array, "ids width"],
    count: Int[Array, ""],
) -> Table:
    """Return the table updated by the gradients of all devices, inside `shard_map`.

    Args:
        update: `rows, (row numbers, gradients), updates made -> rows`; ignores row
            numbers beyond the rows.
        table: this device's part.
        ids: looked up by this device.
        grads: gradient of each looked-up row.
        count: updates made.
    """
    gather = lambda a: jax.lax.all_gather(a, AXES, tiled=True)
    found = _places(table, gather(ids)), gather(grads)
    return Table(update(jnp.asarray(table.rows), found, count), table.length)
