"""Weights in the content of files of other programs."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gpt.state_dicts import find_weights

FILE = Path("ckpt.pt")


class Tensor:
    """As much of a PyTorch tensor as is asked."""

    def __init__(self, value: float, *shape: int):
        self.value, self.shape, self.ndim = value, shape, len(shape)

    def detach(self) -> "Tensor":
        return self


RAW = {"_orig_mod.a": Tensor(1.0, 2), "_orig_mod.buffer": Tensor(0.0, 3)}
MEAN = {"a": Tensor(2.0, 2)}
COUNTED = {"n_averaged": Tensor(7.0), "module.a": MEAN["a"]}


def values(stored: Any) -> dict[str, float]:
    found = find_weights(stored, FILE)
    assert found is not None
    return {name: tensor.value for name, tensor in found.items()}


@pytest.mark.parametrize("raw", ["model", "state_dict", "model_state_dict"])
def test_raw_weights_alone(raw: str) -> None:
    """Neither moments of the same names nor an average of a number are weights."""
    stored = {raw: RAW, "step": 7, "optimizer": {"exp_avg": RAW}}
    assert find_weights(stored | {"ema": {"loss": Tensor(3.0)}}, FILE) == RAW
    assert find_weights(RAW, FILE) == RAW


@pytest.mark.parametrize(
    ("more", "key"),
    [
        ({"ema": MEAN}, "ema"),
        ({"ema": {"decay": 0.99, **MEAN}}, "ema"),
        ({"ema": {"mu": 0.9, "shadow": MEAN}}, r"ema\.shadow"),
        ({"ema": {"module": MEAN}}, r"ema\.module"),
        ({"ema": {"model": MEAN}}, r"ema\.model"),
        ({"ema_state_dict": MEAN}, "ema_state_dict"),
        ({"ema_model": COUNTED}, "ema_model"),
        ({"ema_shadow": MEAN}, "ema_shadow"),
        ({"callbacks": {"EMA": {"ema_weights": MEAN}}}, r"callbacks\.EMA\.ema_weights"),
        ({"callbacks": {"SWA": {"average_model_state": COUNTED}}}, "callbacks"),
    ],
)
def test_averaged_weights_go_before_raw_ones(more: dict[str, Any], key: str) -> None:
    """With the buffers of the raw ones."""
    with pytest.warns(UserWarning, match=f"`{key}.*` is used, `model` not"):
        assert values({**more, "model": RAW}) == {"a": 2.0, "buffer": 0.0}


@pytest.mark.parametrize("name", ["other.a", "a"])
def test_an_average_of_another_model_is_not_used(name: str) -> None:
    with pytest.warns(UserWarning, match="`model` is used, `ema` not"):
        assert values({"model": RAW, "ema": {name: Tensor(2.0, 9)}}) == {
            "_orig_mod.a": 1.0,
            "_orig_mod.buffer": 0.0,
        }


def test_other_weights_of_the_same_names_are_named() -> None:
    """As PyTorch Lightning saves the raw weights beside its average."""
    with pytest.warns(UserWarning, match="`current_model_state` not"):
        assert values({"state_dict": MEAN, "current_model_state": RAW}) == {"a": 2.0}


def test_an_average_alone() -> None:
    assert values({"ema": MEAN}) == {"a": 2.0}
    assert find_weights({"step": Tensor(1.0), 3: None}, FILE) is None
    assert find_weights([np.ones(2)], FILE) is None
