"""Reading and writing weights, against nanoGPT and Hugging Face."""

import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from huggingface_hub import errors
from safetensors.numpy import load_file, save_file

from configs import GPTConfig, TextDataConfig, TrainGPT, UserError
from data.text.tokenizer import Characters
from gpt import export
from gpt.hugging_face import save_hugging_face
from gpt.model import GPT, build_gpt
from gpt.pretrained import adopted, read_nanogpt, read_pretrained
from gpt.weights import from_named, to_named
from tests.runs import finish, start
from train.presets import TRM_PRESETS
from train.runs.loading import LoadedRun

ROOT = Path(__file__).parents[2]
GOLDEN = ROOT / "tests" / "golden"
FOLDER = GOLDEN / "gpt2_hf"
WANTED = GPTConfig(block_size=24, dropout=0.1, unroll=2)
SMALL = GPTConfig(n_layer=2, n_head=2, n_embd=16, block_size=8, vocab_size=11)


def golden(name: str) -> tuple[dict[str, np.ndarray], GPTConfig, dict[str, np.ndarray]]:
    """Weights and configuration of a case of nanoGPT, and all of its arrays."""
    with np.load(GOLDEN / f"{name}.npz") as stored:
        arrays = dict(stored)
    options = json.loads((GOLDEN / f"{name}.json").read_text())
    del options["optimizer"]
    weights = {
        key.removeprefix("weights/"): value
        for key, value in arrays.items()
        if key.startswith("weights/")
    }
    return weights, GPTConfig(**options), arrays


def abstract(config: GPTConfig) -> GPT:
    return jax.eval_shape(lambda: small(config))


def small(config: GPTConfig = SMALL) -> GPT:
    """A model none of whose arrays is constant."""
    assert config.vocab_size is not None
    model = build_gpt(config, tokens=config.vocab_size, key=jax.random.key(0))
    leaves, structure = jax.tree.flatten(model)
    keys = jax.random.split(jax.random.key(1), len(leaves))
    draw = lambda key, leaf: 0.3 * jax.random.normal(key, leaf.shape)
    return jax.tree.unflatten(structure, list(map(draw, keys, leaves)))


def logits(model: GPT, tokens: np.ndarray) -> np.ndarray:
    return np.asarray(eqx.filter_jit(model)(jnp.asarray(tokens)))


def tokens_of(config: GPTConfig) -> np.ndarray:
    shape = (2, config.block_size)
    return np.random.default_rng(0).integers(config.vocab_size or 0, size=shape)


