"""Places of tokens in the grids of a row of ARC, and their rotary angles.

A place is a column, a line and a part of the row: 0 labels, 1 input, 2 separator, 3
output, 4 end. It depends on the token and on those before it only, so that a model can
write a row token by token. See `data/puzzles/arc/rows.py` for rows.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from data.puzzles.arc.rows import END, LINE_END, OUTPUTS, SEPARATOR

AXES = 3


def places_of(tokens: Int[Array, "batch seq"]) -> Int[Array, "batch seq 3"]:
    """Return column, line and part of each token.

    The end of a line is at the column after its last cell. Labels, separator and end
    are at column 0 and line 0 of their parts.

    Source: mvakde/mdlARC at 8afc20d, `src/common.py`, `_fill_3d_positions_numba`.
    There, the columns and lines of a wrong answer end at 30 and 29.
    """
    label, separator, end = tokens >= OUTPUTS, tokens == SEPARATOR, tokens == END
    line_end = tokens == LINE_END
    index = jnp.arange(tokens.shape[1])
    last = lambda values: jax.lax.cummax(values, axis=1)
    before = lambda values: jnp.pad(values, ((0, 0), (1, 0)))[:, :-1]
    starts = before(jnp.where(label | separator | line_end, index + 1, 0))
    lines = jnp.cumsum(line_end, axis=1)
    column = index - last(starts)
    line = before(lines) - last(jnp.where(separator, lines, 0))
    part = 1 + 2 * (jnp.cumsum(separator, axis=1) > 0)
    cell = ~(label | separator | end)
    part = jnp.where(label, 0, jnp.where(separator, 2, jnp.where(end, 4, part)))
    place = jnp.where(cell, column, 0), jnp.where(cell, line, 0), part
    return jnp.stack(place, axis=-1).astype(jnp.int32)


def angles_of(
    places: Int[Array, "batch seq 3"], head_dim: int, theta: float
) -> Float[Array, "batch seq 1 half"]:
    """Return the angles by which pairs of numbers of a head are rotated.

    A third of the pairs (rounded down) is for columns, a third for lines, the rest for
    parts; in each, the frequencies fall from 1 to almost 1 / `theta`, as in `rotate`.

    Source: mvakde/mdlARC at 8afc20d, `src/tinytransformer.py`, `RotaryEmbedding3D`,
    whose pairs are adjacent numbers: another order of the weights.
    """
    half = head_dim // 2
    sizes = half // AXES, half // AXES, half - 2 * (half // AXES)
    frequencies = [
        theta ** -(np.arange(size, dtype=np.float32) / np.float32(size))
        for size in sizes
    ]
    axis = np.repeat(np.arange(AXES), sizes)
    return (places[..., axis] * np.concatenate(frequencies))[:, :, None, :]
