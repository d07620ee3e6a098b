"""Text from a trained GPT: `python -m gpt.sample --run-dir RUN`.

    python -m gpt.sample --run-dir runs/mine --num-samples 1 --prompt "ROMEO:"
    python -m gpt.sample --init-from gpt2-xl --prompt FILE:prompt.txt --top-p 0.9
    python -m gpt.sample --hf-dir exported --temperature 0

One sample appears as it is written; several are written at once, and each is printed
when all of them are complete.
"""

import codecs
import signal
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
import tyro
from jaxtyping import Int32

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
from data.folder import require_memory
from data.text.tokenizer import GPT2, Tokenizer
from gpt.decode import Decoder, generate, row_keys
from gpt.model import cast
from gpt.pretrained import read_pretrained
from gpt.sampling import Sampling
from train import cli
from train.devices import start
from train.runs.loading import CheckpointName, load_run

BETWEEN = "---------------"
"""Line after each sample, as in nanoGPT."""


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What to write, with which model. Exactly one of the first three names it."""

    run_dir: str = ""
    """Folder of a run of `train.gpt`. nanoGPT's `out_dir`."""

    init_from: str = ""
    """`gpt2`, `gpt2-medium`, `gpt2-large`, `gpt2-xl`, any GPT-2 on the Hugging Face hub
    as `owner/name`, or a `ckpt.pt` of nanoGPT."""

    hf_dir: str = ""
    """Folder of a Hugging Face GPT-2, as `gpt.export` writes it."""

    checkpoint: CheckpointName = "best"
    """Which checkpoint of the run: `best`, `newest` or a step."""

    prompt: str = "\n"
    """What the text begins with; `FILE:name` for the text in a file. `start`."""

    num_samples: int = 10
    """Texts to write."""

    max_new_tokens: int = 500
    """Tokens of each, at most, besides the prompt."""

    temperature: float = 0.8
    """Below 1 less random, above 1 more; 0: always the likeliest token."""

    top_k: int | None = 200
    """Draw from so many of the likeliest tokens; None: from all."""

    top_p: float = 1.0
    """Draw from the fewest likeliest tokens that together have this probability."""

    seed: int = 1337
    """Seed of the draws. A sample does not depend on how many others there are."""

    stop: str = ""
    """A text ends after this. If it is one token (a character, `<|endoftext|>`), no
    time is spent on what would follow."""

    precision: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """Compute type. `auto`: float32 on a CPU, else bfloat16. `dtype`."""

    batch: int = 0
    """Samples written at once; 0: all."""

    data: str = ""
    """Folder of the dataset whose tokens the model has. Empty: that of the run; GPT-2's
    tokens if there is no run."""

    bpe_dir: str = ""
    """Folder with GPT-2's `encoder.json` and `vocab.bpe`. Empty: that from which the
    run made its data, that of the environment variable `GPT2_BPE_DIR`, or a download.
    """

    def check(self) -> Sampling:
        """How tokens are drawn, if all settings are in range.

        Raises:
            UserError: if one is not.
        """
        given = [name for name in (self.run_dir, self.init_from, self.hf_dir) if name]
        require(
            len(given) == 1,
            "A model must be named by one of `--run-dir`, `--init-from` and "
            f"`--hf-dir`: got {len(given)} of them. Give one.",
        )
        require_positive(self, "num_samples", "max_new_tokens")
        require_not_negative(self, "batch")
        require_seed(self.seed)
        return Sampling(
            temperature=self.temperature, top_k=self.top_k, top_p=self.top_p
        )


def load(settings: Settings) -> tuple[Decoder, Tokenizer]:
    """The model in the compute type, and its tokenizer.

    Raises:
        UserError: if they cannot be read or do not go together.
    """
    if settings.run_dir:
        run = load_run(settings.run_dir, settings.checkpoint)
        require(
            run.kind == "gpt",
            f"Text must come from a run of `train.gpt`: `{settings.run_dir}` is one of "
            f"`train.{run.kind}`. Name another with `--run-dir`.",
        )
        model = run.model
        tokenizer = Tokenizer.of(run.config.data, settings.data, settings.bpe_dir)
    else:
        require(
            not settings.hf_dir or Path(settings.hf_dir).is_dir(),
            f"`--hf-dir` must be a folder: there is no `{settings.hf_dir}`. Check the "
            "path, or use `--init-from` for a model on the hub.",
        )
        wanted = GPTConfig(block_size=1 << 30)
        found = read_pretrained(settings.hf_dir or settings.init_from, wanted)
        model, bpe_dir = found.load("xla"), settings.bpe_dir
        named = settings.data
        tokenizer = Tokenizer.read(named, bpe_dir) if named else GPT2.load(bpe_dir)
    tokenizer.require_known(model.embedding.weight.shape[0])
    precision = settings.precision
    if precision == "auto":
        precision = "float32" if jax.default_backend() == "cpu" else "bfloat16"
    return Decoder(cast(model, jnp.dtype(precision))), tokenizer


