"""`metrics.jsonl`: one object a line, which survives whatever ends the run."""

import json
import os
import threading
import warnings
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from configs import RunError
from data.storage import AnyPath, append_text, exists, read_text, write_whole
from train.runs.periodic import Periodic

WAIT = 10.0
"""Seconds until a line is written to an object store, at the latest."""


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


def scores(folder: AnyPath, done: int | None = None) -> dict[int, float | None]:
    """The score of each step that the metrics of a run have an evaluation of.

    None is that of an evaluation by the first version, which wrote none.

    Args:
        folder: of the run.
        done: the last step to look at; None for all.
    """
    path = folder / "metrics.jsonl"
    if not exists(path):
        return {}
    rows, _ = parse_lines(read_text(path).splitlines())
    return {
        row["step"]: row.get("score")
        for row in rows
        if row.get("split") == "eval" and (done is None or row["step"] <= done)
    }


def truncate(path: AnyPath, step: int) -> None:
    """Drop what a file of metrics says of steps after `step`: they come again.

    Lines that cannot be read are moved to a file beside it, with a warning; but the end
    of a line that was being written when the run was killed is dropped.
    """
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
            f"Every line of `{path}` must be a JSON object with a step: {len(bad)} are "
            f"not, and were moved to `{aside}`. The others were kept.",
            stacklevel=2,
        )
    kept = [json.dumps(row) + "\n" for row in rows if row["step"] <= step]
    write_whole(path, "".join(kept))


@runtime_checkable
class MetricsWriter(Protocol):
    """What lines of metrics are added to."""

    def append(self, row: dict[str, Any]) -> None:
        """Add a line."""

    def flush(self) -> None:
        """Return when every line is where it stays, however the run ends."""

    def close(self) -> None:
        """Write what is left."""


def _unwritable(path: AnyPath, error: OSError) -> RunError:
    return RunError(
        f"`{path}` must be writable: it is not any more ({error}). The checkpoints "
        "before are kept. Once it is, the same command goes on."
    )


def open_metrics(path: AnyPath) -> MetricsWriter:
    """The metrics of a run, to add lines to."""
    return MetricsFile(path) if isinstance(path, Path) else MetricsObject(path)


class MetricsFile:
    """A file to append lines to; if it is removed meanwhile, it is written again."""

    def __init__(self, path: Path):
        self._path = path
        self._file = path.open("a+")

    def append(self, row: dict[str, Any]) -> None:
        """Write a line, at once.

        Raises:
            RunError: if it cannot be written.
        """
        try:
            self._append(json.dumps(row) + "\n")
        except OSError as error:
            raise _unwritable(self._path, error) from error

    def _append(self, line: str) -> None:
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
        self._file.write(line)
        self._file.flush()

    def _is_there(self) -> bool:
        try:
            return self._path.stat().st_ino == os.fstat(self._file.fileno()).st_ino
        except FileNotFoundError:
            return False

    def flush(self) -> None:
        """Do nothing: a line is written at once."""

    def close(self) -> None:
        """Close the file."""
        with suppress(OSError):  # of a line that could not be written
            self._file.close()


class MetricsObject:
    """The same in an object store, where nothing can be added to what is there.

    All lines are written again at every flush, which comes before each checkpoint, and
    `WAIT` seconds after a line at the latest. So a run that is killed has lost none of
    what comes before the checkpoint that it goes on from.
    """

    def __init__(self, path: AnyPath):
        self._path = path
        self._text = read_text(path) if exists(path) else ""
        self._written, self._writing = self._text, threading.Lock()
        self._thread = Periodic(self._try_to_flush, WAIT)

    def append(self, row: dict[str, Any]) -> None:
        """Add a line, which is written soon."""
        self._text += json.dumps(row) + "\n"

    def flush(self) -> None:
        """Write all lines.

        Raises:
            RunError: if they cannot be written.
        """
        try:
            with self._writing:
                text = self._text
                if text != self._written:
                    write_whole(self._path, text)
                self._written = text
        except OSError as error:
            raise _unwritable(self._path, error) from error

    def _try_to_flush(self) -> None:
        with suppress(RunError):  # the next flush will tell
            self.flush()

    def close(self) -> None:
        """Write what is left."""
        self._thread.close()
        self.flush()
