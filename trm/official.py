"""What model an official checkpoint holds, told by its names and shapes.

Names of files lie, and many a checkpoint has no `all_config.yaml` beside it. What the
arrays do not say comes from there, or from whoever asks, or else is the official
default, of which `notes` speak.

Source: `models/recursive_reasoning/*.py` and `config/arch/*.yaml`.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from configs import TRMConfig, UserError, require
from trm.layers import swiglu_width
from trm.weights import EMBEDDING, TABLE, split_prefix

CELLS = {11: 81, 12: 900, 6: 900}
"""Cells of a puzzle by the size of the vocabulary: Sudoku-Extreme, ARC, Maze-Hard."""

PREFIX_LENGTH = 16
"""The official `puzzle_emb_len`."""

_LEARNED = "embed_pos.embedding_weight"


@dataclass(frozen=True, kw_only=True)
class Official:
    """A model in its official form: weights by official names, and what they are."""

    weights: Mapping[str, np.ndarray]
    """Without prefix; the puzzle table among them, if there is one."""

    config: TRMConfig
    vocab: int

    seq: int
    """Cells of a puzzle."""

    prefix: str = ""
    """What all names of the file begin with."""

    options: Mapping[str, Any] = field(default_factory=dict)
    """What `all_config.yaml` says; empty without one."""

    notes: tuple[str, ...] = ()
    """Settings that nobody tells, and what they were taken for."""

    @property
    def puzzles(self) -> int:
        """Rows of the puzzle table; 1 without one."""
        return self.weights[TABLE].shape[0] if TABLE in self.weights else 1

    @property
    def sizes(self) -> dict[str, int]:
        """Sizes that otherwise come from the data."""
        return {"vocab": self.vocab, "seq": self.seq, "puzzles": self.puzzles}


@dataclass(frozen=True, kw_only=True)
class Given:
    """What is known of a model besides its weights; what is None is not."""

    heads: int | None = None
    H_cycles: int | None = None
    L_cycles: int | None = None
    prefix: int | None = None
    positions: str | None = None

    seq: int | None = None
    """Cells of a puzzle."""


def infer(
    weights: Mapping[str, np.ndarray],
    options: Mapping[str, Any],
    given: Given | None = None,
    default: TRMConfig | None = None,
) -> Official:
    """The model that a state dict holds.

    Args:
        weights: names with any prefix to arrays.
        options: those of `all_config.yaml`, or nothing.
        given: goes before the options.
        default: what a setting that nobody tells is taken for, if this is of the same
            variant and mixer; else the official default.

    Raises:
        UserError: if it is no TRM, or a size must be told.
    """
    given = given or Given()
    name_prefix, weights = split_prefix(weights)
    shapes = {name: array.shape for name, array in weights.items()}
    for name in (EMBEDDING, TABLE, _LEARNED):
        require(
            len(shapes.get(name, (0, 0))) == 2,
            f"`{name}` must be a matrix: got shape {shapes.get(name)}. Use a "
            "checkpoint of the official code.",
        )
    vocab, dim = shapes[EMBEDDING]
    variant = _variant(shapes)
    level = "H_level" if variant == "transformer" else "L_level"
    mixer = "mlp" if any(".mlp_t." in name for name in shapes) else "attention"
    puzzle_dim = shapes.get(TABLE, (0, 0))[1]
    for name in (name for name in shapes if name.endswith("self_attn.o_proj.weight")):
        require(
            shapes[name][-1] == dim,
            f"Attention heads must make up the width of {dim}: got `{name}` of shape "
            f"{shapes[name]}, as with a number of heads that does not divide the width "
            "(the official baseline has 12 for 512). No such model can be built here.",
        )
    length = _length(shapes, level)
    if default is not None and (default.variant, default.mixer) != (variant, mixer):
        default = None
    arch, notes = options.get("arch") or {}, []

    def tell(name: str, official: str, usual: Any, used: bool = True) -> Any:
        """A setting as given, or as the options say, or a default; a note if used."""
        for value in (getattr(given, name), arch.get(official)):
            if value is not None:
                require(
                    type(value) is type(usual),
                    f"`{official}` must be like {usual!r}: got {value!r}. Repair "
                    "`all_config.yaml`, or say otherwise.",
                )
                return value
        value = usual if default is None else getattr(default, name)
        if used:
            notes.append(f"{name}={value}")
        return value

    prefix = _fixed_prefix(variant, puzzle_dim, dim)
    least = -(-puzzle_dim // dim)
    if prefix is None and length is not None and given.seq is not None:
        left = given.prefix or length - given.seq
        prefix = left if left >= least else None
    if prefix is None:
        prefix = tell("prefix", "puzzle_emb_len", _usual_prefix(length, least))
        prefix = prefix or least
    seq = _cells(given.seq, length, prefix, vocab, notes)

    positions = "none"
    if _LEARNED in shapes:
        positions = "learned"
    elif mixer == "attention":
        positions = tell("positions", "pos_encodings", "rope")
        require(
            positions in ("rope", "none"),
            "Positions must be `rope`, `none`, or `learned` with weights of their own: "
            f"got `{positions}`, and the checkpoint has no such weights. Use a "
            "checkpoint of the official code.",
        )
    cycles = {"hrm": (2, 2), "transformer": (1, 1)}
    T, n = cycles.get(variant, (3, 4 if seq == 900 else 6))
    recursive = variant != "transformer"
    config = TRMConfig(
        variant=variant,
        mixer=mixer,
        positions=positions,
        dim=dim,
        heads=tell("heads", "num_heads", 8, mixer == "attention"),
        expansion=_expansion(
            shapes, level, dim, length, _number(arch, "expansion", 4.0)
        ),
        layers=_layers(shapes, level),
        H_layers=_layers(shapes, "H_level") if variant == "hrm" else None,
        H_cycles=tell("H_cycles", "H_cycles", T, recursive),
        L_cycles=tell("L_cycles", "L_cycles", n, recursive),
        prefix=prefix,
        puzzle_dim=puzzle_dim,
        rope_theta=_number(arch, "rope_theta", 10000.0),
        norm_eps=_number(arch, "rms_norm_eps", 1e-5),
    )
    return Official(
        weights=weights,
        config=config,
        vocab=vocab,
        seq=seq,
        prefix=name_prefix,
        options=options,
        notes=tuple(notes),
    )


def _variant(names: Mapping[str, Any]) -> Any:
    """The variant, by which networks and which fresh latents there are."""
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
    found = "no network" if not low else "a network without fixed first latents"
    raise UserError(
        "A checkpoint must be that of TRM, of single-z, hier6, HRM or the transformer "
        f"baseline: it holds {found} (`L_level.layers.*`, `H_level.layers.*`, "
        f"`*_init`). Use a checkpoint of the official code."
    )


def _number(arch: Mapping[str, Any], name: str, usual: float) -> float:
    """An option that is a number."""
    value = arch.get(name, usual)
    require(
        isinstance(value, int | float),
        f"`{name}` must be a number: got {value!r}. Repair `all_config.yaml`.",
    )
    return float(value)


def _layers(names: Mapping[str, Any], level: str) -> int:
    """Blocks of a network."""
    start = f"{level}.layers."
    blocks = {n.removeprefix(start).split(".")[0] for n in names if n.startswith(start)}
    return len(blocks)


def _length(shapes: Mapping[str, tuple[int, ...]], level: str) -> int | None:
    """Positions of the network, prefix included; None if any number will do."""
    down = shapes.get(f"{level}.layers.0.mlp_t.down_proj.weight")
    learned = shapes.get(_LEARNED)
    return (down or learned or (None,))[0]


def _fixed_prefix(variant: str, puzzle_dim: int, dim: int) -> int | None:
    """The length of the prefix where the sizes of the table alone decide it.

    Source: `hrm.py` and `transformers_baseline.py` know no `puzzle_emb_len`.
    """
    if puzzle_dim == 0:
        return 0
    return -(-puzzle_dim // dim) if variant in ("hrm", "transformer") else None


def _usual_prefix(length: int | None, least: int) -> int:
    """The official length of a prefix, or else one that leaves a square of cells."""
    if length is None:
        return PREFIX_LENGTH
    square = lambda cells: math.isqrt(cells) ** 2 == cells
    candidates = (PREFIX_LENGTH, *range(max(least, 1), length))
    fitting = (p for p in candidates if length - p >= 16 and square(length - p))
    return next(fitting, PREFIX_LENGTH)


def _cells(
    given: int | None, length: int | None, prefix: int, vocab: int, notes: list[str]
) -> int:
    """Cells of a puzzle."""
    if length is not None:
        cells = length - prefix
        require(
            cells > 0 and given in (None, cells),
            f"The checkpoint must be for puzzles of {given or 'some'} cells: it has "
            f"{length} positions, and {prefix} of them are the prefix. Use puzzles of "
            "the size that it was trained with, or say another `prefix`.",
        )
        return cells
    if given is not None:
        return given
    require(
        vocab in CELLS,
        f"The cells of a puzzle must be told: the weights fit any number, and {vocab} "
        "tokens are those of no known puzzle. Name the dataset with `--data`, or say "
        "`--seq`.",
    )
    notes.append(f"seq={CELLS[vocab]}")
    return CELLS[vocab]


def _expansion(
    shapes: Mapping[str, tuple[int, ...]],
    level: str,
    dim: int,
    length: int | None,
    told: float,
) -> float:
    """An expansion that gives the feed-forward layers the widths they have.

    They are rounded up to multiples of 256, so that several do; the one told goes
    first, then the smallest whole number, then the largest that fits.
    """
    here = f"{level}.layers.0."
    widths = {}
    for name, width in ((f"{here}mlp.", dim), (f"{here}mlp_t.", length)):
        shape = shapes.get(f"{name}down_proj.weight")
        if shape is not None and len(shape) == 2 and width:
            widths[width] = shape[1]
    least = max((1.5 * (w - 256) / width for width, w in widths.items()), default=0)
    most = min((1.5 * w / width for width, w in widths.items()), default=4.0)
    for value in (told, float(math.floor(least) + 1), most):
        if value > 0 and all(
            swiglu_width(width, value) == inner for width, inner in widths.items()
        ):
            return value
    raise UserError(
        "The feed-forward layers must have the widths that one expansion gives, "
        f"multiples of 256: got {sorted(widths.values())} for {sorted(widths)}. Use a "
        "checkpoint of the official code."
    )
