"""GPT-2's byte pairs, encoded by tiktoken, from files at hand or from the network.

A folder needs no network. It may hold OpenAI's own files or the Hugging Face hub's,
which differ only in their names.
"""

import json
import os
from collections.abc import Sequence
from functools import cache
from pathlib import Path

import tiktoken
from tiktoken_ext.openai_public import r50k_pat_str

from configs import UserError, require

END = "<|endoftext|>"
"""Text of the token between documents; always the last one of the vocabulary."""

FOLDER_VARIABLE = "GPT2_BPE_DIR"
FILES = (("encoder.json", "vocab.bpe"), ("vocab.json", "merges.txt"))

# GPT-2 writes a byte as one character that can be printed: itself where it is one, else
# the next character from 256 on. The bytes are tokens 0 to 255 in this order.
SHOWN = [*range(33, 127), *range(161, 173), *range(174, 256)]
HIDDEN = [byte for byte in range(256) if byte not in SHOWN]
BYTES = {chr(byte): byte for byte in SHOWN} | {
    chr(256 + i): byte for i, byte in enumerate(HIDDEN)
}


def load_bpe(folder: str = "") -> tiktoken.Encoding:
    """Return the encoding, the same object whenever it is asked for again.

    Args:
        folder: with `encoder.json` and `vocab.bpe` (or `vocab.json` and `merges.txt`).
            Empty: that of the environment variable `GPT2_BPE_DIR`, or else a download.

    Raises:
        UserError: if the files are missing or wrong, or cannot be downloaded.
    """
    folder = folder or os.environ.get(FOLDER_VARIABLE, "")
    return _from_folder(Path(folder)) if folder else _download()


@cache
def _download() -> tiktoken.Encoding:
    """Return the encoding from tiktoken's cache or from OpenAI's server."""
    try:
        return tiktoken.get_encoding("gpt2")
    except Exception as error:
        raise UserError(
            "GPT-2's byte pairs must be at hand or be downloaded: the download failed "
            f"({type(error).__name__}: {error}). Put `encoder.json` and `vocab.bpe` "
            f"into a folder and name it with `--bpe-dir` or {FOLDER_VARIABLE}."
        ) from error


@cache
def _from_folder(folder: Path) -> tiktoken.Encoding:
    """Return the encoding of the files in `folder`."""
    for encoder, merges in FILES:
        if (folder / encoder).is_file() and (folder / merges).is_file():
            names = _read(folder / encoder, folder / merges)
            break
    else:
        raise UserError(
            "A folder of byte pairs must hold `encoder.json` and `vocab.bpe`: "
            f"{folder} does not. Correct `--bpe-dir` (or {FOLDER_VARIABLE})."
        )
    return tiktoken.Encoding(
        name="gpt2",
        explicit_n_vocab=len(names),
        pat_str=r50k_pat_str,
        mergeable_ranks={_as_bytes(name): i for i, name in enumerate(names[:-1])},
        special_tokens={END: len(names) - 1},
    )


def _read(encoder: Path, merges: Path) -> Sequence[str]:
    """Return the names of all tokens, by the merges and checked by the encoder."""
    try:
        numbers = json.loads(encoder.read_text(encoding="utf-8"))
        lines = merges.read_text(encoding="utf-8").split("\n")
    except (ValueError, RecursionError) as error:
        raise UserError(
            f"GPT-2's files must be JSON and UTF-8 text: those in {encoder.parent} are "
            f"not ({error}). Download them again."
        ) from None
    pairs = [line for line in lines if line and not line.startswith("#version")]
    names = [*BYTES, *(pair.replace(" ", "", 1) for pair in pairs), END]
    require(
        numbers == {name: i for i, name in enumerate(names)}
        and set("".join(names[:-1])) <= BYTES.keys(),
        f"`{encoder.name}` must number the bytes, the merges of `{merges.name}` in "
        f"order, and `{END}`: in {encoder.parent} it does not. Download both again.",
    )
    return names


def _as_bytes(name: str) -> bytes:
    """Return the bytes of a token."""
    return bytes(BYTES[character] for character in name)
