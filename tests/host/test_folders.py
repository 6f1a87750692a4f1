"""The folders of environments: what is removed, and what is left alone."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from sandbox.host.folders import make_folder, remove_tree


def test_a_folder_goes_with_all_that_was_made_read_only_in_it(tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    (folder / "deep" / "deeper").mkdir(parents=True)
    (folder / "deep" / "deeper" / "file").write_text("")
    for path in (folder / "deep" / "deeper", folder / "deep"):
        path.chmod(0o500)
    remove_tree(folder)
    assert not folder.exists()


def test_what_a_folder_is_in_keeps_its_mode_even_if_the_folder_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is /tmp, which belongs to everybody."""
    around = tmp_path / "around"
    folder = around / "folder"
    folder.mkdir(parents=True)
    around.chmod(0o755)
    rmdir, tries = os.rmdir, []

    def refuses_once(path: str, **fields: int) -> None:
        tries.append(path)
        if len(tries) == 1:
            raise OSError(39, "Directory not empty")
        rmdir(path, **fields)

    monkeypatch.setattr(os, "rmdir", refuses_once)
    remove_tree(folder)
    assert tries
    assert around.stat().st_mode & 0o777 == 0o755
    assert not folder.exists()


def test_a_new_folder_is_locked_before_it_can_be_seen_as_one_that_is_left(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    folder, lock = make_folder()
    try:
        assert sorted(path.name for path in folder.iterdir()) == ["lock", "opt", "task", "tmp"]
        other = os.open(folder / "lock", os.O_RDWR)
        try:
            import fcntl

            with pytest.raises(BlockingIOError):
                fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)
        finally:
            os.close(other)
    finally:
        remove_tree(folder)
        os.close(lock)
