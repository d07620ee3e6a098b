"""Train on tiny Shakespeare by both codes: `python -m benchmarks.gpt_recipe`.

nanoGPT's recipe for a CPU (4 layers, width 128, 2000 updates), the whole of it: from
starting Python to the last evaluation and checkpoint. One after the other, each on the
same core with one thread.

Example:
    python -m benchmarks.gpt_recipe --nanogpt ../nanoGPT
"""

if not __package__:
    raise SystemExit("Run it from the project's root: python -m benchmarks.gpt_recipe")

import json
import pickle
import re
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import tyro

from benchmarks import machine
from configs import require
from data.tokenizer import Tokenizer

PRESET = "shakespeare-char-cpu"
# Source: nanoGPT, README, "I only have a macbook", but for `log_interval` (there 1).
RECIPE = (
    "--device=cpu --compile=False --eval_iters=20 --log_interval=100 --block_size=64 "
    "--batch_size=12 --n_layer=4 --n_head=4 --n_embd=128 --max_iters=2000 "
    "--lr_decay_iters=2000 --dropout=0.0"
)


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What to run."""

    nanogpt: Path
    """Checkout of nanoGPT."""

    data: Path = Path("datasets/shakespeare-char")
    """Folder made by `python -m data.prepare shakespeare-char`."""

    core: int | None = None
    """Core to pin to. None: the last one allowed."""

    out: Path = Path(__file__).parent / "results" / "gpt_recipe-cpu.json"
    """JSON file."""


Curve = list[tuple[int, float]]
"""Steps and losses on the validation split."""


def run(command: list[str], folder: Path) -> tuple[str, float]:
    """What a program prints, and the seconds that it takes."""
    start = time.perf_counter()
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    require(
        done.returncode == 0,
        f"`{' '.join(command)}` must end well: got {done.stderr[-1000:]}",
    )
    return done.stdout, time.perf_counter() - start


def ours(data: Path, scratch: Path) -> tuple[Curve, float]:
    """The curve and the seconds of our preset."""
    folder = scratch / "run"
    command = [sys.executable, "-m", "train.gpt", PRESET]
    command += ["--config.data.path", str(data.resolve())]
    _, seconds = run([*command, "--config.run-dir", str(folder)], Path.cwd())
    lines = [json.loads(x) for x in (folder / "metrics.jsonl").read_text().splitlines()]
    curve = [(x["step"], x["val_loss"]) for x in lines if x["split"] == "eval"]
    return curve, seconds


def theirs(checkout: Path, data: Path, scratch: Path) -> tuple[Curve, float]:
    """The curve and the seconds of nanoGPT, in a copy of its checkout."""
    copy = scratch / "nanogpt"
    shutil.copytree(checkout, copy, ignore=shutil.ignore_patterns(".git", "*.bin"))
    target = copy / "data" / "shakespeare_char"
    for name in ("train.bin", "val.bin"):
        shutil.copy(data / name, target)
    vocab = {"vocab_size": Tokenizer.read(data).vocab_size}
    (target / "meta.pkl").write_bytes(pickle.dumps(vocab))
    config = "config/train_shakespeare_char.py"
    command = [sys.executable, "train.py", config, *RECIPE.split()]
    text, seconds = run(command, copy)
    found = re.findall(r"step (\d+): train loss [\d.]+, val loss ([\d.]+)", text)
    return [(int(step), float(loss)) for step, loss in found], seconds


def main(settings: Settings) -> None:
    """Run both, print their curves and times, write one JSON file."""
    core = machine.hold("cpu", settings.core)
    with tempfile.TemporaryDirectory() as folder:
        results = {
            "ours": ours(settings.data, Path(folder)),
            "nanogpt": theirs(settings.nanogpt, settings.data, Path(folder)),
        }
    for name, (curve, seconds) in results.items():
        best = min(loss for _, loss in curve)
        print(f"{name:8s} {seconds:6.1f} s, best val loss {best:.4f}")
        print("         " + "  ".join(f"{step}: {loss:.3f}" for step, loss in curve))
    ratio = results["nanogpt"][1] / results["ours"][1]
    print(f"nanoGPT's time over ours: {ratio:.2f}")
    record = {
        "date": time.strftime("%Y-%m-%d"),
        "cpu": machine.cpu_model(),
        "pinned_to_one_core": core is not None,
        "versions": machine.versions(),
        "nanogpt": machine.commit(settings.nanogpt),
        "ratio": ratio,
        "results": {
            name: {"seconds": seconds, "val_loss": dict(curve)}
            for name, (curve, seconds) in results.items()
        },
    }
    settings.out.parent.mkdir(parents=True, exist_ok=True)
    settings.out.write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main(tyro.cli(Settings, description=__doc__))
