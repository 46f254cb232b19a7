"""Writing wholly or not at all, and naming run folders."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from erasekit.errors import OutputError
from erasekit.files import (
    atomic_path,
    atomic_write_json,
    atomic_write_text,
    check_output_folder,
    new_run_folder,
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
