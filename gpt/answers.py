"""Answers of a GPT to test inputs of ARC, written token by token with the cache."""

from collections.abc import Iterator, Sequence

import numpy as np
from jaxtyping import Int32, UInt8

from data.puzzles.arc.rows import END, answer_of
from gpt.decode import Decoder, generate, row_keys
from gpt.sampling import Sampling

Answer = UInt8[np.ndarray, "_ _"] | None
"""A grid; None if the model wrote no grid."""


def batches_of(
    prompts: Sequence[Int32[np.ndarray, " _"]], batch: int
) -> list[list[int]]:
    """Return numbers of prompts in batches of equal lengths, the shortest first."""
    by_length: dict[int, list[int]] = {}
    for number, prompt in enumerate(prompts):
        by_length.setdefault(len(prompt), []).append(number)
    return [
        numbers[first : first + batch]
        for _, numbers in sorted(by_length.items())
        for first in range(0, len(numbers), batch)
    ]


def answers(
    decoder: Decoder, prompts: Sequence[Int32[np.ndarray, " _"]], batch: int
) -> Iterator[tuple[list[int], list[Answer]]]:
    """Yield numbers of prompts and the likeliest answers to them.

    A prompt is a row up to its separator. All prompts of a batch have the same length;
    a small batch is filled up to a power of two, so that few programs are compiled.

    Args:
        decoder: of a model of rows.
        prompts: at most as long as the model's `block_size`.
        batch: maximum of rows written at once.
    """
    rest = decoder.rest
    vocab = rest.embedding.weight.shape[0]
    for numbers in batches_of(prompts, batch):
        size = min(batch, 1 << (len(numbers) - 1).bit_length())
        filled = [*numbers, *numbers[:1] * (size - len(numbers))]
        prompt = np.stack([prompts[number] for number in filled])
        chunks = generate(
            decoder,
            prompt,
            rest.block_size + 1 - prompt.shape[1],
            Sampling(temperature=0.0),
            row_keys(0, np.arange(size)),
            tokens=vocab,
            stop=END,
        )
        written = np.concatenate([*chunks], axis=1)
        yield numbers, [answer_of(row) for row in written[: len(numbers)]]
