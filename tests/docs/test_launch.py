"""The scripts of `docs/launch`: commands of a dry run, and one worker's process."""

import fcntl
import os
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
ARGUMENTS = ["train.trm", "sudoku", "--config.run-dir", "gs://a bucket/$x/it's *"]


def dry_run(*argv: str, **variables: str) -> list[list[str]]:
    """The arguments of each `gcloud` that a dry run prints, as the shell reads them."""
    variables = {"NAME": "slice", "ZONE": "here", "TYPE": "v4-16", **variables}
    variables.setdefault("TMPDIR", tempfile.mkdtemp())
    done = subprocess.run(
        ["docs/launch/tpu_pod.sh", *argv],
        cwd=ROOT,
        env=os.environ | {"DRY_RUN": "1", **variables},
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    lines = [x for x in done.stderr.splitlines() if x.startswith("gcloud compute tpus")]
    echo = "gcloud() { printf '%s\\0' \"$@\"; printf '\\1'; }\n" + "\n".join(lines)
    shell = subprocess.run(
        ["bash", "-c", echo], capture_output=True, text=True, check=True
    )
    return [call.split("\0")[2:-1] for call in shell.stdout.split("\1")[:-1]]


def remote_command(call: list[str]) -> str:
    return next((x for x in call if x.startswith("--command=")), "")[10:]


def test_a_run_from_the_request_to_the_deletion() -> None:
    calls = dry_run("run", *ARGUMENTS, EXTRAS="tpu,wandb", PREPARE='echo "$HOME"')
    create, copy, install, stop, start, guard, state, delete = calls
    assert create[:3] == ["queued-resources", "create", "slice"]
    assert {"--node-id=slice", "--accelerator-type=v4-16", "--spot"} <= {*create}
    assert copy[:2] == ["tpu-vm", "scp"]
    assert "-c constraints.txt -e '.[tpu,wandb]'" in remote_command(install)
    assert 'echo "$HOME"' in remote_command(install)
    script = "tiny-recursive-jax/docs/launch/worker.sh"
    assert shlex.split(remote_command(stop)) == ["bash", script, "stop"]
    assert shlex.split(remote_command(start)) == [
        *("bash", script, "start", *ARGUMENTS, "--config.mesh.distributed")
    ]
    assert "--worker=all" in start
    words = shlex.split(remote_command(guard))
    assert words[:5] == ["bash", script, "guard", "60", "gcloud"]
    assert {"delete", "slice", "--zone=here", "--force", "--quiet"} <= {*words}
    assert "--worker=0" in guard
    assert shlex.split(remote_command(state)) == ["bash", script, "state"]
    assert delete[:3] == ["queued-resources", "delete", "slice"]
    assert all("--zone=here" in call and "--quiet" in call for call in calls)


def test_single_steps() -> None:
    (create,) = dry_run("create", SPOT="0", WAIT="6h")
    assert "--spot" not in create
    assert "--valid-until-duration=6h" in create
    (on,) = dry_run("on", "1", "df -h")
    assert "--worker=1" in on
    assert remote_command(on) == "df -h"


@pytest.mark.parametrize(
    ("argv", "name"), [(["run", "train.trm"], ""), (["run"], "slice"), ([], "slice")]
)
def test_missing_arguments(argv: list[str], name: str) -> None:
    with pytest.raises(subprocess.CalledProcessError):
        dry_run(*argv, NAME=name)


def test_one_script_for_a_slice(tmp_path: Path) -> None:
    with (tmp_path / "tpu_pod-here-slice.lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        with pytest.raises(subprocess.CalledProcessError) as caught:
            dry_run("run", *ARGUMENTS, TMPDIR=str(tmp_path))
    assert "another NAME" in caught.value.stderr
    assert "gcloud" not in caught.value.stderr
    assert dry_run("run", *ARGUMENTS, TMPDIR=str(tmp_path))


def test_the_time_is_over() -> None:
    with pytest.raises(subprocess.CalledProcessError) as caught:
        dry_run("run", *ARGUMENTS, HOURS="-1")
    assert "over" in caught.value.stderr
    assert " create " not in caught.value.stderr


def test_a_worker(tmp_path: Path) -> None:
    """One process at a time; SIGTERM ends it with its own status, and so does a guard
    when nobody asks."""
    launch = tmp_path / "docs" / "launch"
    shutil.copytree(ROOT / "docs" / "launch", launch)
    python = tmp_path / ".venv" / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.write_text(
        f"#!{sys.executable} -SE\n"
        "import signal, sys, time\n"
        "signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))\n"
        "open('started', 'a').write('.')\n"
        "time.sleep(60)\n"
    )
    python.chmod(0o755)

    def worker(*argv: str) -> str:
        command = [str(launch / "worker.sh"), *argv]
        done = subprocess.run(
            command, stdout=subprocess.PIPE, text=True, check=True, timeout=60
        )
        return done.stdout.strip()

    assert worker("state") == "lost"
    worker("start", "train.trm")
    until = time.monotonic() + 30
    while not (tmp_path / "started").exists():
        assert time.monotonic() < until
        time.sleep(0.02)
    worker("start", "train.trm")
    assert worker("state") == "running"
    assert (tmp_path / "started").read_text() == "."
    worker("stop")
    assert worker("state") == "143"
    worker("stop")
    worker("start", "train.trm")
    while (tmp_path / "started").read_text() != "..":
        assert time.monotonic() < until + 30
        time.sleep(0.02)
    worker("guard", "9", "touch", "never")
    assert worker("state") == "running"
    (tmp_path / "train.guard").unlink()
    worker("guard", "0", "touch", "deleted")
    while not (tmp_path / "deleted").exists():
        assert time.monotonic() < until + 60
        time.sleep(0.02)
    assert worker("state") == "143"
    assert not (tmp_path / "never").exists()
