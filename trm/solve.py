"""Puzzles solved by a trained model: `python -m trm.solve --run-dir RUN PUZZLE ...`.

    python -m trm.solve --run-dir RUN .53..61...255.6.3.3..6..43...26.25.3
    python -m trm.solve --run-dir RUN puzzles.txt --steps 16 --out pictures
    cat puzzles.txt | python -m trm.solve --run-dir RUN --show line

A Sudoku is a line: a character a cell, `.` or `0` where it is empty. A maze is a line
of `#`, `.`, `S` and `G`, or in a file as many lines as it has rows; an ARC task is a
file of JSON. The same from Python:

    run = load_run("runs/quickstart")
    (solution,) = solve(run, ".53..61...255.6.3.3..6..43...26.25.3")
    print(solution)
"""

import shutil
import sys
import warnings
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Annotated, Literal

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import tyro
from jaxtyping import Integer
from tyro.conf import Positional

from configs import (
    MeshConfig,
    RunConfig,
    UserError,
    require,
    require_not_negative,
)
from data.puzzles.dataset import Metadata, Puzzle
from data.puzzles.kind import Kind
from data.puzzles.kinds import kind_of
from data.puzzles.questions import Question, table_rows, text_of
from data.remote import local_dataset
from train import cli
from train.devices import start
from train.runs.loading import CheckpointName, LoadedRun, load_run
from train.table import make_table
from trm.model import cast
from trm.official.all_config import train_config
from trm.official.infer import Given
from trm.official.pretrained import build_official, read_official, step_of
from trm.show.frames import Solution, draw_text, frames_of
from trm.show.pictures import require_pillow, write_pictures
from trm.trace import Trace, in_parts, trace

__all__ = ["load_official", "load_run", "run_kind", "solve", "think", "write_pictures"]

