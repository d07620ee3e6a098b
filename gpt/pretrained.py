"""Weights trained elsewhere: a Hugging Face model or a `ckpt.pt` of nanoGPT."""

import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import jax

from configs import GPTConfig, UserError, require
from gpt.attention import Kernel
from gpt.hugging_face import Fetch, read_hugging_face
from gpt.model import GPT, crop
from gpt.weights import LARGEST, Named, Naming, from_named

OPENAI = ("gpt2", "gpt2-medium", "gpt2-large", "gpt2-xl")
"""OpenAI's models, on the hub as `openai-community/<name>`."""

_HUB_NAME = re.compile(r"[\w.-]+/[\w.-]+")
_COMPUTED = ("dropout", "attention", "unroll", "remat", "loss_chunk")
_SIZES = ("n_layer", "n_head", "n_embd", "block_size", "vocab_size")


@dataclass(frozen=True)
class Pretrained:
    """Weights that are found, but not read yet.

    Attributes:
        config: of the model that `load` gives.
        stored: of the weights as they are stored; they may have more positions.
        read: from the shapes of their model to the model.
    """

    config: GPTConfig
    stored: GPTConfig
    read: Callable[[GPT], GPT]

    def load(self, kernel: Kernel) -> GPT:
        """The model in float32.

        Args:
            kernel: what computes its attention.

        Raises:
            UserError: if the weights are missing or damaged, or not those of the
                configuration.
        """
        rows = self.stored.vocab_size
        assert rows is not None
        like = jax.eval_shape(
            lambda: GPT(self.stored, vocab=rows, kernel=kernel, key=jax.random.key(0))
        )
        model = self.read(like)
        if self.config.block_size == self.stored.block_size:
            return model
        return crop(model, self.config.block_size)


def read_pretrained(source: str, wanted: GPTConfig) -> Pretrained:
    """Find weights, and what model they make.

    Sizes, biases and activation are those of the weights; dropout and how things are
    computed are as wanted. `block_size` is the smaller of both: positions can be left
    out, but not added.

    Source: nanoGPT, `train.py`.

    Args:
        source: one of `OPENAI`, or any GPT-2 on the hub as `owner/name`; a folder with
            `config.json` and `model.safetensors`; or a `ckpt.pt` of nanoGPT.
        wanted: the configuration of the run.

    Raises:
        UserError: if nothing of the kind is there, or it is no GPT-2.
    """
    naming, (fields, read) = _find(source)
    stored = replace(wanted, **fields)
    block_size = min(wanted.block_size, stored.block_size)
    return Pretrained(
        replace(stored, block_size=block_size),
        stored,
        lambda like: from_named(read(), like, naming),
    )


def adopted(model: GPT, config: GPTConfig, wanted: GPTConfig) -> Pretrained:
    """The weights of another run, whose model has this configuration.

    As of those trained elsewhere, how things are computed is as wanted; without learned
    positions sequences may be of any length.
    """
    rows = model.embedding.weight.shape[0]
    stored = replace(as_computed(config, wanted), vocab_size=rows)
    if model.positions is None:
        stored = replace(stored, block_size=wanted.block_size)
    block_size = min(wanted.block_size, stored.block_size)
    leaves = jax.tree.leaves(model)
    return Pretrained(
        replace(stored, block_size=block_size),
        stored,
        lambda like: jax.tree.unflatten(jax.tree.structure(like), leaves),
    )


def as_computed(config: GPTConfig, wanted: GPTConfig) -> GPTConfig:
    """A configuration of which the weights know nothing else, computed as wanted."""
    return replace(config, **{name: getattr(wanted, name) for name in _COMPUTED})


def _find(source: str) -> tuple[Naming, tuple[dict[str, Any], Callable[[], Named]]]:
    """Whose names the weights have, fields of their configuration, and their reader."""
    path = Path(source)
    if source in OPENAI:
        return "hugging_face", read_hugging_face(_hub(f"openai-community/{source}"))
    if path.is_dir():
        return "hugging_face", read_hugging_face(_folder(path))
    if path.is_file():
        return "nanogpt", read_nanogpt(path)
    require(
        bool(_HUB_NAME.fullmatch(source)) and path.suffix != ".pt",
        f"Pretrained weights must be one of {', '.join(OPENAI)}; a model on the hub, "
        "`owner/name`; a folder with `config.json` and `model.safetensors`; or a "
        f"`ckpt.pt` of nanoGPT: got `{source}`, and there is no such file. Check the "
        "path or name.",
    )
    return "hugging_face", read_hugging_face(_hub(source))


def _folder(folder: Path) -> Fetch:
    """The files of a folder."""

    def fetch(name: str) -> Path | None:
        path = folder / name
        return path if path.is_file() else None

    return fetch


def _hub(model: str) -> Fetch:
    """The files of a model on the hub, kept in its cache."""

    def fetch(name: str) -> Path | None:
        from huggingface_hub import hf_hub_download
        from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError

        try:
            return Path(hf_hub_download(model, name))
        except Exception as error:
            offline = isinstance(error, LocalEntryNotFoundError)
            if isinstance(error, EntryNotFoundError) and not offline:
                return None
            raise UserError(
                f"`{name}` must come from the Hugging Face model `{model}`: it could "
                f"not be downloaded ({_brief(error)}). Check the name, or name a local "
                "folder with `config.json` and `model.safetensors`."
            ) from error

    return fetch


def read_nanogpt(path: Path) -> tuple[dict[str, Any], Callable[[], Named]]:
    """Fields of a `GPTConfig`, and what reads the weights of a nanoGPT `ckpt.pt`.

    Args:
        path: the file. Its arrays are mapped from disk until they are read.

    Raises:
        UserError: if it is no such file, or PyTorch is not installed.
    """
    stored = _load(path)
    require(
        _is_nanogpt(stored),
        "A checkpoint of nanoGPT must hold `model` and `model_args` with `bias`, "
        f"{', '.join(f'`{name}`' for name in _SIZES)}: {path} lacks some of it, or "
        "says what cannot be. Use what nanoGPT's `train.py` saves.",
    )
    options, weights = stored["model_args"], stored["model"].items()
    fields = {name: options[name] for name in ("bias", *_SIZES)}
    read = lambda: {name: array.detach().float().numpy() for name, array in weights}
    return fields | {"activation": "gelu"}, read


def _is_nanogpt(stored: Any) -> bool:
    """Whether this is what nanoGPT saves: named tensors, and sizes that can be."""
    match stored:
        case {"model": {**tensors}, "model_args": {"bias": bool(), **options}}:
            sizes = [options.get(name) for name in _SIZES]
            return (
                bool(tensors)
                and all(isinstance(name, str) for name in tensors)
                and all(hasattr(tensor, "detach") for tensor in tensors.values())
                and all(type(size) is int and 1 <= size <= LARGEST for size in sizes)
            )
    return False


def _load(path: Path) -> Any:
    """What is in the file, by PyTorch's reader of plain data, which runs no code."""
    try:
        import torch  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise UserError(
            f"A file of PyTorch must be read by it: {path} is one, and `torch` is not "
            "installed. Install it with `pip install -e '.[torch]'`."
        ) from error
    try:
        return torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except Exception as error:
        raise UserError(
            "A file of weights must be a `ckpt.pt` of nanoGPT: PyTorch cannot read "
            f"{path} ({_brief(error)}). Use what nanoGPT's `train.py` saves, or "
            "name the folder of a Hugging Face model."
        ) from error


def _brief(error: Exception) -> str:
    """An error in one line."""
    return f"{type(error).__name__}: {error}".splitlines()[0]
