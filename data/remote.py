"""Datasets of an object store, copied once to this machine.

A copy stands in a cache under the name of what it is a copy of: of files that have
changed there is another. It appears whole or not at all, and its content is checked.
"""

import base64
import hashlib
import os
from functools import cache
from pathlib import Path

from configs import UserError, require
from data.folder import new_folder, only_maker, say
from data.storage import AnyPath, file_system, open_path, store_errors

CACHE = "~/.cache/tiny-recursive-jax/datasets"
"""Where copies stand; the variable `TINY_RECURSIVE_JAX_DATASETS` goes before it."""


def local_dataset(path: str | AnyPath) -> Path:
    """The folder of a dataset on this machine; that of a store is copied first.

    Raises:
        UserError: if there is none in the store, or a file comes in another form.
    """
    found = open_path(path)
    return found if isinstance(found, Path) else _copied(str(found))


@cache
def _copied(address: str) -> Path:
    """A copy of a dataset in a store, made now unless it is there."""
    files = _files(address)
    named = hashlib.sha256(repr((address, sorted(files.items()))).encode()).hexdigest()
    folder = os.environ.get("TINY_RECURSIVE_JAX_DATASETS") or CACHE
    out = Path(folder).expanduser() / f"{address.rsplit('/', 1)[-1]}-{named[:16]}"
    with only_maker(out, address):
        if not out.is_dir():
            say(f"copying {address} to {out}")
            with new_folder(out) as unfinished:
                for name, (size, digest) in files.items():
                    _copy(address, name, unfinished / name, size, digest)
    return out


def _files(address: str) -> dict[str, tuple[int, str]]:
    """The size and the MD5 sum of each file of a dataset; composed ones have no sum."""
    path = open_path(address)
    with store_errors():
        listed = file_system(path).find(str(path), detail=True)
    top = address.partition("://")[2].rstrip("/") + "/"
    require(
        bool(listed),
        f"A dataset must be an existing folder: there is none at `{address}`. Check "
        "the address, or build one with `python -m data.prepare` and copy it there.",
    )
    return {
        name.removeprefix(top): (about["size"], about.get("md5Hash") or about["etag"])
        for name, about in listed.items()
        if not name.endswith("/")
    }


def _copy(address: str, name: str, out: Path, size: int, digest: str) -> None:
    """Copy a file and check it.

    Raises:
        UserError: if it is not as the store says that it is.
    """
    out.parent.mkdir(parents=True, exist_ok=True)
    source = open_path(f"{address.rstrip('/')}/{name}")
    with store_errors():
        file_system(source).get_file(str(source), str(out))
    with out.open("rb") as file:
        found = base64.b64encode(hashlib.file_digest(file, "md5").digest()).decode()
    if out.stat().st_size != size or (_is_md5(digest) and found != digest):
        raise UserError(
            f"A copy must be what the store holds: that of `{source}` has "
            f"{out.stat().st_size:,} bytes and the MD5 sum {found}, not {size:,} and "
            f"{digest}. Give the same command again."
        )


def _is_md5(digest: str) -> bool:
    """Whether a digest is an MD5 sum in base 64, and not the tag of composed parts."""
    return len(digest) == 24 and digest.endswith("==")
