"""Text from a trained GPT: `python -m gpt.sample --run-dir RUN`.

    python -m gpt.sample --run-dir runs/mine --num-samples 1 --prompt "ROMEO:"
    python -m gpt.sample --init-from gpt2-xl --prompt FILE:prompt.txt --top-p 0.9
    python -m gpt.sample --hf-dir exported --temperature 0

One sample appears as it is written; several are written at once, and each is printed
when all of them are complete.
"""

if not __package__:
    raise SystemExit(
        "Run it as a module, from the project's root: python -m gpt.sample"
    )

import codecs
import io
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import equinox as eqx
import jax
import numpy as np
import tyro

from configs import GPTConfig, MeshConfig, RunConfig, require, require_positive
from data.text.tokenizer import GPT2, Tokenizer
from gpt.decode import (
    Decoder,
    Programs,
    decode_cached,
    decode_window,
    generate,
    prefill,
    row_keys,
)
from gpt.model import GPT
from gpt.pretrained import read_pretrained
from gpt.sampling import Sampling
from train.devices import start
from train.run_dir import load_run

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

    checkpoint: Literal["best", "newest"] = "best"
    """Which checkpoint of the run."""

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
    """Folder with GPT-2's `encoder.json` and `vocab.bpe`. Empty: that of the
    environment variable `GPT2_BPE_DIR`, or else a download."""

    def check(self) -> None:
        """Raise `ValueError` unless all values are in range."""
        given = [name for name in (self.run_dir, self.init_from, self.hf_dir) if name]
        require(
            len(given) == 1,
            "A model must be named by one of `--run-dir`, `--init-from` and "
            f"`--hf-dir`: got {len(given)} of them. Give one.",
        )
        require_positive(self, "num_samples", "max_new_tokens")
        require(
            self.batch >= 0 and self.seed >= 0,
            "`batch` and `seed` must be at least 0: got "
            f"{self.batch} and {self.seed}. Use 0 to write all samples at once.",
        )
        assert self.sampling  # checks its values

    @property
    def sampling(self) -> Sampling:
        """How tokens are drawn."""
        return Sampling(
            temperature=self.temperature, top_k=self.top_k, top_p=self.top_p
        )


def load(settings: Settings) -> tuple[GPT, Tokenizer]:
    """The model in float32, and its tokens.

    Raises:
        ValueError: if they cannot be read or do not go together.
    """
    folder = settings.data
    if settings.run_dir:
        run = load_run(Path(settings.run_dir), settings.checkpoint)
        model, folder = run.model, folder or run.config.data.path
    else:
        require(
            not settings.hf_dir or Path(settings.hf_dir).is_dir(),
            f"`--hf-dir` must be a folder: there is no `{settings.hf_dir}`. Check the "
            "path, or use `--init-from` for a model on the hub.",
        )
        wanted = GPTConfig(block_size=1 << 30)
        found = read_pretrained(settings.hf_dir or settings.init_from, wanted)
        model = found.load("xla")
    bpe_dir = settings.bpe_dir
    tokenizer = Tokenizer.read(folder, bpe_dir) if folder else GPT2.load(bpe_dir)
    rows = model.embedding.weight.shape[0]
    require(
        tokenizer.vocab_size <= rows,
        f"The model must know all {tokenizer.vocab_size:,} tokens of the tokenizer: it "
        f"has {rows:,}. Name the dataset that it was trained on with `--data`.",
    )
    return model, tokenizer


def read_prompt(prompt: str) -> str:
    """The prompt, or what is in the file that it names.

    Raises:
        ValueError: if that is no text.
    """
    if not prompt.startswith("FILE:"):
        return prompt
    path = Path(prompt.removeprefix("FILE:"))
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(
            f"The prompt must be a file of UTF-8 text: got `{path}` ({error}). Check "
            "the path after `FILE:`."
        ) from error


