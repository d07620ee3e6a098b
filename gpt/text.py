"""Generate text with a GPT and a tokenizer."""

import codecs
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain

import numpy as np
from jaxtyping import Int32

from configs import require
from data.folder import require_memory
from data.text.tokenizer import Tokenizer
from gpt.decode import Decoder, generate, row_keys
from gpt.sampling import Sampling


def write_texts(
    decoder: Decoder,
    tokenizer: Tokenizer,
    prompt: str,
    samples: Sequence[int],
    sampling: Sampling,
    *,
    max_new_tokens: int,
    seed: int = 0,
    stop: str = "",
) -> Iterator[list[str]]:
    """Return an iterator over the texts after the prompt, one per sample number.

    It yields the texts after each chunk of tokens, and at last the complete texts:

        *_, texts = write_texts(decoder, tokenizer, "ROMEO:", range(4), Sampling(), ...)

    A sample depends on its number and `seed`, not on other samples. Texts end after the
    string `stop`, if there is one.

    Raises:
        UserError: if the prompt is empty, a character is unknown, or the cache does not
            fit into memory.
    """
    tokens, stop_tokens = tokenizer.encode(prompt), tokenizer.encode(stop)
    require(
        tokens.size > 0,
        "The prompt must have at least one token: it is empty. Use a newline.",
    )
    require_memory(
        len(samples) * decoder.cache_bytes,
        f"Keys and values of {len(samples):,} samples",
        "Reduce `--batch`.",
    )
    chunks = generate(
        decoder,
        np.tile(tokens, (len(samples), 1)),
        max_new_tokens,
        sampling,
        row_keys(seed, np.asarray(samples)),
        tokens=tokenizer.vocab_size,
        stop=int(stop_tokens[0]) if len(stop_tokens) == 1 else -1,
    )
    return decode_chunks(chunks, tokenizer, stop)


def decode_chunks(
    chunks: Iterable[Int32[np.ndarray, "batch new"]], tokenizer: Tokenizer, stop: str
) -> Iterator[list[str]]:
    """Yield the texts up to `stop` after each chunk, and once more at the end.

    An incomplete UTF-8 character is held back until it is complete, or until the end.
    """
    texts: list[bytes] = []
    for chunk in chain(chunks, (None,)):
        if chunk is not None:
            texts = [
                text + tokenizer.decode_bytes(tokens)
                for text, tokens in zip(texts or [b""] * len(chunk), chunk, strict=True)
            ]
        decode = lambda text, final: codecs.utf_8_decode(text, "replace", final)[0]
        decoded = [decode(text, chunk is None) for text in texts]
        if stop:
            decoded = ["".join(text.partition(stop)[:2]) for text in decoded]
        yield decoded
        if stop and all(text.endswith(stop) for text in decoded):
            return