def read_prompt(prompt: str) -> str:
    """The prompt, or the text of the file that it names.

    Raises:
        UserError: if that is no file of text.
    """
    if not prompt.startswith("FILE:"):
        return prompt
    path = Path(prompt.removeprefix("FILE:"))
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(
            f"The prompt must be a file of UTF-8 text: got `{path}` ({error}). Check "
            "the path after `FILE:`."
        ) from error


def read_texts(
    chunks: Iterable[Int32[np.ndarray, "batch new"]], tokenizer: Tokenizer, stop: str
) -> Iterator[list[str]]:
    """The texts after each chunk of tokens, up to `stop`, and once more at the end.

    A character of which only some bytes have come waits for the rest, or for the end.
    """
    written: list[bytes] = []
    for chunk in chain(chunks, (None,)):
        if chunk is not None:
            before = written or [b""] * len(chunk)
            pairs = zip(before, chunk, strict=True)
            written = [text + tokenizer.decode_bytes(tokens) for text, tokens in pairs]
        decode = lambda text, last: codecs.utf_8_decode(text, "replace", last)[0]
        texts = [decode(text, chunk is None) for text in written]
        if stop:
            texts = ["".join(text.partition(stop)[:2]) for text in texts]
        yield texts
        if stop and all(text.endswith(stop) for text in texts):
            return


def write(settings: Settings, sampling: Sampling) -> None:
    """Print all samples.

    Raises:
        UserError: if model, prompt, memory or output are not as they must be.
    """
    show("")  # before anything is read
    decoder, tokenizer = load(settings)
    opening, stop = read_prompt(settings.prompt), tokenizer.encode(settings.stop)
    prompt = tokenizer.encode(opening)
    require(
        prompt.size > 0,
        "The prompt must have at least one token: it is empty. Give some text, or "
        "leave out `--prompt` to begin with a newline.",
    )
    count = settings.num_samples
    batch = min(settings.batch or count, count)
    require_memory(
        batch * decoder.cache_bytes,
        f"Keys and values of {batch:,} samples",
        "Write fewer at once with `--batch`.",
    )
    for first in range(0, count, batch):
        # A last batch of fewer samples would be compiled again.
        rows = np.arange(first, first + batch)
        chunks = generate(
            decoder,
            np.tile(prompt, (batch, 1)),
            settings.max_new_tokens,
            sampling,
            row_keys(settings.seed, rows),
            tokens=tokenizer.vocab_size,
            stop=int(stop[0]) if len(stop) == 1 else -1,
        )
        alone, shown, texts = batch == 1, 0, []
        show(opening if alone else "")
        for texts in read_texts(chunks, tokenizer, settings.stop):
            if alone:
                show(texts[0][shown:])
                shown = len(texts[0])
        for text in texts[: count - first]:
            show(f"{'' if alone else opening + text}\n{BETWEEN}\n")


def show(text: str) -> None:
    """Print at once, and end when nobody reads.

    Raises:
        UserError: if standard output is closed or full.
    """
    print(text, end="", flush=True)
    lost = getattr(sys.stdout, "lost", None)
    if isinstance(lost, BrokenPipeError):
        raise SystemExit(128 + signal.SIGPIPE)  # as after `| head -1`
    require(
        lost is None,
        f"Samples must go somewhere: standard output cannot be written to ({lost}). "
        "Send it to a file that has room.",
    )


def main(args: Sequence[str] | None = None) -> None:
    """Run the command line `args` (None: the process's own).

    Raises:
        UserError: if an option or a file is wrong.
    """
    reconfigure = getattr(sys.stdout, "reconfigure", lambda **_: None)
    reconfigure(errors="replace")  # a terminal may lack a character
    settings = tyro.cli(
        Settings, prog="python -m gpt.sample", description=__doc__, args=args
    )
    sampling = settings.check()
    start(MeshConfig(), RunConfig())
    write(settings, sampling)


if __name__ == "__main__":
    cli.run(main)
