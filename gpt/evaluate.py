"""Measure how well a GPT predicts a text: `python -m gpt.evaluate --run-dir RUN`.

    python -m gpt.evaluate --run-dir runs/mine
    python -m gpt.evaluate --run-dir runs/mine --text novel.txt
    python -m gpt.evaluate --init-from gpt2 --text novel.txt.gz --tokens 100000

Prints loss, perplexity and bits per byte; see `docs/gpt.md`.
"""

import json
import math
import warnings
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any, Literal

import equinox as eqx
import jax
import numpy as np
import tyro
from jaxtyping import Float, Int32, Integer
from tqdm import tqdm

from configs import (
    MOST_ROWS,
    MeshConfig,
    RunConfig,
    TrainGPT,
    UserError,
    ceil_div,
    require,
    require_positive,
)
from data.storage import open_path, require_writable, write_whole
from data.text.dataset import IGNORE, TokenDataset
from data.text.files import PIECE
from data.text.reading import cut, read_text
from data.text.tokenizer import Tokenizer
from data.text.unknown import describe, known
from gpt.model import GPT
from gpt.perplexity import ratio, window_losses, windows
from train import cli
from train.devices import start
from train.gpt_model import ModelSettings
from train.runs.record import recorded_run

CHUNK = 2048
"""Maximum of tokens with logits in memory."""


@dataclass(frozen=True, kw_only=True)
class Settings(ModelSettings):
    """Model, and the text to evaluate it on."""

    text: tuple[str, ...] = ()
    """Files of UTF-8 text (or `.gz`), joined. Empty: the dataset."""

    data: str = ""
    """Folder of a dataset: evaluated without `text`; its tokenizer is the model's.
    Empty: the dataset of the run; GPT-2's tokens without a run."""

    split: Literal["val", "train"] = "val"
    """Part of the dataset."""

    tokens: int | None = None
    """Score the first `tokens` tokens; None: all."""

    stride: int | None = None
    """Tokens scored by a window; fewer give each a longer context, and take more time.
    None: the model's `block_size`, so that windows do not overlap."""

    batch: int = 8
    """Windows computed at once."""

    out: str = ""
    """File (`.json`) of settings and results. Empty: none."""

    def check(self) -> None:
        """Raise `UserError` if a setting is out of range."""
        super().check()
        require_positive(self, "batch", largest=MOST_ROWS)
        if self.tokens is not None:
            require_positive(self, "tokens")
        require(
            bool(self.text or self.data or self.run),
            "There must be a text to evaluate on. Name files with `--text`, or a "
            "dataset with `--data`.",
        )


def read_tokens(
    settings: Settings, tokenizer: Tokenizer
) -> tuple[Integer[np.ndarray, " tokens"], str]:
    """Return the tokens of the text, and its name.

    Raises:
        UserError: if the text is missing, or too short.
    """
    if settings.text:
        name = ", ".join(settings.text)
        tokens = encode(settings.text, tokenizer, settings.tokens)
    else:
        folder = settings.data
        if not folder:
            folder = recorded_run(settings.run, TrainGPT)[0].text.path
        name = f"{folder}, {settings.split}"
        data = TokenDataset(folder, settings.split, block_size=1, batch_size=1)
        tokens = data.tokens
    if settings.tokens is not None:
        tokens = tokens[: settings.tokens + 1]  # nothing predicts the first
    require(
        len(tokens) > 1,
        f"A text must have at least two tokens: got {len(tokens)}. Name a longer one.",
    )
    require(
        int(tokens.max()) < tokenizer.vocab_size,
        f"Tokens must be in 0 .. {tokenizer.vocab_size - 1}: got {tokens.max()}. Name "
        "the right dataset with `--data`.",
    )
    return tokens, name


def encode(
    files: Sequence[str], tokenizer: Tokenizer, most: int | None
) -> Int32[np.ndarray, " tokens"]:
    """Return the tokens of files, at least `most + 1`; warn of unknown characters."""
    left_out: Counter[str] = Counter()
    parts, length = [np.empty(0, np.int32)], 0
    for piece in known(cut(read_text(files), PIECE), tokenizer, left_out):
        parts.append(tokenizer.encode(piece))
        length += len(parts[-1])
        if most is not None and length > most:
            break
    if left_out:
        warnings.warn(describe(left_out), stacklevel=2)
    return np.concatenate(parts)


