"""`metrics.jsonl`: one object a line, which survives whatever ends the run."""

import json
import os
import warnings
from collections.abc import Iterable
from pathlib import Path
from typing import Any


def parse_lines(lines: Iterable[str]) -> tuple[list[dict[str, Any]], list[str]]:
    """The lines that say of which step they are, and the others that say anything."""
    good, bad = [], []
    for line in lines:
        try:
            row = json.loads(line)
            if not isinstance(row["step"], int):
                raise TypeError
            good.append(row)
        except (ValueError, KeyError, TypeError, RecursionError):
            bad += [line] if line.strip() else []
    return good, bad


def scores(folder: Path, done: int | None = None) -> dict[int, float | None]:
    """The score of each step that the metrics of a run have an evaluation of.

    None is that of an evaluation by the first version, which wrote none.

    Args:
        folder: of the run.
        done: the last step to look at; None for all.
    """
    path = folder / "metrics.jsonl"
    if not path.exists():
        return {}
    rows, _ = parse_lines(path.read_text(errors="replace").splitlines())
    return {
        row["step"]: row.get("score")
        for row in rows
        if row.get("split") == "eval" and (done is None or row["step"] <= done)
    }


def truncate(path: Path, step: int) -> None:
    """Drop what a file of metrics says of steps after `step`: they come again.

    Lines that cannot be read are moved to a file beside it, with a warning; but the end
    of a line that was being written when the run was killed is dropped.
    """
    if not path.exists():
        return
    lines = path.read_text(errors="replace").splitlines(keepends=True)
    if lines and not lines[-1].endswith("\n"):
        lines.pop()
    rows, bad = parse_lines(lines)
    if bad:
        aside = path.with_name("metrics.unreadable")
        with aside.open("a") as file:
            file.writelines(bad)
        warnings.warn(
            f"Every line of `{path}` must be a JSON object with a step: {len(bad)} are "
            f"not, and were moved to `{aside}`. The others were kept.",
            stacklevel=2,
        )
    temporary = path.with_suffix(".tmp")
    kept = [json.dumps(row) + "\n" for row in rows if row["step"] <= step]
    temporary.write_text("".join(kept))
    temporary.replace(path)


class MetricsFile:
    """A file to append lines to; if it is removed meanwhile, it is written again."""

    def __init__(self, path: Path):
        self._path = path
        self._file = path.open("a+")

    def append(self, row: dict[str, Any]) -> None:
        """Write a line, at once."""
        if not self._is_there():
            self._file.seek(0)
            everything = self._file.read()
            self._file.close()
            self._file = self._path.open("a+")
            self._file.write(everything)
            warnings.warn(
                f"`{self._path}` was removed while the run was going on: it was "
                "written again.",
                stacklevel=2,
            )
        self._file.write(json.dumps(row) + "\n")
        self._file.flush()

    def _is_there(self) -> bool:
        try:
            return self._path.stat().st_ino == os.fstat(self._file.fileno()).st_ino
        except FileNotFoundError:
            return False

    def close(self) -> None:
        """Close the file."""
        self._file.close()
