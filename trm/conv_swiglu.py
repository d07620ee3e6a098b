"""A SwiGLU that also sees the position before each one: ConvSwiGLU."""

from typing import ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from gpt.layers import truncated_normal
from gpt.primitives import project, project_gated
from trm.layers import swiglu_width


class ConvSwiGLU(eqx.Module):
    """`down(silu(conv(silu(gate(x)) * up(x))))`, a convolution over two positions.

    Each hidden feature is mixed with itself at the position before, with its own two
    weights and bias. Before the first position there are zeros.

    Source: URM, arXiv 2512.14693; `models/layers.py`, `ConvSwiGLU`, of UbiquantAI/URM
    at 41de2c3. The convolution is computed in float32, there in bfloat16.
    """

    gate_up: Float[Array, "width 2*hidden"]
    taps: Float[Array, "2 hidden"]
    """Weights of the position before, and of the position itself."""

    bias: Float[Array, " hidden"]
    down: Float[Array, "hidden width"]
    axis: int = eqx.field(static=True)
    matrices: ClassVar[dict[str, tuple[int, int]]] = {"gate_up": (1, 2), "down": (1, 1)}

    def __init__(
        self,
        width: int,
        expansion: float,
        multiple: int = 256,
        *,
        axis: int,
        key: PRNGKeyArray,
    ):
        """Draw the weights; `axis` is the axis of the positions in an input."""
        hidden = swiglu_width(width, expansion, multiple)
        gate_up_key, conv_key, down_key = jax.random.split(key, 3)
        self.gate_up = truncated_normal(gate_up_key, (width, 2 * hidden), width**-0.5)
        bound = 2**-0.5  # PyTorch's default for two inputs
        drawn = jax.random.uniform(conv_key, (3, hidden), minval=-bound, maxval=bound)
        self.taps, self.bias = drawn[:2], drawn[2]
        self.down = truncated_normal(down_key, (hidden, width), hidden**-0.5)
        self.axis = axis

    def __call__(self, x: Float[Array, "*axes width"]) -> Float[Array, "*axes width"]:
        """Return the layer's output, without residual and norm."""
        hidden = project_gated(x, self.gate_up).astype(jnp.float32)
        shift = [(0, 0, 0)] * x.ndim
        shift[self.axis] = (1, -1, 0)
        before = jax.lax.pad(hidden, jnp.zeros(()), shift)
        mixed = self.taps[0] * before + self.taps[1] * hidden + self.bias
        return project(jax.nn.silu(mixed).astype(x.dtype), self.down)
