"""Write a dataset of tokens as nanoGPT's files, atomically."""

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

import numpy as np

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
        for name, pieces in splits.items():
            count = _write_split(folder / f"{name}.bin", pieces, digest.update)
            require(count > 0, f"A split must have text: {name} has none. Add some.")
            about[f"{name}_tokens"] = count
            digest.update(f"{name} {count}\n".encode())
        digest.update(json.dumps(tokenizer.describe()).encode())
        about["content_hash"] = digest.hexdigest()
        text = json.dumps(about, indent=2)
        (folder / ABOUT).write_text(text + "\n", encoding="utf-8")


def _write_split(
    path: Path, pieces: Iterable[np.ndarray], update: Callable[[bytes], None]
) -> int:
    """Write tokens as uint16, also to `update`, and return their number."""
    count = 0
    with path.open("wb") as file:
        for piece in pieces:
            data = piece.astype("<u2").tobytes()
            file.write(data)
            update(data)
            count += len(piece)
    return count
