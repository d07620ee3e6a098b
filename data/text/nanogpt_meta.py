"""`meta.pkl`: the vocabulary that nanoGPT writes beside a dataset of characters."""

import pickle
from pathlib import Path
from typing import NoReturn

from configs import require


def read_characters(path: Path) -> str:
    """Return the characters of the vocabulary, in the order of their tokens.

    Nothing in the file can run: a pickle of dicts, strings and numbers names no
    function or class, and one that does is refused.

    Raises:
        ValueError: if the file is anything else, or lacks a vocabulary.
    """
    try:
        with path.open("rb") as file:
            meta = _PlainUnpickler(file).load()
        size, numbers = meta["vocab_size"], meta["stoi"]
        characters = "".join(sorted(numbers, key=numbers.__getitem__))
        found = [numbers[character] for character in characters]
    except Exception as error:
        raise _bad(path, f"{type(error).__name__}: {error}") from None
    require(found == list(range(size)), str(_bad(path, "its numbers are not 0, 1, ..")))
    return characters


class _PlainUnpickler(pickle.Unpickler):
    """Reads plain values only."""

    def find_class(self, module: str, name: str, /) -> NoReturn:
        """Refuse every function and class."""
        raise pickle.UnpicklingError(f"it asks for {module}.{name}")


def _bad(path: Path, what: str) -> ValueError:
    """Return the error for a file that can't be used."""
    return ValueError(
        "nanoGPT's `meta.pkl` must be a dict of `vocab_size` and of `stoi`, a number "
        f"for each character: {path} is not ({what}). Make it again with nanoGPT's "
        "`prepare.py`, or build the dataset with `python -m data.prepare`."
    )
