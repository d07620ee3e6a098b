"""What text becomes a dataset of, and what a dataset says of itself.

Text files come as a stream of pieces, so that none must fit into memory.
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
    """What a text consists of: its length, and its characters in order."""

    length: int
    characters: str


def survey(chunks: Iterable[str]) -> Survey:
    """What the text of `chunks` consists of."""
    length, characters = 0, set()
    for chunk in chunks:
        length += len(chunk)
        characters |= set(chunk)
    return Survey(length, "".join(sorted(characters)))


def read_text(paths: Sequence[str | Path]) -> Iterator[str]:
    r"""The text of the files, one after the other; every line ends in `\n`.

    Args:
        paths: of UTF-8 files; those ending in `.gz` are unpacked.

    Raises:
        UserError: if a file is missing, damaged or not UTF-8.
    """
    for path in paths:
        yield from _read_file(Path(path))


def between(chunks: Iterable[str], start: int, stop: int) -> Iterator[str]:
    """The characters `start` to `stop` of a text."""
    at = 0
    for chunk in chunks:
        if at >= stop:
            return
        if at + len(chunk) > start:
            yield chunk[max(start - at, 0) : stop - at]
        at += len(chunk)


def cut(chunks: Iterable[str], size: int) -> Iterator[str]:
    r"""A text in pieces whose GPT-2 tokens, joined, are the tokens of the whole.

    A cut is made before a space or line end that something visible follows. GPT-2's
    pattern ends a word there in any case: of a run of white space it takes all but the
    last character as one word (`\s+(?!\S)`), as it takes all of a run that ends the
    text. (So too before `<|endoftext|>`, where a cut would therefore part a word.)

    Args:
        chunks: the text in any pieces.
        size: least characters of a piece, but of the last; 1 or more.
    """
    text, searched = "", 0
    for chunk in chunks:
        text += chunk
        while found := CUT.search(text, max(size, searched)):
            yield text[: found.start()]
            text, searched = text[found.start() :], 0
        searched = max(len(text) - 1, 0)  # the last character's successor is unknown
    if text:
        yield text


def _read_file(path: Path) -> Iterator[str]:
    """The text of one file."""
    require(
        path.is_file(), f"A text file must exist: there is no {path}. Check the path."
    )
    utf8 = codecs.getincrementaldecoder("utf-8")()
    decoder = io.IncrementalNewlineDecoder(utf8, translate=True)
    done = held = 0  # bytes read, and those of a character that a read cut in two
    try:
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
            while data := file.read(CHUNK):
                held = len(utf8.getstate()[0])
                yield decoder.decode(data)
                done += len(data)
            held = len(utf8.getstate()[0])
            yield decoder.decode(b"", final=True)
    except UnicodeDecodeError as error:
        raise UserError(
            f"A text file must be UTF-8: {path} is not, at byte "
            f"{done - held + error.start} ({error.reason}). Convert it, for example "
            "with `iconv -t utf-8`."
        ) from None
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise UserError(
            f"A `.gz` file must be gzipped: {path} is damaged ({error}). "
            "Copy or download it again."
        ) from None


def read_about(folder: Path) -> dict[str, object] | None:
    """What `dataset.json` says of the dataset of text in `folder`; None without one.

    Raises:
        UserError: if the file is damaged.
    """
    path = folder / ABOUT
    if not path.is_file():
        return None
    try:
        about = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        about = f"{type(error).__name__}: {error}"
    if isinstance(about, dict):
        return about
    raise UserError(
        f"`{ABOUT}` must be a JSON object: {path} is not ({str(about)[:60]}). Build "
        "the dataset again with `python -m data.prepare`."
    )


def read_characters(path: Path) -> str:
    """The characters of the vocabulary, in the order of their tokens.

    Nothing in the file can run: a pickle of dicts, strings and numbers names no
    function or class, and one that does is refused.

    Raises:
        UserError: if the file is anything else, or lacks a vocabulary.
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


def _bad(path: Path, what: str) -> UserError:
    """The error for a file that can't be used."""
    return UserError(
        "nanoGPT's `meta.pkl` must be a dict of `vocab_size` and of `stoi`, a number "
        f"for each character: {path} is not ({what}). Make it again with nanoGPT's "
        "`prepare.py`, or build the dataset with `python -m data.prepare`."
    )
