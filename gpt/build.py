"""From a configuration to a model."""

from jaxtyping import PRNGKeyArray

from configs import GPTConfig, require
from gpt.attention import Kernel
from gpt.model import GPT

_GPT2_TOKENS, _PADDED = 50257, 50304


def embedding_rows(config: GPTConfig, tokens: int) -> int:
    """Rows of the embedding of a model of `tokens` different tokens.

    Source: nanoGPT, `train.py`: 50,304 for GPT-2's tokens, else what the data has.

    Raises:
        ValueError: if the configured number is too small.
    """
    default = _PADDED if tokens == _GPT2_TOKENS else tokens
    rows = config.vocab_size or default
    require(
        rows >= tokens,
        f"`vocab_size` must hold the {tokens:,} tokens of the data: got {rows:,}. "
        f"Leave it out, or use at least {tokens}.",
    )
    return rows


def build_gpt(
    config: GPTConfig, *, tokens: int, kernel: Kernel = "xla", key: PRNGKeyArray
) -> GPT:
    """A freshly initialised model in float32 for `tokens` different tokens."""
    rows = embedding_rows(config, tokens)
    return GPT(config, vocab=rows, kernel=kernel, key=key)
