"""Time whole commands of two checkouts in turns: `python -m benchmarks.whole_command`.

Measures wall, user and system seconds and memory of a command's first run, and the
seconds to its first step: at the first start, and at the next, with compiled programs
cached. Uses only the standard library. Pins nothing by default.

Examples:
    python -m benchmarks.whole_command --before ../before --repeats 5 --write
    python -m benchmarks.whole_command --command "train.trm quickstart --config.seed 1"
"""

import argparse
import json
import os
import shutil
import statistics
import sys
import tempfile
import time
from pathlib import Path

from benchmarks import machine

COMMANDS = ("train.trm quickstart", "train.gpt shakespeare-char-cpu")
Times = dict[str, float]


def run(command: str, checkout: Path, scratch: Path, *, start: bool) -> Times:
    """Measure a run in a new directory; with `start` only until its first step."""
    shutil.rmtree(scratch / "run", ignore_errors=True)
    begin, metrics = time.perf_counter(), scratch / "run" / "metrics.jsonl"
    words = f"{command} --config.run.log-every=1" if start else command
    process = machine.start(words, checkout, scratch, quiet=True)
    ended = None
    while ended is None:
        time.sleep(0.01)
        if start and metrics.exists() and metrics.stat().st_size:
            seconds = time.perf_counter() - begin
            process.kill()
            process.wait()
            return {"first_step_s": seconds}
        pid, status, used = os.wait4(process.pid, os.WNOHANG)
        ended = (status, used) if pid else None
    process.returncode, used = os.waitstatus_to_exitcode(ended[0]), ended[1]
    if process.returncode or start:
        raise SystemExit(f"`{command}` of {checkout} failed: see above.")
    return {
        "wall_s": time.perf_counter() - begin,
        "user_s": used.ru_utime,
        "system_s": used.ru_stime,
        "peak_mb": used.ru_maxrss / (1e6 if sys.platform == "darwin" else 1e3),
    }


def turn(command: str, checkout: Path, scratch: Path) -> Times:
    """Measure a first start, a whole first run, and a next start."""
    times: list[Times] = []
    for fresh, start in ((True, True), (True, False), (False, True)):
        if fresh:
            shutil.rmtree(scratch / "home", ignore_errors=True)
            (scratch / "home").mkdir()
        times.append(run(command, checkout, scratch, start=start))
    return times[1] | times[0] | {"next_first_step_s": times[2]["first_step_s"]}


def medians(samples: list[Times]) -> dict[str, float | list[float]]:
    """Return medians; `aa` is the even runs' median wall time over the odd runs'."""
    walls = [sample["wall_s"] for sample in samples]
    row = {name: statistics.median(s[name] for s in samples) for name in samples[0]}
    aa = statistics.median(walls[::2]) / statistics.median(walls[1::2] or walls)
    return {**row, "aa": aa, "samples_wall_s": walls}


def main() -> None:
    """Run all commands, print their times, and write them with `--write`."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    add = parser.add_argument
    add("--before", type=Path, help="a checkout to compare with")
    add("--after", type=Path, default=Path.cwd(), help="default: this folder")
    add("--command", action="append", help=f"module and options; default: {COMMANDS}")
    add("--repeats", type=int, default=3)
    add("--datasets", type=Path, default=Path("datasets"), help="made if missing")
    add("--core", type=int, help="core to pin to; default: none")
    add("--write", action="store_true", help="write results/whole_command-cpu.json")
    given = parser.parse_args()
    if given.core is not None:
        os.sched_setaffinity(0, {given.core})
    checkouts = {"before": given.before} if given.before else {}
    checkouts["after"] = given.after
    record = {
        **machine.about(),
        "cores": os.cpu_count() if given.core is None else 1,
        "commits": {name: machine.commit(path) for name, path in checkouts.items()},
    }
    given.datasets.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        scratch = Path(folder)
        (scratch / "datasets").symlink_to(given.datasets.resolve())
        for command in given.command or COMMANDS:
            run(command, given.after, scratch, start=True)  # makes the dataset
            samples: dict[str, list[Times]] = {name: [] for name in checkouts}
            for _ in range(given.repeats):
                for name, path in checkouts.items():
                    samples[name].append(turn(command, path, scratch))
            record[command] = {name: medians(s) for name, s in samples.items()}
            print(command, json.dumps(record[command], indent=1), flush=True)
    if given.write:
        out = machine.RESULTS / "whole_command-cpu.json"
        out.write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
