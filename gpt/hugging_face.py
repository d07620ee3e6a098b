"""Read and write a GPT-2 in Hugging Face's format: `config.json` and safetensors.

Source: `transformers`, `models/gpt2/configuration_gpt2.py`.
"""

import json
import re
import reprlib
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from configs import UserError, require
from data.folder import new_folder
from data.text.hugging_face import write_tokenizer
from data.text.tokenizer import Tokenizer
from gpt.model import GPT
from gpt.weights import LARGEST, Named, require_finite, to_named

Fetch = Callable[[str], Path | None]
"""Returns the path of a file by its name; None if it does not exist."""

CONFIG, WEIGHTS = "config.json", "model.safetensors"
INDEX = "model.safetensors.index.json"

_END_OF_TEXT = 50256
_SHARD = re.compile(r"[\w.-]+\.safetensors")
# Fields of `GPTConfig` -> names in `config.json`.
_SIZES = {
    "n_layer": "n_layer",
    "n_head": "n_head",
    "n_embd": "n_embd",
    "block_size": "n_positions",
    "vocab_size": "vocab_size",
}
_ACTIVATIONS = {
    "gelu_pytorch_tanh": "gelu_tanh",
    "gelu_new": "gelu_tanh",  # the name that we write
    "gelu": "gelu",
}
# Settings of the only model we compute; all but the first may be absent.
_MEANING = {
    "model_type": "gpt2",
    "layer_norm_epsilon": 1e-5,
    "scale_attn_weights": True,
    "scale_attn_by_inverse_layer_idx": False,
    "add_cross_attention": False,
    "tie_word_embeddings": True,
}


def read_hugging_face(fetch: Fetch) -> tuple[dict[str, Any], Callable[[], Named]]:
    """Return fields of a `GPTConfig`, and a function that reads the weights.

    Raises:
        UserError: if `config.json` is missing, or describes another kind of model.
    """
    path = _find(fetch, CONFIG)
    return _fields(_read_json(path), path), lambda: _read_weights(fetch)


def save_hugging_face(
    model: GPT, out: Path, tokenizer: Tokenizer | None = None
) -> None:
    """Write a model for `GPT2LMHeadModel.from_pretrained(out)`.

    Missing biases are written as 0. Padding rows of the embedding are written too.

    Args:
        model: the model.
        out: new folder; created when it is complete.
        tokenizer: tokenizer to write for `AutoTokenizer`. None: none.

    Raises:
        UserError: if `out` is not empty or cannot be written, or if a weight is not
            finite.
    """
    arrays = to_named(model, "hugging_face")
    require_finite(arrays)
    for name in list(arrays):
        if not name.endswith(("wte.weight", "wpe.weight", ".bias")):
            zeros = np.zeros(arrays[name].shape[-1:], np.float32)
            arrays.setdefault(name.removesuffix("weight") + "bias", zeros)
    # `save_file` ignores strides.
    arrays = {name: np.ascontiguousarray(array) for name, array in arrays.items()}
    text = json.dumps(_config(model), indent=2, sort_keys=True)
    try:
        with new_folder(out) as folder:
            (folder / CONFIG).write_text(text + "\n")
            save_file(arrays, folder / WEIGHTS, metadata={"format": "pt"})
            # `save_file` ignores the umask.
            shutil.copymode(folder / CONFIG, folder / WEIGHTS)
            if tokenizer is not None:
                write_tokenizer(tokenizer, folder, model.block_size)
    except (OSError, SafetensorError) as error:
        size = sum(array.nbytes for array in arrays.values())
        raise UserError(
            f"Could not write the model ({size:,} bytes) to `{out}`: {error}. Nothing "
            "was left there."
        ) from error


