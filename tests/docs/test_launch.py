"""The scripts of `docs/launch` against a cloud made of folders.

A `gcloud` on PATH knows the flags of the real one, keeps the state of a slice of two
workers, and runs their commands in a shell of their own, so that what is quoted is
quoted for real.
"""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
LAUNCH = ROOT / "docs" / "launch"

GCLOUD = """#!{python} -SE
import json, os, pathlib, subprocess, sys
cloud = pathlib.Path(os.environ["CLOUD"])
words = sys.argv[1:]
with (cloud / "calls").open("a") as calls:
    calls.write(json.dumps(words) + chr(10))
assert words[:2] == ["compute", "tpus"], words
group, verb = words[2:4]
named = dict(w.split("=", 1) for w in words[4:] if w.startswith("--") and "=" in w)
bare = {{w for w in words[4:] if w.startswith("--") and "=" not in w}}
places = [w for w in words[4:] if not w.startswith("--")]
KNOWN = {{  # as `gcloud compute tpus ... --help` of version 528 has them
    "create": "--node-id --zone --accelerator-type --runtime-version --spot",
    "list": "--zone --format",
    "describe": "--zone",
    "delete": "--zone --force",
    "ssh": "--zone --worker --command",
    "scp": "--zone --worker",
}}
unknown = (named.keys() | bare) - set(KNOWN[verb].split()) - {{"--quiet"}}
assert not unknown and named["--zone"] == "here" and "--quiet" in bare, words
assert group == ("tpu-vm" if verb in ("ssh", "scp") else "queued-resources"), words
fails = cloud / f"fails-{{verb}}"
if fails.exists():
    fails.read_text() == "once" and fails.unlink()
    sys.exit(1)
state = cloud / "state"
if verb == "list":
    print("other-slice", "ACTIVE", sep=chr(9))
    if state.exists():
        print("slice", state.read_text(), sep=chr(9))
elif verb == "create":
    assert places == ["slice"] and named["--node-id"] == "slice" and not state.exists()
    queue = (cloud / "queue").read_text().split()
    state.write_text(queue[0])
    (cloud / "queue").write_text(" ".join(queue[1:] or queue))
    for worker in "01":
        (cloud / worker).mkdir()
elif verb == "delete":
    assert places == ["slice"] and "--force" in bare
    state.unlink()
    for worker in "01":
        subprocess.run(["rm", "-r", cloud / worker], check=True)
elif verb in ("ssh", "scp"):
    assert state.read_text() == "ACTIVE"
    workers = "01" if named["--worker"] == "all" else named["--worker"]
    for worker in workers:
        home = cloud / worker
        if verb == "scp":
            source, there = places
            assert there.startswith("slice:")
            (home / there[len("slice:"):]).write_bytes(open(source, "rb").read())
            continue
        done = subprocess.run(
            ["bash", "-c", named["--command"]],
            cwd=home,
            env=os.environ | {{"HOME": str(home), "WORKER": worker}},
        )
        if done.returncode:
            sys.exit(done.returncode)
"""

UV = """#!/bin/sh
echo "$@" >>"$HOME/uv"
case $1 in venv)
    mkdir -p .venv/bin && cp "$CLOUD/bin/training" .venv/bin/python ;;
esac
"""

TRAINING = """#!{python} -SE
import json, os, pathlib, signal, sys, time
cloud = pathlib.Path(os.environ["CLOUD"])
with (cloud / "trainings").open("a") as file:
    file.write(json.dumps([os.environ["WORKER"], *sys.argv[1:]]) + chr(10))
plan = cloud / ("plan" + os.environ["WORKER"])
ends = plan.read_text().split()
plan.write_text(" ".join(ends[1:] or ends))
print("the last line of", os.environ["WORKER"], flush=True)
if ends[0] == "preempted":
    (cloud / "state").write_text("SUSPENDED")
    for path in cloud.glob("then-*"):
        path.rename(cloud / path.name[len("then-"):])
if ends[0] == "saves":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
if ends[0] in ("preempted", "saves"):
    (cloud / "trains").touch()
    time.sleep(60)
sys.exit(int(ends[0]))
"""

