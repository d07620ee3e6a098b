"""Find the weights in the content of a PyTorch file of another program.

Trainers save averaged weights (EMA) beside the raw ones, by many names: `ema`,
`ema_state_dict`, `ema_model`, `ema_shadow`, or in the state of a Lightning callback.
"""

import re
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

Tensors = dict[str, Any]
"""Tensors of PyTorch by name."""

_RAW = ("", "model", "state_dict", "model_state_dict")
_AVERAGED = re.compile("ema|shadow|averag|swa", re.IGNORECASE)
_OTHER = re.compile("optim|grad", re.IGNORECASE)  # has moments by the same names
_WRAPPERS = ("_orig_mod.", "module.")  # of `torch.compile`, of several devices


def find_weights(stored: Any, path: Path) -> Tensors | None:
    """Return the weights of a checkpoint, averaged where it has an average.

    An average may lack buffers: these are the model's. Warns if the file has other
    weights besides. None if it has no weights.

    Args:
        stored: the content of the file.
        path: the file, for the warning.
    """
    named = dict(_state_dicts(stored))
    found = {key: _plain(tensors) for key, tensors in named.items()}
    averages = [key for key in found if _AVERAGED.search(key)]
    raw = [key for key in found if key not in averages and key.split(".")[-1] in _RAW]
    if not raw + averages:
        return None
    model = used = (raw + averages)[0]
    for key in averages if raw else ():
        if _is_average(found[key], found[model]):
            used = key
            break
    others = [
        f"`{key}`"
        for key, tensors in found.items()
        if key != used and (key in averages or tensors.keys() & found[model].keys())
    ]
    if others:
        warnings.warn(
            f"`{path}` has several weights: `{used}` is used, {', '.join(others)} not.",
            stacklevel=2,
        )
    if used == model:
        return named[model]
    counters = found[used].keys() - found[model].keys()
    return found[model] | {n: t for n, t in found[used].items() if n not in counters}


def _state_dicts(stored: Any, key: str = "") -> Iterator[tuple[str, Tensors]]:
    """Yield the named tensors in the content of a file, by a key as `ema.shadow`."""
    if not isinstance(stored, dict) or _OTHER.search(key):
        return
    tensors = {name: part for name, part in stored.items() if hasattr(part, "detach")}
    named = all(isinstance(name, str) for name in tensors)
    whole = len(tensors) == len(stored) or _AVERAGED.search(key)  # beside its settings
    if named and whole and any(tensor.ndim for tensor in tensors.values()):
        yield key, tensors
    for name, part in stored.items():
        yield from _state_dicts(part, f"{key}.{name}".removeprefix("."))


def _is_average(average: Tensors, weights: Tensors) -> bool:
    """Return True if all arrays have the names and shapes of weights."""
    arrays = {name: tensor for name, tensor in average.items() if tensor.ndim}
    return all(
        name in weights and weights[name].shape == tensor.shape
        for name, tensor in arrays.items()
    )


def _plain(named: Tensors) -> Tensors:
    """Return tensors by names without wrappers."""
    plain = {}
    for name, tensor in named.items():
        for wrapper in _WRAPPERS:
            name = name.replace(wrapper, "")
        plain[name] = tensor
    return plain
