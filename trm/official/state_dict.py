"""Read and write files of named arrays: PyTorch and safetensors.

The first bytes determine the format, since official checkpoints are named `step_N`.
PyTorch files are read with `weights_only`, which runs no code.
"""

import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from pickle import UnpicklingError
from typing import IO, Any

import jax.numpy as jnp
import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file, save

from configs import UserError, require
from data.folder import require_local
from data.storage import lacks_room, require_writable, whole_file
from gpt.state_dicts import find_weights

StateDict = Mapping[str, np.ndarray]
"""Arrays by name."""

SUFFIXES = ("", ".pt", ".pth", ".bin", ".ckpt", ".safetensors")
"""Suffixes of checkpoints."""

_BFLOAT16 = np.dtype(jnp.bfloat16)
_ZIP, _PICKLE = b"PK\x03\x04", b"\x80"


def read_state_dict(path: Path) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Return the arrays of a file, and the configuration saved with them, if any.

    Large arrays may be memory-mapped.

    Raises:
        UserError: if the file is of another format, damaged, has other contents, or is
            PyTorch's and PyTorch is not installed.
    """
    with path.open("rb") as file:
        start = file.read(9)
    # Safetensors: 8 bytes of length, which may look like a pickle, and a JSON object.
    safe = start[5:] == b"\0\0\0{"
    if not safe and start.startswith((_ZIP, _PICKLE)):
        stored = _load_torch(path, mmap=start.startswith(_ZIP))
        return _as_arrays(*_find_weights(stored, path), path)
    require(
        safe,
        f"A checkpoint must be a file of `torch.save` or safetensors: {path} is "
        "neither. Copy or download it again.",
    )
    try:
        return load_file(path), {}
    except (SafetensorError, KeyError) as error:
        raise UserError(
            f"`{path}` is damaged ({brief(error)}). Copy or download it again."
        ) from error


def check_new(path: Path) -> None:
    """Raise `UserError` unless a new checkpoint can be written here."""
    require_local(path)
    require(
        path.suffix in SUFFIXES,
        "The suffix of a checkpoint must be `.safetensors`, `.pt`, `.pth`, or none "
        f"(`step_1000`): got `{path}`. Choose another `--out`.",
    )
    require(
        not path.exists(),
        f"{path} exists. Remove it or choose another `--out`.",
    )
    require_writable(path)


def write_state_dict(weights: StateDict, path: Path) -> None:
    """Write arrays as safetensors if the suffix is `.safetensors`, else for PyTorch.

    The file appears when it is complete.

    Raises:
        UserError: if the file exists, has another suffix, cannot be written, or needs
            PyTorch, which is not installed.
    """
    check_new(path)
    safe = path.suffix == ".safetensors"
    write = _save_safetensors if safe else _torch_saver(path)
    try:
        with whole_file(path) as file:
            write(weights, file)
    except (OSError, RuntimeError, SafetensorError) as error:
        size = sum(array.nbytes for array in weights.values())
        remedy = "Make room, or choose" if lacks_room(error) else "Choose"
        raise UserError(
            f"Could not write {size:,} bytes to `{path}` ({brief(error)}). {remedy} "
            "another `--out`."
        ) from error


def brief(error: BaseException) -> str:
    """Return an error as one line."""
    return f"{type(error).__name__}: {error}".splitlines()[0][:200]


def _save_safetensors(weights: StateDict, file: IO[bytes]) -> None:
    # `save` ignores strides.
    plain = {name: np.array(array, order="C") for name, array in weights.items()}
    file.write(save(plain, metadata={"format": "pt"}))


def _torch_saver(path: Path) -> Callable[[StateDict, IO[bytes]], None]:
    torch = _torch(path)

    def as_tensor(array: np.ndarray) -> Any:
        plain = np.array(array, order="C")
        if plain.dtype != _BFLOAT16:
            return torch.from_numpy(plain)
        return torch.from_numpy(plain.view(np.int16)).view(torch.bfloat16)

    return lambda weights, file: torch.save(
        {name: as_tensor(array) for name, array in weights.items()}, file
    )


def _torch(path: Path) -> Any:
    try:
        import torch  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise UserError(
            f"`torch` is not installed; {path} needs it. Install it with "
            "`pip install -e '.[torch]'`, or use safetensors."
        ) from error
    return torch


def _load_torch(path: Path, *, mmap: bool) -> Any:
    torch = _torch(path)
    try:
        with warnings.catch_warnings(action="ignore"):  # before the errors below
            return torch.load(path, map_location="cpu", weights_only=True, mmap=mmap)
    except UnpicklingError as error:
        raise UserError(
            f"{path} is damaged, or contains objects that would run code when read. "
            "Copy or download it again, or save only its state dict."
        ) from error
    except Exception as error:
        raise UserError(
            f"{path} is damaged ({brief(error).split('. ')[0]}). Copy or download it "
            "again."
        ) from error


def _find_weights(stored: Any, path: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """Find the named tensors in the contents of a file, and the configuration."""
    weights = find_weights(stored, path)
    if weights is not None:
        config = stored.get("config")
        return weights, config if isinstance(config, dict) else {}
    what = type(stored).__name__
    if isinstance(stored, dict):
        what = f"a dict of {', '.join(map(repr, list(stored)[:3])) or 'nothing'}"
    raise UserError(
        f"A checkpoint must contain a state dict, tensors by name: {path} contains "
        f"{what}. Use a `step_N` file of the official `pretrain.py`."
    )


def _as_arrays(
    tensors: dict[str, Any], config: dict[str, Any], path: Path
) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    torch = _torch(path)

    def as_array(name: str, tensor: Any) -> np.ndarray:
        try:
            tensor = tensor.detach().contiguous()
            if tensor.dtype == torch.bfloat16:
                return tensor.view(torch.int16).numpy().view(_BFLOAT16)
            return tensor.numpy()
        except (TypeError, RuntimeError) as error:
            raise UserError(
                f"A checkpoint must have dense tensors: `{name}` of {path} is "
                f"{tensor.layout}, {tensor.dtype} ({brief(error)}). Use weights that "
                "are neither sparse nor quantized."
            ) from error

    return {name: as_array(name, tensor) for name, tensor in tensors.items()}, config
