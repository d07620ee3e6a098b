"""Files of named arrays, told by what is in them; PyTorch is an extra."""

import os
import pickle
import sys
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest

from configs import UserError
from trm.official.state_dict import read_state_dict, write_state_dict

WEIGHTS = {
    "a.weight": np.arange(6, dtype=np.float32).reshape(2, 3),
    "H_init": np.array([1.5, -0.0, 2.0**-130], jnp.bfloat16),
    "half": np.array([[65504.0]], np.float16),
    "scalar": np.array(3.0, np.float32),
}


def assert_same(ours: dict[str, np.ndarray], theirs: dict[str, np.ndarray]) -> None:
    assert ours.keys() == theirs.keys()
    for name, array in theirs.items():
        assert ours[name].dtype == array.dtype
        assert ours[name].shape == array.shape
        assert ours[name].tobytes() == array.tobytes()


@pytest.mark.parametrize("suffix", [".safetensors", ".pt", ".pth", ""])
def test_bits_and_types_come_back(suffix: str, tmp_path: Path) -> None:
    if suffix != ".safetensors":
        pytest.importorskip("torch")
    path = tmp_path / "deep" / f"step_10{suffix}"
    write_state_dict(WEIGHTS, path)
    assert os.listdir(path.parent) == [path.name], "nothing is left beside it"
    arrays, config = read_state_dict(path)
    assert_same(arrays, WEIGHTS)
    assert config == {}
    path.rename(tmp_path / "lies.bin")
    assert_same(read_state_dict(tmp_path / "lies.bin")[0], WEIGHTS)


def test_turned_arrays_are_written_as_they_read(tmp_path: Path) -> None:
    turned = {"a": WEIGHTS["a.weight"].T}
    write_state_dict(turned, tmp_path / "a.safetensors")
    assert_same(read_state_dict(tmp_path / "a.safetensors")[0], turned)


def test_a_length_that_looks_like_a_pickle(tmp_path: Path) -> None:
    """A header of 0x80 bytes, or so many more that the first byte is the same."""
    names = ("x" * size for size in range(8, 600, 8))
    for name in names:
        path = tmp_path / f"{len(name)}.safetensors"
        write_state_dict({name: WEIGHTS["a.weight"]}, path)
        with path.open("rb") as file:
            first = file.read(1)
        assert_same(read_state_dict(path)[0], {name: WEIGHTS["a.weight"]})
        if first == b"\x80":
            return
    raise AssertionError("no such length")


def test_files_that_follow_the_umask(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        write_state_dict(WEIGHTS, tmp_path / "a.safetensors")
    finally:
        os.umask(before)
    assert (tmp_path / "a.safetensors").stat().st_mode & 0o777 == 0o640


def test_files_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "there.pt").touch()
    with pytest.raises(UserError, match=r"there\.pt exists"):
        write_state_dict(WEIGHTS, tmp_path / "there.pt")
    with pytest.raises(UserError, match=r"weights\.npz"):
        write_state_dict(WEIGHTS, tmp_path / "weights.npz")
    with pytest.raises(UserError, match=r"not write .*a\.safetensors"):
        write_state_dict(WEIGHTS, tmp_path / "there.pt" / "a.safetensors")


@pytest.mark.parametrize("content", [b"", b"PK", b"no checkpoint at all", b"{" * 20])
def test_files_of_another_kind(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "step_1").write_bytes(content)
    with pytest.raises(UserError, match="step_1"):
        read_state_dict(tmp_path / "step_1")


