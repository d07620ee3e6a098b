"""`python -m gpt.sample`, and reading the run that it writes with."""

import io
import json
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import train.runs.checkpoint
from configs import (
    GPTConfig,
    MeshConfig,
    RunConfig,
    TrainGPT,
    UserError,
)
from data.text.tokenizer import Characters, Tokenizer, TokenNumbers
from gpt.model import build_gpt
from gpt.sample import SEPARATOR, main
from gpt.text import decode_chunks
from tests.runs import ROOT, environment, finish, start
from tests.tiny import assert_equal
from train import push
from train.mesh import make_mesh
from train.presets import GPT_PRESETS, TRM_PRESETS
from train.runs.checkpoint import Checkpoints
from train.runs.integrity import fingerprint
from train.runs.loading import LoadedRun, load_run
from train.runs.run_dir import RunDir
from train.state import TrainState, init_state, new_state

HF = Path(__file__).parents[1] / "golden" / "gpt2_hf"
CHARACTERS = "\n abcdefghijklé"
SHAPE = GPTConfig(n_layer=2, n_head=2, n_embd=32, block_size=8, vocab_size=16)


@cache
def state(step: int) -> TrainState:
    """A state with an average, spread over eight devices."""
    mesh = make_mesh(MeshConfig(data=8))

    def init() -> TrainState:
        key = jax.random.key(step)
        model = build_gpt(SHAPE, tokens=len(CHARACTERS), key=key)
        model = jax.tree.map(lambda a: 5 * a, model)
        return new_state(model, (), (), optax.sgd(0.1), ema=True)

    made = init_state(init, mesh)
    step_ema = (jnp.int32(step), jax.tree.map(lambda a: 2 * a, made.ema))
    return eqx.tree_at(lambda s: (s.step, s.ema), made, step_ema)


def config(folder: Path) -> TrainGPT:
    """The configuration of a run in this folder, next to its data."""
    preset = GPT_PRESETS["shakespeare-char-cpu"][1]
    return replace(
        preset,
        model=SHAPE,
        data=replace(preset.data, path=str(folder.parent / "data")),
        run_dir=str(folder),
    )


RECORD = {"kind": "gpt", "sizes": {"tokens": len(CHARACTERS)}, "data_hash": "a"}


def save(run_dir: Path, *states: TrainState, scores: Mapping[int, float]) -> None:
    """Checkpoints of these states."""
    folder = run_dir / "checkpoints"
    checkpoints = Checkpoints(folder, RunConfig(keep_last=9), scores=scores)
    for made in states:
        checkpoints.save(made)
    checkpoints.close()


