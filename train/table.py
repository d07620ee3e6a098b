"""The puzzle table on the mesh: its rows are split over all devices, whole on none.

An ARC table has a million rows, of which a step looks up a few hundred. All devices
hear all ids; each gives the rows that it holds, and changes these alone.
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
"""How its rows lie on a mesh."""


class Table(eqx.Module):
    """Rows, the last of which may only be there to give all devices as many."""

    rows: Float[Array | np.ndarray, "padded width"]
    length: int = eqx.field(static=True)
    """Rows that count."""

    def over(self, devices: int) -> "Table":
        """The table with so many rows that they divide by the devices."""
        missing = -self.length % devices + self.length - len(self.rows)
        if not missing:
            return self
        pad = np.pad if isinstance(self.rows, np.ndarray) else jnp.pad
        return Table(pad(self.rows, ((0, missing), (0, 0))), self.length)


def is_table(node: Any) -> bool:
    """Whether a node of a tree is a table."""
    return isinstance(node, Table)


def make_table(rows: PyTree, devices: int = 1) -> PyTree:
    """The table of these rows; () of a model without one."""
    return jax.tree.map(lambda r: Table(r, len(r)).over(devices), rows)


def _places(table: Table, ids: Int[Array, " ids"]) -> Int[Array, " ids"]:
    """Where this device's part has the rows of these ids; beyond it if it has not."""
    size = len(table.rows)
    place = ids - jax.lax.axis_index(AXES) * size
    return jnp.where((place >= 0) & (place < size), place, size)


@jax.named_scope("table")
def lookup(table: PyTree, ids: PyTree) -> PyTree:
    """Inside `shard_map`: the rows of this device's ids; zeros for an id beyond them.

    Exact: to every row all other devices add zeros.
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
    """Inside `shard_map`: the table after the gradients of all devices' ids.

    Args:
        update: `rows, (their numbers, gradients), updates made -> rows`; a number
            beyond the rows is of one that is not here.
        table: this device's part.
        ids: that this device has looked up.
        grads: of the rows looked up.
        count: updates made.
    """
    gather = lambda a: jax.lax.all_gather(a, AXES, tiled=True)
    found = _places(table, gather(ids)), gather(grads)
    return Table(update(jnp.asarray(table.rows), found, count), table.length)
