"""Generate text with a trained GPT: `python -m gpt.sample`.

    python -m gpt.sample --num-samples 1 --prompt "ROMEO:"    # the packaged model
    python -m gpt.sample --run-dir runs/mine --num-samples 1 --prompt "ROMEO:"
    python -m gpt.sample --init-from gpt2-xl --prompt FILE:prompt.txt --top-p 0.9
    python -m gpt.sample --hf-dir exported --temperature 0

A single sample is printed token by token; a batch of samples is printed at its end.
"""

import signal
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import jax
import jax.numpy as jnp
import tyro

from configs import (
    GPTConfig,
    MeshConfig,
    RunConfig,
    UserError,
    require,
    require_not_negative,
    require_positive,
    require_seed,
)
from data.text.tokenizer import GPT2, Tokenizer
from gpt.decode import Decoder
from gpt.model import cast
from gpt.pretrained import read_pretrained
from gpt.sampling import Sampling
from gpt.text import write_texts
from train import cli
from train.devices import start
from train.runs.loading import CheckpointName, load_run

SEPARATOR = "---------------"
"""Line after each sample, as in nanoGPT."""


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Model (one of `run_dir`, `init_from`, `hf_dir`), prompt and sampling."""

    run_dir: str = ""
    """Folder of a run of `train.gpt` (nanoGPT's `out_dir`); or a published model: its
    folder, `owner/name` on the Hugging Face hub, or the name of a packaged one. Without
    any model: `shakespeare`, which is packaged."""

    init_from: str = ""
    """`gpt2`, `gpt2-medium`, `gpt2-large`, `gpt2-xl`, any GPT-2 on the Hugging Face hub
    as `owner/name`, or a `ckpt.pt` of nanoGPT."""

    hf_dir: str = ""
    """Folder of a Hugging Face GPT-2, as written by `gpt.export`."""

    checkpoint: CheckpointName = "best"
    """Checkpoint of the run: `best`, `newest` or a step."""

    prompt: str = "\n"
    """Text before the sample; `FILE:name` reads it from a file. `start`."""

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

    precision: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """Compute type. `auto`: float32 on a CPU, else bfloat16. `dtype`."""

    batch: int = 0
    """Samples generated at once; 0: all."""

    data: str = ""
    """Folder of the dataset with the model's tokenizer. Empty: the dataset of the run;
    GPT-2's tokens without a run."""

    bpe_dir: str = ""
    """Folder with GPT-2's `encoder.json` and `vocab.bpe`. Empty: the folder used by the
    run's dataset, then the environment variable `GPT2_BPE_DIR`, then a download."""

    def check(self) -> None:
        """Raise `UserError` if a setting is out of range."""
        sources = [name for name in (self.run_dir, self.init_from, self.hf_dir) if name]
        require(
            len(sources) <= 1,
            "Give one of `--run-dir`, `--init-from` and `--hf-dir`: got "
            f"{len(sources)} of them.",
        )
        require_positive(self, "num_samples", "max_new_tokens")
        require_not_negative(self, "batch")
        require_seed(self.seed)


def load(settings: Settings) -> tuple[Decoder, Tokenizer]:
    """Load the model in the compute type, and its tokenizer.

    Raises:
        UserError: if they cannot be read or do not match.
    """
    if not (settings.init_from or settings.hf_dir):
        run = load_run(settings.run_dir or "shakespeare", settings.checkpoint)
        require(
            run.kind == "gpt",
            f"`--run-dir` must be a run of `train.gpt`: `{settings.run_dir}` is a run "
            f"of `train.{run.kind}`.",
        )
        model = run.model
        tokenizer = Tokenizer.of(run.config.data, settings.data, settings.bpe_dir)
    else:
        require(
            not settings.hf_dir or Path(settings.hf_dir).is_dir(),
            f"Folder not found: `{settings.hf_dir}`. For a model on the hub, use "
            "`--init-from`.",
        )
        source = settings.hf_dir or settings.init_from
        model = read_pretrained(source, GPTConfig(block_size=1 << 30)).load("xla")
        if settings.data:
            tokenizer = Tokenizer.read(settings.data, settings.bpe_dir)
        else:
            tokenizer = GPT2.load(settings.bpe_dir)
    tokenizer.require_known(model.embedding.weight.shape[0])
    precision = settings.precision
    if precision == "auto":
        precision = "float32" if jax.default_backend() == "cpu" else "bfloat16"
    return Decoder(cast(model, jnp.dtype(precision))), tokenizer


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
    decoder, tokenizer = load(settings)
    prompt, count = read_prompt(settings.prompt), settings.num_samples
    batch = min(settings.batch or count, count)
    for first in range(0, count, batch):
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
            show(prompt)
            printed = 0
            for (text,) in texts:
                show(text[printed:])
                printed = len(text)
            show(f"\n{SEPARATOR}\n")
        else:
            *_, complete = texts
            for text in complete[: count - first]:
                show(f"{prompt}{text}\n{SEPARATOR}\n")


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
    sample(settings, sampling)


if __name__ == "__main__":
    cli.run(main)