def assert_same(model: GPT, other: GPT) -> None:
    assert jax.tree.structure(model) == jax.tree.structure(other)
    for ours, theirs in zip(
        jax.tree.leaves(model), jax.tree.leaves(other), strict=True
    ):
        assert ours.dtype == theirs.dtype == jnp.float32
        np.testing.assert_array_equal(ours, theirs)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A copy of the golden Hugging Face model, to be changed."""
    return Path(shutil.copytree(FOLDER, tmp_path / "model"))


def change(folder: Path, **settings: object) -> None:
    """Change settings of `config.json`; None removes."""
    path = folder / "config.json"
    config = json.loads(path.read_text()) | settings
    path.write_text(json.dumps(config))


# -- Hugging Face ----------------------------------------------------------------------


def test_logits_of_a_hugging_face_model() -> None:
    found = read_pretrained(str(FOLDER), WANTED)
    sizes = {"n_layer": 2, "n_head": 2, "n_embd": 32, "vocab_size": 101, "bias": True}
    assert found.config == replace(WANTED, **sizes, activation="gelu_tanh")
    with np.load(FOLDER / "expected.npz") as expected:
        got = logits(found.load("xla"), expected["tokens"])
        np.testing.assert_allclose(got, expected["logits"], atol=1e-4)


def test_block_size_is_the_smaller_one() -> None:
    short = read_pretrained(str(FOLDER), replace(WANTED, block_size=7))
    assert short.config.block_size == 7
    assert short.load("xla").positions.shape == (7, 32)
    long = read_pretrained(str(FOLDER), replace(WANTED, block_size=1024))
    assert long.config.block_size == 24
    with np.load(FOLDER / "expected.npz") as expected:
        got = logits(short.load("xla"), expected["tokens"][:, :7])
        np.testing.assert_allclose(got, expected["logits"][:, :7], atol=1e-4)


def test_loaded_weights_fit_the_model_that_a_run_builds() -> None:
    found = read_pretrained(str(FOLDER), replace(WANTED, block_size=7))
    built = jax.eval_shape(
        lambda: build_gpt(found.config, tokens=90, key=jax.random.key(0))
    )
    loaded = found.load("xla")
    assert jax.tree.structure(loaded) == jax.tree.structure(built)
    shapes = lambda tree: [leaf.shape for leaf in jax.tree.leaves(tree)]
    assert shapes(loaded) == shapes(built)


@pytest.mark.parametrize(
    ("name", "ours"), [("gelu", "gelu"), ("gelu_pytorch_tanh", "gelu_tanh")]
)
def test_other_names_of_gelu(folder: Path, name: str, ours: str) -> None:
    change(folder, activation_function=name)
    assert read_pretrained(str(folder), WANTED).config.activation == ours


def test_files_of_openai_lack_the_prefix_and_hold_masks(folder: Path) -> None:
    path = folder / "model.safetensors"
    named = {
        name.removeprefix("transformer."): array
        for name, array in load_file(path).items()
    }
    named["h.0.attn.bias"] = np.tril(np.ones((1, 1, 24, 24), np.float32))
    named["h.0.attn.masked_bias"] = np.array(-1e4, np.float32)
    named["lm_head.weight"] = named["wte.weight"]
    save_file(named, path)
    loaded = read_pretrained(str(folder), WANTED).load("xla")
    assert_same(loaded, read_pretrained(str(FOLDER), WANTED).load("xla"))


@pytest.mark.parametrize("kind", [np.float16, ml_dtypes.bfloat16, np.float64])
def test_other_floats_become_float32(folder: Path, kind: type) -> None:
    path = folder / "model.safetensors"
    stored = {name: array.astype(kind) for name, array in load_file(path).items()}
    save_file(stored, path)
    named = to_named(read_pretrained(str(folder), WANTED).load("xla"), "hugging_face")
    for name, array in stored.items():
        np.testing.assert_array_equal(named[name], array.astype(np.float32))


def test_shards(folder: Path) -> None:
    whole = folder / "model.safetensors"
    arrays = list(load_file(whole).items())
    whole.unlink()
    names = {}
    for i, part in enumerate((arrays[:9], arrays[9:])):
        file = f"model-{i + 1:05}-of-00002.safetensors"
        save_file(dict(part), folder / file)
        names |= {name: file for name, _ in part}
    index = folder / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": names}))
    loaded = read_pretrained(str(folder), WANTED).load("xla")
    assert_same(loaded, read_pretrained(str(FOLDER), WANTED).load("xla"))
    (folder / "model-00002-of-00002.safetensors").unlink()
    with pytest.raises(UserError, match="model-00002-of-00002"):
        read_pretrained(str(folder), WANTED).load("xla")


@pytest.mark.parametrize(
    "table",
    [
        None,
        [],
        "model.safetensors",
        {"wte.weight": ["a.safetensors"]},
        {"wte.weight": "../model/part.safetensors"},
        {"wte.weight": "/etc/part.safetensors"},
        {"wte.weight": "..\\part.safetensors"},
        {"wte.weight": ".."},
        {"wte.weight": "config.json"},
    ],
)
def test_an_index_names_files_of_its_own_folder(folder: Path, table: object) -> None:
    (folder / "model.safetensors").rename(folder / "part.safetensors")
    index = folder / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": table}))
    with pytest.raises(UserError, match="weight_map"):
        read_pretrained(str(folder), WANTED).load("xla")


@pytest.mark.parametrize("kind", [np.float32, np.float64])
def test_weights_of_a_folder_must_be_finite(folder: Path, kind: type) -> None:
    """In float32: overflow is refused too."""
    path = folder / "model.safetensors"
    stored = {name: array.astype(kind) for name, array in load_file(path).items()}
    name = "transformer.h.1.mlp.c_proj.weight"
    stored[name][3, 2] = np.nan if kind == np.float32 else 1e300
    save_file(stored, path)
    with pytest.raises(UserError, match=f"`{name}`"):
        read_pretrained(str(folder), WANTED).load("xla")


def test_more_blocks_than_weights(folder: Path) -> None:
    change(folder, n_layer=1 << 16)
    with pytest.raises(UserError, match="65,536"):
        read_pretrained(str(folder), WANTED).load("xla")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("model_type", "gpt_neo"),
        ("layer_norm_epsilon", 1e-6),
        ("scale_attn_weights", False),
        ("scale_attn_by_inverse_layer_idx", True),
        ("add_cross_attention", True),
        ("tie_word_embeddings", False),
        ("n_inner", 64),
        ("n_layer", None),
        ("n_positions", "24"),
        ("vocab_size", 0),
        ("activation_function", "relu"),
        ("activation_function", ["gelu"]),
        ("model_type", ["gpt2"]),
        ("n_head", [4]),
        ("n_layer", True),
        ("n_layer", 10**9),
        ("n_inner", {}),
    ],
)
def test_settings_that_mean_another_model(
    folder: Path, name: str, value: object
) -> None:
    change(folder, **{name: value})
    with pytest.raises(UserError, match=f"`{name}`"):
        read_pretrained(str(folder), WANTED)


def test_damaged_folders(folder: Path) -> None:
    weights, config = folder / "model.safetensors", folder / "config.json"
    weights.write_bytes(b"no weights")
    with pytest.raises(UserError, match=str(weights)):
        read_pretrained(str(folder), WANTED).load("xla")
    weights.unlink()
    with pytest.raises(UserError, match=r"model\.safetensors or .*index\.json"):
        read_pretrained(str(folder), WANTED).load("xla")
    for text in ("{", "[]", "[" * 100_000, '{"n_layer":' * 100_000):
        config.write_text(text)
        with pytest.raises(UserError, match=str(config)):
            read_pretrained(str(folder), WANTED)
    config.unlink()
    with pytest.raises(UserError, match=r"config\.json"):
        read_pretrained(str(folder), WANTED)


@pytest.mark.parametrize("bias", [True, False])
def test_a_hugging_face_model_round_trips(tmp_path: Path, bias: bool) -> None:
    config = replace(SMALL, bias=bias, activation="gelu_tanh", dropout=0.2)
    model = small(config)
    save_hugging_face(model, tmp_path / "out")
    found = read_pretrained(str(tmp_path / "out"), config)
    assert found.config == replace(config, bias=True)
    loaded, tokens = found.load("xla"), tokens_of(config)
    np.testing.assert_array_equal(logits(loaded, tokens), logits(model, tokens))
    if bias:
        assert_same(loaded, model)


def test_exported_config(tmp_path: Path) -> None:
    save_hugging_face(small(), tmp_path / "out")
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    golden = json.loads((FOLDER / "config.json").read_text())
    # Of classifiers and of the writer, and the numbers of this model.
    unused = {name for name in golden if name.startswith("summary_")}
    assert golden.keys() - config.keys() - unused == {
        "pad_token_id",
        "transformers_version",
    }
    assert config["activation_function"] == "gelu"
    assert config["eos_token_id"] is None  # no such token
    with pytest.raises(UserError, match=str(tmp_path)):
        save_hugging_face(small(), tmp_path / "out")


def test_exported_files_follow_the_umask(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        save_hugging_face(small(), tmp_path / "out")
    finally:
        os.umask(before)
    modes = {path.stat().st_mode & 0o777 for path in (tmp_path / "out").iterdir()}
    assert modes == {0o640}


FULL = """
import resource, sys
from pathlib import Path
from gpt.hugging_face import save_hugging_face
from tests.gpt.test_pretrained import small
from train import cli
resource.setrlimit(resource.RLIMIT_FSIZE, (8192, 8192))
with cli.clean_exit():
    save_hugging_face(small(), Path(sys.argv[1]))
