"""A GPT-2 as Hugging Face's `save_pretrained` writes it: `config.json`, safetensors.

Source: `transformers`, `models/gpt2/configuration_gpt2.py`.
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from configs import GPTConfig, require
from gpt.model import GPT
from gpt.weights import Named, to_named

Fetch = Callable[[str], Path | None]
"""From the name of a file to where it lies; None if there is no such file."""

CONFIG, WEIGHTS = "config.json", "model.safetensors"
INDEX = "model.safetensors.index.json"

_END_OF_TEXT = 50256
# Our sizes -> theirs.
_SIZES = {
    "n_layer": "n_layer",
    "n_head": "n_head",
    "n_embd": "n_embd",
    "block_size": "n_positions",
    "vocab_size": "vocab_size",
}
_ACTIVATIONS = {"gelu_new": "gelu_tanh", "gelu": "gelu"}
# What our model computes; each but the first may be left out.
_MEANING = {
    "model_type": "gpt2",
    "layer_norm_epsilon": 1e-5,
    "scale_attn_weights": True,
    "scale_attn_by_inverse_layer_idx": False,
    "add_cross_attention": False,
    "tie_word_embeddings": True,
}


def read_hugging_face(fetch: Fetch) -> tuple[dict[str, Any], Callable[[], Named]]:
    """Fields of a `GPTConfig`, and what reads the weights.

    Args:
        fetch: gives the files of the model.

    Raises:
        ValueError: if there is no `config.json`, or one of another kind of model.
    """
    path = _find(fetch, CONFIG)
    return _fields(_read_json(path), path), lambda: _read_weights(fetch)


def save_hugging_face(model: GPT, config: GPTConfig, folder: Path) -> None:
    """Write a model for `GPT2LMHeadModel.from_pretrained(folder)`.

    A model without biases gets biases of 0. Rows of the embedding beyond the data's
    tokens are written too.

    Args:
        model: what to write.
        config: what it was built from.
        folder: made if it is missing.

    Raises:
        ValueError: if the folder has a `config.json`.
    """
    require(
        not (folder / CONFIG).exists(),
        f"The folder of an exported model must have no `{CONFIG}`: {folder} has one. "
        "Choose another folder, or remove the file.",
    )
    arrays = to_named(model, "hugging_face")
    for name in list(arrays):
        if not name.endswith(("wte.weight", "wpe.weight", ".bias")):
            zeros = np.zeros(arrays[name].shape[-1:], np.float32)
            arrays.setdefault(name.removesuffix("weight") + "bias", zeros)
    # `save_file` writes the memory of an array as it lies.
    arrays = {name: np.ascontiguousarray(array) for name, array in arrays.items()}
    folder.mkdir(parents=True, exist_ok=True)
    save_file(arrays, folder / WEIGHTS, metadata={"format": "pt"})
    text = json.dumps(_config(model, config), indent=2, sort_keys=True)
    (folder / CONFIG).write_text(text + "\n")


def _config(model: GPT, config: GPTConfig) -> dict[str, Any]:
    """What `config.json` says of a model."""
    sizes = {theirs: getattr(config, ours) for ours, theirs in _SIZES.items()}
    rows = model.embedding.weight.shape[0]
    end = _END_OF_TEXT if rows > _END_OF_TEXT else None
    names = {ours: theirs for theirs, ours in _ACTIVATIONS.items()}
    rates = ("attn_pdrop", "embd_pdrop", "resid_pdrop")
    return {
        **_MEANING,
        **sizes,
        **dict.fromkeys(rates, config.dropout),
        "n_positions": model.positions.shape[0],
        "vocab_size": rows,
        "n_inner": None,
        "activation_function": names[config.activation],
        "architectures": ["GPT2LMHeadModel"],
        "bos_token_id": end,
        "eos_token_id": end,
        "dtype": "float32",
        "initializer_range": 0.02,
        "reorder_and_upcast_attn": False,
        "use_cache": True,
    }


def _fields(stored: dict[str, Any], path: Path) -> dict[str, Any]:
    """Fields of a `GPTConfig` from what `config.json` says."""
    for name, value in _MEANING.items():
        got = stored.get(name, None if name == "model_type" else value)
        _require_setting(got == value, path, name, repr(value), got)
    fields: dict[str, Any] = {"bias": True}
    for ours, theirs in _SIZES.items():
        fields[ours] = size = stored.get(theirs)
        whole = isinstance(size, int) and size >= 1
        _require_setting(whole, path, theirs, "a whole number of at least 1", size)
    width, inner = fields["n_embd"], stored.get("n_inner")
    fits = inner in (None, 4 * width)
    _require_setting(fits, path, "n_inner", f"null or {4 * width}", inner)
    activation = stored.get("activation_function", "gelu_new")
    known = activation in _ACTIVATIONS
    options = " or ".join(repr(name) for name in _ACTIVATIONS)
    _require_setting(known, path, "activation_function", options, activation)
    return fields | {"activation": _ACTIVATIONS[activation]}


def _require_setting(
    condition: bool, path: Path, name: str, wanted: str, got: object
) -> None:
    """Raise `ValueError` about a setting of `config.json` unless `condition` holds."""
    require(
        condition,
        f"`{name}` in {path} must be {wanted}: got {got!r}. Use a model that computes "
        "what GPT-2 does.",
    )


def _read_weights(fetch: Fetch) -> dict[str, np.ndarray]:
    """The arrays of one file of weights, or of all that an index names."""
    path = _find(fetch, WEIGHTS, INDEX)
    if path.name == WEIGHTS:
        return _read_safetensors(path)
    weights: dict[str, np.ndarray] = {}
    for name in sorted(set(_read_json(path).get("weight_map", {}).values())):
        weights |= _read_safetensors(_find(fetch, name))
    return weights


def _find(fetch: Fetch, *names: str) -> Path:
    """The first of these files that there is."""
    for name in names:
        path = fetch(name)
        if path is not None:
            return path
    raise ValueError(
        f"A Hugging Face model must have the file {' or '.join(names)}: it is missing. "
        "Copy or download it, or write the model anew with `save_pretrained`."
    )


def _read_safetensors(path: Path) -> dict[str, np.ndarray]:
    """The arrays of a file."""
    try:
        return load_file(path)
    except SafetensorError as error:
        raise ValueError(
            f"`{path}` must be a safetensors file: it is damaged ({error}). Copy or "
            "download it again."
        ) from error


def _read_json(path: Path) -> dict[str, Any]:
    """The object in a file."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError:
        content = None
    if isinstance(content, dict):
        return content
    raise ValueError(
        f"`{path}` must hold a JSON object: it does not. Copy or download it again."
    )
