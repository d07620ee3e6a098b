"""Shards of tokens of the speed-run community to a dataset: FineWeb, by default.

A shard is a header of 256 int32, which begins with a magic number, a version and the
number of tokens, and then GPT-2's tokens as uint16; each document begins with
`<|endoftext|>`.

Source: `KellerJordan/modded-nanogpt`, `data/fineweb.py`, `data/cached_fineweb10B.py`.
"""

import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from jaxtyping import UInt16

from configs import FineWeb, UserError, require
from data.folder import check_vacant
from data.text.tokenizer import GPT2
from data.text.writer import write_tokens

HEADER, MAGIC, VERSION = 256, 20240520, 1
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
    """The tokens of a shard, mapped from disk.

    Raises:
        UserError: if it is none, or is not whole.
    """
    size = path.stat().st_size
    header = np.fromfile(path, "<i4", HEADER)
    found = tuple(header[:2].tolist())
    require(
        len(header) == HEADER and found == (MAGIC, VERSION),
        f"A shard must begin with {HEADER} int32, the first {MAGIC} and {VERSION}: "
        f"{path} begins with {found}. Name shards of GPT-2 tokens in uint16.",
    )
    whole = 4 * HEADER + 2 * int(header[2])
    require(
        size == whole,
        f"A shard must have the {header[2]:,} tokens that it says: {path} has "
        f"{size:,} bytes and not {whole:,}. Copy or download it again.",
    )
    return np.asarray(np.memmap(path, "<u2", "r", offset=4 * HEADER))


def _tokens(paths: Sequence[Path], vocab: int) -> Iterator[np.ndarray]:
    """The tokens of shards, piece by piece."""
    for path in paths:
        shard = read_shard(path)
        for start in range(0, len(shard), PIECE):
            piece = shard[start : start + PIECE]
            require(
                int(piece.max()) < vocab,
                f"Tokens must lie in 0 .. {vocab - 1}: {path} has {piece.max()}. Name "
                "shards of GPT-2 tokens.",
            )
            yield piece


def _local(folder: Path, config: FineWeb) -> tuple[list[Path], list[Path]]:
    """The first shards of both splits in a folder, in order."""
    train, val = (sorted(folder.glob(f"*_{name}_*.bin")) for name in ("train", "val"))
    require(
        bool(train) and bool(val),
        "A folder of shards must have `*_train_*.bin` and `*_val_*.bin`: "
        f"{folder} has {len(train)} and {len(val)}. Check the path.",
    )
    if len(train) < config.shards:
        warnings.warn(
            f"Of {config.shards} shards only {len(train)} are in {folder}: they are "
            "all that is taken.",
            stacklevel=2,
        )
    return train[: config.shards], val


def _download(config: FineWeb) -> tuple[list[Path], list[Path]]:
    """The shards of both splits from the Hugging Face hub, kept in its cache."""
    names = [f"fineweb_train_{i:06d}.bin" for i in range(1, config.shards + 1)]
    try:
        from huggingface_hub import hf_hub_download

        get = lambda name: Path(
            hf_hub_download(config.source, name, repo_type="dataset")
        )
        return [get(name) for name in names], [get("fineweb_val_000000.bin")]
    except Exception as error:
        raise UserError(
            f"Shards must come from the Hugging Face dataset {config.source!r}: they "
            f"could not be downloaded ({type(error).__name__}: {error}). With the "
            "files at hand, name their folder with `--source`."
        ) from error
