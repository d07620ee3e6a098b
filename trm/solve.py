"""Solve puzzles with a trained model: `python -m trm.solve PUZZLE ...`.

    python -m trm.solve .53..61...255.6.3.3..6..43...26.25.3
    python -m trm.solve --run-dir RUN puzzles.txt --steps 16 --out pictures
    cat puzzles.txt | python -m trm.solve --run-dir RUN --show line

A Sudoku is a line with a character for each cell, `.` or `0` for an empty one. A maze
is a line of `#`, `.`, `S` and `G`, or in a file a line for each row. An ARC task is a
file of JSON. Without a run, the packaged model of the puzzle's kind and size answers.
From Python:

    run = load_run("sudoku-6x6")
    (solution,) = solve(run, ".53..61...255.6.3.3..6..43...26.25.3")
    print(solution)
"""

import shutil
import sys
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Annotated, Literal

import tyro
from tyro.conf import Positional

from configs import (
    CheckpointName,
    MeshConfig,
    RunConfig,
    UserError,
    require,
    require_not_negative,
    require_positive,
)
from data.puzzles.kind import Kind
from data.puzzles.kinds import kind_of
from data.puzzles.questions import Question, decode, text_of
from data.storage import open_path, require_writable
from train import cli
from train.devices import start
from train.runs.loading import load_run
from train.runs.published import packaged
from train.runs.record import recorded_run
from train.solving import (
    MOST_AT_ONCE,
    Precision,
    load_official,
    run_kind,
    solve,
    think,
)
from trm.show.frames import Solution, draw_text
from trm.show.pictures import require_pillow, write_pictures

__all__ = ["load_official", "load_run", "run_kind", "solve", "think", "write_pictures"]


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Puzzles, model, and output."""

    puzzles: Annotated[Positional[tuple[str, ...]], tyro.conf.arg(name="PUZZLE")] = ()
    """Puzzles, or files of puzzles. None: standard input."""

    run_dir: str = ""
    """Folder of a run of `train.trm`; or a published model: its folder, `owner/name` on
    the Hugging Face hub, or the name of a packaged one. Empty: the packaged model of
    the puzzles' kind and size."""

    official: str = ""
    """Instead of a run, an official checkpoint: a file, a folder with one, or a model
    of the Hugging Face hub, `owner/name` (extra `torch`, unless it is safetensors)."""

    checkpoint: CheckpointName = "best"
    """Checkpoint of the run: `best`, `newest` or a step."""

    steps: int = 0
    """Supervision steps to make, of any number; 0: the steps of training."""

    attempts: int = 1
    """Attempts at each puzzle, all but the first under a random symmetry of its kind.
    The one that the model is surest of is shown."""

    show: Literal["steps", "answer", "line"] = "steps"
    """`steps`: the board after each step. `answer`: the last board. `line`: the last
    board as a line in the question's form, for other programs."""

    out: str = ""
    """Folder for a PNG, a GIF and an HTML page of each puzzle (extra `show`). Existing
    files are replaced."""

    precision: Precision = "auto"
    """Compute type. `auto`: float32 on a CPU, else the run's."""

    def check(self) -> None:
        """Raise `UserError` unless all settings are in range."""
        given = [name for name in (self.run_dir, self.official) if name]
        require(
            len(given) <= 1,
            "Give one of `--run-dir` and `--official`: got both.",
        )
        require_not_negative(self, "steps")
        require_positive(self, "attempts")
        if self.out:
            require_pillow()
            require_writable(open_path(self.out) / "puzzle-1.png")


def read_texts(words: Sequence[str]) -> list[tuple[str, str]]:
    """Read the text and name of each argument, or of the file that it names.

    Without arguments standard input is read.

    Raises:
        UserError: if a file cannot be read.
    """
    if words:
        return [text_of(word) for word in words]
    return [(decode(sys.stdin.buffer.read(), "standard input"), "")]


def read_puzzles(texts: Sequence[tuple[str, str]], kind: Kind) -> list[Question]:
    """Read the puzzles in texts.

    Raises:
        UserError: if a puzzle is wrong, or there is none.
    """
    questions = [question for text in texts for question in kind.read(*text)]
    require(
        bool(questions),
        "There must be a puzzle to solve: got none. Give one as an argument, in a file "
        "or on standard input.",
    )
    return questions


def packaged_for(texts: Sequence[tuple[str, str]]) -> str:
    """Return the name of the packaged model whose kind reads these texts.

    Raises:
        UserError: if there is none.
    """
    records = {name: recorded_run(name)[1] for name in packaged()}
    sizes = {name: r["sizes"] for name, r in records.items() if r["kind"] == "trm"}
    for name, size in sizes.items():
        with suppress(UserError):
            read_puzzles(texts, kind_of(None, size["seq"], size["vocab"]))
            return name
    raise UserError(
        f"No packaged model reads these puzzles: there are {', '.join(sizes)}. Check "
        "the puzzles, or name a run with `--run-dir`."
    )


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
    texts = read_texts(settings.puzzles)
    if settings.official:
        run = load_official(settings.official)
    else:
        run = load_run(settings.run_dir or packaged_for(texts), settings.checkpoint)
    questions = read_puzzles(texts, run_kind(run))
    for first in range(0, len(questions), MOST_AT_ONCE):
        some = questions[first : first + MOST_AT_ONCE]
        solutions = solve(
            run,
            some,
            steps=settings.steps,
            attempts=settings.attempts,
            precision=settings.precision,
        )
        for number, solution in enumerate(solutions, first + 1):
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
