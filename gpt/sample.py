"""Generate text with a trained GPT: `python -m gpt.sample`.

    python -m gpt.sample --num-samples 1 --prompt "ROMEO:"    # the packaged model
    python -m gpt.sample --run-dir runs/mine --num-samples 1 --prompt "ROMEO:"
    python -m gpt.sample --init-from gpt2-xl --prompt FILE:prompt.txt --top-p 0.9
    python -m gpt.sample --hf-dir exported --temperature 0
    python -m gpt.sample --chat

A single sample is printed token by token; a batch of samples is printed at its end.
"""

import signal
import sys
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import count
from pathlib import Path

import tyro

from configs import (
    MeshConfig,
    RunConfig,
    UserError,
    require,
    require_not_negative,
    require_positive,
    require_seed,
)
from gpt.decode import Decoder
from gpt.sampling import Sampling
from gpt.text import write_texts
from train import cli
from train.devices import start
from train.gpt_model import ModelSettings

SEPARATOR = "---------------"
"""Line after each sample, as in nanoGPT."""


@dataclass(frozen=True, kw_only=True)
class Settings(ModelSettings):
    """Model, prompt and sampling."""

    prompt: str = "\n"
    """Text before the sample; `FILE:name` reads it from a file. `start`."""

    chat: bool = False
    """Read prompts from standard input, one per line, and continue each. Ctrl-C stops a
    text, Ctrl-D ends. Without `prompt`, `num_samples` and `batch`."""

    num_samples: int = 10
    """Number of texts."""

    max_new_tokens: int = 500
    """Maximum of tokens per text after the prompt."""

    temperature: float = 0.8
    """Randomness: below 1 less, above 1 more; 0: always the likeliest token."""

    top_k: int | None = 200
    """Draw from the `top_k` likeliest tokens; None: from all."""

    top_p: float = 1.0
    """Draw from the smallest set of likeliest tokens with this total probability."""

    seed: int = 1337
    """Seed of the draws. A sample does not depend on the number of samples."""

    stop: str = ""
    """End a text after this string. A single token (a character, `<|endoftext|>`) also
    ends its computation."""

    batch: int = 0
    """Samples generated at once; 0: all."""

    def check(self) -> None:
        """Raise `UserError` if a setting is out of range."""
        super().check()
        require_positive(self, "num_samples", "max_new_tokens")
        require_not_negative(self, "batch")
        require_seed(self.seed)


def read_prompt(prompt: str) -> str:
    """Return the prompt; for `FILE:name` the text of the file.

    Raises:
        UserError: if the file is missing, or not UTF-8.
    """
    if not prompt.startswith("FILE:"):
        return prompt
    path = Path(prompt.removeprefix("FILE:"))
    try:
        return path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"Could not read the prompt `{path}`: {error}.") from error


def sample(settings: Settings, sampling: Sampling) -> None:
    """Print all samples.

    Raises:
        UserError: if the model or the prompt is unusable, memory does not suffice, or
            the output cannot be written.
    """
    show("")  # an output error must come before the model is read
    model, tokenizer = settings.load()
    decoder = Decoder(model)
    prompt, number = read_prompt(settings.prompt), settings.num_samples
    batch = min(settings.batch or number, number)
    for first in range(0, number, batch):
        texts = write_texts(
            decoder,
            tokenizer,
            prompt,
            range(first, first + batch),  # all of one size: compiled once
            sampling,
            max_new_tokens=settings.max_new_tokens,
            seed=settings.seed,
            stop=settings.stop,
        )
        if batch == 1:
            show_as_made(prompt, texts)
            show(f"\n{SEPARATOR}\n")
        else:
            *_, complete = texts
            for text in complete[: number - first]:
                show(f"{prompt}{text}\n{SEPARATOR}\n")


def chat(settings: Settings, sampling: Sampling) -> None:
    """Continue each line of standard input until it ends; an empty one is a newline.

    Raises:
        UserError: if the model is unusable, or the output cannot be written.
    """
    model, tokenizer = settings.load()
    decoder, mark = Decoder(model), "> " if sys.stdin.isatty() else ""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    for number in count():
        try:
            prompt = input(mark) or "\n"
        except EOFError:
            return show("\n" if mark else "")
        try:
            texts = write_texts(
                decoder,
                tokenizer,
                prompt,
                [number],  # another draw for an equal prompt
                sampling,
                max_new_tokens=settings.max_new_tokens,
                seed=settings.seed,
                stop=settings.stop,
            )
        except UserError as error:  # a character that is unknown
            show(f"{error}\n")
            continue
        with suppress(KeyboardInterrupt):
            show_as_made(prompt, texts)
        show("\n")


def show_as_made(prompt: str, texts: Iterable[Sequence[str]]) -> None:
    """Print a prompt, and the text after it as it grows."""
    show(prompt)
    printed = 0
    for (text,) in texts:
        show(text[printed:])
        printed = len(text)


def show(text: str) -> None:
    """Print without a delay; end the process if the reader has left.

    Raises:
        UserError: if standard output is closed or full.
    """
    print(text, end="", flush=True)
    lost = getattr(sys.stdout, "lost", None)
    if isinstance(lost, BrokenPipeError):
        raise SystemExit(128 + signal.SIGPIPE)  # as after `| head -1`
    require(lost is None, f"Could not write to standard output: {lost}.")


def main(args: Sequence[str] | None = None) -> None:
    """Run the command line `args` (None: the process's own).

    Raises:
        UserError: if an option or a file is wrong.
    """
    reconfigure = getattr(sys.stdout, "reconfigure", lambda **_: None)
    reconfigure(errors="replace")  # the terminal's encoding may lack a character
    settings = tyro.cli(
        Settings, prog="python -m gpt.sample", description=__doc__, args=args
    )
    settings.check()
    sampling = Sampling(
        temperature=settings.temperature, top_k=settings.top_k, top_p=settings.top_p
    )
    start(MeshConfig(), RunConfig())
    (chat if settings.chat else sample)(settings, sampling)


if __name__ == "__main__":
    cli.run(main)
