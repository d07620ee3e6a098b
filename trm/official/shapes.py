"""Read the settings of a model off the names and shapes of its arrays.

Source: `models/recursive_reasoning/*.py`, `models/layers.py`; of EqR, `models/eqr.py`
of locuslab/EqR.
"""

import math
from collections.abc import Mapping
from typing import Any

from configs import UserError, ceil_div, require
from trm.layers import swiglu_width
from trm.official.names import EMBEDDING, TABLE

LEARNED = "embed_pos.embedding_weight"

PREFIX = 16
"""The official `puzzle_emb_len`."""

Shapes = Mapping[str, tuple[int, ...]]
"""Shapes by official names, without prefix."""


def require_readable(shapes: Shapes) -> None:
    """Raise `UserError` unless these are shapes of a model that can be built.

    Args:
        shapes: must have `EMBEDDING`.
    """
    for name in (EMBEDDING, TABLE, LEARNED):
        require(
            len(shapes.get(name, (0, 0))) == 2,
            f"`{name}` must be a matrix: got shape {shapes.get(name)}. Use a "
            "checkpoint of the official code.",
        )
    dim = shapes[EMBEDDING][1]
    for name, shape in shapes.items():
        require(
            not name.endswith("self_attn.o_proj.weight") or shape[-1:] == (dim,),
            f"The number of attention heads must divide the width {dim}: got `{name}` "
            f"of shape {shape} (the official baseline has 12 heads for width 512). Use "
            "another checkpoint.",
        )


def which_variant(names: Mapping[str, Any]) -> Any:
    """Return the variant, by its networks and fresh latents."""
    high, low = (
        any(name.startswith(level) for name in names)
        for level in ("H_level.layers.", "L_level.layers.")
    )
    fresh = {name for name in names if name.endswith("_init")}
    match high, low, fresh:
        case True, True, _:
            return "hrm"
        case True, False, _:
            return "transformer"
        case False, True, _ if "L1_init" in fresh:
            return "hier6"
        case False, True, _ if {"H_init", "L_init"} <= fresh:
            return "trm"
        case False, True, _ if "L_init" in fresh:
            return "single_z"
        case False, True, _ if not fresh and TABLE not in names:
            return "eqr"
    found = "no network" if not low else "a network without fixed first latents"
    raise UserError(
        "A checkpoint must be of TRM, single-z, hier6, HRM, EqR or the baseline "
        f"without recursion: got {found} (`L_level.layers.*`, `H_level.layers.*`, "
        "`*_init`). Use a checkpoint of the official code."
    )


def count_layers(names: Mapping[str, Any], level: str) -> int:
    """Return the number of blocks of a network."""
    start = f"{level}.layers."
    blocks = {n.removeprefix(start).split(".")[0] for n in names if n.startswith(start)}
    return len(blocks)


def network_length(shapes: Shapes, level: str) -> int | None:
    """Return the positions of the network, with prefix; None if it fits any number."""
    down = shapes.get(f"{level}.layers.0.mlp_t.down_proj.weight")
    learned = shapes.get(LEARNED)
    return (down or learned or (None,))[0]


def fixed_prefix(variant: str, puzzle_dim: int, dim: int) -> int | None:
    """Return the length of the prefix if the size of the table determines it.

    Source: `hrm.py` and `transformers_baseline.py` have no `puzzle_emb_len`.
    """
    if puzzle_dim == 0:
        return 0
    return ceil_div(puzzle_dim, dim) if variant in ("hrm", "transformer") else None


def usual_prefix(length: int | None, least: int) -> int:
    """Return the official length of a prefix, or one that leaves a square of cells."""
    if length is None:
        return PREFIX
    square = lambda cells: math.isqrt(cells) ** 2 == cells
    candidates = (PREFIX, *range(max(least, 1), length))
    fitting = (p for p in candidates if length - p >= 16 and square(length - p))
    return next(fitting, PREFIX)


def which_expansion(
    shapes: Shapes,
    level: str,
    dim: int,
    length: int | None,
    default: float,
) -> float:
    """Return an expansion that gives the feed-forward layers their widths.

    Widths are rounded up to multiples of 256, so several expansions fit: `default` is
    preferred, then the smallest whole number, then the largest number.
    """
    here = f"{level}.layers.0."
    widths = {}
    for name, width in ((f"{here}mlp.", dim), (f"{here}mlp_t.", length)):
        shape = shapes.get(f"{name}down_proj.weight")
        if shape is not None and len(shape) == 2 and width:
            widths[width] = shape[1]
    least = max((1.5 * (w - 256) / width for width, w in widths.items()), default=0)
    most = min((1.5 * w / width for width, w in widths.items()), default=4.0)
    for value in (default, float(math.floor(least) + 1), most):
        if value > 0 and all(
            swiglu_width(width, value) == inner for width, inner in widths.items()
        ):
            return value
    raise UserError(
        "The feed-forward layers must have widths of one expansion, multiples of 256: "
        f"got {sorted(widths.values())} for {sorted(widths)}. Use a checkpoint of the "
        "official code."
    )
