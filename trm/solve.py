"""Puzzles solved by a trained model: `python -m trm.solve --run-dir RUN PUZZLE ...`.

    python -m trm.solve --run-dir RUN .53..61...255.6.3.3..6..43...26.25.3
    python -m trm.solve --run-dir RUN puzzles.txt --steps 16 --out pictures
    cat puzzles.txt | python -m trm.solve --run-dir RUN --show line

A puzzle is a line as this kind of puzzle is written (Sudoku: a character a cell, `.` or
`0` where it is empty), or a file of such. The same from Python:

    run = load_run("runs/quickstart")
    (solution,) = solve(run, ".53..61...255.6.3.3..6..43...26.25.3")
    print(solution)
"""

if not __package__:
    raise SystemExit("Run it as a module, from the project's root: python -m trm.solve")
from train import cli

if __name__ == "__main__":
    cli.begin()  # before JAX is there

import shutil
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
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
from data.puzzles.kinds import Kind, Question, kind_of
from data.puzzles.render import guess_kind
from train.devices import start
from train.run_dir import LoadedRun, load_run
from trm.draw import draw_sheet, require_pillow, write_animation
from trm.frames import Solution, draw_text, frames_of
from trm.model import cast
from trm.page import write_page
from trm.trace import Trace, trace

__all__ = ["load_run", "run_kind", "solve", "think", "write_pictures"]

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

    checkpoint: Literal["best", "newest"] = "best"
    """Which checkpoint of the run."""

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
        require(
            bool(self.run_dir),
            "A model must be named: got no `--run-dir`. Give the folder of a run of "
            "`train.trm`.",
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
    try:
        name = Metadata.read(Path(run.config.data.paths[0]) / "train").kind
    except (UserError, OSError):
        name = None
    return kind_of(name or guess_kind(seq, vocab), seq, vocab)


def solve(
    run: LoadedRun,
    puzzles: str | Integer[np.ndarray, "puzzles seq"] | Sequence[Question],
    *,
    steps: int = 0,
    precision: Precision = "auto",
) -> list[Solution]:
    """What a trained model makes of puzzles, step by step.

    Args:
        run: of a TRM.
        puzzles: as text, as the command takes it, or as tokens.
        steps: supervision steps to make; 0: those of training.
        precision: compute type. `auto`: float32 on a CPU, else that of the run.

    Raises:
        UserError: if a puzzle is none of this run's kind and size.
    """
    kind, seq, vocab = run_kind(run), run.sizes["seq"], run.sizes["vocab"]
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
        run, np.stack([q.tokens for q in questions]), steps=steps, precision=precision
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
    steps: int = 0,
    precision: Precision = "auto",
) -> Trace:
    """The answers after each step, as NumPy arrays; see `solve`."""
    if precision == "auto":
        on_cpu = jax.default_backend() == "cpu"
        precision = "float32" if on_cpu else run.config.precision
    model, act = cast(run.model, jnp.dtype(precision)), run.config.act
    steps = steps or act.max_steps
    at_once = min(len(inputs), MOST_AT_ONCE)
    rows = jnp.broadcast_to(run.table[0], (at_once, run.table.shape[1]))
    parts = []
    for first in range(0, len(inputs), at_once):
        part = inputs[first : first + at_once].astype(np.int32)
        # A last batch of fewer puzzles would be compiled again.
        padded = np.resize(part, (at_once, part.shape[1]))
        blank = np.zeros(at_once, np.int32)
        puzzle = Puzzle(padded, np.zeros_like(padded), blank)
        told = jax.device_get(_trace(model, rows, puzzle, act, steps=steps))
        parts.append([array[:, : len(part)] for array in told])
    return Trace(
        *(np.concatenate(arrays, axis=1) for arrays in zip(*parts, strict=True))
    )


_trace = eqx.filter_jit(trace)


def write_pictures(solution: Solution, folder: str | Path, name: str) -> list[Path]:
    """The files that show a solution: `name` with `.png`, `.gif` and `.html`.

    Raises:
        UserError: if Pillow is missing.
    """
    require_pillow()
    kind, frames = solution.kind, solution.frames
    Path(folder).mkdir(parents=True, exist_ok=True)
    png, gif, page = (Path(folder) / f"{name}.{end}" for end in ("png", "gif", "html"))
    draw_sheet(kind, frames).save(png, optimize=True)
    write_animation(gif, kind, frames)
    write_page(page, kind, frames, solution.question.name, solution.conclusion)
    return [png, gif, page]


# -- the command -----------------------------------------------------------------------


def read_puzzles(words: Sequence[str], kind: Kind) -> list[Question]:
    """The puzzles that words name or are; without words, those of standard input.

    Raises:
        UserError: if a file cannot be read, a puzzle is wrong, or there is none.
    """
    texts = [_text(word) for word in words] if words else [sys.stdin.read()]
    questions = [question for text in texts for question in kind.read(text)]
    require(
        bool(questions),
        "There must be a puzzle to solve: got none. Give one as an argument, in a file "
        "or on standard input.",
    )
    return questions


def _text(word: str) -> str:
    """What is in the file of this name, or else the word itself."""
    try:
        path = Path(word)
        return path.read_text(encoding="utf-8") if path.is_file() else word
    except OSError:  # too long for a name
        return word
    except UnicodeDecodeError as error:
        raise UserError(
            f"Puzzles must be text in UTF-8: `{word}` is not ({error}). Check the path."
        ) from error


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
    run = load_run(settings.run_dir, settings.checkpoint)
    questions = read_puzzles(settings.puzzles, run_kind(run))
    solutions = solve(
        run, questions, steps=settings.steps, precision=settings.precision
    )
    for number, solution in enumerate(solutions, start=1):
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
    with cli.clean_exit():
        main()
