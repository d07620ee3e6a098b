"""Infer the model of an official checkpoint from the names and shapes of its arrays.

File names may be wrong, and many checkpoints have no `all_config.yaml`. Settings that
the arrays do not determine come from the caller, from that file, or else from the
official defaults; `notes` lists the defaults used.

Source: `models/recursive_reasoning/*.py` and `config/arch/*.yaml`.
"""

import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from configs import TrainTRM, TRMConfig, ceil_div, require
from trm.official.all_config import FILE, all_config, number, require_option
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
    """A model in its official form: weights by official names, and its settings."""

    weights: Mapping[str, np.ndarray]
    """Without prefix; includes the puzzle table, if there is one."""

    config: TRMConfig
    vocab: int

    seq: int
    """Cells of a puzzle."""

    prefix: str = ""
    """Prefix of all names in the file."""

    options: Mapping[str, Any] = field(default_factory=dict)
    """Contents of `all_config.yaml`; empty without one."""

    notes: tuple[str, ...] = ()
    """Settings that had to be guessed, as `name=value`."""

    @property
    def puzzles(self) -> int:
        """Rows of the puzzle table; 1 without one."""
        return self.weights[TABLE].shape[0] if TABLE in self.weights else 1

    @property
    def sizes(self) -> dict[str, int]:
        """Sizes that usually come from the data."""
        return {"vocab": self.vocab, "seq": self.seq, "puzzles": self.puzzles}


@dataclass(frozen=True, kw_only=True)
class Given:
    """Settings known besides the weights; None where unknown."""

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
    """Infer the model of a state dict.

    Args:
        weights: arrays by name, with any prefix.
        options: contents of `all_config.yaml`, or nothing.
        given: overrides the options.
        default: defaults of unknown settings, if it has the same variant and mixer;
            else the official defaults.

    Raises:
        UserError: if it is not a TRM, or a size has to be given.
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
    arch = options.get("arch") or {}
    if variant == "eqr":
        _require_usual(arch)
    settings = _Settings(given, arch, default)
    prefix = fixed_prefix(variant, puzzle_dim, dim)
    if prefix is None:
        prefix = _prefix(settings, length, ceil_div(puzzle_dim, dim))
    seq = _cells(given.seq, length, prefix, vocab, settings.notes)
    positions = "none"
    if LEARNED in shapes:
        positions = "learned"
    elif mixer == "attention":
        positions = _positions(settings)
    cycles = {"hrm": (2, 2), "transformer": (1, 1)}
    T, n = cycles.get(variant, (3, 4 if seq == 900 else 6))
    recursive = variant != "transformer"
    expansion = float(number(arch, "expansion", 4.0))
    config = TRMConfig(
        variant=variant,
        mixer=mixer,
        positions=positions,
        dim=dim,
        heads=settings.get("heads", "num_heads", 8, mixer == "attention"),
        expansion=which_expansion(shapes, level, dim, length, expansion),
        layers=count_layers(shapes, level),
        H_layers=count_layers(shapes, "H_level") if variant == "hrm" else None,
        H_cycles=settings.get("H_cycles", "H_cycles", T, recursive),
        L_cycles=settings.get("L_cycles", "L_cycles", n, recursive),
        prefix=prefix,
        puzzle_dim=puzzle_dim,
        rope_theta=float(number(arch, "rope_theta", 10000.0)),
        norm_eps=float(number(arch, "rms_norm_eps", 1e-5)),
    )
    _warn_of_contradictions(config, arch)
    return Official(
        weights=weights,
        config=config,
        vocab=vocab,
        seq=seq,
        prefix=name_prefix,
        options=options,
        notes=tuple(settings.notes),
    )


@dataclass(frozen=True)
class _Settings:
    """Settings that the arrays do not determine."""

    given: Given
    arch: Mapping[str, Any]
    default: TRMConfig | None
    notes: list[str] = field(default_factory=list)

    def get(self, name: str, official: str, usual: Any, used: bool = True) -> Any:
        """Return the given value, the option, or a default; note a used default."""
        for value in (getattr(self.given, name), self.arch.get(official)):
            if value is not None:
                require_option(
                    type(value) is type(usual), official, f"like {usual!r}", value
                )
                return value
        value = usual if self.default is None else getattr(self.default, name)
        if used:
            self.notes.append(f"{name}={value}")
        return value


def _prefix(settings: _Settings, length: int | None, least: int) -> int:
    """Return the length of the prefix."""
    given = settings.given
    if length is not None and given.seq is not None:
        left = given.prefix or length - given.seq
        if left >= least:
            return left
    return (
        settings.get("prefix", "puzzle_emb_len", usual_prefix(length, least)) or least
    )


def _positions(settings: _Settings) -> Any:
    """Return the positional encoding of attention without learned positions."""
    positions = settings.get("positions", "pos_encodings", "rope")
    require(
        positions in ("rope", "rope2d", "none"),
        "Positions must be `rope`, `rope2d`, `none`, or `learned` with weights: got "
        f"`{positions}` without weights. Use a checkpoint of the official code.",
    )
    return positions


def _require_usual(arch: Mapping[str, Any]) -> None:
    """Raise `UserError` unless step and noise are the ones of `variants/eqr.py`.

    Source: locuslab/EqR, `models/eqr.py`.
    """
    for name, value in (("lambda_", STEP), ("noise_scale", SCALE)):
        require(
            arch.get(name, value) == value,
            f"`{name}` of EqR must be {value}, as in its paper: got {arch.get(name)}. "
            "Use a checkpoint trained with that value.",
        )


def _warn_of_contradictions(config: TRMConfig, arch: Mapping[str, Any]) -> None:
    """Warn of options that contradict the arrays."""
    names = ["hidden_size", "expansion", "puzzle_emb_ndim", "mlp_t"]
    names += {"hrm": ["H_layers", "L_layers"], "transformer": ["H_layers"]}.get(
        config.variant, ["L_layers"]
    )
    of_arrays = all_config(TrainTRM(model=config))["arch"]
    wrong = [
        f"{name}={arch[name]} (the weights have {of_arrays[name]})"
        for name in names
        if arch.get(name) not in (None, of_arrays[name])
    ]
    if wrong:
        warnings.warn(
            f"`{FILE}` contradicts the weights, which are right: {', '.join(wrong)}. "
            "If it belongs to another checkpoint, its other settings are wrong too.",
            stacklevel=3,
        )


def _cells(
    given: int | None, length: int | None, prefix: int, vocab: int, notes: list[str]
) -> int:
    """Return the cells of a puzzle."""
    if length is not None:
        cells = length - prefix
        require(
            cells > 0 and given in (None, cells),
            f"The checkpoint must be for puzzles of {given or 'some'} cells: it has "
            f"{length} positions with a prefix of {prefix}. Use puzzles of its size, "
            "or give another `prefix`.",
        )
        return cells
    if given is not None:
        return given
    require(
        vocab in CELLS,
        "The number of cells must be given: the weights fit any number, and no known "
        f"puzzle has {vocab} tokens. Name the dataset with `--data`, or give `--seq`.",
    )
    notes.append(f"seq={CELLS[vocab]}")
    return CELLS[vocab]
