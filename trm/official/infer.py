"""What model an official checkpoint holds, told by its names and shapes.

Names of files lie, and many a checkpoint has no `all_config.yaml` beside it. What the
arrays do not say comes from there, or from whoever asks, or else is the official
default, of which `notes` speak.

Source: `models/recursive_reasoning/*.py` and `config/arch/*.yaml`.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from configs import TRMConfig, require
from trm.official.names import EMBEDDING, TABLE, split_prefix
from trm.official.shapes import (
    LEARNED,
    count_layers,
    fixed_prefix,
    network_length,
    require_readable,
    usual_prefix,
    which_expansion,
    which_variant,
)
from trm.variants.eqr import SCALE, STEP

CELLS = {11: 81, 12: 900, 6: 900}
"""Cells of a puzzle by the size of the vocabulary: Sudoku-Extreme, ARC, Maze-Hard."""


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
    require_readable(shapes)
    vocab, dim = shapes[EMBEDDING]
    variant = which_variant(shapes)
    level = "H_level" if variant == "transformer" else "L_level"
    mixer = "mlp" if any(".mlp_t." in name for name in shapes) else "attention"
    puzzle_dim = shapes.get(TABLE, (0, 0))[1]
    length = network_length(shapes, level)
    if default is not None and (default.variant, default.mixer) != (variant, mixer):
        default = None
    arch, notes = options.get("arch") or {}, []
    if variant == "eqr":
        _require_usual(arch)

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

    prefix = fixed_prefix(variant, puzzle_dim, dim)
    least = -(-puzzle_dim // dim)
    if prefix is None and length is not None and given.seq is not None:
        left = given.prefix or length - given.seq
        prefix = left if left >= least else None
    if prefix is None:
        prefix = tell("prefix", "puzzle_emb_len", usual_prefix(length, least))
        prefix = prefix or least
    seq = _cells(given.seq, length, prefix, vocab, notes)

    positions = "none"
    if LEARNED in shapes:
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
        expansion=which_expansion(
            shapes, level, dim, length, _number(arch, "expansion", 4.0)
        ),
        layers=count_layers(shapes, level),
        H_layers=count_layers(shapes, "H_level") if variant == "hrm" else None,
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


def _require_usual(arch: Mapping[str, Any]) -> None:
    """Raise `UserError` unless these are the step and the noise of `variants/eqr.py`.

    Source: locuslab/EqR, `models/eqr.py`.
    """
    for name, value in (("lambda_", STEP), ("noise_scale", SCALE)):
        require(
            arch.get(name, value) == value,
            f"`{name}` of EqR must be {value}, as in its paper: got {arch.get(name)}. "
            "Use a checkpoint that was trained with that.",
        )


def _number(arch: Mapping[str, Any], name: str, usual: float) -> float:
    """An option that is a number."""
    value = arch.get(name, usual)
    require(
        isinstance(value, int | float),
        f"`{name}` must be a number: got {value!r}. Repair `all_config.yaml`.",
    )
    return float(value)


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
