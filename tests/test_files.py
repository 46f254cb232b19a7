"""Writing wholly or not at all, and naming run folders."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from erasekit.errors import EditError, OutputError
from erasekit.files import (
    atomic_folder,
    atomic_path,
    atomic_write_json,
    atomic_write_text,
    check_output_folder,
    new_run_folder,
    read_json,
    sole_writer,
    writing,
)

NOBODY = 65534


@pytest.fixture
def closed_folder() -> Iterator[Path]:
    """A folder that may be read and not written, even where the tests run as root."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        folder.chmod(0o555)
        root = os.getuid() == 0
        if root:
            os.setresuid(NOBODY, NOBODY, 0)
        try:
            yield folder
        finally:
            if root:
                os.setresuid(0, 0, 0)
            folder.chmod(0o755)


def test_text_and_json_are_written_and_nothing_else_stays(tmp_path: Path) -> None:
    atomic_write_text(tmp_path / "new" / "a.txt", "é")
    atomic_write_json(tmp_path / "new" / "b.json", {"text": "é"})
    assert (tmp_path / "new" / "a.txt").read_bytes() == "é".encode()
    assert json.loads((tmp_path / "new" / "b.json").read_text(encoding="utf-8")) == {"text": "é"}
    assert sorted(p.name for p in (tmp_path / "new").iterdir()) == ["a.txt", "b.json"]


def test_a_fault_keeps_the_old_content_and_leaves_no_temporary_file(tmp_path: Path) -> None:
    path = tmp_path / "edit.json"
    path.write_text("old", encoding="utf-8")
    with pytest.raises(UnicodeEncodeError), atomic_path(path) as temporary:
        temporary.write_text("half way, then \ud800", encoding="utf-8")
    assert path.read_text(encoding="utf-8") == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_the_temporary_file_keeps_the_suffix(tmp_path: Path) -> None:
    with atomic_path(tmp_path / "picture.png") as temporary:
        assert temporary.suffix == ".png"


def test_written_files_have_the_usual_permissions(tmp_path: Path) -> None:
    old = os.umask(0o027)
    try:
        atomic_write_text(tmp_path / "a.txt", "")
    finally:
        os.umask(old)
    assert (tmp_path / "a.txt").stat().st_mode & 0o777 == 0o640


def test_a_full_disk_is_one_sentence(tmp_path: Path) -> None:
    full = Path("/dev/full")
    if not full.exists():
        pytest.skip("no /dev/full here")
    with pytest.raises(OutputError, match="No space left for"), writing(tmp_path / "x"):
        full.write_text("x", encoding="utf-8")


def test_a_parent_that_is_a_file_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("", encoding="utf-8")
    with pytest.raises(OutputError, match="can't be written"):
        atomic_write_text(tmp_path / "file" / "a.txt", "")


def test_a_folder_without_write_permission_is_one_sentence(closed_folder: Path) -> None:
    with pytest.raises(OutputError, match="No permission to write"):
        atomic_write_text(closed_folder / "a.txt", "")
    with pytest.raises(OutputError, match="No permission to write"):
        new_run_folder(closed_folder / "runs", "gumbel")
    with pytest.raises(OutputError, match="No permission to write"):
        check_output_folder(closed_folder / "deep" / "run", overwrite=True)


def test_other_faults_of_the_system_pass_through(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError), writing(tmp_path):
        (tmp_path / "missing").read_bytes()


def test_run_folders_are_numbered(tmp_path: Path) -> None:
    names = [new_run_folder(tmp_path / "runs", "gumbel-truck").name for _ in range(3)]
    assert names == ["gumbel-truck-001", "gumbel-truck-002", "gumbel-truck-003"]


def test_a_run_folder_never_is_one_that_exists(tmp_path: Path) -> None:
    (tmp_path / "a-001").write_text("a file", encoding="utf-8")
    assert new_run_folder(tmp_path, "a").name == "a-002"


def test_an_output_folder_may_be_missing_or_empty(tmp_path: Path) -> None:
    check_output_folder(tmp_path / "deep" / "new", overwrite=False)
    check_output_folder(tmp_path, overwrite=False)
    assert list(tmp_path.iterdir()) == []


