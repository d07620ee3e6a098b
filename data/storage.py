"""Paths of this machine and of an object store (`gs://bucket/...`), used alike.

Paths of a store are `epath.Path` of etils, with the methods of `pathlib.Path`. A store
has no rename, no appending and no locks; an object is written whole or not at all.
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
        line = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise OSError(f"object store: {line[:300]}") from error


def exists(path: AnyPath) -> bool:
    """Return True if there is a file or a folder."""
    with store_errors():
        return path.exists()


def read_text(path: AnyPath) -> str:
    """Return the text of a file; bytes that are no text are replaced."""
    with store_errors():
        return path.read_bytes().decode(errors="replace")


def write_whole(path: AnyPath, text: str) -> None:
    """Replace a file so that a reader sees all of the old text or of the new."""
    if isinstance(path, Path):
        temporary = path.with_suffix(".tmp")
        temporary.write_text(text)
        temporary.replace(path)
    else:
        with store_errors():
            path.write_text(text)


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
        with path.open("a") as file:
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
