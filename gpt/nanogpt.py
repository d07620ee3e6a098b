"""A checkpoint that nanoGPT's `train.py` writes: `ckpt.pt`."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from configs import require
from gpt.weights import Named

_FIELDS = ("n_layer", "n_head", "n_embd", "block_size", "bias", "vocab_size")


def read_nanogpt(path: Path) -> tuple[dict[str, Any], Callable[[], Named]]:
    """Fields of a `GPTConfig`, and what reads the weights.

    Args:
        path: the file. Its arrays are mapped from disk until they are read.

    Raises:
        ValueError: if it is no such file, or PyTorch is not installed.
    """
    stored = _load(path)
    stored = stored if isinstance(stored, dict) else {}
    options, weights = stored.get("model_args", {}), stored.get("model", {})
    missing = [name for name in _FIELDS if name not in options]
    require(
        bool(weights) and not missing,
        "A checkpoint of nanoGPT must hold `model` and `model_args` with "
        f"{', '.join(_FIELDS)}: {path} lacks some of it. Use what nanoGPT's `train.py` "
        "saves.",
    )
    fields = {name: options[name] for name in _FIELDS}
    read = lambda: {name: array.float().numpy() for name, array in weights.items()}
    return fields | {"activation": "gelu"}, read


def _load(path: Path) -> Any:
    """What is in the file, by PyTorch's reader of plain data, which runs no code."""
    try:
        import torch  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise ValueError(
            f"A file of PyTorch must be read by it: {path} is one, and `torch` is not "
            "installed. Install it with `pip install -e '.[torch]'`."
        ) from error
    try:
        return torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except Exception as error:
        raise ValueError(
            "A file of weights must be a `ckpt.pt` of nanoGPT: PyTorch cannot read "
            f"{path} ({type(error).__name__}: {error}). Use what nanoGPT's `train.py` "
            "saves, or name the folder of a Hugging Face model."
        ) from error
