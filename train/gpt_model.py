"""The GPT that a script samples from or evaluates, and its tokenizer."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import jax
import jax.numpy as jnp

from configs import CheckpointName, GPTConfig, require
from data.text.tokenizer import GPT2, Tokenizer
from gpt.model import GPT, cast
from gpt.pretrained import read_pretrained
from train.gpt_weights import tokens_of
from train.runs.loading import load_run


@dataclass(frozen=True, kw_only=True)
class ModelSettings:
    """Model (one of `run_dir`, `init_from`, `hf_dir`), tokenizer and precision."""

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

    precision: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """Compute type. `auto`: float32 on a CPU, else bfloat16. `dtype`."""

    data: str = ""
    """Folder of the dataset with the model's tokenizer. Empty: the dataset of the run;
    GPT-2's tokens without a run."""

    bpe_dir: str = ""
    """Folder with GPT-2's `encoder.json` and `vocab.bpe`. Empty: the folder used by the
    run's dataset, then the environment variable `GPT2_BPE_DIR`, then a download."""

    @property
    def run(self) -> str:
        """The run or published model; empty with other weights."""
        other = self.init_from or self.hf_dir
        return "" if other else self.run_dir or "shakespeare"

    def check(self) -> None:
        """Raise `UserError` if several models are named."""
        sources = [name for name in (self.run_dir, self.init_from, self.hf_dir) if name]
        require(
            len(sources) <= 1,
            "Give one of `--run-dir`, `--init-from` and `--hf-dir`: got "
            f"{len(sources)} of them.",
        )

    def load(self) -> tuple[GPT, Tokenizer]:
        """Load the model in the compute type, and its tokenizer.

        Raises:
            UserError: if they cannot be read or do not match.
        """
        if self.run:
            model, tokenizer = self._load_run()
        else:
            require(
                not self.hf_dir or Path(self.hf_dir).is_dir(),
                f"Folder not found: `{self.hf_dir}`. For a model on the hub, use "
                "`--init-from`.",
            )
            source = self.hf_dir or self.init_from
            model = read_pretrained(source, GPTConfig(block_size=1 << 30)).load("xla")
            if self.data:
                tokenizer = Tokenizer.read(self.data, self.bpe_dir)
            else:
                tokenizer = GPT2.load(self.bpe_dir)
        tokenizer.require_known(model.embedding.weight.shape[0])
        precision = self.precision
        if precision == "auto":
            precision = "float32" if jax.default_backend() == "cpu" else "bfloat16"
        return cast(model, jnp.dtype(precision)), tokenizer

    def _load_run(self) -> tuple[GPT, Tokenizer]:
        """Load the model of the run, and the tokenizer of its or the named dataset."""
        run = load_run(self.run, self.checkpoint)
        require(
            run.kind == "gpt",
            f"`--run-dir` must be a run of `train.gpt`: `{self.run}` is a run of "
            f"`train.{run.kind}`.",
        )
        tokenizer = Tokenizer.of(run.config.text, self.data, self.bpe_dir)
        known = tokens_of(run.config)
        require(
            known in (None, tokenizer.describe()),
            f"`{self.data}` must have the tokens of the run `{self.run}`: it has "
            "others. Build it with `python -m data.prepare text --like "
            f"{self.run}`.",
        )
        return run.model, tokenizer
