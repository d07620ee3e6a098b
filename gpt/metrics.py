"""The form of all metrics."""

from jaxtyping import Array, Float

Metrics = dict[str, tuple[Float[Array, ""], Float[Array, ""]]]
"""Sums over rows and steps, each with the count to divide it by."""
