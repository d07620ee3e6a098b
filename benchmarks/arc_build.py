"""Time our ARC builder against the official one: `python -m benchmarks.arc_build`.

Both build the same tasks, in turns, each as its own command; starting the process and
writing the files count. Processor time of all processes is printed beside wall time,
because other work on the machine disturbs it less. The datasets' counts are compared.

Example:
    python -m benchmarks.arc_build --source kaggle/combined --official ../trm \
        --official-python ../trm/.venv/bin/python --tasks 20
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from configs import ARC
from data.puzzles.arc.tasks import read_subset

SUBSETS = ("training", "evaluation")


def write_slice(source: Path, tasks: int, folder: Path) -> None:
    """Write the first tasks of both subsets of ARC-AGI-1 for the official builder.

    Args:
        source: folder of the ARC files.
        tasks: number per subset.
        folder: to write into.
    """
    for subset in SUBSETS:
        chosen = read_subset(source, subset)[:tasks]
        whole = {task.name: task.to_json() for task in chosen}
        solutions = {
            name: [pair.pop("output") for pair in task["test"]]
            for name, task in whole.items()
        }
        for what, content in (("challenges", whole), ("solutions", solutions)):
            path = folder / f"slice_{subset}_{what}.json"
            path.write_text(json.dumps(content))


def run(command: list[str], cwd: Path, out: Path) -> tuple[float, float, str]:
    """Return wall and processor seconds of a command, and the counts of its dataset."""
    start, before = time.perf_counter(), os.times()
    environment = os.environ | {"PYTHONPATH": str(cwd)}
    subprocess.run(
        command, cwd=cwd, env=environment, stdout=subprocess.DEVNULL, check=True
    )
    wall, after = time.perf_counter() - start, os.times()
    used = sum(after[2:4]) - sum(before[2:4])  # user and system, of children
    keys = ("total_groups", "total_puzzles", "mean_puzzle_examples")
    about = json.loads((out / "train" / "dataset.json").read_text())
    return wall, used, ", ".join(f"{key} {about[key]:g}" for key in keys)


def main() -> None:
    """Print the seconds of each builder, and their ratio."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--source", type=Path, required=True, help="the ARC files")
    parser.add_argument("--official", type=Path, required=True, help="its checkout")
    parser.add_argument(
        "--official-python", default=sys.executable, help="one with its dependencies"
    )
    parser.add_argument("--tasks", type=int, default=20, help="of each subset")
    parser.add_argument("--augmentations", type=int, default=ARC.augmentations)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--processes", type=int, nargs="+", default=[1, 2])
    args = parser.parse_args()
    times: dict[str, list[tuple[float, float]]] = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_slice(args.source, args.tasks, folder)
        aug = str(args.augmentations)
        for turn in range(args.repeats):
            out = folder / f"official-{turn}"
            words = ["--input-file-prefix", str(folder / "slice")]
            words += ["--subsets", *SUBSETS, "--test-set-name", SUBSETS[1]]
            words += ["--num-aug", aug, "--output-dir", str(out)]
            python = os.path.abspath(args.official_python)  # a link tells its packages
            module = [python, "-m", "dataset.build_arc_dataset"]
            programs = {"official": ([*module, *words], args.official.resolve(), out)}
            for processes in args.processes:
                out = folder / f"ours-{processes}-{turn}"
                words = ["--source", name, "--subsets", *SUBSETS, "--out", str(out)]
                words += ["--augmentations", aug, "--processes", str(processes)]
                module = [sys.executable, "-m", "data.prepare", "arc"]
                ours = Path(__file__).resolve().parents[1]
                programs[f"ours x {processes}"] = ([*module, *words], ours, out)
            for label, program in programs.items():
                wall, used, counts = run(*program)
                times.setdefault(label, []).append((wall, used))
                print(f"{label:10s} {wall:7.2f} s {used:7.2f} s  {counts}", flush=True)
    medians = {
        label: [statistics.median(column) for column in zip(*own, strict=True)]
        for label, own in times.items()
    }
    for label, own in medians.items():
        pairs = zip(("wall", "processor"), own, medians["official"], strict=True)
        parts = (
            f"{name} {ours:.2f} s (x{his / ours:.1f})" for name, ours, his in pairs
        )
        print(f"{label:10s} median: {', '.join(parts)}")


if __name__ == "__main__":
    main()
