"""Paths of a disk and of an object store behave alike."""

import importlib.util
import os
from contextlib import ExitStack
from pathlib import Path

import pytest
from etils import epath

from configs import UserError
from data.storage import (
    AnyPath,
    absolute,
    append_text,
    create,
    is_remote,
    move_folder,
    open_path,
    read_text,
    require_writable,
    upload,
    whole_file,
    write_whole,
)


@pytest.fixture(params=["disk", "store"])
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> AnyPath:
    if request.param == "disk":
        return tmp_path
    return open_path(f"{request.getfixturevalue('bucket')}/{tmp_path.name}")


def test_a_file_is_replaced_as_a_whole(folder: AnyPath) -> None:
    for text in ("first", "second"):
        write_whole(folder / "file.json", text)
        assert read_text(folder / "file.json") == text
    assert [path.name for path in folder.iterdir()] == ["file.json"]


def test_an_error_leaves_the_old_file(folder: AnyPath) -> None:
    write_whole(folder / "file", "old")
    with pytest.raises(TypeError), whole_file(folder / "file") as file:
        file.writelines([b"half", None])  # pyright: ignore
    assert read_text(folder / "file") == "old"
    assert [path.name for path in folder.iterdir()] == ["file"]


def test_two_writers_do_not_meet(folder: AnyPath) -> None:
    """In one process or in two, even if the names differ only by the suffix."""
    names = ("a.json", "a.csv", "a.csv")
    with ExitStack() as stack:
        for name in names:
            stack.enter_context(whole_file(folder / name)).write(name.encode())
    assert {path.name: read_text(path) for path in folder.iterdir()} == {
        "a.json": "a.json",
        "a.csv": "a.csv",
    }


def test_links_and_devices_stay(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("old")
    (tmp_path / "link").symlink_to("file")
    (tmp_path / "null").symlink_to("/dev/null")
    for name in ("link", "null"):
        require_writable(tmp_path / name)
        write_whole(tmp_path / name, "new")
        assert (tmp_path / name).is_symlink()
    assert (tmp_path / "file").read_text() == "new"
    assert Path("/dev/null").is_char_device()


def test_a_new_file_has_the_rights_of_the_umask(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        write_whole(tmp_path / "file", "")
    finally:
        os.umask(before)
    assert (tmp_path / "file").stat().st_mode & 0o777 == 0o640


def test_what_can_be_written_leaves_no_trace(folder: AnyPath) -> None:
    require_writable(folder / "new" / "file")
    write_whole(folder / "new" / "file", "text")
    require_writable(folder / "new" / "file")
    assert [path.name for path in (folder / "new").iterdir()] == ["file"]
    assert read_text(folder / "new" / "file") == "text"
    with pytest.raises(UserError, match=r"new. .*folder"):
        require_writable(folder / "new")


def test_only_the_evaluations_of_a_run_can_be_written(folder: AnyPath) -> None:
    (folder / "checkpoints" / "4").mkdir(parents=True)
    (folder / "checkpoints" / "4" / "array").write_text("")
    (folder / "config.json").write_text("{}")
    require_writable(folder / "evaluations" / "a.json")
    with pytest.raises(UserError, match=r"config\.json"):
        require_writable(folder / "config.json")


def test_a_text_that_cannot_be_encoded(tmp_path: Path) -> None:
    write_whole(tmp_path / "file", "\udcff")  # of a name that is no UTF-8
    assert (tmp_path / "file").read_text() == "\\udcff"


def test_whatever_is_in_a_file_is_read(folder: AnyPath) -> None:
    write_whole(folder / "file", "")
    (folder / "file").write_bytes(b"a\xff\0")
    assert read_text(folder / "file") == "a\ufffd\0"


def test_what_another_process_adds_is_seen(folder: AnyPath) -> None:
    """A list of a folder's files is not kept in memory."""
    write_whole(folder / "a", "")
    assert not (folder / "b").exists()
    other = open_path(str(folder))
    append_text(other / "b", "one\n")
    append_text(other / "b", "two\n")
    assert (folder / "b").exists()
    assert read_text(folder / "b") == "one\ntwo\n"


def test_a_folder_is_moved_over_another(folder: AnyPath) -> None:
    for name in ("4/model/x", "4/y", "damaged/4/old"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        write_whole(folder / name, name)
    move_folder(folder / "4", folder / "damaged" / "4")
    assert not (folder / "4").exists()
    assert read_text(folder / "damaged" / "4" / "model" / "x") == "4/model/x"
    names = {path.name for path in (folder / "damaged" / "4").iterdir()}
    assert names == {"model", "y"}


def test_an_object_is_created_once(bucket: str) -> None:
    path = open_path(f"{bucket}/created/lock")
    assert isinstance(path, epath.Path)
    assert create(path, "first")
    assert not create(path, "second")
    assert read_text(path) == "first"


def test_a_folder_is_copied_to_a_store(bucket: str, tmp_path: Path) -> None:
    (tmp_path / "plugins").mkdir()
    for name in ("top", "plugins/x.pb"):
        (tmp_path / name).write_text(name)
    target = open_path(f"{bucket}/{tmp_path.name}/profile")
    assert isinstance(target, epath.Path)
    upload(tmp_path, target)
    for name in ("top", "plugins/x.pb"):
        assert read_text(target / name) == name


def test_a_bucket_that_is_missing(bucket: str) -> None:
    path = open_path("gs://no-such-bucket/run/config.json")
    assert not path.exists()
    with pytest.raises(OSError, match="no-such-bucket"):
        write_whole(path, "")


def test_paths_stay_as_they_are_written(tmp_path: Path) -> None:
    assert open_path("runs/a") == Path("runs/a")
    assert open_path(tmp_path) == tmp_path
    assert not is_remote(tmp_path)
    remote = open_path("gs://bucket/run")
    assert str(remote / "x") == "gs://bucket/run/x"
    assert open_path(remote) == absolute(remote) == remote
    assert is_remote(remote)


@pytest.mark.parametrize("word", ["s3://bucket/run", "https://host/run", "gs3://a"])
def test_other_stores_are_refused(word: str) -> None:
    with pytest.raises(UserError, match=word):
        open_path(word)


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("data.storage.find_spec", lambda name: None)
    assert importlib.util.find_spec("gcsfs") is not None
    with pytest.raises(UserError, match=r"needs the package gcsfs.*'\.\[gcs\]'"):
        open_path("gs://bucket/run")
