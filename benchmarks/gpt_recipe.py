"""Train on tiny Shakespeare with both codes: `python -m benchmarks.gpt_recipe`.

Runs nanoGPT's whole recipe for a CPU (4 layers, width 128, 2000 updates), from starting
Python to the last evaluation and checkpoint: in turns, on the same core, one thread.

The final loss depends on the seed and is an estimate: to compare the codes use several
seeds and many sequences.

Examples:
    python -m benchmarks.gpt_recipe --nanogpt ../nanoGPT
    python -m benchmarks.gpt_recipe --nanogpt ../nanoGPT --seeds 1 2 3 --eval-iters 200
    python -m benchmarks.gpt_recipe --nanogpt ../nanoGPT --preset shakespeare-char-fast
"""

import json
import pickle
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

import tyro

from benchmarks import machine
from configs import require
from data.text.tokenizer import Tokenizer

SAME = "shakespeare-char-cpu"
"""Our preset of nanoGPT's recipe."""

STEPS, BATCH = 2000, 12
CHECKOUT = "3adf61e154c3fe3fca428ad6bc3818b27a3b8291"
"""nanoGPT's commit that this was written for."""

# Source: nanoGPT, README, "I only have a macbook", but for `log_interval` (there 1).
RECIPE = (
    "--device=cpu --compile=False --log_interval=100 --block_size=64 "
    f"--batch_size={BATCH} --n_layer=4 --n_head=4 --n_embd=128 --max_iters={STEPS} "
    f"--lr_decay_iters={STEPS} --dropout=0.0"
)


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Settings of the benchmark."""

    nanogpt: Path
    """Checkout of nanoGPT."""

    preset: Literal["shakespeare-char-cpu", "shakespeare-char-fast"] = SAME
    """Our preset: nanoGPT's recipe, or a faster one."""

    data: Path = Path("datasets/shakespeare-char")
    """Folder made by `python -m data.prepare shakespeare-char`."""

    seeds: tuple[int, ...] = (1337,)
    """Whole runs of each code, in turns."""

    eval_iters: int = 20
    """Batches that a loss is estimated from."""

    eval_interval: int = 250
    """Steps of nanoGPT's recipe between two evaluations."""

    core: int | None = None
    """Core to pin to. None: the last one allowed."""

    out: Path | None = None
    """JSON file. None: one for each preset, with the other results."""

    def __post_init__(self) -> None:
        require(
            bool(self.seeds),
            "`--seeds` must name at least one: got none. Use 1337, for instance.",
        )
        require(
            self.eval_interval > 0 and STEPS % self.eval_interval == 0,
            f"`--eval-interval` must divide {STEPS}, where both implementations end: "
            f"got {self.eval_interval}. Use 250, for instance.",
        )


@dataclass(frozen=True)
class Run:
    """A whole run of one of the codes."""

    seed: int
    seconds: float
    val_loss: dict[int, float]
    """By step."""


def run(command: list[str], folder: Path) -> tuple[str, float]:
    """Return a program's output and its seconds."""
    start = time.perf_counter()
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"`{' '.join(command)}` failed: {done.stderr[-1000:]}")
    return done.stdout, time.perf_counter() - start


def ours(settings: Settings, seed: int, scratch: Path) -> Run:
    """Run our preset."""
    folder = scratch / "run"
    options = {
        "data.path": settings.data.resolve(),
        "run-dir": folder,
        "seed": seed,
        "eval.iters": settings.eval_iters,
        "run.compilation-cache": None,  # each run compiles, as the first does
    }
    if settings.preset == SAME:
        options["eval.interval"] = settings.eval_interval
    command = [sys.executable, "-m", "train.gpt", settings.preset]
    command += [f"--config.{name}={value}" for name, value in options.items()]
    _, seconds = run(command, Path.cwd())
    lines = [json.loads(x) for x in (folder / "metrics.jsonl").read_text().splitlines()]
    curve = {x["step"]: x["val_loss"] for x in lines if x["split"] == "eval"}
    return Run(seed, seconds, curve)


def theirs(settings: Settings, seed: int, scratch: Path) -> Run:
    """Run nanoGPT, in a copy of its checkout."""
    copy, script = scratch / "nanogpt", "train.py"
    ignore = shutil.ignore_patterns(".git", "*.bin")
    shutil.copytree(settings.nanogpt, copy, ignore=ignore)
    target = copy / "data" / "shakespeare_char"
    for name in ("train.bin", "val.bin"):
        shutil.copy(settings.data / name, target)
    vocab = {"vocab_size": Tokenizer.read(settings.data).vocab_size}
    (target / "meta.pkl").write_bytes(pickle.dumps(vocab))
    source, fixed = (copy / script).read_text(), "manual_seed(1337 "  # not an option
    (copy / script).write_text(source.replace(fixed, f"manual_seed({seed} "))
    command = [sys.executable, script, "config/train_shakespeare_char.py"]
    command += [*RECIPE.split(), f"--eval_iters={settings.eval_iters}"]
    command += [f"--eval_interval={settings.eval_interval}"]
    text, seconds = run(command, copy)
    found = re.findall(r"step (\d+): train loss [\d.]+, val loss ([\d.]+)", text)
    require(
        bool(found) and source.count(fixed) == 1,
        f"nanoGPT must have `{fixed.strip()}` once in `{script}`, and print its "
        f"losses: got {source.count(fixed)}, and `{text[-200:]}`. Check out commit "
        f"{CHECKOUT}.",
    )
    return Run(seed, seconds, {int(step): float(loss) for step, loss in found})


def show(name: str, runs: Sequence[Run]) -> None:
    """Print the curves of a code and their final values."""
    for one in runs:
        curve = "  ".join(f"{step}: {loss:.3f}" for step, loss in one.val_loss.items())
        print(f"{name:8s} seed {one.seed}: {one.seconds:6.1f} s, val loss {curve}")
    last = [one.val_loss[max(one.val_loss)] for one in runs]
    spread = f" +- {statistics.stdev(last):.4f}" if len(last) > 1 else ""
    print(f"{name:8s} ends at {statistics.mean(last):.4f}{spread} (val loss)")


def main(settings: Settings) -> None:
    """Run both, print their curves and times, write one JSON file."""
    core = machine.hold("cpu", settings.core)
    results: dict[str, list[Run]] = {"ours": [], "nanogpt": []}
    for seed in settings.seeds:
        for name, code in (("ours", ours), ("nanogpt", theirs)):
            with tempfile.TemporaryDirectory() as folder:
                results[name].append(code(settings, seed, Path(folder)))
    for name, runs in results.items():
        show(name, runs)
    pairs = zip(results["nanogpt"], results["ours"], strict=True)
    ratio = statistics.median(their.seconds / our.seconds for their, our in pairs)
    print(f"nanoGPT's time over ours: {ratio:.2f}")
    record = {
        "preset": settings.preset,
        **machine.about(),
        "pinned_to_one_core": core is not None,
        "nanogpt": machine.commit(settings.nanogpt),
        "eval_sequences": BATCH * settings.eval_iters,
        "ratio": ratio,
        "results": {
            name: [asdict(one) for one in runs] for name, runs in results.items()
        },
    }
    name = "gpt_recipe" if settings.preset == SAME else "gpt_recipe_fast"
    out = settings.out or machine.RESULTS / f"{name}-cpu.json"
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main(tyro.cli(Settings, description=__doc__))