def test_a_full_output_folder_needs_overwrite(tmp_path: Path) -> None:
    (tmp_path / "edit.json").write_text("{}", encoding="utf-8")
    with pytest.raises(OutputError, match=r"not empty.*--overwrite"):
        check_output_folder(tmp_path, overwrite=False)
    check_output_folder(tmp_path, overwrite=True)


def test_an_output_folder_can_not_be_a_file_or_lie_below_one(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("", encoding="utf-8")
    for folder in (file, file / "below" / "it"):
        with pytest.raises(OutputError, match=r"is a file; name a folder|can't be written"):
            check_output_folder(folder, overwrite=True)


def test_a_symlink_stays_and_what_it_points_to_is_written(tmp_path: Path) -> None:
    (tmp_path / "deep").mkdir()
    target, link = tmp_path / "deep" / "page.html", tmp_path / "link.html"
    target.write_text("old", encoding="utf-8")
    link.symlink_to(target)
    atomic_write_text(link, "new")
    assert link.is_symlink()
    assert target.read_text(encoding="utf-8") == "new"
    (tmp_path / "dangling").symlink_to(tmp_path / "later.txt")
    atomic_write_text(tmp_path / "dangling", "made")
    assert (tmp_path / "later.txt").read_text(encoding="utf-8") == "made"
    (tmp_path / "folder").symlink_to(tmp_path / "deep")
    with atomic_folder(tmp_path / "folder") as new:
        (new / "a").write_text("")
    assert (tmp_path / "folder").is_symlink()
    assert sorted(p.name for p in (tmp_path / "deep").iterdir()) == ["a", "page.html"]
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    with pytest.raises(OutputError, match="can't be written"):
        atomic_write_text(tmp_path / "loop", "")


def test_what_is_no_regular_file_is_refused_and_stays(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    listening = socket.socket(socket.AF_UNIX)
    listening.bind(str(tmp_path / "socket"))
    (tmp_path / "to-null").symlink_to("/dev/null")
    (tmp_path / "folder").mkdir()
    places = {"fifo": "FIFO", "socket": "device or socket", "to-null": "device or socket"}
    for name, kind in {**places, "folder": "folder"}.items():
        before = (tmp_path / name).stat().st_mode
        with pytest.raises(OutputError, match=f"is a {kind}; name a file"):
            atomic_write_text(tmp_path / name, "text")
        assert (tmp_path / name).stat().st_mode == before
    for name in places:
        with pytest.raises(OutputError, match="name a folder"), atomic_folder(tmp_path / name):
            raise AssertionError("unreachable")
    listening.close()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["fifo", "folder", "socket", "to-null"]


def test_a_folder_takes_its_place_when_it_is_whole(tmp_path: Path) -> None:
    place = tmp_path / "run"
    with atomic_folder(place) as new:
        (new / "unet").mkdir()
        (new / "unet" / "a").write_text("1")
        assert not place.exists()
    (place / "mine").mkdir()
    (place / "mine" / "note").write_text("kept")
    (place / "old").write_text("of the old one")
    with pytest.raises(FileNotFoundError), atomic_folder(place, stale=["old"]) as new:
        (new / "unet" / "a").write_text("2")
    assert (place / "unet" / "a").read_text() == "1"
    assert (place / "old").exists()
    with atomic_folder(place, stale=["old"]) as new:
        (new / "unet").mkdir()
        (new / "unet" / "b").write_text("2")
    found = sorted(p.relative_to(place).as_posix() for p in place.rglob("*"))
    assert found == ["mine", "mine/note", "unet", "unet/b"]
    assert (place / "mine" / "note").read_text() == "kept"
    assert list(tmp_path.iterdir()) == [place]


def test_a_working_folder_is_filled_and_stays_the_working_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a").write_text("old")
    (tmp_path / "stale").mkdir()
    with atomic_folder(Path(), stale=["stale"]) as new:
        (new / "a").mkdir()
    assert [p.name for p in Path().iterdir()] == ["a"]
    assert [p.name for p in Path(os.getcwd()).iterdir()] == ["a"]  # noqa: PTH109


def test_written_folders_have_the_usual_permissions(tmp_path: Path) -> None:
    old = os.umask(0o027)
    try:
        with atomic_folder(tmp_path / "model") as new:
            (new / "unet").mkdir(mode=0o700)
            (new / "unet" / "weights").touch(mode=0o600)
    finally:
        os.umask(old)
    modes = [p.stat().st_mode & 0o777 for p in [tmp_path / "model", *tmp_path.rglob("model/*")]]
    assert modes == [0o750, 0o750]
    assert (tmp_path / "model/unet/weights").stat().st_mode & 0o777 == 0o640


KILLED = """
import os, sys, time
from pathlib import Path
from erasekit import files
path = Path(sys.argv[1])
with files.atomic_path(path / "file") as a, files.atomic_folder(path / "folder") as b:
    a.write_text("half"); (b / "half").write_text("half")
    if sys.argv[2] == "swap":
        os.rename(path / "folder", path / f"{files._ASIDE}folder")
    print("ready", flush=True)
    time.sleep(60)
"""


@pytest.mark.parametrize("when", ["writing", "swap"])
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_what_a_killed_writer_left_goes_with_the_next_write(
    tmp_path: Path, when: str, number: signal.Signals
) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "old").write_text("old")
    command = [sys.executable, "-c", KILLED, str(tmp_path), when]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as writer:
        assert writer.stdout is not None
        assert writer.stdout.readline() == "ready\n"
        atomic_write_text(tmp_path / "beside", "")  # the writer is at work: what it has stays
        hidden = {p.name for p in tmp_path.iterdir() if p.name.startswith(".erasekit-")}
        assert len(hidden) == 2
        writer.send_signal(number)
    atomic_write_text(tmp_path / "beside", "")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["beside", "folder"]
    assert [p.name for p in (tmp_path / "folder").iterdir()] == ["old"]


def test_one_process_alone_writes_a_folder(tmp_path: Path) -> None:
    with (
        sole_writer(tmp_path / "run"),
        pytest.raises(OutputError, match="Another process is writing"),
        sole_writer(tmp_path / "run"),
    ):
        raise AssertionError("unreachable")
    with sole_writer(tmp_path / "run"):
        pass


def test_a_full_folder_is_overwritten_where_erasekit_made_it(tmp_path: Path) -> None:
    (tmp_path / "README.md").write_text("mine")
    marks = ["edit.json", "request.json"]
    with pytest.raises(OutputError, match=r"no edit.json or request.json, so erasekit did not"):
        check_output_folder(tmp_path, overwrite=True, marks=marks)
    (tmp_path / "request.json").write_text("{}")
    check_output_folder(tmp_path, overwrite=True, marks=marks)
    check_output_folder(tmp_path / "new", overwrite=True, marks=marks)


def test_places_where_nothing_can_be_made_are_one_sentence() -> None:
    if not Path("/proc/self").exists():
        pytest.skip("no /proc here")
    with pytest.raises(OutputError, match=r"can't be written|No permission"):
        atomic_write_text(Path("/proc/x"), "")
    with pytest.raises(OutputError, match=r"can't be written|No permission"):
        atomic_write_text(Path("/proc/x/y"), "")


def test_a_file_that_may_not_be_read_is_not_called_damaged(closed_folder: Path) -> None:
    file = closed_folder / "edit.json"
    if os.getuid() != 0:
        os.setresuid(0, 0, 0) if os.getresuid()[2] == 0 else pytest.skip("needs root")
    os.setresuid(0, 0, 0)
    file.write_text("{}")
    file.chmod(0)
    os.setresuid(NOBODY, NOBODY, 0)
    with pytest.raises(EditError, match=r"No permission to read .*edit.json"):
        read_json(file, EditError)


def test_many_writers_of_one_folder_leave_each_other_s_temporaries(tmp_path: Path) -> None:
    """A temporary that is not locked yet must not pass for what a killed writer left."""
    from concurrent.futures import ThreadPoolExecutor

    def write(number: int) -> None:
        for turn in range(60):
            with atomic_path(tmp_path / f"{number}-{turn}.txt") as temporary:
                temporary.unlink()  # as safetensors does, which writes a file of its own
                temporary.write_text(str(turn))
                time.sleep(0.001)

    with ThreadPoolExecutor(6) as pool:
        list(pool.map(write, range(6)))
    assert len(list(tmp_path.iterdir())) == 6 * 60
