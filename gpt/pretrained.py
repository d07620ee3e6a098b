"""Find and load weights of a Hugging Face model or of a `ckpt.pt` of nanoGPT."""

import re
import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import jax

from configs import GPTConfig, UserError, require
from gpt.attention import Kernel
from gpt.hugging_face import Fetch, read_hugging_face
from gpt.model import GPT, crop
from gpt.state_dicts import find_weights
from gpt.weights import LARGEST, Named, Naming, from_named

OPENAI = ("gpt2", "gpt2-medium", "gpt2-large", "gpt2-xl")
"""OpenAI's models: `openai-community/<name>` on the hub."""

_HUB_NAME = re.compile(r"[\w.-]+/[\w.-]+")
_COMPUTED = ("dropout", "attention", "unroll", "remat", "loss_chunk")
_SIZES = ("n_layer", "n_head", "n_embd", "block_size", "vocab_size")


@dataclass(frozen=True)
class Pretrained:
    """Weights to be loaded by `load`."""

    config: GPTConfig
    """Configuration of the loaded model."""

    stored: GPTConfig
    """Configuration of the stored weights, which may have more positions."""

    read: Callable[[GPT], GPT]
    """Returns the stored model, given its shapes."""

    def load(self, kernel: Kernel) -> GPT:
        """Load the model in float32, with this attention kernel.

        Raises:
            UserError: if the weights are missing or damaged, or do not match the
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
    """Find weights and the configuration of their model.

    Sizes, biases and activation come from the weights; dropout and settings of the
    computation from `wanted`. `block_size` is the smaller value, since positions can be
    dropped, but not added.

    Source: nanoGPT, `train.py`.

    Args:
        source: one of `OPENAI`; a GPT-2 on the hub as `owner/name`; a folder with
            `config.json` and `model.safetensors`; or a `ckpt.pt` of nanoGPT.
        wanted: model configuration of the run.

    Raises:
        UserError: if the source does not exist or is not a GPT-2.
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
    """Return the weights of another run as `Pretrained`.

    `model` and `config` belong to the other run, `wanted` to this one. Settings of the
    computation come from `wanted`, without learned positions also `block_size`.
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
    """Return `config` with the settings of the computation from `wanted`."""
    return replace(config, **{name: getattr(wanted, name) for name in _COMPUTED})


def _find(source: str) -> tuple[Naming, tuple[dict[str, Any], Callable[[], Named]]]:
    """Return the naming of the weights, fields of the configuration, and a reader."""
    path = Path(source)
    if source in OPENAI:
        return "hugging_face", read_hugging_face(_hub(f"openai-community/{source}"))
    if path.is_dir():
        return "hugging_face", read_hugging_face(_folder(path))
    if path.is_file():
        return "nanogpt", read_nanogpt(path)
    require(
        bool(_HUB_NAME.fullmatch(source)) and path.suffix != ".pt",
        f"Weights not found: `{source}`. Use one of {', '.join(OPENAI)}; a model on "
        "the hub, `owner/name`; a folder with `config.json` and `model.safetensors`; "
        "or a `ckpt.pt` of nanoGPT.",
    )
    return "hugging_face", read_hugging_face(_hub(source))


def _folder(folder: Path) -> Fetch:
    """Return a function that finds files in a folder."""

    def fetch(name: str) -> Path | None:
        path = folder / name
        return path if path.is_file() else None

    return fetch


def _hub(model: str) -> Fetch:
    """Return a function that downloads files of a model on the hub to its cache."""

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
                f"Could not download `{name}` of the Hugging Face model `{model}`: "
                f"{_brief(error)}. Check the name, or use a local folder with "
                "`config.json` and `model.safetensors`."
            ) from error

    return fetch


def read_nanogpt(path: Path) -> tuple[dict[str, Any], Callable[[], Named]]:
    """Return fields of a `GPTConfig`, and a reader of a nanoGPT `ckpt.pt`.

    Arrays are mapped from disk until they are read. Warns of unknown `model_args`.

    Raises:
        UserError: if it is another kind of file, or PyTorch is not installed.
    """
    stored = _load(path)
    require(
        _is_nanogpt(stored),
        f"{path} must contain a `model` and valid `model_args` with `bias`, "
        f"{', '.join(f'`{name}`' for name in _SIZES)}. Use a checkpoint of nanoGPT's "
        "`train.py`.",
    )
    options, weights = stored["model_args"], find_weights(stored, path) or {}
    fields = {name: options[name] for name in ("bias", *_SIZES)}
    unknown = {n: v for n, v in options.items() if n not in (*fields, "dropout")}
    if unknown:
        warnings.warn(
            f"nanoGPT has no such `model_args`, so they are ignored: {unknown}. If "
            f"they change the model, `{path}` is computed wrongly.",
            stacklevel=2,
        )
    arrays = weights.items()
    read = lambda: {name: array.detach().float().numpy() for name, array in arrays}
    return fields | {"activation": "gelu"}, read


def _is_nanogpt(stored: Any) -> bool:
    """Return True for nanoGPT's format: named tensors and valid sizes."""
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
    """Read a PyTorch file without running code from it."""
    try:
        import torch  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise UserError(
            f"Reading {path} needs PyTorch, which is not installed. Install it with "
            "`pip install -e '.[torch]'`."
        ) from error
    try:
        return torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except Exception as error:
        raise UserError(
            f"Could not read {path} with PyTorch: {_brief(error)}. Use a checkpoint of "
            "nanoGPT's `train.py`, or the folder of a Hugging Face model."
        ) from error


def _brief(error: Exception) -> str:
    """Return an error as one line."""
    return f"{type(error).__name__}: {error}".splitlines()[0]
