"""Text files as a stream of pieces, so that none must fit into memory."""

import codecs
import gzip
import io
import re
import zlib
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from configs import require

CHUNK = 1 << 20  # bytes read at once
CUT = re.compile(r"[ \n](?=[^\s<])")  # a `<` might begin `<|endoftext|>`


class Survey(NamedTuple):
    """What a text consists of: its length, and its characters in order."""

    length: int
    characters: str


def survey(chunks: Iterable[str]) -> Survey:
    """Return what the text of `chunks` consists of."""
    length, characters = 0, set()
    for chunk in chunks:
        length += len(chunk)
        characters |= set(chunk)
    return Survey(length, "".join(sorted(characters)))


def read_text(paths: Sequence[str | Path]) -> Iterator[str]:
    r"""Give the text of the files, one after the other; every line ends in `\n`.

    Args:
        paths: of UTF-8 files; those ending in `.gz` are unpacked.

    Raises:
        ValueError: if a file is missing, damaged or not UTF-8.
    """
    for path in paths:
        yield from _read_file(Path(path))


def between(chunks: Iterable[str], start: int, stop: int) -> Iterator[str]:
    """Give the characters `start` to `stop` of a text."""
    at = 0
    for chunk in chunks:
        if at >= stop:
            return
        if at + len(chunk) > start:
            yield chunk[max(start - at, 0) : stop - at]
        at += len(chunk)


def cut(chunks: Iterable[str], size: int) -> Iterator[str]:
    r"""Give a text in pieces whose GPT-2 tokens, joined, are the tokens of the whole.

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
    """Give the text of one file."""
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
        raise ValueError(
            f"A text file must be UTF-8: {path} is not, at byte "
            f"{done - held + error.start} ({error.reason}). Convert it, for example "
            "with `iconv -t utf-8`."
        ) from None
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise ValueError(
            f"A `.gz` file must be gzipped: {path} is damaged ({error}). "
            "Copy or download it again."
        ) from None
