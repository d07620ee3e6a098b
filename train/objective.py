"""What training needs to know of a kind of model."""

from typing import Any, Protocol, runtime_checkable

from jaxtyping import Array, Bool, Float, Key, PyTree

Metrics = dict[str, tuple[Float[Array, ""], Float[Array, ""]]]
"""Sums over rows and steps, each with the count to divide it by."""


@runtime_checkable
class Task(Protocol):
    """What is learnt from a batch, and what is carried to the next. Batches are local.

    A model without memory carries (), admits a batch by taking it as it is, and has no
    table.
    """

    def init_carry(self, model: Any, batch: int) -> PyTree:
        """What rows carry before the first step."""
        ...

    def admit(self, model: Any, carry: PyTree, batch: PyTree) -> PyTree:
        """The carry after it has taken in a new batch: what `loss` works on."""
        ...

    def row_ids(self, carry: PyTree) -> PyTree:
        """Rows of the table that an admitted carry looks up; () without a table."""
        ...

    def done(self, carry: PyTree) -> Bool[Array, ""]:
        """Whether no row is under way."""
        ...

    def loss(
        self, model: Any, rows: PyTree, carry: PyTree, keys: Key[Array, " batch"]
    ) -> tuple[Float[Array, ""], tuple[Float[Array, ""], PyTree, Metrics]]:
        """Of an admitted carry: loss, weight, next carry, metrics.

        The loss is a sum. An update follows the gradient of the sum over the whole
        batch, divided by the sum of the weights (rows, or tokens).
        """
        ...

    def evaluate(
        self, model: Any, rows: PyTree, carry: PyTree
    ) -> tuple[Metrics, PyTree]:
        """Metrics and predictions of an admitted carry."""
        ...
