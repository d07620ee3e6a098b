"""Build a dataset from shards of GPT-2 tokens: FineWeb, by default.

A shard is a header of 256 int32 (a magic number, a version, the number of tokens), then
tokens as uint16. Each document begins with `<|endoftext|>`.

Source: `KellerJordan/modded-nanogpt`, `data/fineweb.py`, `data/cached_fineweb10B.py`.
"""

import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from jaxtyping import UInt16

from configs import FineWeb, UserError, require
from data.folder import check_vacant, visible
from data.text.dataset import GPT2_SHARD
from data.text.tokenizer import GPT2
from data.text.writer import write_tokens

HEADER, VERSION = 256, 1
PIECE = 1 << 22  # tokens copied at once


def build(config: FineWeb, out: Path) -> None:
    """Build a dataset of shards in `out`.

    Raises:
        UserError: if `out` is not vacant, or shards or tokens are unavailable.
    """
    check_vacant(out)
    tokenizer = GPT2.load(config.bpe_dir)  # before gigabytes of downloading
    local = Path(config.source)
    train, val = _local(local, config) if local.is_dir() else _download(config)
    splits = {
        "train": _tokens(train, tokenizer.vocab_size),
        "val": _tokens(val, tokenizer.vocab_size),
    }
    source = local.resolve().name if local.is_dir() else config.source
    write_tokens(splits, tokenizer, out, source)


def read_shard(path: Path) -> UInt16[np.ndarray, " tokens"]:
    """Map the tokens of a shard from disk.

    Raises:
        UserError: if the file is not a complete shard.
    """
    size = path.stat().st_size
    header = np.fromfile(path, "<i4", HEADER)
    begin = tuple(header[:2].tolist())
    require(
        len(header) == HEADER and begin == (GPT2_SHARD, VERSION),
        f"A shard must begin with {HEADER} int32, first {GPT2_SHARD} and {VERSION}: "
        f"got {begin} in {path}. Name shards of GPT-2 tokens in uint16.",
    )
    whole = 4 * HEADER + 2 * int(header[2])
    require(
        size == whole,
        f"A shard of {header[2]:,} tokens must have {whole:,} bytes: got {size:,} in "
        f"{path}. Copy or download it again.",
    )
    return np.asarray(np.memmap(path, "<u2", "r", offset=4 * HEADER))


def _tokens(paths: Sequence[Path], vocab: int) -> Iterator[np.ndarray]:
    """Yield the tokens of shards, piece by piece."""
    for path in paths:
        shard = read_shard(path)
        for start in range(0, len(shard), PIECE):
            piece = shard[start : start + PIECE]
            require(
                int(piece.max()) < vocab,
                f"Tokens must be in 0 .. {vocab - 1}: got {piece.max()} in {path}. "
                "Name shards of GPT-2 tokens.",
            )
            yield piece


def _local(folder: Path, config: FineWeb) -> tuple[list[Path], list[Path]]:
    """Return the first shards of both splits in a folder, in order."""
    train, val = (visible(folder, f"*_{name}_*.bin") for name in ("train", "val"))
    require(
        bool(train) and bool(val),
        "A folder of shards must have `*_train_*.bin` and `*_val_*.bin`: "
        f"{folder} has {len(train)} and {len(val)}. Check the path.",
    )
    if len(train) < config.shards:
        warnings.warn(
            f"Only {len(train)} of {config.shards} shards found in {folder}.",
            stacklevel=2,
        )
    return train[: config.shards], val


def _download(config: FineWeb) -> tuple[list[Path], list[Path]]:
    """Download the shards of both splits into the cache of the Hugging Face hub."""
    names = [f"fineweb_train_{i:06d}.bin" for i in range(1, config.shards + 1)]
    try:
        from huggingface_hub import hf_hub_download

        get = lambda name: Path(
            hf_hub_download(config.source, name, repo_type="dataset")
        )
        return [get(name) for name in names], [get("fineweb_val_000000.bin")]
    except Exception as error:
        raise UserError(
            f"Could not download shards of the Hugging Face dataset {config.source!r} "
            f"({type(error).__name__}: {error}). If you have the files, name their "
            "folder with `--source`."
        ) from error
