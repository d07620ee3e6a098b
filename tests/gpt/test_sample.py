"""`python -m gpt.sample`, and reading the run that it writes with."""

import json
import shutil
from collections.abc import Mapping
from dataclasses import replace
from functools import cache
from pathlib import Path

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from configs import GPT_PRESETS, GPTConfig, MeshConfig, RunConfig, TextFiles, TrainGPT
from data.text.tokenizer import Characters, Tokenizer, TokenNumbers
from gpt.model import GPT, build_gpt
from gpt.sample import BETWEEN, Text, main
from tests.tiny import assert_equal
from train.checkpoint import Checkpoints
from train.mesh import make_mesh
from train.run_dir import from_json, load_run, open_run_dir, settings
from train.state import TrainState, init_state, make_init

HF = Path(__file__).parents[1] / "golden" / "gpt2_hf"
CHARACTERS = "\n abcdefghijklé"
SHAPE = GPTConfig(n_layer=2, n_head=2, n_embd=32, block_size=8, vocab_size=16)


@cache
def state(step: int) -> TrainState:
    """A state with an average, spread over eight devices."""
    mesh = make_mesh(MeshConfig(data=8))

    def build() -> tuple[GPT, tuple[()]]:
        key = jax.random.key(step)
        model = build_gpt(SHAPE, tokens=len(CHARACTERS), key=key)
        return jax.tree.map(lambda a: 5 * a, model), ()

    init = make_init(build, lambda _: (), optax.sgd(0.1), ema=True)
    made = init_state(init, mesh)
    step_ema = (jnp.int32(step), jax.tree.map(lambda a: 2 * a, made.ema))
    return eqx.tree_at(lambda s: (s.step, s.ema), made, step_ema)


