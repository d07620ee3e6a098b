import errno
import os
import resource
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest

import data.folder
from configs import GeneratedSudoku, UserError
from data.build import prepare
from data.folder import fingerprint, new_folder, only_maker, parallel_map
from data.puzzles.sudoku import generate

ROOT = Path(data.folder.__file__).parents[1]
SMALL = GeneratedSudoku(size=4, train=4, test=2)


def start(*args, **options):
    command = [sys.executable, "-m", "data.prepare", *map(str, args)]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **options}
    return subprocess.Popen(command, cwd=ROOT, text=True, **pipes)


def hidden(folder):
    return sorted(path.name for path in folder.glob(".*"))


# -- whole or not at all ---------------------------------------------------------------


def start_long(folder, bpe_dir, processes=1):
    """A build of some seconds, in the midst of its writing."""
    text = folder / "a.txt"
    text.write_text("the tab the end " * 2_000_000)
    args = ["text", "--input", text, "--bpe-dir", bpe_dir, "--processes", processes]
    build = start(*args, "--out", folder / "out", start_new_session=True)
    deadline = time.monotonic() + 60
    while not any("unfinished" in name for name in hidden(folder)):
        assert build.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.05)
    return build


def test_a_killed_build_is_cleared_away_by_the_next(tmp_path, bpe_dir):
    with start_long(tmp_path, bpe_dir) as killed:
        killed.kill()
    assert len(hidden(tmp_path)) == 2
    prepare(SMALL, tmp_path / "other")
    assert hidden(tmp_path) == [".out.lock"]
    prepare(SMALL, tmp_path / "out")
    assert not hidden(tmp_path)


def test_only_folders_whose_lock_is_free_are_removed(tmp_path, monkeypatch):
    foreign, killed = (tmp_path / f".a.unfinished-{name}" for name in ("mine", "0123"))
    foreign.mkdir()
    (killed / "content").mkdir(parents=True)
    with monkeypatch.context() as patch:
        patch.setattr(os, "getpid", lambda: 2**22 + 1)  # as in another container
        building = new_folder(tmp_path / "a")
        content = building.__enter__()
    with new_folder(tmp_path / "b"):
        assert content.is_dir()
        assert not killed.exists()
    building.__exit__(None, None, None)
    assert {path.name for path in tmp_path.iterdir()} == {"a", "b", foreign.name}
    assert not any((tmp_path / "a").iterdir())


def test_nothing_is_removed_where_there_are_no_locks(tmp_path, monkeypatch):
    def flock(*args):
        raise OSError(errno.ENOLCK, "no locks")

    monkeypatch.setattr(data.folder.fcntl, "flock", flock)
    with new_folder(tmp_path / "a") as content, new_folder(tmp_path / "b"):
        assert content.is_dir()


def test_a_full_disk_leaves_no_lock(tmp_path):
    size = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, size[1]))
    try:
        with pytest.raises(OSError, match="large"), only_maker(tmp_path / "a", ""):
            pass
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, size)
    assert not hidden(tmp_path)


# -- several starts --------------------------------------------------------------------


def test_a_second_start_waits_and_takes_the_first_ones_dataset(tmp_path):
    out = tmp_path / "out"
    args = ["generate", "--size", 4, "--train", 4, "--test", 2, "--out", out]
    with only_maker(out, repr(SMALL)) as made:
        assert not made
        second = start(*args)
        assert second.stdout is not None
        line = second.stdout.readline()
        assert line.startswith(f"waiting for process {os.getpid()} on ")
        generate.build(SMALL, out)
        content = (out / "train" / "dataset.json").read_bytes()
    printed, errors = second.communicate(timeout=60)
    assert (second.returncode, errors) == (0, "")
    assert "has been made by another process" in printed
    assert "train: 4 puzzles" in printed
    assert (out / "train" / "dataset.json").read_bytes() == content
    assert not hidden(tmp_path)


