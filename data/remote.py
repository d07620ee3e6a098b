"""Datasets of an object store, copied once to this machine.

The name of a copy in the cache contains a hash of the files in the store, so a changed
dataset is copied again. A copy is complete or absent, and its content is checked.
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
"""Folder of the copies; overridden by `TINY_RECURSIVE_JAX_DATASETS`."""


def local_dataset(path: str | AnyPath) -> Path:
    """Return the folder of a dataset on this machine; copy it first if in a store.

    Raises:
        UserError: if there is no dataset, or a copied file differs from the original.
    """
    path = open_path(path)
    return path if isinstance(path, Path) else _copied(str(path))


@cache
def _copied(address: str) -> Path:
    """Return the folder of a copy of a dataset in a store; make it if missing."""
    files = _files(address)
    version = hashlib.sha256(
        repr((address, sorted(files.items()))).encode()
    ).hexdigest()
    folder = os.path.expanduser(os.environ.get("TINY_RECURSIVE_JAX_DATASETS") or CACHE)
    require(
        not folder.startswith("~"),
        f"`{folder}` needs a home directory, and this user has none. Set "
        "TINY_RECURSIVE_JAX_DATASETS to a folder for copies of datasets.",
    )
    out = Path(folder) / f"{address.rsplit('/', 1)[-1]}-{version[:16]}"
    with only_maker(out, address):
        if not out.is_dir():
            say(f"copying {address} to {out}")
            with new_folder(out) as unfinished:
                for name, (size, digest) in files.items():
                    _copy(address, name, unfinished / name, size, digest)
    return out


def _files(address: str) -> dict[str, tuple[int, str]]:
    """Return size and MD5 sum (of composed files: another tag) of a dataset's files."""
    path = open_path(address)
    with store_errors():
        listed = file_system(path).find(str(path), detail=True)
    top = address.partition("://")[2].rstrip("/") + "/"
    require(
        bool(listed),
        f"Dataset not found: {address}. Check the address, or build one with "
        "`python -m data.prepare` and copy it there.",
    )
    return {
        name.removeprefix(top): (about["size"], about.get("md5Hash") or about["etag"])
        for name, about in listed.items()
        if not name.endswith("/") and "/." not in f"/{name.removeprefix(top)}"
    }


def _copy(address: str, name: str, out: Path, size: int, digest: str) -> None:
    """Copy a file.

    Raises:
        UserError: if the copy has another size or MD5 sum.
    """
    out.parent.mkdir(parents=True, exist_ok=True)
    source = open_path(f"{address.rstrip('/')}/{name}")
    with store_errors():
        file_system(source).get_file(str(source), str(out))
    with out.open("rb") as file:
        md5 = base64.b64encode(hashlib.file_digest(file, "md5").digest()).decode()
    is_md5 = len(digest) == 24 and digest.endswith("==")
    if out.stat().st_size != size or (is_md5 and md5 != digest):
        raise UserError(
            f"The copy of `{source}` has {out.stat().st_size:,} bytes and the MD5 sum "
            f"{md5}, not {size:,} and {digest}. Repeat the command."
        )
