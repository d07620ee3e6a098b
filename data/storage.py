"""Paths of this machine and of an object store (`gs://bucket/...`), used alike.

Those of a store are etils' `epath.Path`, which have the methods of pathlib's. What a
store does otherwise stands here: it knows no rename, no appending and no locks, but an
object is written whole or not at all.
"""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import fsspec
import fsspec.config
from etils import epath

from configs import UserError, require

AnyPath = Path | epath.Path
"""A path of this machine, or of an object store."""


def open_path(word: str | AnyPath) -> AnyPath:
    """The path that somebody has written.

    Raises:
        UserError: if it is one of a store that is not supported, or whose package is
            not installed.
    """
    if not isinstance(word, str) or "://" not in word:
        return word if isinstance(word, epath.Path) else Path(word)
    require(
        word.startswith("gs://"),
        f"A path must be of this machine or of Google Cloud Storage, `gs://...`: got "
        f"`{word}`. Mount the store, or copy what is there.",
    )
    require(
        find_spec("gcsfs") is not None,
        f"A path of Google Cloud Storage needs the package gcsfs: it is not installed, "
        f"and the path is `{word}`. Run `pip install -e '.[gcs]'`.",
    )
    # Else what other processes write would stay unseen.
    fsspec.config.conf.setdefault("gs", {})["use_listings_cache"] = False
    return epath.Path(word)


def is_remote(path: AnyPath) -> bool:
    """Whether the path is of an object store."""
    return isinstance(path, epath.Path)


def absolute(path: AnyPath) -> AnyPath:
    """The path from the root; that of a store begins at its bucket anyway."""
    return path.absolute() if isinstance(path, Path) else path


def file_system(path: AnyPath) -> Any:
    """The file system of a path of a store, of fsspec."""
    return fsspec.filesystem(str(path).partition("://")[0])


@contextmanager
def store_errors() -> Iterator[None]:
    """Errors of a store as the `OSError` that those of a disk are."""
    try:
        yield
    except (OSError, UserError):
        raise
    except Exception as error:
        said = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise OSError(f"the object store said: {said[:300]}") from error


def exists(path: AnyPath) -> bool:
    """Whether there is a file or a folder."""
    with store_errors():
        return path.exists()


def read_text(path: AnyPath) -> str:
    """The text of a file, whatever is in it."""
    with store_errors():
        return path.read_bytes().decode(errors="replace")


def write_whole(path: AnyPath, text: str) -> None:
    """Write a file such that a reader finds the one before or all of the new one."""
    if isinstance(path, Path):
        temporary = path.with_suffix(".tmp")
        temporary.write_text(text)
        temporary.replace(path)
    else:
        with store_errors():
            path.write_text(text)


def create(path: epath.Path, text: str) -> bool:
    """Write an object unless there is one; whether it was written."""
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
    """Add text to the end of a file, which need not be there yet."""
    if isinstance(path, Path):
        with path.open("a") as file:
            file.write(text)
    else:
        write_whole(path, (read_text(path) if exists(path) else "") + text)


def move_folder(source: AnyPath, target: AnyPath) -> None:
    """Move a folder to where there may be another, which is removed.

    (A rename in a store is a copy of each object; asking for it as such is slower.)
    """
    if isinstance(source, Path):
        shutil.rmtree(target, ignore_errors=True)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.move(source, target)
    else:
        with store_errors():
            files = file_system(source)
            if files.exists(str(target)):
                files.rm(str(target), recursive=True)
            files.copy(str(source), str(target), recursive=True)
            files.rm(str(source), recursive=True)


def upload(folder: Path, target: epath.Path) -> None:
    """Copy what is in a folder of this machine to a store."""
    with store_errors():
        file_system(target).put(f"{folder}/", f"{target}/", recursive=True)
