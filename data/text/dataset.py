"""Batches of text from `train.bin` and `val.bin`, as pure functions of the step.

The files are nanoGPT's, plain uint16 tokens, and so is the draw: a sequence may begin
anywhere, and there are no epochs. The random numbers of a batch come from (seed, split,
step), so that a run resumes exactly and all processes draw the same.
"""

from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Int, Int64, Integer, UInt16

from configs import UserError, require
from data.batches import rows_of
from data.folder import fingerprint
from data.remote import local_dataset
from data.text.reading import ABOUT, read_about
from data.text.tokenizer import FILE, GPT2, NANOGPT_FILE, Tokenizer

__all__ = ["IGNORE", "TokenDataset", "Tokens"]

BLOCKS, BLOCK = 64, 1024  # blocks of the sample of a file, and pairs of each

IGNORE = -1
"""Target of a position that is not scored, as in nanoGPT; files have none."""

SPLITS = ("train", "val")
GPT2_SHARD, LLAMA_SHARD = 20240520, 20240801
"""First number of llm.c's files of tokens, which have a header."""


class Tokens(NamedTuple):
    """Sequences, and the next token at each position.

    NumPy arrays here, JAX arrays elsewhere; not generic, as `data.puzzles.Puzzle`.
    """

    inputs: Int[Any, "*batch seq"]
    targets: Int[Any, "*batch seq"]


class TokenDataset:
    """A split of a folder of tokens, mapped from disk.

    Attributes:
        tokenizer: the dataset's tokenizer.
        vocab_size: tokens are 0 .. vocab_size - 1.
        tokens: the split, mapped from disk.
        num_tokens: tokens of the split.
        batch_size: sequences of a batch over all processes.
        block_size: tokens of a sequence.
    """

    def __init__(
        self,
        path: str | Path,
        split: str,
        *,
        block_size: int,
        batch_size: int,
        seed: int = 0,
        rows: Integer[np.ndarray, " rows"] | None = None,
    ):
        """Open the split and check the type of the tokens by a sample.

        All other tokens are read and checked batch by batch.

        Args:
            path: folder of the dataset.
            split: `train` or `val`.
            block_size: tokens of a sequence.
            batch_size: sequences of a batch, over all processes.
            seed: seed of the first tokens of sequences.
            rows: the rows of each batch to load, in order; None loads all.

        Raises:
            UserError: if an argument is out of range or the dataset is not usable.
        """
        _check_arguments(split, block_size, batch_size, seed)
        self.tokenizer = Tokenizer.read(path)
        self.vocab_size = self.tokenizer.vocab_size
        self.block_size, self.batch_size = block_size, batch_size
        self._rows = rows_of(batch_size, rows)
        self._key = np.array([seed, SPLITS.index(split)], np.uint64)
        self._file = local_dataset(path) / f"{split}.bin"
        self.tokens = _open(self._file, block_size)
        _check_type(self.tokens, self._file, self.tokenizer)
        self.num_tokens = len(self.tokens)
        windows = np.lib.stride_tricks.sliding_window_view
        self._windows = windows(self.tokens, block_size + 1)

    @cached_property
    def content_hash(self) -> str:
        """Hash of both splits.

        Recorded in `dataset.json`; without the file, as in nanoGPT's folders, a
        `fingerprint` of the files.
        """
        folder = self._file.parent
        recorded = (read_about(folder) or {}).get("content_hash")
        if isinstance(recorded, str):
            return recorded
        names = [f"{split}.bin" for split in SPLITS] + ["meta.pkl", "tokenizer.json"]
        files = [folder / name for name in names if (folder / name).is_file()]
        return fingerprint(files)

    @property
    def bytes_per_token(self) -> float | None:
        """Bytes of the split's text per token; None if `dataset.json` lacks them."""
        split = self._file.stem
        size = (read_about(self._file.parent) or {}).get(f"{split}_bytes")
        return size / self.num_tokens if isinstance(size, int) else None

    def batch(self, step: int) -> Tokens:
        """Return this process's rows of batch `step`, counted from 0.

        A pure function of seed, split and step; thread-safe.

        Raises:
            UserError: if `step` is negative or a token is out of range.

        Source: nanoGPT `train.get_batch`, which draws from the same range.
        """
        starts = self._starts(step)[self._rows]
        windows = self._windows[starts]
        if windows.size and windows.max() >= self.vocab_size:
            for start, window in zip(starts, windows, strict=True):
                self._check(window, int(start))
        windows = windows.astype(np.int32)
        return Tokens(windows[:, :-1], windows[:, 1:])

    def _starts(self, step: int) -> Int64[np.ndarray, " batch"]:
        """Draw the first tokens of the sequences of the global batch."""
        require(step >= 0, f"`step` must be at least 0: got {step}. Count from 0.")
        # The highest word of the counter, which no draw reaches, separates the steps.
        counter = np.array([0, 0, 0, step], np.uint64)
        rng = np.random.Generator(np.random.Philox(key=self._key, counter=counter))
        return rng.integers(self.num_tokens - self.block_size, size=self.batch_size)

    def _check(self, tokens: UInt16[np.ndarray, " tokens"], start: int) -> None:
        """Raise `UserError` unless the tokens from `start` are in the vocabulary."""
        wrong = tokens >= self.vocab_size
        if wrong.any():
            at = int(wrong.argmax())
            raise UserError(
                f"Tokens must be in 0 .. {self.vocab_size - 1}: {self._file} has "
                f"{tokens[at]} at position {start + at}. Put the right tokenizer's "
                "file into the folder, or build the dataset again."
            )