@pytest.fixture(scope="session")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run: step 1 is the best, step 2 newer, and 3 the newest."""
    folder = tmp_path_factory.mktemp("sample")
    data = folder / "data"
    data.mkdir()
    Characters(CHARACTERS).write(data)
    for split in ("train", "val"):
        tokens = np.arange(20 * len(CHARACTERS)) % len(CHARACTERS)
        tokens.astype(np.uint16).tofile(data / f"{split}.bin")
    run_dir = RunDir(config(folder / "run"), "test", RECORD)
    run_dir.write_config()
    run_dir.close()
    scores = {1: -1.0, 2: -2.0}
    lines = [
        {"step": step, "split": "eval", "score": score}
        for step, score in scores.items()
    ]
    text = "".join(json.dumps(line) + "\n" for line in lines)
    (folder / "run" / "metrics.jsonl").write_text(text)
    save(folder / "run", state(1), state(2), state(3), scores=scores)
    return folder / "run"


@pytest.fixture
def run_dir(written: Path, tmp_path: Path) -> Path:
    """A copy of `written`."""
    shutil.copytree(written.parent / "data", tmp_path / "data")
    return Path(shutil.copytree(written, tmp_path / "run"))


def rewrite(run_dir: Path, change: Callable[[dict[str, Any]], object]) -> None:
    """Change what `config.json` says."""
    path = run_dir / "config.json"
    tree = json.loads(path.read_text())
    change(tree)
    path.write_text(json.dumps(tree))


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
    assert (run.kind, run.step, run.config) == ("gpt", 1, config(written))
    assert_equal(run.model, state(1).ema)
    assert all(len(leaf.devices()) == 1 for leaf in jax.tree.leaves(run.model))
    newest = load_run(written, "newest")
    assert newest.step == 3
    assert_equal(newest.model, state(3).ema)
    assert sorted(path for path in written.rglob("*")) == before


def test_a_published_model_has_its_tokenizer(
    run_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """It writes what the run writes, without the dataset."""
    out = run_dir.parent / "published"
    push.main([str(run_dir), "--out", str(out)])
    words = ["--prompt", "abc", "--max-new-tokens", "9", "--num-samples", "1"]
    capsys.readouterr()
    main(["--run-dir", str(run_dir), *words])
    shutil.rmtree(run_dir.parent / "data")
    expected = capsys.readouterr().out
    main(["--run-dir", str(out), *words])
    assert capsys.readouterr().out == expected


def test_without_an_average_the_weights_themselves(run_dir: Path) -> None:
    shutil.rmtree(run_dir / "checkpoints")
    plain = TrainState(**{**vars(state(1)), "ema": None})
    save(run_dir, plain, scores={})
    assert_equal(load_run(run_dir).model, state(1).model)


def test_a_damaged_checkpoint_is_passed_over(run_dir: Path) -> None:
    """For the next best one; nothing is moved, since the run may be going on."""
    damage(run_dir, 1)
    with pytest.warns(UserWarning, match="step 1 "):
        run = load_run(run_dir)
    assert run.step == 2
    assert (run_dir / "checkpoints" / "1").is_dir()
    damage(run_dir, 3)
    with pytest.warns(UserWarning, match="step 3 "):
        assert load_run(run_dir, "newest").step == 2
    damage(run_dir, 2)
    with pytest.raises(ValueError, match=r"step 3.*step 2.*step 1"):
        load_run(run_dir, "newest")


def test_a_save_under_way_is_left_alone(run_dir: Path) -> None:
    """It belongs to a process that is still training."""
    unfinished = run_dir / "checkpoints" / "4.orbax-checkpoint-tmp"
    unfinished.mkdir()
    assert load_run(run_dir, "newest").step == 3
    assert unfinished.is_dir()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model": {"dim": 3}}, "dim"),
        ({"unknown": 3}, "unknown"),
        ({"batch_size": 0}, "batch_size"),
        ({"model": {"n_embd": 64}}, "model"),
        ({"recorded": {"kind": "rnn"}}, "rnn"),
    ],
)
def test_another_configuration(
    run_dir: Path, change: dict[str, Any], message: str
) -> None:
    def merge(tree: dict[str, Any]) -> None:
        for name, value in change.items():
            tree[name] = tree[name] | value if isinstance(value, dict) else value

    rewrite(run_dir, merge)
    with pytest.raises(UserError, match=message):
        load_run(run_dir)


def test_weights_that_are_not_finite(
    run_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No checkpoint of ours has any; such a one counts as damaged."""
    bad = eqx.tree_at(lambda s: s.ema.norm.weight, state(1), jnp.full(32, jnp.nan))
    shutil.rmtree(run_dir / "checkpoints")
    with monkeypatch.context() as patch:
        trusting = lambda tree: (fingerprint(tree)[0], True)
        patch.setattr(train.runs.checkpoint, "fingerprint", trusting)
        save(run_dir, bad, scores={})
    with pytest.raises(UserError, match=str(run_dir)):
        load_run(run_dir)
    save(run_dir, state(3), scores={})
    with pytest.warns(UserWarning, match="step 1 "):
        assert load_run(run_dir).step == 3


# -- writing ---------------------------------------------------------------------------


