"""Build a dataset of tokens from text files.

Source: nanoGPT, `data/shakespeare*/prepare.py`: the same vocabulary, split and tokens,
bit for bit.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from configs import TextFiles, require
from data.folder import check_vacant, parallel_map, say
from data.text.reading import Survey, between, cut, read_text, survey
from data.text.tokenizer import GPT2, LARGEST, Characters, Tokenizer
from data.text.unknown import describe, known
from data.text.writer import write_tokens

TRAIN_SHARE = 0.9
PIECE = 1 << 18  # least characters encoded at once


class Part(NamedTuple):
    """The characters `start` to `stop` of the joined files."""

    paths: Sequence[str]
    start: int
    stop: int


def build(config: TextFiles, out: Path) -> None:
    """Build a dataset of text files in `out`.

    Raises:
        UserError: if `out` is not vacant, or the text or the tokens are not usable.
    """
    check_vacant(out)
    text = survey(read_text(config.input))
    val_text = survey(read_text(config.val_input))
    tokenizer = _tokenizer(config, text, val_text)
    left_out: Counter[str] = Counter()
    splits = {
        name: _encode(tokenizer, part, config.processes, left_out)
        for name, part in _parts(config, text.length, val_text.length).items()
    }
    names = [Path(path).name for path in (*config.input, *config.val_input)]
    write_tokens(splits, tokenizer, out, ", ".join(names))
    if left_out:
        say(describe(left_out))


def _parts(config: TextFiles, length: int, val_length: int) -> dict[str, Part]:
    """Return the part of the text for each split; none is empty."""
    if config.val_input:
        train = Part(config.input, 0, length)
        val = Part(config.val_input, 0, val_length)
    else:
        split = int(length * TRAIN_SHARE)  # rounded as nanoGPT does
        train, val = Part(config.input, 0, split), Part(config.input, split, length)
    parts = {"train": train, "val": val}
    for name, part in parts.items():
        require(
            part.stop > part.start,
            f"A split must have text: {name} has none, with {length} characters in "
            f"`input` and {val_length} in `val_input`. Give more text.",
        )
    return parts


def _tokenizer(config: TextFiles, *texts: Survey) -> Tokenizer:
    """Return the tokenizer of the texts."""
    if config.like:
        return Tokenizer.like(config.like, config.bpe_dir)
    if config.tokens == "gpt2":
        return GPT2.load(config.bpe_dir)
    characters = sorted(set().union(*(text.characters for text in texts)))
    require(bool(characters), "Files must have text: got empty files. Name others.")
    require(
        len(characters) <= LARGEST,
        f"A text must have at most {LARGEST:,} different characters: got "
        f"{len(characters):,}. Use `--tokens gpt2`.",
    )
    return Characters("".join(characters))


def _encode(
    tokenizer: Tokenizer, part: Part, processes: int, left_out: Counter[str]
) -> Iterator[np.ndarray]:
    """Yield the tokens of a part, piece by piece; count unknown characters."""
    from tqdm import tqdm

    if isinstance(tokenizer, Characters):
        processes = 1  # looking up a table takes less time than sending the text
    paths, start, stop = part
    with tqdm(total=stop - start, unit="char", unit_scale=True, disable=None) as bar:

        def pieces() -> Iterator[str]:
            for piece in cut(between(read_text(paths), start, stop), PIECE):
                yield piece
                bar.update(len(piece))

        text = known(pieces(), tokenizer, left_out)
        yield from parallel_map(tokenizer.encode, text, processes)