def _check_arguments(split: str, block_size: int, batch_size: int, seed: int) -> None:
    """Raise `UserError` unless the arguments are in range."""
    require(
        split in SPLITS,
        f"`split` must be one of {', '.join(SPLITS)}: got {split!r}.",
    )
    for name, value in (("block_size", block_size), ("batch_size", batch_size)):
        require(
            value >= 1, f"`{name}` must be at least 1: got {value}. Pass 1 or more."
        )
    require(
        0 <= seed < 1 << 64,
        f"`seed` must be in 0 .. 2**64 - 1: got {seed}.",
    )


def _open(path: Path, block_size: int) -> UInt16[np.ndarray, " tokens"]:
    """Map the tokens of a file from disk."""
    require(
        path.is_file(),
        f"File of tokens not found: {path}. Check the path, or build the dataset with "
        "`python -m data.prepare`.",
    )
    size = path.stat().st_size
    require(
        size % 2 == 0,
        f"A file of tokens must have two bytes for each: got {size:,} bytes in {path}. "
        "Copy it or build it again.",
    )
    require(
        size // 2 > block_size,
        f"A split must have more tokens than block_size={block_size:,}: got "
        f"{size // 2:,} in {path}. Use a smaller `block_size` or more text.",
    )
    # As a plain array: slices of a memmap are slow to make.
    return np.asarray(np.memmap(path, "<u2", mode="r"))


def _check_type(
    data: UInt16[np.ndarray, " tokens"], path: Path, tokenizer: Tokenizer
) -> None:
    """Raise `UserError` unless the file seems to have uint16 tokens.

    nanoGPT's files have no header. Folders of our own builders record the number of
    tokens. Elsewhere, a sample of the file can show that it has another type.
    """
    recorded = (read_about(path.parent) or {}).get(f"{path.stem}_tokens")
    require(
        recorded in (None, len(data)),
        f"`{ABOUT}` must have the number of tokens of {path.name}: got {recorded}, and "
        f"{len(data):,} in {path}. Build the dataset again.",
    )
    magic = int.from_bytes(data[:2].tobytes(), "little")
    require(
        magic not in (GPT2_SHARD, LLAMA_SHARD),
        f"A file of tokens must have no header: {path} begins with {magic}, as shards "
        "of FineWeb and llm.c do. Build a dataset of them with `python -m data.prepare "
        "fineweb --source FOLDER`.",
    )
    if recorded is not None or len(data) < 100:
        return
    sample = _sample(data)
    require(
        not _is_wide(sample, isinstance(tokenizer, GPT2)),
        f"Tokens must be uint16: every second word of {path} is 0, as in a file of "
        "uint32 or int64. Convert it, for example with `np.fromfile(file, "
        "np.uint32).astype(np.uint16)`.",
    )
    known = any((path.parent / name).is_file() for name in (FILE, NANOGPT_FILE, ABOUT))
    require(
        known or len(data) < 1000 or not _is_of_characters(sample),
        f"A folder without `{FILE}` and `{NANOGPT_FILE}` must have GPT-2's tokens as "
        f"uint16: {path} seems to have characters. Copy the missing file there, or "
        "build the dataset with `python -m data.prepare`.",
    )


def _sample(data: UInt16[np.ndarray, " tokens"]) -> UInt16[np.ndarray, "pairs 2"]:
    """Return evenly spread blocks of a file, as pairs of tokens."""
    pairs = data[: len(data) // 2 * 2].reshape(-1, 2)
    starts = np.linspace(0, max(len(pairs) - BLOCK, 0), BLOCKS).astype(int)
    return np.concatenate([pairs[start : start + BLOCK] for start in starts])


def _is_wide(sample: UInt16[np.ndarray, "pairs 2"], is_gpt2: bool) -> bool:
    """Return True if the pairs seem to be halves of longer numbers.

    One half is always 0 then, and the other has many values. In text like "1 0 1" every
    second character may be number 0 too, but then no other one is.
    """
    least, most = sorted((sample != 0).mean(axis=0).tolist())
    many = len(np.unique(sample)) > 4
    return least == 0 and most > 0.1 and many and (is_gpt2 or most < 1)


def _is_of_characters(sample: UInt16[np.ndarray, "pairs 2"]) -> bool:
    """Return True if the values seem to number characters, in two bytes or in one.

    They are small and use most of the numbers up to the highest, unlike GPT-2's tokens.
    """
    used = np.unique(sample % 256).tolist()
    return (sample.max() < 256 or used[-1] < 128) and len(used) > used[-1] / 2
