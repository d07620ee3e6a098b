"""Build OpenWebText in GPT-2 tokens, with an end token after each document.

Source: nanoGPT, `data/openwebtext/prepare.py`: the same split and tokens, bit for bit.
Tokens are written directly, without another 70 GB of cache.
"""

from collections.abc import Iterable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np

from configs import OpenWebText, UserError, require
from data.folder import check_vacant, parallel_map
from data.text.tokenizer import GPT2
from data.text.writer import write_tokens

VAL_SHARE = 0.0005
SEED = 2357
BATCH = 256  # documents sent to a process at once, about 1.2 MB


class Documents(NamedTuple):
    """The documents of a split."""

    total: int
    batches: Iterable[list[str]]


def build(config: OpenWebText, out: Path) -> None:
    """Build OpenWebText, or a dataset like it, in `out`.

    Raises:
        UserError: if `out` is not vacant, or the text or the tokens are unavailable.
    """
    check_vacant(out)
    tokenizer = GPT2.load(config.bpe_dir)  # before hours of downloading
    write_documents(_load(config), tokenizer, out, config)


def write_documents(
    splits: Mapping[str, Documents], tokenizer: GPT2, out: Path, config: OpenWebText
) -> None:
    """Encode documents and write them to `out`.

    Raises:
        UserError: if `out` is not vacant or a split is empty.
    """
    tokens = {
        name: _encode(name, documents, tokenizer, config.processes)
        for name, documents in splits.items()
    }
    local = Path(config.source)
    source = local.resolve().name if local.exists() else config.source
    write_tokens(tokens, tokenizer, out, source)


def _encode(
    name: str, documents: Documents, tokenizer: GPT2, processes: int
) -> Iterator[np.ndarray]:
    """Yield the tokens of the documents in pieces."""
    from tqdm import tqdm

    with tqdm(total=documents.total, desc=name, unit="doc", disable=None) as bar:

        def batches() -> Iterator[list[str]]:
            for batch in documents.batches:
                yield batch
                bar.update(len(batch))

        yield from parallel_map(partial(_encode_batch, tokenizer), batches(), processes)


def _encode_batch(tokenizer: GPT2, documents: list[str]) -> np.ndarray:
    """Return the tokens of a batch of documents."""
    encoded = [tokenizer.encode_document(text) for text in documents]
    return np.concatenate(encoded).astype(np.uint16)  # half as much to send back


def _load(config: OpenWebText) -> dict[str, Documents]:
    """Return the documents of both splits, in the cache of `datasets`."""
    try:
        # A folder `datasets` in the working directory is an empty package.
        from datasets import load_dataset  # pyright: ignore
    except ImportError as error:
        raise UserError(
            f"The package `datasets`, which reads OpenWebText, is missing ({error}). "
            "Install it with `pip install -e '.[openwebtext]'`."
        ) from error
    try:
        whole = load_dataset(config.source, split="train", num_proc=config.processes)
    except Exception as error:
        raise UserError(
            f"Could not load the dataset {config.source} ({type(error).__name__}: "
            f"{error}). Name a local folder of its Parquet files, or another copy on "
            "the hub."
        ) from error
    require(
        "text" in whole.column_names,
        f"A dataset of documents must have a column `text`: {config.source} has "
        f"{', '.join(whole.column_names)}. Rename the column.",
    )
    parts = whole.train_test_split(test_size=VAL_SHARE, seed=SEED, shuffle=True)
    return {
        name: Documents(
            len(part), (batch["text"] for batch in part.iter(batch_size=BATCH))
        )
        for name, part in (("train", parts["train"]), ("val", parts["test"]))
    }
