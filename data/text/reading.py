"""Read text files, and read a text dataset's metadata.

Text is a stream of pieces, so files may be larger than memory.
"""

import codecs
import gzip
import io
import json
import pickle
import re
import zlib
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple, NoReturn

from configs import UserError, require

ABOUT = "dataset.json"
CHUNK = 1 << 20  # bytes read at once
CUT = re.compile(r"[ \n](?=[^\s<])")  # a `<` might begin `<|endoftext|>`


class Survey(NamedTuple):
    """The length of a text, and its different characters in order."""

    length: int
    characters: str


def survey(chunks: Iterable[str]) -> Survey:
    """Return the length and the characters of the text in `chunks`."""
    length, characters = 0, set()
    for chunk in chunks:
        length += len(chunk)
        characters |= set(chunk)
    return Survey(length, "".join(sorted(characters)))


def read_text(paths: Sequence[str | Path]) -> Iterator[str]:
    r"""Yield the text of the files in order; every line ends in `\n`.

    Args:
        paths: UTF-8 files, with or without a byte order mark; `.gz` files are unpacked.

    Raises:
        UserError: if a file is missing, damaged or not UTF-8.
    """
    for path in paths:
        yield from _read_file(Path(path))


def between(chunks: Iterable[str], start: int, stop: int) -> Iterator[str]:
    """Yield the characters `start` to `stop` of a text."""
    at = 0
    for chunk in chunks:
        if at >= stop:
            return
        if at + len(chunk) > start:
            yield chunk[max(start - at, 0) : stop - at]
        at += len(chunk)


def cut(chunks: Iterable[str], size: int) -> Iterator[str]:
    r"""Yield a text in pieces whose joined GPT-2 tokens are the tokens of the text.

    A cut is made before a space or line end followed by a visible character. GPT-2's
    pattern always ends a word there: it splits off the last character of a run of white
    space (`\s+(?!\S)`), unless the run ends the text. (`<|endoftext|>` ends a text, so
    there is no cut before it.)

    Args:
        chunks: the text in any pieces.
        size: least characters of a piece, except the last; 1 or more.
    """
    text, searched = "", 0
    for chunk in chunks:
        text += chunk
        while match := CUT.search(text, max(size, searched)):
            yield text[: match.start()]
            text, searched = text[match.start() :], 0
        searched = max(len(text) - 1, 0)  # the last character's successor is unknown
    if text:
        yield text


def _read_file(path: Path) -> Iterator[str]:
    """Yield the text of one file."""
    require(path.is_file(), f"Text file not found: {path}. Check the path.")
    utf8 = codecs.getincrementaldecoder("utf-8-sig")()
    decoder = io.IncrementalNewlineDecoder(utf8, translate=True)
    done = 0  # bytes read
    try:
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
            while data := file.read(CHUNK):
                done += len(data)
                yield decoder.decode(data)
            yield decoder.decode(b"", final=True)
    except UnicodeDecodeError as error:
        raise UserError(
            f"A text file must be UTF-8: {path} is not, at byte "
            f"{done - len(error.object) + error.start} ({error.reason}). Convert it, "
            "for example with `iconv -t utf-8`."
        ) from None
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise UserError(
            f"Damaged `.gz` file: {path} ({error}). Copy or download it again."
        ) from None


def read_about(folder: Path) -> dict[str, object] | None:
    """Return the content of a text dataset's `dataset.json`; None without the file.

    Raises:
        UserError: if the file is damaged.
    """
    path = folder / ABOUT
    if not path.is_file():
        return None
    try:
        about = json.loads(path.read_text(encoding="utf-8-sig"))
    except (ValueError, RecursionError) as error:
        about = f"{type(error).__name__}: {error}"
    if isinstance(about, dict):
        return about
    raise UserError(
        f"`{ABOUT}` must be a JSON object: got {str(about)[:60]} in {path}. Build the "
        "dataset again with `python -m data.prepare`."
    )


def read_characters(path: Path) -> str:
    """Return the characters of nanoGPT's vocabulary, in the order of their tokens.

    Nothing in the pickle can run: functions and classes are refused.

    Raises:
        UserError: if the file has another form.
    """
    try:
        with path.open("rb") as file:
            meta = _PlainUnpickler(file).load()
        size, numbers = meta["vocab_size"], meta["stoi"]
        characters = "".join(sorted(numbers, key=numbers.__getitem__))
        tokens = [numbers[character] for character in characters]
    except Exception as error:
        raise _bad(path, f"{type(error).__name__}: {error}") from None
    require(tokens == list(range(size)), str(_bad(path, "tokens are not 0, 1, ..")))
    return characters


class _PlainUnpickler(pickle.Unpickler):
    """An unpickler of plain values."""

    def find_class(self, module: str, name: str, /) -> NoReturn:
        """Refuse every function and class."""
        raise pickle.UnpicklingError(f"it contains {module}.{name}")


def _bad(path: Path, what: str) -> UserError:
    """Return the error for an unusable file."""
    return UserError(
        "nanoGPT's `meta.pkl` must be a dict of `vocab_size` and of `stoi`, a number "
        f"for each character: got {path} ({what}). Make it again with nanoGPT's "
        "`prepare.py`, or build the dataset with `python -m data.prepare`."
    )