def test_a_truncated_safetensors(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    write_state_dict(WEIGHTS, path)
    for content in (path.read_bytes()[:-3], path.read_bytes()[:20]):
        path.write_bytes(content)
        with pytest.raises(UserError, match=r"a\.safetensors. is damaged"):
            read_state_dict(path)


def test_pytorch_is_needed_for_its_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)
    (tmp_path / "step_1").write_bytes(b"PK\x03\x04" + bytes(100))
    with pytest.raises(UserError, match=r"pip install -e '\.\[torch\]'"):
        read_state_dict(tmp_path / "step_1")
    with pytest.raises(UserError, match=r"pip install -e '\.\[torch\]'"):
        write_state_dict(WEIGHTS, tmp_path / "step_2")
    assert os.listdir(tmp_path) == ["step_1"]


# -- with PyTorch ----------------------------------------------------------------------


@pytest.mark.parametrize("cut", [0.1, 0.5, 0.9, 0.999])
def test_a_truncated_file_of_pytorch(cut: float, tmp_path: Path) -> None:
    pytest.importorskip("torch")
    path = tmp_path / "step_1"
    write_state_dict({"a": np.ones((50, 50), np.float32)}, path)
    whole = path.read_bytes()
    path.write_bytes(whole[: int(cut * len(whole))])
    with pytest.raises(UserError, match=r"step_1 is damaged"):
        read_state_dict(path)


def test_what_pytorch_saved_before_its_zip_files(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    path = tmp_path / "step_1"
    tensors = {"a": torch.ones(2, dtype=torch.bfloat16)}
    torch.save(tensors, path, _use_new_zipfile_serialization=False)
    assert_same(read_state_dict(path)[0], {"a": np.ones(2, jnp.bfloat16)})


class Code:
    """What a pickle runs if one lets it."""

    def __init__(self, target: Path):
        self.target = target

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.target),)


@pytest.mark.parametrize("form", ["zip", "pickle", "inside"])
def test_code_does_not_run(form: str, tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    path, code = tmp_path / "step_1", Code(tmp_path / "it-ran")
    if form == "pickle":
        path.write_bytes(pickle.dumps(code))
    else:
        torch.save({"a": torch.ones(1), "b": code} if form == "inside" else code, path)
    with pytest.raises(UserError, match="run code"):
        read_state_dict(path)
    assert not code.target.exists()


@pytest.mark.parametrize(
    ("stored", "what"),
    [
        ([1, 2], "list"),
        ({}, "a dict of nothing"),
        ({"step": 3}, "a dict of 'step'"),
        ({3: None}, "a dict of 3"),
        ({"model": {"a": 1}}, "a dict of 'model'"),
    ],
)
def test_no_state_dict(stored: Any, what: str, tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    torch.save(stored, tmp_path / "step_1")
    with pytest.raises(UserError, match=what):
        read_state_dict(tmp_path / "step_1")


def test_a_state_dict_beside_other_things(tmp_path: Path) -> None:
    """Averaged weights go before raw ones, which have the buffers too."""
    torch = pytest.importorskip("torch")
    raw = {"_orig_mod.a": torch.ones(2), "_orig_mod.buffer": torch.zeros(3)}
    stored = {"model": raw, "step": 7, "config": {"arch": {"L_cycles": 4}}}
    torch.save(stored, tmp_path / "raw.pth")
    arrays, config = read_state_dict(tmp_path / "raw.pth")
    assert config == {"arch": {"L_cycles": 4}}
    assert arrays.keys() == raw.keys()
    averaged = {"a": torch.full((2,), 2.0)}
    torch.save(stored | {"ema": {"mu": 0.9, "shadow": averaged}}, tmp_path / "both.pth")
    with pytest.warns(UserWarning, match=r"`ema\.shadow` is used, `model` not"):
        arrays, _ = read_state_dict(tmp_path / "both.pth")
    assert arrays.keys() == {"a", "buffer"}
    np.testing.assert_array_equal(arrays["a"], 2.0)


def test_tensors_that_are_no_arrays(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    torch.save({"a": torch.eye(3).to_sparse()}, tmp_path / "step_1")
    with pytest.raises(UserError, match=r"`a` of .* is torch\.sparse_coo"):
        read_state_dict(tmp_path / "step_1")
