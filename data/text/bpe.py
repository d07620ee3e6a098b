"""Load GPT-2's byte pairs, from a folder or from the network.

The folder has OpenAI's files or the Hugging Face hub's; only their names differ.
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

# GPT-2 writes a byte as a printable character: its own, or else the next one from 256.
# The bytes are tokens 0 to 255 in this order.
SHOWN = [*range(33, 127), *range(161, 173), *range(174, 256)]
HIDDEN = [byte for byte in range(256) if byte not in SHOWN]
BYTES = {chr(byte): byte for byte in SHOWN} | {
    chr(256 + i): byte for i, byte in enumerate(HIDDEN)
}


def load_bpe(folder: str = "") -> tiktoken.Encoding:
    """Return the encoding; the same object at every call.

    Args:
        folder: folder of `encoder.json` and `vocab.bpe` (or `vocab.json` and
            `merges.txt`). Empty: the environment variable `GPT2_BPE_DIR`, or else a
            download.

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
            f"Could not download GPT-2's byte pairs ({type(error).__name__}: {error}). "
            "Put `encoder.json` and `vocab.bpe` into a folder and name it with "
            f"`--bpe-dir` or {FOLDER_VARIABLE}."
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
            f"`encoder.json` and `vocab.bpe` not found in {folder}. Correct "
            f"`--bpe-dir` (or {FOLDER_VARIABLE})."
        )
    return tiktoken.Encoding(
        name="gpt2",
        explicit_n_vocab=len(names),
        pat_str=r50k_pat_str,
        mergeable_ranks={_as_bytes(name): i for i, name in enumerate(names[:-1])},
        special_tokens={END: len(names) - 1},
    )


def _read(encoder: Path, merges: Path) -> Sequence[str]:
    """Return the names of all tokens, from the merges, checked by the encoder."""
    try:
        numbers = json.loads(encoder.read_text(encoding="utf-8-sig"))
        lines = merges.read_text(encoding="utf-8-sig").split("\n")
    except (ValueError, RecursionError) as error:
        raise UserError(
            f"Could not read GPT-2's files in {encoder.parent} ({error}). Download "
            "them again."
        ) from None
    pairs = [line for line in lines if line and not line.startswith("#version")]
    names = [*BYTES, *(pair.replace(" ", "", 1) for pair in pairs), END]
    require(
        numbers == {name: i for i, name in enumerate(names)}
        and set("".join(names[:-1])) <= BYTES.keys(),
        f"`{encoder.name}` must number the bytes, the merges of `{merges.name}` in "
        f"order, and `{END}`: {encoder.parent} has other numbers. Download both again.",
    )
    return names


def _as_bytes(name: str) -> bytes:
    """Return the bytes of a token."""
    return bytes(BYTES[character] for character in name)