def test_the_second_builds_if_the_first_one_fails(tmp_path):
    out, found = tmp_path / "out", []
    work = lambda: found.append(prepare(SMALL, out))
    with only_maker(out, repr(SMALL)):
        thread = threading.Thread(target=work)
        thread.start()
        time.sleep(0.5)
        assert not found
    thread.join()
    assert (out / "train").is_dir()


def test_another_dataset_under_the_same_name_is_refused(tmp_path):
    out = tmp_path / "out"
    with (
        only_maker(out, "something"),
        pytest.raises(UserError, match=r"out from something, .*Gen"),
    ):
        prepare(SMALL, out)


def test_a_lock_left_behind_holds_nobody_up(tmp_path):
    (tmp_path / ".out.lock").write_text("process 1 on elsewhere\nsomething")
    prepare(SMALL, tmp_path / "out")
    assert not hidden(tmp_path)


def test_a_dataset_that_is_there_may_do(tmp_path, capsys):
    prepare(SMALL, tmp_path / "out")
    prepare(SMALL, tmp_path / "out", exist_ok=True)
    with pytest.raises(UserError, match="out"):
        prepare(SMALL, tmp_path / "out")


# -- signals and closed output ---------------------------------------------------------


@pytest.mark.parametrize("processes", [1, 2])
def test_ctrl_c_ends_without_a_traceback(tmp_path, bpe_dir, processes):
    with start_long(tmp_path, bpe_dir, processes) as build:
        time.sleep(0.3)
        os.killpg(build.pid, signal.SIGINT)
        _, errors = build.communicate(timeout=60)
    assert (build.returncode, errors) == (130, "")
    assert [path.name for path in tmp_path.iterdir()] == ["a.txt"]


@pytest.mark.parametrize("output", ["closed", "broken", "full"])
def test_a_dataset_is_built_even_if_nobody_listens(tmp_path, output):
    redirect = {"closed": ">&-", "broken": "| true", "full": "> /dev/full"}[output]
    line = (
        "set -o pipefail; "
        f"{sys.executable} -m data.prepare generate --size 4 --train 4 --test 2 "
        f"--out {tmp_path / 'out'} {redirect}"
    )
    run = subprocess.run(
        ["bash", "-c", line], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert (run.returncode, run.stderr) == (0, "")
    assert (tmp_path / "out" / "train" / "dataset.json").is_file()


# -- the rest --------------------------------------------------------------------------


def test_what_does_not_fit_into_memory_says_what_it_needs(tmp_path):
    config = GeneratedSudoku(size=4, train=10, test=1, augmentations=2**31 - 1)
    message = r"need 2,748,779,069,440 bytes.*--augmentations"
    with pytest.raises(UserError, match=message):
        generate.build(config, tmp_path / "out")
    config = GeneratedSudoku(size=9, train=2**31 - 1, test=1)
    with pytest.raises(UserError, match=r"5,566,277,615,616 bytes.*--train"):
        generate.build(config, tmp_path / "out")


def test_a_fingerprint_tells_files_apart(tmp_path):
    data = np.random.default_rng(0).bytes(1_000_000)
    (tmp_path / "a").write_bytes(data)
    (tmp_path / "b").write_bytes(b"")
    files = [tmp_path / "a", tmp_path / "b"]
    first = fingerprint(files)
    assert first == fingerprint(files)
    found = {first, fingerprint(files[:1])}
    for changed in (data + b"x", data[:-1], data[:-1] + b"x", data[::-1]):
        (tmp_path / "a").write_bytes(changed)
        found.add(fingerprint(files))
    assert len(found) == 6


def test_a_map_in_threads_and_processes():
    found = []
    work = lambda: found.extend(parallel_map(abs, range(-3, 3), 2))
    thread = threading.Thread(target=work)  # where signals cannot be set
    thread.start()
    thread.join()
    assert found == list(parallel_map(abs, range(-3, 3), 1)) == [3, 2, 1, 0, 1, 2]
