"""`metrics.jsonl`: one JSON object per line, readable whatever ended the run."""

import json
import warnings
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from configs import RunError
from data.storage import AnyPath, append_text, exists, read_text, write_whole


def parse_lines(lines: Iterable[str]) -> tuple[list[dict[str, Any]], list[str]]:
    """Return the rows of numbers at a step, and the other lines that are not empty."""
    good, bad = [], []
    for line in lines:
        try:
            row = json.loads(line)
        except (ValueError, RecursionError):
            row = None
        if _is_row(row):
            good.append(row)
        elif line.strip():
            bad.append(line)
    return good, bad


def _is_row(row: Any) -> bool:
    """Return True for an object with a step, a split, and numbers or null."""
    if not isinstance(row, dict) or type(row.get("step")) is not int:
        return False
    numbers = [value for name, value in row.items() if name != "split"]
    return isinstance(row.get("split", ""), str) and all(
        isinstance(value, int | float | None) for value in numbers
    )


def read_rows(folder: AnyPath) -> list[dict[str, Any]]:
    """Return the readable rows of a run's metrics; none if there is no file."""
    path = folder / "metrics.jsonl"
    return parse_lines(read_text(path).splitlines())[0] if exists(path) else []


def scores(folder: AnyPath) -> dict[int, float]:
    """Return the score of every step whose evaluation is in a run's metrics."""
    rows = read_rows(folder)
    evaluated = [row for row in rows if row.get("split") == "eval"]
    scored = [row for row in evaluated if row.get("score") is not None]
    return {row["step"]: row["score"] for row in scored}


def without_split(
    numbers: Mapping[str, float | None],
) -> tuple[str, dict[str, float | None]]:
    """Return the split that all names begin with, `SPLIT/name`, and the rest."""
    values = {name.partition("/")[2]: value for name, value in numbers.items()}
    return next(iter(numbers)).partition("/")[0], values


class MetricsFile:
    """Metrics of a run, to append rows to.

    On a disk each row is written at once. An object cannot be appended to: in a store
    all rows are written at each `flush`, which precedes every checkpoint.

    Args:
        path: the file.
        step: the last step to keep; rows of later steps are dropped. Lines that are no
            rows are moved to a file beside it, with a warning, but for an incomplete
            last line.
    """

    def __init__(self, path: AnyPath, step: int):
        self._path = path
        self._lines: list[str] = []
        if not exists(path):
            return
        lines = read_text(path).splitlines(keepends=True)
        if lines and not lines[-1].endswith("\n"):
            lines.pop()
        rows, bad = parse_lines(lines)
        if bad:
            aside = path.with_name("metrics.unreadable")
            append_text(aside, "".join(bad))
            warnings.warn(
                f"{len(bad)} lines of `{path}` are no JSON objects with a step: they "
                f"were moved to `{aside}`.",
                stacklevel=2,
            )
        self._lines = [json.dumps(row) + "\n" for row in rows if row["step"] <= step]
        write_whole(path, "".join(self._lines))

    def log(self, numbers: Mapping[str, float | None], step: int) -> None:
        """Add the numbers of a step (a `Tracker`)."""
        split, values = without_split(numbers)
        self.append({"step": step, "split": split, **values})

    def append(self, row: dict[str, Any]) -> None:
        """Add a row; write all rows again if the file was removed.

        Raises:
            RunError: if it cannot be written.
        """
        new = [json.dumps(row) + "\n"]
        if isinstance(self._path, Path):
            if self._lines and not self._path.exists():
                warnings.warn(
                    f"`{self._path}` was removed during the run: it is written again.",
                    stacklevel=2,
                )
                new = self._lines + new
            with _write_errors(self._path):
                append_text(self._path, "".join(new))
        self._lines.append(new[-1])

    def flush(self) -> None:
        """Return when all rows are in the file.

        Raises:
            RunError: if they cannot be written.
        """
        if not isinstance(self._path, Path):
            with _write_errors(self._path):
                write_whole(self._path, "".join(self._lines))

    def close(self) -> None:
        """Flush."""
        self.flush()


@contextmanager
def _write_errors(path: AnyPath) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise RunError(
            f"Could not write `{path}` ({error}). The checkpoints before are kept: "
            "make it writable, and the same command resumes the run."
        ) from error