"""


@pytest.mark.slow
def test_no_room_for_an_export(tmp_path: Path) -> None:
    """A message of one line; no file is left."""
    done = subprocess.run(
        [sys.executable, "-c", FULL, str(tmp_path / "deep" / "out")],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2, done.stderr
    (line,) = done.stderr.splitlines()
    assert "File too large" in line
    assert list((tmp_path / "deep").iterdir()) == []


def test_no_rights_for_an_export(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="File exists"):
        save_hugging_face(small(), tmp_path / "file" / "out")


def test_an_export_must_be_finite(tmp_path: Path) -> None:
    bad = eqx.tree_at(lambda m: m.norm.weight, small(), jnp.full(16, jnp.inf))
    with pytest.raises(UserError, match=r"`transformer.ln_f.weight`"):
        save_hugging_face(bad, tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_a_vocabulary_of_gpt2_has_its_end_of_text(tmp_path: Path) -> None:
    config = replace(SMALL, vocab_size=50304)
    save_hugging_face(small(config), tmp_path)
    stored = json.loads((tmp_path / "config.json").read_text())
    assert stored["vocab_size"] == 50304
    assert stored["bos_token_id"] == stored["eos_token_id"] == 50256


@pytest.mark.parametrize("bias", [True, False])
def test_transformers_reads_what_we_export(tmp_path: Path, bias: bool) -> None:
    transformers = pytest.importorskip("transformers")
    torch = pytest.importorskip("torch")
    config = replace(SMALL, bias=bias, activation="gelu_tanh")
    model, tokens = small(config), tokens_of(config)
    save_hugging_face(model, tmp_path / "out")
    theirs, report = transformers.GPT2LMHeadModel.from_pretrained(
        tmp_path / "out", output_loading_info=True
    )
    assert not any(report.values())
    with torch.no_grad():
        expected = theirs.eval()(torch.from_numpy(tokens)).logits.numpy()
    difference = np.abs(logits(model, tokens) - expected).max()
    print(f"bias={bias}: largest difference of logits {difference:.2e}")
    assert difference < 1e-4


# -- nanoGPT ---------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["gpt", "gpt_no_bias"])
def test_nanogpt_names_round_trip(name: str) -> None:
    weights, config, arrays = golden(name)
    model = from_named(weights, abstract(config), "nanogpt")
    again = to_named(model, "nanogpt")
    assert again.keys() == weights.keys()
    for key, array in weights.items():
        np.testing.assert_array_equal(again[key], array)
    got = logits(model, arrays["step0/x"])
    np.testing.assert_allclose(got, arrays["step0/logits"], atol=1e-4)


def test_names_of_a_compiled_model_and_a_tied_head() -> None:
    weights, config, _ = golden("gpt")
    model = from_named(weights, abstract(config), "nanogpt")
    compiled = {f"_orig_mod.{name}": array for name, array in weights.items()}
    assert_same(from_named(compiled, abstract(config), "nanogpt"), model)
    del weights["lm_head.weight"]
    assert_same(from_named(weights, abstract(config), "nanogpt"), model)


def test_a_checkpoint_of_nanogpt(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    weights, config, arrays = golden("gpt")
    options = json.loads((GOLDEN / "gpt.json").read_text())
    del options["optimizer"]
    moments = {0: {"step": torch.tensor(3.0), "exp_avg": torch.ones(50, 32)}}
    stored = {
        "model": {f"_orig_mod.{n}": torch.from_numpy(a) for n, a in weights.items()},
        "optimizer": {"state": moments, "param_groups": [{"lr": 1e-3, "params": [0]}]},
        "model_args": options,
        "iter_num": 3,
        "best_val_loss": torch.tensor(2.5),
        "config": {"out_dir": "out", "learning_rate": 1e-3, "compile": True},
    }
    torch.save(stored, tmp_path / "ckpt.pt")
    found = read_pretrained(str(tmp_path / "ckpt.pt"), WANTED)
    assert found.config == replace(config, dropout=0.1, unroll=2)
    model = found.load("xla")
    like = abstract(found.config)
    assert_same(model, from_named(weights, like, "nanogpt"))
    difference = np.abs(logits(model, arrays["step0/x"]) - arrays["step0/logits"]).max()
    print(f"largest difference of logits {difference:.2e}")
    assert difference < 1e-4


def test_settings_of_a_fork_of_nanogpt_are_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes = dict.fromkeys(("n_layer", "n_head", "n_embd", "block_size"), 2)
    options = {"bias": True, "dropout": 0.1, "vocab_size": 2, **sizes, "n_kv_head": 1}
    stored = {"model": {"a": np.ones(1)}, "model_args": options}
    monkeypatch.setattr("gpt.pretrained._load", lambda path: stored)
    monkeypatch.setattr("gpt.pretrained._is_nanogpt", lambda stored: True)
    monkeypatch.setattr("gpt.pretrained.find_weights", lambda *_: stored["model"])
    with pytest.warns(UserWarning, match=r"ignored: \{'n_kv_head': 1\}"):
        read_nanogpt(tmp_path / "ckpt.pt")


def test_other_files_of_pytorch(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    path = tmp_path / "ckpt.pt"
    tensors = {"a": torch.ones(1)}
    args = {"n_layer": 1, "n_head": 1, "n_embd": 2, "block_size": 2, "vocab_size": 3}
    for wrong in (
        {},
        [1],
        {"model": tensors, "model_args": {"bias": True}},
        {"model": tensors, "model_args": {**args, "bias": 1}},
        {"model": tensors, "model_args": {**args, "bias": True, "n_layer": [1]}},
        {"model": tensors, "model_args": {**args, "bias": True, "n_layer": 2**40}},
        {"model": tensors, "model_args": 3},
        {"model": [1], "model_args": {**args, "bias": True}},
        {"model": {"a": 1}, "model_args": {**args, "bias": True}},
        {"model": {1: tensors["a"]}, "model_args": {**args, "bias": True}},
    ):
        torch.save(wrong, path)
        with pytest.raises(UserError, match=str(path)):
            read_pretrained(str(path), WANTED)
    for save in (
        lambda: path.write_bytes(b"no checkpoint"),
        lambda: torch.save({"model": print}, path),
    ):
        save()
        with pytest.raises(UserError, match=str(path)):
            read_pretrained(str(path), WANTED)


def test_a_checkpoint_needs_torch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "ckpt.pt").touch()
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(UserError, match="torch"):
        read_pretrained(str(tmp_path / "ckpt.pt"), WANTED)


# -- wrong weights ---------------------------------------------------------------------


def test_wrong_weights() -> None:
    weights, config, _ = golden("gpt")
    like, name = abstract(config), "transformer.h.1.mlp.c_fc.weight"
    rest = {key: array for key, array in weights.items() if key != name}
    with pytest.raises(UserError, match=name):
        from_named(rest, like, "nanogpt")
    more = {f"transformer.h.{i}.ln_1.weight": np.ones(32) for i in range(2, 8)}
    with pytest.raises(UserError, match=r"h\.2\.ln_1.* 3 more"):
        from_named(weights | more, like, "nanogpt")
    with pytest.raises(UserError, match=r"\(32, 96\).*\(96, 32\)"):
        from_named(weights, like, "hugging_face")
    whole = {name: weights[name].astype(np.int8)}
    with pytest.raises(UserError, match="int8"):
        from_named(weights | whole, like, "nanogpt")
    head = {"lm_head.weight": weights["lm_head.weight"] + 1}
    with pytest.raises(UserError, match=r"`lm_head.weight`"):
        from_named(weights | head, like, "nanogpt")
    bad = {name: np.full_like(weights[name], np.nan)}
    with pytest.raises(UserError, match=f"`{name}`"):
        from_named(weights | bad, like, "nanogpt")


# -- sources ---------------------------------------------------------------------------


@pytest.mark.parametrize("source", ["gpt3", "none/ckpt.pt", "no/such/folder", "."])
def test_unknown_sources(
    source: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match="config.json" if source == "." else source):
        read_pretrained(source, WANTED)


@pytest.mark.parametrize(
    ("source", "model"),
    [("gpt2-medium", "openai-community/gpt2-medium"), ("me/mine", "me/mine")],
)
def test_models_of_the_hub(
    source: str, model: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    def download(repository: str, file: str) -> str:
        asked.append((repository, file))
        return str(FOLDER / file)

    monkeypatch.setattr("huggingface_hub.hf_hub_download", download)
    found = read_pretrained(source, WANTED)
    assert asked == [(model, "config.json")]  # weights only when they are needed
    assert_same(found.load("xla"), read_pretrained(str(FOLDER), WANTED).load("xla"))
    assert asked[1:] == [(model, "model.safetensors")]


def test_no_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    raised = errors.LocalEntryNotFoundError("no connection")

    def download(repository: str, file: str) -> str:
        raise raised

    monkeypatch.setattr("huggingface_hub.hf_hub_download", download)
    with pytest.raises(UserError, match="no connection"):
        read_pretrained("gpt2", WANTED)
    raised = errors.EntryNotFoundError("no such file")
    with pytest.raises(UserError, match=r"config\.json"):
        read_pretrained("me/mine", WANTED)


# -- the command -----------------------------------------------------------------------


def test_the_command_exports_a_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    model, asked = small(), []

    def load_run(run_dir: str, checkpoint: str) -> LoadedRun:
        asked.append((run_dir, checkpoint))
        data = TextDataConfig(path=str(tmp_path / "data"))
        return LoadedRun("gpt", TrainGPT(data=data), model, (), 1)

    monkeypatch.setattr("gpt.export.load_run", load_run)
    (tmp_path / "data").mkdir()
    Characters("abc").write(tmp_path / "data")
    command = ["--run-dir", str(tmp_path / "run"), "--out", str(tmp_path / "out")]
    export.main(command)
    assert asked == [(str(tmp_path / "run"), "best")]
    assert "out" in capsys.readouterr().out
    modes = {path.name: path.stat().st_mode for path in (tmp_path / "out").iterdir()}
    plain = (tmp_path / "data" / "tokenizer.json").stat().st_mode
    files = ("config.json", "model.safetensors", "tokenizer.json")
    assert modes == dict.fromkeys((*files, "tokenizer_config.json"), plain)
    loaded = read_pretrained(str(tmp_path / "out"), SMALL).load("xla")
    tokens = tokens_of(SMALL)
    np.testing.assert_array_equal(logits(loaded, tokens), logits(model, tokens))
    with pytest.raises(UserError, match=str(tmp_path)):
        export.main(command)

    command[-1] = str(tmp_path / "other")
    Characters("".join(map(chr, range(99)))).write(tmp_path / "data")
    with pytest.raises(UserError, match="99"):
        export.main(command)
    (tmp_path / "data" / "tokenizer.json").write_text("{}")
    with pytest.raises(UserError, match="--no-tokenizer"):
        export.main(command)
    assert not (tmp_path / "other").exists()
    export.main([*command, "--no-tokenizer"])
    names = {path.name for path in (tmp_path / "other").iterdir()}
    assert names == {"config.json", "model.safetensors"}


def test_a_run_of_a_trm_is_no_gpt(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = LoadedRun("trm", TRM_PRESETS["quickstart"][1], None, (), 1)
    monkeypatch.setattr("gpt.export.load_run", lambda *_: run)
    with pytest.raises(UserError, match=r"`mine`.*train\.trm"):
        export.main(["--run-dir", "mine", "--out", str(tmp_path / "out")])


def test_the_command_runs_as_a_module(tmp_path: Path) -> None:
    words = ["--run-dir", str(tmp_path / "none"), "--out", str(tmp_path / "out")]
    _, err = finish(start("gpt.export", words), 2)
    (line,) = err.splitlines()
    assert line.startswith("error: ")


@pytest.mark.parametrize("positions", ["learned", "rope"])
@pytest.mark.parametrize("wanted", [5, 20])
def test_weights_of_another_run(positions: Any, wanted: int) -> None:
    """Learned positions can be left out, but not added; else any length goes."""
    config = replace(SMALL, positions=positions)
    model = small(config)
    found = adopted(model, config, replace(WANTED, block_size=wanted))
    length = min(wanted, 8) if positions == "learned" else wanted
    assert found.config == replace(
        config, block_size=length, dropout=0.1, unroll=2, vocab_size=11
    )
    loaded = found.load("xla")
    assert (loaded.dropout, loaded.unroll, loaded.block_size) == (0.1, 2, length)
    tokens = jnp.arange(10).reshape(2, 5)
    np.testing.assert_array_equal(loaded(tokens), model(tokens))