def sample(capsys: pytest.CaptureFixture[str], *words: object) -> str:
    """What the command prints."""
    main([str(word) for word in words])
    return capsys.readouterr().out


def samples(out: str) -> list[str]:
    *texts, end = out.split(f"\n{SEPARATOR}\n")
    assert end == ""
    return texts


@pytest.mark.slow
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


def test_chat(
    written: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A text for each line, another one for the same line; the last line is empty."""
    monkeypatch.setattr("sys.stdin", io.StringIO("abc\nabc\nXYZ\n\n"))
    out = sample(capsys, "--chat", "--run-dir", written, "--max-new-tokens", 20)
    common = ("--run-dir", written, "--max-new-tokens", 20, "--batch", 1)
    texts = samples(sample(capsys, *common, "--num-samples", 2, "--prompt", "abc"))
    assert out.startswith("".join(f"{text}\n" for text in texts))
    rest = out[sum(len(text) + 1 for text in texts) :]
    error, _, last = rest.partition("\n")
    assert "'X'" in error
    assert last.startswith("\n")
    assert len(last) == 22


@pytest.mark.slow
def test_ctrl_c_stops_one_text(written: Path) -> None:
    argv = ["--chat", "--run-dir", str(written), "--max-new-tokens", "1000000"]
    process = subprocess.Popen(
        [sys.executable, "-m", "gpt.sample", *argv],
        cwd=ROOT,
        env=environment(),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    for prompt in ("abcabcabc", "abcdefghi"):
        process.stdin.write(f"{prompt}\n")
        process.stdin.flush()
        text = "\n"
        while f"\n{prompt}" not in text:
            text += (character := process.stdout.read(1))
            assert character
        process.stdout.read(20)
        process.send_signal(signal.SIGINT)
    process.communicate(timeout=600)
    assert process.returncode == 0


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
    """Whole ones at once; what is left of others at the end."""
    chunks = [np.array([[byte]], np.int32) for byte in "é€".encode() + b"\xe2"]
    texts = [text for (text,) in decode_chunks(chunks, Bytes(), "")]
    assert texts == ["", "é", "é", "é", "é€", "é€", "é€\ufffd"]


def test_texts_end_after_the_stop() -> None:
    """Each of them, whatever follows; and all together when all have."""

    def rows(*words: str) -> np.ndarray:
        return np.stack([Bytes().encode(word) for word in words])

    chunks = iter([rows("a st", "stop"), rows("op b", "stop"), rows("more", "more")])
    texts = list(decode_chunks(chunks, Bytes(), "stop"))
    assert texts == [["a st", "stop"], ["a stop", "stop"]]
    assert len(list(chunks)) == 1  # no chunk after the stop
    endless = list(decode_chunks(iter([rows("no end")]), Bytes(), "stop"))
    assert endless == [["no end"], ["no end"]]


# -- errors ----------------------------------------------------------------------------


LARGE = 2**63


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--run-dir", "RUN", "--hf-dir", "x"], "2"),
        (["--run-dir", "nowhere"], "nowhere"),
        (["--hf-dir", "nowhere"], "nowhere"),
        (["--init-from", "nowhere.pt"], "nowhere.pt"),
        (["--run-dir", "RUN", "--prompt", ""], "prompt"),
        (["--run-dir", "RUN", "--prompt", "xyz"], "'x'"),
        (["--run-dir", "RUN", "--prompt", "FILE:nowhere"], "nowhere"),
        (["--run-dir", "RUN", "--stop", "X"], "'X'"),
        (["--run-dir", "RUN", "--data", "nowhere"], "nowhere"),
        (["--run-dir", "RUN", "--num-samples", 0], "num_samples"),
        (["--run-dir", "RUN", "--num-samples", LARGE], "num_samples"),
        (["--run-dir", "RUN", "--num-samples", 10**9], "--batch"),
        (["--run-dir", "RUN", "--max-new-tokens", 0], "max_new_tokens"),
        (["--run-dir", "RUN", "--max-new-tokens", LARGE], "max_new_tokens"),
        (["--run-dir", "RUN", "--batch", -1], "batch"),
        (["--run-dir", "RUN", "--seed", -1], "seed"),
        (["--run-dir", "RUN", "--seed", LARGE], "seed"),
        (["--run-dir", "RUN", "--temperature", -1], "temperature"),
        (["--run-dir", "RUN", "--top-k", 0], "top_k"),
        (["--run-dir", "RUN", "--top-p", 0], "top_p"),
        (["--hf-dir", HF, "--bpe-dir", "nowhere"], "nowhere"),
    ],
)
def test_errors(
    written: Path,
    capsys: pytest.CaptureFixture[str],
    words: list[object],
    message: str,
) -> None:
    """One line, before any output."""
    with pytest.raises(UserError) as caught:
        main([str(written) if word == "RUN" else str(word) for word in words])
    (line,) = str(caught.value).splitlines()
    assert message in line
    assert capsys.readouterr().out == ""


def test_no_checkpoint_yet(run_dir: Path) -> None:
    shutil.rmtree(run_dir / "checkpoints")
    (run_dir / "checkpoints").mkdir()
    with pytest.raises(UserError, match=str(run_dir)):
        main(["--run-dir", str(run_dir)])


def test_other_tokens_than_the_models(written: Path, tmp_path: Path) -> None:
    """Other characters, or too many."""
    Characters("".join(map(chr, range(32, 160)))).write(tmp_path)
    with pytest.raises(UserError, match=f"others.*--like {written}"):
        main(["--run-dir", str(written), "--data", str(tmp_path)])
    with pytest.raises(UserError, match="128"):
        main(["--hf-dir", str(HF), "--data", str(tmp_path)])


def test_a_run_of_a_trm_writes_no_text(monkeypatch: pytest.MonkeyPatch) -> None:
    run = LoadedRun("trm", TRM_PRESETS["quickstart"][1], None, (), 1)
    monkeypatch.setattr("train.gpt_model.load_run", lambda *_: run)
    with pytest.raises(UserError, match=r"`mine`.*train\.trm"):
        main(["--run-dir", "mine"])


# -- the process -----------------------------------------------------------------------


def test_the_command_ends_with_a_line_and_a_status() -> None:
    out, err = finish(start("gpt.sample", ["--run-dir", "nowhere"]), 2)
    assert out == ""
    (line,) = err.splitlines()
    assert line.startswith("error: ")
    assert "nowhere" in line


def test_a_signal_ends_it_at_once(written: Path) -> None:
    """Without a message, with the status of the signal."""
    argv = ["--run-dir", str(written), "--batch", "1", "--num-samples", "9999"]
    process = start("gpt.sample", argv)
    assert process.stdout is not None
    process.stdout.readline()
    process.send_signal(signal.SIGINT)
    _, err = finish(process, -signal.SIGINT)
    assert err == ""


SAMPLES = "--num-samples 300 --batch 1 --max-new-tokens 10"


@pytest.mark.parametrize(
    ("end", "status", "message"),
    [
        (">&-", 2, "closed"),
        (">/dev/full", 2, "No space left on device"),
        ("| head -1", 128 + signal.SIGPIPE, ""),
    ],
)
@pytest.mark.slow
def test_samples_that_nobody_can_read(
    written: Path, end: str, status: int, message: str
) -> None:
    """No traceback, and no samples written in vain."""
    command = f"python -m gpt.sample --run-dir {written} {SAMPLES} {end}"
    done = subprocess.run(
        ["bash", "-o", "pipefail", "-c", command],
        cwd=ROOT,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=180,
        check=False,
    )
    assert done.returncode == status, done.stderr
    assert len(done.stderr.splitlines()) == (1 if message else 0), done.stderr
    assert message in done.stderr
