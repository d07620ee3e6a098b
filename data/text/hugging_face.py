"""Write a tokenizer as files for `transformers.AutoTokenizer`.

Source: `tokenizers`, the format of `tokenizer.json`; `transformers`, `GPT2Tokenizer`.
"""

import json
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import tiktoken

from data.text.bpe import BYTES, END
from data.text.tokenizer import GPT2, Characters, Tokenizer

NAMES = {byte: character for character, byte in BYTES.items()}


def write_tokenizer(tokenizer: Tokenizer, folder: Path, longest: int) -> None:
    """Write the files of a tokenizer into `folder`.

    Args:
        tokenizer: `Characters` or `GPT2`.
        folder: folder of the model.
        longest: most tokens of the model's input.

    Raises:
        UserError: if GPT-2's byte pairs are unavailable.
    """
    config: dict[str, Any] = {
        "model_max_length": longest,
        "clean_up_tokenization_spaces": False,
    }
    match tokenizer:
        case Characters():
            _write(folder / "tokenizer.json", _of_characters(tokenizer.characters))
            config["tokenizer_class"] = "PreTrainedTokenizerFast"
        case GPT2():
            encoding = tokenizer.encoding()
            names = {_name(pair): n for n, pair in enumerate(_pieces(encoding))}
            _write(folder / "vocab.json", names | {END: tokenizer.end})
            lines = ["#version: 0.2", *_merges(encoding)]
            (folder / "merges.txt").write_text("\n".join(lines) + "\n", "utf-8")
            config["tokenizer_class"] = "GPT2Tokenizer"
        case _:
            raise TypeError(f"no files for a {type(tokenizer).__name__}")
    _write(folder / "tokenizer_config.json", config)


def _write(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content, ensure_ascii=False) + "\n", encoding="utf-8")


def _of_characters(characters: str) -> dict[str, Any]:
    """Return `tokenizer.json` with a word for each character, and none for others."""
    return {
        "version": "1.0",
        "added_tokens": [],
        "pre_tokenizer": {
            "type": "Split",
            "pattern": {"Regex": r"[\s\S]"},
            "behavior": "Isolated",
            "invert": False,
        },
        "model": {
            "type": "WordLevel",
            "vocab": {character: n for n, character in enumerate(characters)},
            "unk_token": "",
        },
        "decoder": {"type": "Fuse"},
    }


def _pieces(encoding: tiktoken.Encoding) -> list[bytes]:
    """Return the bytes of each token, in order."""
    return sorted(encoding.token_byte_values(), key=encoding.encode_single_token)


def _name(piece: bytes) -> str:
    """Return bytes in the notation of GPT-2's files."""
    return "".join(NAMES[byte] for byte in piece)


def _merges(encoding: tiktoken.Encoding) -> Iterator[str]:
    """Yield the two halves of each token of several bytes, for `merges.txt`.

    The halves are the result of all earlier merges of the token's bytes.
    """
    ranks: dict[bytes, int] = {}
    for rank, piece in enumerate(_pieces(encoding)):
        if len(piece) > 1:
            yield " ".join(map(_name, _halves(piece, ranks)))
        ranks[piece] = rank


def _halves(piece: bytes, ranks: dict[bytes, int]) -> list[bytes]:
    """Merge pairs of a piece by their ranks until two halves are left."""
    parts = [bytes([byte]) for byte in piece]
    while len(parts) > 2:
        pairs = [a + b for a, b in pairwise(parts)]
        best = min(range(len(pairs)), key=lambda i: ranks.get(pairs[i], len(ranks)))
        parts[best : best + 2] = [pairs[best]]
    return parts
