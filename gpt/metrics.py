"""Types of a loss and its metrics: sums, each with a count."""

from jaxtyping import Array, Float, PyTree

Metrics = dict[str, tuple[Float[Array, ""], Float[Array, ""]]]
"""`(sum, count)` by name, over rows and steps. The mean is `sum / count`."""

Loss = tuple[Float[Array, ""], tuple[Float[Array, ""], PyTree, Metrics]]
"""`(summed loss, (weight, next carry, metrics))`."""