Precision = Literal["auto", "float32", "bfloat16"]
MOST_AT_ONCE = 64
"""Puzzles that go through the model together."""


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Which puzzles to solve, with which model, and what to show."""

    puzzles: Annotated[Positional[tuple[str, ...]], tyro.conf.arg(name="PUZZLE")] = ()
    """Puzzles, or names of files of puzzles. None: standard input."""

    run_dir: str = ""
    """Folder of a run of `train.trm`."""

    official: str = ""
    """Instead of a run, an official checkpoint: a file, a folder with one, or one on
    the Hugging Face hub as `owner/name` (extra `torch`, unless it is safetensors)."""

    checkpoint: CheckpointName = "best"
    """Which checkpoint of the run: `best`, `newest` or a step."""

    steps: int = 0
    """Supervision steps to make, as many as you like; 0: those of training."""

    show: Literal["steps", "answer", "line"] = "steps"
    """The board after each step, the last one only, or that in a line, in the form of
    the question, for other programs."""

    out: str = ""
    """Folder for pictures: for each puzzle a PNG, a GIF and an HTML page (extra
    `show`). Files of the same names are replaced."""

    precision: Precision = "auto"
    """Compute type. `auto`: float32 on a CPU, else that of the run."""

    def check(self) -> None:
        """Raise `UserError` unless all settings are in range."""
        given = [name for name in (self.run_dir, self.official) if name]
        require(
            len(given) == 1,
            "A model must be named by one of `--run-dir` and `--official`: got "
            f"{len(given)} of them. Give one.",
        )
        require_not_negative(self, "steps")
        if self.out:
            require_pillow()


# -- from Python -----------------------------------------------------------------------


def run_kind(run: LoadedRun) -> Kind:
    """The kind of puzzle that a run has been trained on.

    That which the dataset says where it is at hand, else what the sizes suggest.

    Raises:
        UserError: if it is no run of a TRM.
    """
    require(
        run.kind == "trm",
        f"Puzzles must be given to a run of `train.trm`: this one is of "
        f"`train.{run.kind}`. Name another with `--run-dir`.",
    )
    vocab, seq = run.sizes["vocab"], run.sizes["seq"]
    name = None
    with suppress(UserError, OSError):
        metadata = Metadata.read(local_dataset(run.config.data.paths[0]) / "train")
        if (metadata.vocab_size, metadata.seq_len) == (vocab, seq):
            name = metadata.kind
    return kind_of(name, seq, vocab)


def load_official(source: str, given: Given | None = None) -> LoadedRun:
    """An official checkpoint as if it were a run; see `read_official`.

    Raises:
        UserError: if there is none, or it is of no model that is known.
    """
    official, path = read_official(source, given)
    if official.notes:
        warnings.warn(
            f"Not told by {source}, so taken: {', '.join(official.notes)}. Where that "
            "is wrong, import it with `python -m trm.convert`, which has options.",
            stacklevel=2,
        )
    config = train_config(official.config, official.options)
    model, rows = build_official(official, config)
    step = step_of(path.name) or 0
    return LoadedRun("trm", config, model, make_table(rows), step, official.sizes)


def solve(
    run: LoadedRun,
    puzzles: str | Integer[np.ndarray, "puzzles seq"] | Sequence[Question],
    *,
    steps: int = 0,
    precision: Precision = "auto",
    kind: Kind | None = None,
) -> list[Solution]:
    """What a trained model makes of puzzles, step by step.

    Args:
        run: of a TRM.
        puzzles: as text, as the command takes it, or as tokens.
        steps: supervision steps to make; 0: those of training.
        precision: compute type. `auto`: float32 on a CPU, else that of the run.
        kind: how puzzles are written, checked and drawn. None: as `run_kind` says.

    Raises:
        UserError: if a puzzle is none of this run's kind and size.
    """
    kind = kind or run_kind(run)
    seq, vocab = run.sizes["seq"], run.sizes["vocab"]
    if isinstance(puzzles, str):
        questions = kind.read(puzzles)
    elif isinstance(puzzles, np.ndarray):
        questions = [
            Question(f"puzzle {number}", tokens)
            for number, tokens in enumerate(puzzles, start=1)
        ]
    else:
        questions = list(puzzles)
    for question in questions:
        tokens = question.tokens
        require(
            len(tokens) == seq and 0 <= int(tokens.min()) <= int(tokens.max()) < vocab,
            f"A puzzle of this run must be {seq} tokens of 0 .. {vocab - 1}: "
            f"{question.name} is {len(tokens)} of {tokens.min()} .. {tokens.max()}. "
            "Ask a run of its kind and size.",
        )
    require(bool(questions), "There must be a puzzle to solve: got none. Give one.")
    told = think(
        run,
        np.stack([question.tokens for question in questions]),
        ids=table_rows(
            [question.identifier for question in questions],
            local_dataset(run.config.data.paths[0]),
            len(run.table.rows),
        ),
        steps=steps,
        precision=precision,
    )
    frames = (
        frames_of(kind, question, told.answers[:, i], told.q_halt[:, i])
        for i, question in enumerate(questions)
    )
    return [Solution(kind, *pair) for pair in zip(questions, frames, strict=True)]


def think(
    run: LoadedRun,
    inputs: Integer[np.ndarray, "puzzles seq"],
    *,
    ids: Integer[np.ndarray, " puzzles"] | None = None,
    steps: int = 0,
    precision: Precision = "auto",
) -> Trace:
    """The answers after each step, as NumPy arrays; see `solve`.

    `ids` are rows of the puzzle table; None: the blank one.
    """
    if precision == "auto":
        on_cpu = jax.default_backend() == "cpu"
        precision = "float32" if on_cpu else run.config.precision
    model, act = cast(run.model, jnp.dtype(precision)), run.config.act
    steps = steps or act.max_steps
    ids = np.zeros(len(inputs), np.int32) if ids is None else ids.astype(np.int32)

    def part(puzzle: Puzzle) -> Trace:
        return _trace(model, run.table.rows[puzzle.puzzle_id], puzzle, act, steps=steps)

    puzzles = Puzzle(inputs.astype(np.int32), np.zeros_like(inputs, np.int32), ids)
    return in_parts(part, puzzles, MOST_AT_ONCE)


_trace = eqx.filter_jit(trace)


# -- the command -----------------------------------------------------------------------


def read_puzzles(words: Sequence[str], kind: Kind) -> list[Question]:
    """The puzzles that words name or are; without words, those of standard input.

    Raises:
        UserError: if a file cannot be read, a puzzle is wrong, or there is none.
    """
    texts = [text_of(word) for word in words] if words else [(sys.stdin.read(), "")]
    questions = [question for text in texts for question in kind.read(*text)]
    require(
        bool(questions),
        "There must be a puzzle to solve: got none. Give one as an argument, in a file "
        "or on standard input.",
    )
    return questions


def main(args: Sequence[str] | None = None) -> None:
    """Run the command line `args` (None: the process's own).

    Raises:
        UserError: if an option, a file or a puzzle is wrong.
    """
    settings = tyro.cli(
        Settings, prog="python -m trm.solve", description=__doc__, args=args
    )
    settings.check()
    start(MeshConfig(), RunConfig())
    if settings.official:
        run = load_official(settings.official)
    else:
        run = load_run(settings.run_dir, settings.checkpoint)
    questions = read_puzzles(settings.puzzles, run_kind(run))
    for first in range(0, len(questions), MOST_AT_ONCE):
        some = questions[first : first + MOST_AT_ONCE]
        options = {"steps": settings.steps, "precision": settings.precision}
        for number, solution in enumerate(solve(run, some, **options), first + 1):
            show(solution, settings)
            if settings.out:
                files = write_pictures(solution, settings.out, f"puzzle-{number}")
                print(*files, sep="\n", file=sys.stderr)


def show(solution: Solution, settings: Settings) -> None:
    """Print a solution as the settings say."""
    if settings.show == "line":
        print(solution.kind.show(solution.answer), flush=True)
        return
    frames = solution.frames
    if settings.show == "answer":
        frames = (frames[0], frames[-1])
    width = shutil.get_terminal_size().columns
    print(draw_text(solution.kind, frames, width))
    print(f"\n{solution.question.name}\n{solution.conclusion}\n", flush=True)


if __name__ == "__main__":
    cli.run(main)