def _config(model: GPT) -> dict[str, Any]:
    """Return the content of `config.json`."""
    block, (rows, width) = model.blocks.layers, model.embedding.weight.shape
    end = _END_OF_TEXT if rows > _END_OF_TEXT else None
    names = {ours: theirs for theirs, ours in _ACTIVATIONS.items()}
    rates = ("attn_pdrop", "embd_pdrop", "resid_pdrop")
    return {
        **_MEANING,
        **dict.fromkeys(rates, model.dropout),
        "n_layer": model.blocks.length,
        "n_head": block.heads,
        "n_embd": width,
        "n_positions": model.block_size,
        "vocab_size": rows,
        "n_inner": None,
        "activation_function": names[block.activation],
        "architectures": ["GPT2LMHeadModel"],
        "bos_token_id": end,
        "eos_token_id": end,
        "dtype": "float32",
        "initializer_range": 0.02,
        "reorder_and_upcast_attn": False,
        "use_cache": True,
    }


def _fields(stored: dict[str, Any], path: Path) -> dict[str, Any]:
    """Return fields of a `GPTConfig` from the content of `config.json`."""
    for name, value in _MEANING.items():
        got = stored.get(name, None if name == "model_type" else value)
        _require_setting(got == value, path, name, repr(value), got)
    fields: dict[str, Any] = {"bias": True}
    for ours, theirs in _SIZES.items():
        fields[ours] = size = stored.get(theirs)
        fits = type(size) is int and 1 <= size <= LARGEST
        _require_setting(fits, path, theirs, f"a whole number in 1 .. {LARGEST}", size)
    width, inner = fields["n_embd"], stored.get("n_inner")
    fits = inner in (None, 4 * width)
    _require_setting(fits, path, "n_inner", f"null or {4 * width}", inner)
    activation = stored.get("activation_function", "gelu_new")
    known = isinstance(activation, str) and activation in _ACTIVATIONS
    options = " or ".join(repr(name) for name in _ACTIVATIONS)
    _require_setting(known, path, "activation_function", options, activation)
    return fields | {"activation": _ACTIVATIONS[activation]}


def _require_setting(
    condition: bool, path: Path, name: str, wanted: str, got: object
) -> None:
    """Raise `UserError` about a setting of `config.json` unless `condition` holds."""
    require(
        condition,
        f"`{name}` in {path} must be {wanted}, as in GPT-2: got {reprlib.repr(got)}.",
    )


def _read_weights(fetch: Fetch) -> dict[str, np.ndarray]:
    """Read the arrays of the weights file, or of all files in the index."""
    path = _find(fetch, WEIGHTS, INDEX)
    if path.name == WEIGHTS:
        return _read_safetensors(path)
    weights: dict[str, np.ndarray] = {}
    for name in _shards(_read_json(path), path):
        weights |= _read_safetensors(_find(fetch, name))
    return weights


def _shards(index: dict[str, Any], path: Path) -> list[str]:
    """Return the file names in an index."""
    table = index.get("weight_map")
    names: list[Any] = list(table.values()) if isinstance(table, dict) else []
    wrong = [n for n in names if not (isinstance(n, str) and _SHARD.fullmatch(n))]
    require(
        len(names) > 0 and not wrong,
        f"`weight_map` in {path} must map arrays to `.safetensors` files in the same "
        f"folder: got {reprlib.repr(wrong[0] if wrong else table)}. Download it again.",
    )
    return sorted(set(names))


def _find(fetch: Fetch, *names: str) -> Path:
    """Return the path of the first existing file."""
    for name in names:
        path = fetch(name)
        if path is not None:
            return path
    raise UserError(
        f"File not found in the Hugging Face model: {' or '.join(names)}. Download it, "
        "or save the model again with `save_pretrained`."
    )


def _read_safetensors(path: Path) -> dict[str, np.ndarray]:
    """Read the arrays of a file."""
    try:
        return load_file(path)
    except SafetensorError as error:
        raise UserError(
            f"Could not read the safetensors file {path}: {error}. Download it again."
        ) from error


def _read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object."""
    try:
        content = json.loads(path.read_text(encoding="utf-8-sig"))
    except (ValueError, RecursionError):
        content = None
    if isinstance(content, dict):
        return content
    raise UserError(f"{path} must contain a JSON object. Download it again.")