def lengths_of(tokenizer: Tokenizer) -> Integer[np.ndarray, " vocab"] | None:
    """Return the bytes of each token; None, with a warning, if they are unavailable."""
    try:
        return tokenizer.byte_lengths()
    except UserError as error:
        warnings.warn(f"No bits per byte: {error}", stacklevel=2)
        return None


def evaluate(
    model: GPT,
    tokens: Integer[np.ndarray, " tokens"],
    lengths: Integer[np.ndarray, " vocab"] | None,
    *,
    stride: int,
    batch: int,
) -> dict[str, Any]:
    """Return loss, perplexity and bits per byte of a text, with standard errors.

    Standard errors treat stretches of `block_size` tokens as independent samples.

    Args:
        model: cast.
        tokens: the text; all but the first are scored.
        lengths: bytes of each token; None: no bits per byte.
        stride: tokens scored by a window.
        batch: windows computed at once.
    """
    block = model.block_size
    losses = eqx.filter_jit(partial(window_losses, chunk=CHUNK))
    count = ceil_div(len(tokens) - 1, stride)
    sums: list[Float[np.ndarray, "batch 3"]] = []  # nats, tokens, bytes of each window
    for first in tqdm(range(0, count, batch), unit="batch", disable=None):
        inputs, targets = windows(tokens, first, batch, block_size=block, stride=stride)
        scored = targets != IGNORE
        size = np.zeros(scored.shape) if lengths is None else lengths[targets]
        nats = jax.device_get(losses(model, inputs, targets))
        rows = [nats, scored.sum(axis=1), (size * scored).sum(axis=1)]
        sums.append(np.stack(rows, axis=1).astype(np.float64))
    stretches = np.arange(0, count, max(block // stride, 1))
    nats, scored, size = np.add.reduceat(np.concatenate(sums), stretches).T
    loss, loss_error = ratio(nats, scored)
    perplexity = math.exp(loss)
    found: dict[str, Any] = {
        "tokens": int(scored.sum()),
        "loss": loss,
        "loss_error": loss_error,
        "perplexity": perplexity,
        "perplexity_error": None if loss_error is None else perplexity * loss_error,
    }
    if lengths is None or not size.sum():
        return found
    bits, bits_error = ratio(nats / math.log(2), size)
    return found | {
        "bytes": int(size.sum()),
        "bits_per_byte": bits,
        "bits_per_byte_error": bits_error,
    }


def show(found: dict[str, Any]) -> str:
    """Return results as lines."""
    names = {"loss": "loss (nats per token)", "perplexity": "perplexity"}
    names["bits_per_byte"] = "bits per byte"
    lines = []
    for name, text in names.items():
        if name in found:
            error = found[f"{name}_error"]
            plus = " " * 11 if error is None else f" +- {error:<7.4f}"
            lines.append(f"{found[name]:10.4f}{plus}  {text}")
    return "\n".join(lines)


def main(args: Sequence[str] | None = None) -> None:
    """Run the command line `args` (None: the process's own).

    Raises:
        UserError: if an option or a file is wrong.
    """
    settings = tyro.cli(
        Settings, prog="python -m gpt.evaluate", description=__doc__, args=args
    )
    settings.check()
    start(MeshConfig(), RunConfig())
    if settings.out:
        require_writable(open_path(settings.out))
    model, tokenizer = settings.load()
    stride = settings.stride or model.block_size
    require(
        1 <= stride <= model.block_size,
        f"`--stride` must be in 1 .. {model.block_size}, the model's `block_size`: got "
        f"{stride}.",
    )
    tokens, name = read_tokens(settings, tokenizer)
    found = evaluate(
        model, tokens, lengths_of(tokenizer), stride=stride, batch=settings.batch
    )
    size = f" ({found['bytes']:,} bytes)" if "bytes" in found else ""
    print(f"{name}: {found['tokens']:,} tokens{size}\n{show(found)}")
    if settings.out:
        about = {"settings": asdict(settings) | {"stride": stride}, "result": found}
        write_whole(open_path(settings.out), json.dumps(about, indent=1) + "\n")


if __name__ == "__main__":
    cli.run(main)
