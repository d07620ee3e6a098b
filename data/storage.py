"""Paths of this machine and of an object store (`gs://bucket/...`), used alike.

Paths of a store are `epath.Path` of etils, with the methods of `pathlib.Path`. A store
has no rename, no appending and no locks; an object is written whole or not at all.
"""

import errno
import io
import os
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import IO, Any

import fsspec
import fsspec.config
from etils import epath

from configs import UserError, first_line, require

AnyPath = Path | epath.Path
"""A path of this machine or of an object store."""


def open_path(word: str | AnyPath) -> AnyPath:
    """Return the path in a string.

    Raises:
        UserError: if its store is not supported, or the package for it is missing.
    """
    if not isinstance(word, str) or "://" not in word:
        return word if isinstance(word, epath.Path) else Path(word)
    require(
        word.startswith("gs://"),
        f"Paths are of this machine or of Google Cloud Storage (`gs://...`): got "
        f"`{word}`. Mount the store, or copy its files.",
    )
    require(
        find_spec("gcsfs") is not None,
        f"`{word}` needs the package gcsfs: run `pip install -e '.[gcs]'`.",
    )
    # Without this, files that other processes write stay invisible.
    fsspec.config.conf.setdefault("gs", {})["use_listings_cache"] = False
    return epath.Path(word)


def is_remote(path: AnyPath) -> bool:
    """Return True for a path of an object store."""
    return isinstance(path, epath.Path)


def absolute(path: AnyPath) -> AnyPath:
    """Return the path from the root; paths of a store are absolute."""
    return path.absolute() if isinstance(path, Path) else path


def file_system(path: AnyPath) -> Any:
    """Return the fsspec file system of a path of a store."""
    return fsspec.filesystem(str(path).partition("://")[0])


@contextmanager
def store_errors() -> Iterator[None]:
    """Turn errors of a store into an `OSError`."""
    try:
        yield
    except (OSError, UserError):
        raise
    except Exception as error:
        raise OSError(f"object store: {first_line(error)}") from error


def exists(path: AnyPath) -> bool:
    """Return True if there is a file or a folder."""
    with store_errors():
        return path.exists()


def read_text(path: AnyPath) -> str:
    """Return the text of a file; bytes that are no text are replaced."""
    with store_errors():
        return path.read_bytes().decode("utf-8-sig", errors="replace")


def lacks_room(error: BaseException) -> bool:
    """Return True if an error says that a disk or a quota is full."""
    full = os.strerror(errno.ENOSPC), os.strerror(errno.EDQUOT)
    return any(words in str(error) for words in full)


def is_run(folder: AnyPath) -> bool:
    """Return True for the directory of a run."""
    with store_errors():
        return (folder / "config.json").is_file() and (folder / "checkpoints").is_dir()


def require_outside_runs(path: AnyPath) -> None:
    """Raise `UserError` if an output would change the directory of a run.

    Only its folder `evaluations` is for outputs of other commands.
    """
    real = Path(os.path.realpath(path)) if isinstance(path, Path) else path
    for folder in real.parents:
        require(
            real.is_relative_to(folder / "evaluations") or not is_run(folder),
            f"A run's directory is written by its run alone: got `{path}`. Choose "
            f"another path, or one in `{folder / 'evaluations'}`.",
        )


def require_writable(path: AnyPath) -> None:
    """Make the folder of a file, and check that the file can be written.

    Raises:
        UserError: if it cannot, or is in the directory of a run.
    """
    require_outside_runs(path)
    try:
        with store_errors():
            path.parent.mkdir(parents=True, exist_ok=True)
            if path.is_dir():
                raise IsADirectoryError("it is a folder")
            if not _is_device(path):
                unfinished = _unfinished(path)
                unfinished.write_bytes(b"")
                unfinished.unlink()
    except OSError as error:
        raise UserError(
            f"Could not write `{path}` ({error}). Choose another path."
        ) from error


@contextmanager
def whole_file(path: AnyPath) -> Iterator[IO[bytes]]:
    """Yield a file to write, which replaces `path` at the end if there is no error.

    A reader sees all of the old content or all of the new, whatever ends the process.
    """
    if not isinstance(path, Path):
        content = io.BytesIO()
        yield content
        with store_errors():
            path.write_bytes(content.getvalue())
    elif _is_device(path):
        with path.open("wb") as file:
            yield file
    else:
        path = path.resolve()  # a link stays a link
        unfinished = _unfinished(path)
        try:
            with unfinished.open("xb") as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            unfinished.replace(path)
        finally:
            unfinished.unlink(missing_ok=True)


def _unfinished(path: AnyPath) -> AnyPath:
    """Return a new path in the folder of `path`."""
    return path.with_name(f".unfinished-{uuid.uuid4().hex}")


def _is_device(path: AnyPath) -> bool:
    """Return True for something like `/dev/null` or a pipe, which is never replaced."""
    return isinstance(path, Path) and path.exists() and not path.is_file()


def write_whole(path: AnyPath, text: str) -> None:
    """Write a text as `whole_file` does."""
    with whole_file(path) as file:
        file.write(text.encode(errors="backslashreplace"))


def create(path: epath.Path, text: str) -> bool:
    """Write an object; return False, without a change, if it exists already."""
    try:
        with store_errors():
            files = file_system(path)
            if files.exists(str(path)):
                return False
            files.pipe_file(str(path), text.encode(), mode="create")
    except FileExistsError:
        return False
    return True


def append_text(path: AnyPath, text: str) -> None:
    """Append text to a file, which may be missing."""
    if isinstance(path, Path):
        with path.open("a", encoding="utf-8") as file:
            file.write(text)
    else:
        write_whole(path, (read_text(path) if exists(path) else "") + text)


def move_folder(source: AnyPath, target: AnyPath) -> None:
    """Move a folder, in place of an existing `target`."""
    if isinstance(source, Path):
        shutil.rmtree(target, ignore_errors=True)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.move(source, target)
    else:
        with store_errors():
            files = file_system(source)  # it copies faster than it renames
            if files.exists(str(target)):
                files.rm(str(target), recursive=True)
            files.copy(str(source), str(target), recursive=True)
            files.rm(str(source), recursive=True)


def upload(folder: Path, target: epath.Path) -> None:
    """Copy the content of a folder of this machine to a store."""
    with store_errors():
        file_system(target).put(f"{folder}/", f"{target}/", recursive=True)
