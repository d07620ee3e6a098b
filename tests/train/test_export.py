"""`python -m train.export`: its files run in a process without our code."""

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import Mesh

from configs import GPTConfig, RunConfig, UserError
from tests.runs import environment, finish, start
from train.export import main
from train.models import Sizes, build_model
from train.presets import GPT_PRESETS, TRM_PRESETS
from train.runs.checkpoint import Checkpoints
from train.runs.loading import load_run
from train.runs.run_dir import RunDir
from train.solving import think
from train.state import init_state, new_state

pytestmark = pytest.mark.slow

TOKENS = 11
STEPS = 3

# What a user without this repository writes; `docs/checkpoints.md` has the same calls.
SCRIPT = """
import sys
import numpy as np
from jax import export

def load(path):
    with open(path, "rb") as file:
        return export.deserialize(bytearray(file.read()))

given = np.load("given.npz")
trm = load("trm.jaxexport")
answers, q_halt = trm.call(given["puzzles"], np.zeros(len(given["puzzles"]), np.int32))
gpt = load("gpt.jaxexport")
text = given["text"]
shapes = gpt.in_avals[2:]
heads = 2
zeros = [np.zeros((heads * len(text), *s.shape[1:]), s.dtype) for s in shapes]
keys, values = tuple(zeros[: len(zeros) // 2]), tuple(zeros[len(zeros) // 2 :])
logits = []
for position, token in enumerate(text.T):
    now, keys, values = gpt.call(token, np.int32(position), keys, values)
    logits.append(now)
assert not {"configs", "data", "gpt", "trm", "train", "equinox"} & set(sys.modules)
np.savez("found.npz", answers=answers, q_halt=q_halt, logits=np.stack(logits, axis=1))
"""


def make_run(config: Any, kind: str, sizes: Sizes, folder: Path, mesh: Mesh) -> None:
    """Write a run with one checkpoint, of fresh weights."""
    config = replace(config, run_dir=str(folder))
    record = {"kind": kind, "sizes": sizes, "data_hash": "a"}
    run_dir = RunDir(config, "test", record)
    run_dir.write_config()
    run_dir.close()

    def fresh() -> Any:
        model, rows = build_model(config, sizes)
        larger = jax.tree.map(lambda a: 2 * a, model)
        return new_state(larger, rows, (), optax.sgd(0.1), ema=True)

    checkpoints = Checkpoints(folder / "checkpoints", RunConfig(), scores={})
    checkpoints.save(init_state(fresh, mesh))
    checkpoints.close()


def test_both_kinds_run_without_our_code(tmp_path: Path, one_device: Mesh) -> None:
    preset = TRM_PRESETS["quickstart"][1]
    model = replace(preset.model, dim=16, puzzle_dim=16, layers=1)
    sizes = {"vocab": 6, "seq": 16, "puzzles": 1}
    config = replace(preset, model=model)
    make_run(config, "trm", sizes, tmp_path / "trm", one_device)
    preset = GPT_PRESETS["shakespeare-char-cpu"][1]
    shape = GPTConfig(n_layer=2, n_head=2, n_embd=16, block_size=8)
    config = replace(preset, model=shape)
    make_run(config, "gpt", {"tokens": TOKENS}, tmp_path / "gpt", one_device)
    exports = []
    for kind, more in (("trm", ["--steps", str(STEPS)]), ("gpt", [])):
        out = str(tmp_path / f"{kind}.jaxexport")
        words = [str(tmp_path / kind), "--out", out, *more]
        exports.append(start("train.export", words))
    for process in exports:
        finish(process)
    rng = np.random.default_rng(0)
    puzzles = rng.integers(1, 6, (5, 16)).astype(np.int32)
    text = rng.integers(0, TOKENS, (3, 7)).astype(np.int32)
    np.savez(tmp_path / "given.npz", puzzles=puzzles, text=text)
    subprocess.run(
        [sys.executable, "-c", SCRIPT],
        cwd=tmp_path,
        env={name: v for name, v in environment().items() if name != "PYTHONPATH"},
        check=True,
    )
    found = np.load(tmp_path / "found.npz")
    trace = think(load_run(tmp_path / "trm"), puzzles, steps=STEPS, precision="float32")
    answers = np.swapaxes(trace.answers, 0, 1)
    assert len(np.unique(answers)) > 1
    np.testing.assert_array_equal(found["answers"], answers)
    q_halt = np.swapaxes(trace.q_halt, 0, 1)
    np.testing.assert_allclose(found["q_halt"], q_halt, rtol=1e-4)
    logits = load_run(tmp_path / "gpt").model(jnp.asarray(text))
    np.testing.assert_allclose(found["logits"], logits, atol=1e-4)


def test_nothing_to_export(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="steps"):
        main([str(tmp_path), "--out", str(tmp_path / "out"), "--steps", "0"])
    assert os.listdir(tmp_path) == []