def compiled(precision: str) -> Programs:
    """The programs of generation; float32 products are not rounded on any device."""

    def compile_program(body: Callable[..., Any], donate: Any) -> Callable[..., Any]:
        def run(*inputs: Any) -> Any:
            exact = "highest" if precision == "float32" else None
            with jax.default_matmul_precision(exact):
                return body(*inputs)

        return eqx.filter_jit(run, donate=donate)

    loops = (
        compile_program(body, "all-except-first")
        for body in (decode_cached, decode_window)
    )
    return Programs(compile_program(prefill, "none"), *loops)


class Text:
    """One sample, as its tokens come in."""

    def __init__(self, tokenizer: Tokenizer, stop: str):
        self._tokenizer, self._stop = tokenizer, stop
        self._bytes = codecs.getincrementaldecoder("utf-8")("replace")
        self.text, self.ended = "", False

    def add(self, tokens: Sequence[int] | np.ndarray, *, last: bool = False) -> str:
        """What more tokens add to the text, but for half a character at the end.

        Args:
            tokens: that come next.
            last: whether no more will come.
        """
        if self.ended:
            return ""
        before = len(self.text)
        self.text += self._bytes.decode(self._tokenizer.decode_bytes(tokens), last)
        if self._stop and self._stop in self.text:
            self.text = self.text[: self.text.index(self._stop) + len(self._stop)]
            self.ended = True
        return self.text[before:]


class Writer:
    """Writes texts with a model."""

    def __init__(self, settings: Settings):
        model, self._tokenizer = load(settings)
        self._settings = settings
        self._opening = read_prompt(settings.prompt)
        self._prompt = self._tokenizer.encode(self._opening)
        require(
            self._prompt.size > 0,
            "The prompt must have at least one token: it is empty. Give some text, or "
            "leave out `--prompt` to begin with a newline.",
        )
        stop = self._tokenizer.encode(settings.stop)
        self._stop = int(stop[0]) if len(stop) == 1 else -1
        precision = settings.precision
        if precision == "auto":
            on_cpu = jax.default_backend() == "cpu"
            precision = "float32" if on_cpu else "bfloat16"
        self._decoder = Decoder(jax.tree.map(lambda a: a.astype(precision), model))
        self._programs = compiled(precision)

    def write(self) -> None:
        """Print all samples."""
        count = self._settings.num_samples
        batch = min(self._settings.batch or count, count)
        for first in range(0, count, batch):
            # A last batch of fewer samples would be compiled again.
            rows = np.arange(first, first + batch)
            for text in self._sample(rows)[: count - first]:
                print(text if batch > 1 else "", BETWEEN, sep="\n", flush=True)

    def _sample(self, rows: np.ndarray) -> list[str]:
        """The text of these samples; of a single one, it is printed as it comes."""
        show = (lambda s: print(s, end="", flush=True)) if len(rows) == 1 else str
        texts = [Text(self._tokenizer, self._settings.stop) for _ in rows]
        show(self._opening)
        for piece in self._pieces(rows):
            for text, tokens in zip(texts, piece, strict=True):
                show(text.add(tokens))
            if all(text.ended for text in texts):
                break
        for text in texts:
            show(text.add([], last=True))
        return [self._opening + text.text for text in texts]

    def _pieces(self, rows: np.ndarray) -> Iterator[np.ndarray]:
        """New tokens of these samples."""
        return generate(
            self._decoder,
            np.tile(self._prompt, (len(rows), 1)),
            self._settings.max_new_tokens,
            self._settings.sampling,
            row_keys(self._settings.seed, rows),
            tokens=self._tokenizer.vocab_size,
            stop=self._stop,
            programs=self._programs,
        )


def main(args: Sequence[str] | None = None) -> None:
    """Run the command line `args` (None: the process's own).

    Exits with status 2 and a message if an option or a file is wrong.
    """
    warnings.formatwarning = lambda message, *_, **__: f"warning: {message}\n"
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")  # a terminal may lack a character
    try:
        settings = tyro.cli(
            Settings, prog="python -m gpt.sample", description=__doc__, args=args
        )
        settings.check()
        start(MeshConfig(), RunConfig())
        Writer(settings).write()
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(2) from None
    except KeyboardInterrupt:
        raise SystemExit(130) from None


if __name__ == "__main__":
    main()
