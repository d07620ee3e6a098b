"""Write a dataset of tokens as nanoGPT's files, atomically."""

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

import numpy as np
from jaxtyping import Int64

from configs import require
from data.folder import new_folder
from data.text.reading import ABOUT
from data.text.tokenizer import Tokenizer


def write_tokens(
    splits: Mapping[str, Iterable[np.ndarray]],
    tokenizer: Tokenizer,
    out: Path,
    source: str,
) -> None:
    """Write a dataset of tokens to `out`, which appears only when complete.

    Args:
        splits: the tokens of `train` and `val` in pieces.
        tokenizer: tokenizer of the tokens.
        out: the folder to make.
        source: source of the text, for `dataset.json`.

    Raises:
        UserError: if `out` is not vacant or a split has no tokens.
    """
    with new_folder(out) as folder:
        tokenizer.write(folder)
        digest = hashlib.sha256()
        about: dict[str, object] = {"source": source, **tokenizer.describe()}
        about.pop("characters", None)
        about["vocab_size"] = tokenizer.vocab_size
        lengths = tokenizer.byte_lengths()
        for name, pieces in splits.items():
            path = folder / f"{name}.bin"
            count, size = _write_split(path, pieces, lengths, digest.update)
            require(count > 0, f"A split must have text: {name} has none. Add some.")
            about[f"{name}_tokens"], about[f"{name}_bytes"] = count, size
            digest.update(f"{name} {count}\n".encode())
        digest.update(json.dumps(tokenizer.describe()).encode())
        about["content_hash"] = digest.hexdigest()
        text = json.dumps(about, indent=2)
        (folder / ABOUT).write_text(text + "\n", encoding="utf-8")


def _write_split(
    path: Path,
    pieces: Iterable[np.ndarray],
    lengths: Int64[np.ndarray, " vocab"],
    update: Callable[[bytes], None],
) -> tuple[int, int]:
    """Write tokens as uint16, also to `update`; return their number and text's bytes.

    `lengths` are the bytes of each token of the vocabulary.
    """
    count = size = 0
    with path.open("wb") as file:
        for piece in pieces:
            data = piece.astype("<u2").tobytes()
            file.write(data)
            update(data)
            count += len(piece)
            size += int(lengths[piece].sum())
    return count, size