ARGUMENTS = ["train.trm", "sudoku", "--config.run-dir", "gs://a bucket/$x/it's *"]


class Cloud:
    """A cloud, a project to send to it, and what they were asked to do."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.project = folder / "project"
        for name in ("bin", "project/docs"):
            (folder / name).mkdir(parents=True)
        shutil.copytree(LAUNCH, self.project / "docs" / "launch")
        for name, text in (("gcloud", GCLOUD), ("uv", UV), ("training", TRAINING)):
            self._program(name, text.format(python=sys.executable))
        self._program("python3", '#!/bin/sh\necho "$@" >>"$HOME/pip"\n')
        git = ["git", "-c", "user.name=me", "-c", "user.email=me@here"]
        for words in ("init -q", "add .", "commit -q -m all"):
            subprocess.run([*git, *words.split()], cwd=self.project, check=True)
        self.plan(queue="ACTIVE", plan0="0", plan1="0")

    def _program(self, name: str, text: str) -> None:
        path = self.folder / "bin" / name
        path.write_text(text)
        path.chmod(0o755)

    def plan(self, **files: str) -> None:
        """Say what is to happen; the last word of each goes on for ever."""
        for name, text in files.items():
            (self.folder / name.replace("_", "-")).write_text(text)

    def start(self, *words: str, **variables: str) -> subprocess.Popen[str]:
        """The script as a process."""
        variables = {"NAME": "slice", "ZONE": "here", "TYPE": "v4-16", **variables}
        return subprocess.Popen(
            ["docs/launch/tpu_pod.sh", *words],
            cwd=self.project,
            env=os.environ
            | {
                "PATH": f"{self.folder / 'bin'}:{os.environ['PATH']}",
                "CLOUD": str(self.folder),
                "POLL": "0",
            }
            | variables,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def ends(self, *words: str, **variables: str) -> tuple[int, str]:
        """The status that the script ends with, and its messages."""
        process = self.start(*words, **variables)
        _, messages = process.communicate(timeout=60)
        return process.returncode, messages

    @property
    def calls(self) -> list[list[str]]:
        """What was asked of the cloud."""
        path = self.folder / "calls"
        return [json.loads(line) for line in path.read_text().splitlines()]

    @property
    def verbs(self) -> list[str]:
        """The calls that change something, in a word each."""
        words = []
        for call in self.calls:
            word = call[3]
            if word == "ssh":
                (command,) = (w for w in call if w.startswith("--command="))
                word = command.partition("worker.sh ")[2].split(" ")[0] or "install"
            words += [] if word in ("list", "state") else [word]
        return words

    @property
    def trainings(self) -> list[list[str]]:
        """The worker and the arguments of each training that began, in their order."""
        path = self.folder / "trainings"
        return [json.loads(line) for line in path.read_text().splitlines()]

    @property
    def deleted(self) -> bool:
        """Whether nothing is left."""
        return not (self.folder / "state").exists()


@pytest.fixture
def cloud(tmp_path: Path) -> Cloud:
    return Cloud(tmp_path)


def wait_for(true: Callable[[], bool]) -> None:
    until = time.monotonic() + 30
    while not true():
        assert time.monotonic() < until
        time.sleep(0.02)


ONCE = ["create", "scp", "install", "stop", "start"]


def test_a_run_from_the_request_to_the_deletion(cloud: Cloud) -> None:
    """Each once and in order; the arguments arrive as given, on both workers."""
    status, messages = cloud.ends("run", *ARGUMENTS)
    assert (status, cloud.deleted) == (0, True), messages
    assert cloud.verbs == [*ONCE, "delete"]
    asked = ["-m", *ARGUMENTS, "--config.mesh.distributed"]
    assert sorted(cloud.trainings) == [["0", *asked], ["1", *asked]]
    (create,) = (call for call in cloud.calls if "create" in call)
    assert "--accelerator-type=v4-16" in create
    assert "--spot" in create


def test_what_is_installed(cloud: Cloud) -> None:
    """The commit, in Python 3.12, with the constraints; a second time in the same."""
    (cloud.project / "not-committed").touch()
    given = {"SPOT": "0", "EXTRAS": "tpu,wandb", "PREPARE": 'echo "$WORKER" >"of mine"'}
    for words in (["create"], ["install"], ["install"]):
        assert cloud.ends(*words, **given)[0] == 0
    assert "--spot" not in next(call for call in cloud.calls if "create" in call)
    for worker in "01":
        home = cloud.folder / worker
        assert (home / "tiny-recursive-jax" / "docs" / "launch" / "worker.sh").exists()
        assert not (home / "tiny-recursive-jax" / "not-committed").exists()
        assert (home / "tiny-recursive-jax" / "of mine").read_text() == f"{worker}\n"
        packages = "pip install -q -c constraints.txt -e .[tpu,wandb]"
        assert (home / "uv").read_text().splitlines() == [
            *("venv -q --python 3.12", packages, packages),
        ]


def test_the_same_command_again_after_a_preemption(cloud: Cloud) -> None:
    """Also when the request has to wait, and when a slice is lost before it is used."""
    cloud.plan(queue="SUSPENDED ACTIVE", plan0="preempted 0")
    status, messages = cloud.ends("run", *ARGUMENTS, RESTARTS="0")
    assert (status, cloud.deleted) == (0, True), messages
    first = ["create", "delete", *ONCE]
    assert cloud.verbs == [*first, "delete", *ONCE, "delete"]
    of_first = [words[1:] for words in cloud.trainings if words[0] == "0"]
    assert of_first[0] == of_first[1]


def test_a_request_that_fails_after_a_preemption_is_made_again(cloud: Cloud) -> None:
    """Once there was a slice, the cloud may just be out of order."""
    cloud.plan(plan0="preempted 0", then_fails_create="once")
    status, messages = cloud.ends("run", *ARGUMENTS)
    assert (status, cloud.deleted) == (0, True), messages
    assert cloud.verbs == [*ONCE, "delete", "create", *ONCE, "delete"]


def test_restarts_on_the_same_slice(cloud: Cloud) -> None:
    """A run that was told to stop, or killed, goes on; but not for ever."""
    cloud.plan(plan0="143 137 0")
    status, messages = cloud.ends("run", *ARGUMENTS)
    assert (status, cloud.deleted) == (0, True), messages
    assert cloud.verbs == [*ONCE, *ONCE[1:], *ONCE[1:], "delete"]
    (cloud.folder / "calls").unlink()
    cloud.plan(plan0="137")
    status, messages = cloud.ends("run", *ARGUMENTS, RESTARTS="1")
    assert (status, cloud.deleted) == (1, True)
    assert cloud.verbs == [*ONCE, *ONCE[1:], "delete"]
    assert "restarted 1 times in vain" in messages


@pytest.mark.parametrize("end", [1, 2])
def test_an_error_of_the_run_ends_all(cloud: Cloud, end: int) -> None:
    """Its status and the last lines of all workers come out; the slice is deleted."""
    cloud.plan(plan0=str(end))
    process = cloud.start("run", *ARGUMENTS)
    out, messages = process.communicate(timeout=60)
    assert (process.returncode, cloud.deleted) == (end, True), messages
    assert "the last line of 1" in out + messages
    assert len(cloud.trainings) == 2


def test_an_error_because_a_machine_was_lost(cloud: Cloud) -> None:
    """It began anew (its status is gone): the run is started again."""
    cloud.plan(plan0="2 0", plan1="0")
    lost = 'rm -f "$HOME/tiny-recursive-jax/train.status"\n'
    worker = cloud.project / "docs" / "launch" / "worker.sh"
    text = worker.read_text()
    once = f'[ "$WORKER$(wc -l <"$CLOUD/trainings")" != 12 ] || {lost}'
    worker.write_text(text.replace("\nstate() {\n", f"\nstate() {{\n{once}"))
    git = ["git", "-c", "user.name=me", "-c", "user.email=me@here", "commit", "-qam."]
    subprocess.run(git, cwd=cloud.project, check=True)
    status, messages = cloud.ends("run", *ARGUMENTS)
    assert (status, cloud.deleted) == (0, True), messages
    assert cloud.verbs[-1] == "delete"
    assert cloud.verbs.count("create") == 1
    assert cloud.verbs.count("start") == 2


@pytest.mark.parametrize("what", ["create", "scp", "ssh"])
def test_deleted_also_after_a_failure(cloud: Cloud, what: str) -> None:
    cloud.plan(**{f"fails_{what}": ""})
    status, messages = cloud.ends("run", *ARGUMENTS, RESTARTS="2")
    assert (status, cloud.deleted) == (1, True), messages
    assert cloud.verbs.count("create") == 1
    assert cloud.verbs.count("delete") == (what != "create")


def test_a_slice_that_cannot_be_seen_is_replaced(cloud: Cloud) -> None:
    """Here `worker.sh state` fails three times in a row."""
    worker = cloud.project / "docs" / "launch" / "worker.sh"
    blind = '\nstate() {\necho . >>"$CLOUD/looks"\n[ $(wc -l <"$CLOUD/looks") -gt 3 ]\n'
    worker.write_text(worker.read_text().replace("\nstate() {\n", blind))
    git = ["git", "-c", "user.name=me", "-c", "user.email=me@here", "commit", "-qam."]
    subprocess.run(git, cwd=cloud.project, check=True)
    status, messages = cloud.ends("run", *ARGUMENTS, UNSEEN="3")
    assert (status, cloud.deleted) == (0, True), messages
    assert cloud.verbs == [*ONCE, "delete", *ONCE, "delete"]


def test_a_slice_that_could_not_be_deleted(cloud: Cloud) -> None:
    """Says so, and ends with an error although the run is complete."""
    cloud.plan(fails_delete="")
    status, messages = cloud.ends("run", *ARGUMENTS)
    assert status == 1
    assert "NOT DELETED after 5 tries" in messages


def test_interrupted(cloud: Cloud) -> None:
    """The run saves before the slice is deleted."""
    cloud.plan(plan0="saves", plan1="saves")
    assert cloud.ends("create")[0] == 0
    process = cloud.start("run", *ARGUMENTS, POLL="30")
    wait_for((cloud.folder / "trains").exists)
    wait_for(lambda: len(cloud.trainings) == 2)
    process.send_signal(signal.SIGTERM)
    _, messages = process.communicate(timeout=60)
    assert (process.returncode, cloud.deleted) == (130, True), messages
    assert cloud.verbs == [*ONCE, "stop", "delete"]


def test_what_must_be_given(cloud: Cloud) -> None:
    """Nothing is asked of the cloud without a name, or without a command."""
    for words, variables in ((["run", "train.trm"], {"NAME": ""}), (["run"], {})):
        status, messages = cloud.ends(*words, **variables)
        assert status != 0
        assert "NAME" in messages or "usage" in messages
    status, messages = cloud.ends()
    assert status == 2
    assert messages.startswith("Train on a TPU slice")
    assert not (cloud.folder / "calls").exists()


# -- one worker ------------------------------------------------------------------------


def test_a_worker(cloud: Cloud) -> None:
    """It starts one process, says how it is, and has it save."""
    cloud.plan(plan0="saves")
    (cloud.project / ".venv" / "bin").mkdir(parents=True)
    shutil.copy(cloud.folder / "bin" / "training", cloud.project / ".venv/bin/python")

    def worker(*words: str) -> str:
        done = subprocess.run(
            ["docs/launch/worker.sh", *words],
            cwd=cloud.project,
            env=os.environ | {"CLOUD": str(cloud.folder), "WORKER": "0"},
            stdout=subprocess.PIPE,
            text=True,
            check=True,
            timeout=60,
        )
        return done.stdout.strip()

    assert worker("state") == "lost"
    worker("start", "train.trm")
    wait_for((cloud.folder / "trains").exists)
    assert worker("state") == "running"
    worker("start", "train.trm")
    assert len(cloud.trainings) == 1
    worker("stop")
    assert worker("state") == "143"
    worker("stop")