@pytest.fixture(scope="session")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run: step 1 is the best, step 2 newer, and 3 the newest."""
    folder = tmp_path_factory.mktemp("sample")
    data = folder / "data"
    data.mkdir()
    Characters(CHARACTERS).write(data)
    config = GPT_PRESETS["shakespeare-char-cpu"][1]
    config = replace(
        config,
        model=replace(SHAPE, vocab_size=None),
        data=replace(config.data, path=str(data)),
        run_dir=str(folder / "run"),
    )
    open_run_dir(config, "test")
    checkpoints = Checkpoints(folder / "run" / "checkpoints", RunConfig(keep_last=9))
    for step, score in ((1, -1.0), (2, -2.0), (3, None)):
        checkpoints.save(state(step), score=score)
    checkpoints.close()
    return folder / "run"


@pytest.fixture
def run_dir(written: Path, tmp_path: Path) -> Path:
    """A copy of `written`."""
    return Path(shutil.copytree(written, tmp_path / "run"))


def damage(run_dir: Path, step: int) -> None:
    """Flip a bit of every file of arrays."""
    for path in (run_dir / "checkpoints" / str(step)).rglob("d/*"):
        content = bytearray(path.read_bytes())
        content[len(content) // 2] ^= 0x10
        path.write_bytes(content)


# -- reading a run ---------------------------------------------------------------------


def test_a_run_is_read_onto_one_device(written: Path) -> None:
    """The averaged weights of the best checkpoint, or of the newest."""
    before = sorted(path for path in written.rglob("*"))
    run = load_run(written)
    assert run.step == 1
    assert run.shape == SHAPE
    assert run.config.run_dir == str(written)
    assert_equal(run.model, state(1).ema)
    assert all(len(leaf.devices()) == 1 for leaf in jax.tree.leaves(run.model))
    newest = load_run(written, "newest")
    assert newest.step == 3
    assert_equal(newest.model, state(3).ema)
    assert sorted(path for path in written.rglob("*")) == before


def test_without_an_average_the_weights_themselves(written: Path) -> None:
    folder = written.parent / "plain"
    if not folder.exists():
        shutil.copytree(written, folder, ignore=shutil.ignore_patterns("[0-9]"))
        checkpoints = Checkpoints(folder / "checkpoints", RunConfig())
        checkpoints.save(replace_ema(state(1)), score=None)
        checkpoints.close()
    run = load_run(folder)
    assert_equal(run.model, state(1).model)


def replace_ema(state: TrainState) -> TrainState:
    return TrainState(**{**vars(state), "ema": None})


def test_a_damaged_checkpoint_is_passed_over(run_dir: Path) -> None:
    """For the next best one; nothing is moved, since the run may be going on."""
    damage(run_dir, 1)
    with pytest.warns(UserWarning, match="step 1 is damaged .* passed over"):
        run = load_run(run_dir)
    assert run.step == 2
    assert (run_dir / "checkpoints" / "1").is_dir()
    damage(run_dir, 3)
    with pytest.warns(UserWarning, match="step 3 is damaged"):
        assert load_run(run_dir, "newest").step == 2
    damage(run_dir, 2)
    with pytest.raises(ValueError, match="steps 3, 2, 1 are all damaged"):
        load_run(run_dir, "newest")


def test_a_save_under_way_is_left_alone(run_dir: Path) -> None:
    """It belongs to a process that is still training."""
    unfinished = run_dir / "checkpoints" / "4.orbax-checkpoint-tmp"
    unfinished.mkdir()
    assert load_run(run_dir, "newest").step == 3
    assert unfinished.is_dir()


@pytest.mark.parametrize("preset", GPT_PRESETS)
def test_configurations_come_back(preset: str) -> None:
    config = GPT_PRESETS[preset][1]
    assert from_json(TrainGPT, settings(config)) == config
    own = replace(config.data, build=TextFiles(input=("a", "b")))
    config = replace(config, data=own)
    assert from_json(TrainGPT, settings(config)) == config


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model": {"dim": 3}}, "it should not say dim"),
        ({"unknown": 3}, "it should not say unknown"),
        ({"model": 3}, "it should not say 3"),
        ({"batch_size": 0}, "`batch_size` must be"),
        ({"model": {"n_embd": 64}}, "must be of the configured model"),
    ],
)
def test_another_configuration(
    run_dir: Path, change: Mapping[str, object], message: str
) -> None:
    stored = json.loads((run_dir / "config.json").read_text())
    for name, value in change.items():
        merge = isinstance(value, dict) and name in stored
        stored[name] = {**stored[name], **value} if merge else value  # pyright: ignore
    (run_dir / "config.json").write_text(json.dumps(stored))
    with pytest.raises(ValueError, match=message):
        load_run(run_dir)


# -- writing ---------------------------------------------------------------------------


def sample(capsys: pytest.CaptureFixture[str], *words: object) -> str:
    """What the command prints."""
    main([str(word) for word in words])
    return capsys.readouterr().out


def samples(out: str) -> list[str]:
    *texts, end = out.split(f"\n{BETWEEN}\n")
    assert end == ""
    return texts


def test_samples_do_not_depend_on_the_batch(
    written: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    common = ("--run-dir", written, "--max-new-tokens", 20, "--prompt", "abc")
    texts = samples(sample(capsys, *common, "--num-samples", 3))
    assert len(set(texts)) == 3
    assert all(text.startswith("abc") and len(text) == 23 for text in texts)
    assert set("".join(texts)) <= set(CHARACTERS)
    assert samples(sample(capsys, *common, "--num-samples", 1)) == texts[:1]
    in_turns = sample(capsys, *common, "--num-samples", 3, "--batch", 2)
    assert samples(in_turns) == texts
    other = sample(capsys, *common, "--num-samples", 1, "--seed", 3)
    assert samples(other) != texts[:1]


def test_prompts(
    written: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """From a file; longer than the window; a newline if there is none."""
    (tmp_path / "prompt.txt").write_text("abc abc abc é", encoding="utf-8")
    common = ("--run-dir", written, "--max-new-tokens", 3, "--num-samples", 1)
    greedy = (*common, "--temperature", 0)
    from_file = sample(capsys, *greedy, "--prompt", f"FILE:{tmp_path}/prompt.txt")
    assert from_file.startswith("abc abc abc é")
    assert from_file == sample(capsys, *greedy, "--prompt", "abc abc abc é")
    assert sample(capsys, *greedy).startswith("\n")


def test_stop(written: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """After one token or several, in every sample."""
    common = ("--run-dir", written, "--num-samples", 2, "--max-new-tokens", 60)
    texts = samples(sample(capsys, *common, "--checkpoint", "newest"))
    for stop in (texts[0][20], texts[0][20:22]):
        stopped = samples(
            sample(capsys, *common, "--checkpoint", "newest", "--stop", stop)
        )
        for text, full in zip(stopped, texts, strict=True):
            at = full.find(stop, 1)
            assert text == (full if at < 0 else full[: at + len(stop)])


def test_a_folder_of_hugging_face(
    written: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = written.parent / "data"
    common = ("--data", data, "--num-samples", 1, "--max-new-tokens", 5)
    for source in ("--hf-dir", "--init-from"):
        out = sample(capsys, source, HF, *common, "--precision", "bfloat16")
        assert set(out) <= set(CHARACTERS + "-")


class Bytes(Tokenizer):
    vocab_size = 256

    def encode(self, text: str) -> np.ndarray:
        return np.frombuffer(text.encode(), np.uint8).astype(np.int32)

    def decode_bytes(self, tokens: TokenNumbers) -> bytes:
        return bytes(int(token) for token in tokens)

    def describe(self) -> Mapping[str, str | int]:
        return {}


def test_no_half_characters() -> None:
    text = Text(Bytes(), "stop")
    pieces = [text.add([byte]) for byte in "é€".encode()]
    assert pieces == ["", "é", "", "", "€"]
    assert text.add([0xE2]) == ""
    assert text.add([], last=True) == "�"
    assert not text.ended
    assert text.add(list(b" st")) == " st"
    assert text.add(list(b"op and more")) == "op"
    assert text.ended
    assert text.add(list(b"more")) == ""
    assert text.text == "é€� stop"


# -- errors ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "got 0 of them"),
        (["--run-dir", "RUN", "--hf-dir", "x"], "got 2 of them"),
        (["--run-dir", "nowhere"], "`nowhere` has not"),
        (["--hf-dir", "nowhere"], "there is no `nowhere`"),
        (["--init-from", "nowhere.pt"], "got `nowhere.pt`"),
        (["--run-dir", "RUN", "--prompt", ""], "it is empty"),
        (["--run-dir", "RUN", "--prompt", "xyz"], "got 'x' at position 0"),
        (["--run-dir", "RUN", "--prompt", "FILE:nowhere"], "got `nowhere`"),
        (["--run-dir", "RUN", "--stop", "X"], "got 'X' at position 0"),
        (["--run-dir", "RUN", "--data", "nowhere"], "there is no nowhere"),
        (["--run-dir", "RUN", "--num-samples", "0"], "`num_samples` must"),
        (["--run-dir", "RUN", "--max-new-tokens", "0"], "`max_new_tokens` must"),
        (["--run-dir", "RUN", "--batch", "-1"], "`batch` and `seed` must"),
        (["--run-dir", "RUN", "--temperature", "-1"], "`temperature` must"),
        (["--run-dir", "RUN", "--top-k", "0"], "`top_k` must"),
        (["--run-dir", "RUN", "--top-p", "0"], "`top_p` must"),
        (["--hf-dir", str(HF), "--bpe-dir", "nowhere"], "nowhere does not"),
    ],
)
def test_errors(
    written: Path, capsys: pytest.CaptureFixture[str], words: list[str], message: str
) -> None:
    """One line on what is wrong, and status 2."""
    with pytest.raises(SystemExit) as caught:
        main([str(written) if word == "RUN" else word for word in words])
    assert caught.value.code == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    (line,) = captured.err.splitlines()
    assert line.startswith("error: ")
    assert message in line


def test_no_checkpoint_yet(run_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.rmtree(run_dir / "checkpoints")
    (run_dir / "checkpoints").mkdir()
    with pytest.raises(SystemExit):
        main(["--run-dir", str(run_dir)])
    assert "has none yet" in capsys.readouterr().err


def test_too_many_tokens_for_the_model(
    written: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Characters("".join(map(chr, range(32, 60)))).write(tmp_path)
    with pytest.raises(SystemExit):
        main(["--run-dir", str(written), "--data", str(tmp_path)])
    assert "must know all 28 tokens" in capsys.readouterr().err
