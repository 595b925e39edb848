"""Files that are there whole or not at all, folders that belong to one run, checkpoints to fall back to."""

from __future__ import annotations

import errno
import os
import resource
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import torch

from reflectzoo.core.disk import atomic_file, lock_folder, make_unique_folder, remove_parts
from reflectzoo.errors import UserError
from reflectzoo.training.saving import SafeCheckpointIO
from reflectzoo.weights.read import read_checkpoint, resumable


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_checkpoint_replaces_the_last_one_and_leaves_it_beside_itself(tmp_path: Path) -> None:
    writer = SafeCheckpointIO()
    for step in range(3):
        writer.save_checkpoint({"step": step}, tmp_path / "last.ckpt")
        writer.save_checkpoint({"step": step}, tmp_path / "best.ckpt")
    assert names(tmp_path) == ["best.ckpt", "last.ckpt", "last.previous.ckpt"]
    assert torch.load(tmp_path / "last.ckpt") == {"step": 2}
    assert torch.load(tmp_path / "last.previous.ckpt") == {"step": 1}


def test_nothing_is_written_elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "tmp").mkdir()
    monkeypatch.setenv("TMPDIR", str(tmp_path / "tmp"))
    monkeypatch.setattr("tempfile.tempdir", None)
    SafeCheckpointIO().save_checkpoint({"step": 1}, tmp_path / "run/last.ckpt")
    assert names(tmp_path / "tmp") == []


def test_a_full_disk_leaves_what_was_there_and_names_the_file(tmp_path: Path) -> None:
    path = tmp_path / "last.ckpt"
    writer = SafeCheckpointIO()
    writer.save_checkpoint({"step": 1}, path)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, hard))
    try:
        with pytest.raises(OSError, match=r"last\.ckpt") as told:
            writer.save_checkpoint({"step": 2, "much": torch.zeros(100_000)}, path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert told.value.errno == errno.EFBIG
    assert told.value.filename == str(path)
    assert names(tmp_path) == ["last.ckpt"]
    assert torch.load(path) == {"step": 1}


KILLED = """
import os, sys
from pathlib import Path
from reflectzoo.core.disk import atomic_file
with atomic_file(Path(sys.argv[1])) as file:
    file.write(b"half")
    file.flush()
    os.kill(os.getpid(), 9)
"""


def test_a_writer_that_is_killed_leaves_the_old_file_and_a_part_that_the_next_run_removes(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("old")
    done = subprocess.run([sys.executable, "-c", KILLED, path], check=False)
    assert done.returncode == -9
    assert path.read_text() == "old"
    assert len(names(tmp_path)) == 2
    remove_parts(tmp_path)
    assert names(tmp_path) == ["file"]


def test_without_links_the_earlier_file_is_kept_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.EPERM, "no links here")

    monkeypatch.setattr(os, "link", refuse)
    for text in (b"one", b"two"):
        with atomic_file(tmp_path / "file", keep=tmp_path / "kept") as file:
            file.write(text)
    assert names(tmp_path) == ["file", "kept"]
    assert (tmp_path / "kept").read_bytes() == b"one"


def damage(path: Path) -> None:
    """Change one byte of a weight."""
    content = bytearray(path.read_bytes())
    place = content.index(b"\x00\x00\x80\x3f" * 8)
    content[place + 10] ^= 1
    path.write_bytes(bytes(content))


def test_one_wrong_bit_is_noticed_which_pytorch_does_not(tmp_path: Path) -> None:
    path = tmp_path / "last.ckpt"
    SafeCheckpointIO().save_checkpoint({"weights": torch.ones(100)}, path)
    damage(path)
    assert not torch.load(path)["weights"].equal(torch.ones(100))
    with pytest.raises(UserError, match=r"last.ckpt cannot be read as a checkpoint: it is damaged, the checksum of"):
        read_checkpoint(path)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "it is empty (0 bytes)"),
        (b"PK\x03\x04half", "it is incomplete, its end is missing"),
        (b"text", "it is a text: download it again"),
        (b"\x80\x02.", "it is damaged"),
    ],
)
def test_what_is_wrong_with_a_file_is_said(tmp_path: Path, content: bytes, words: str) -> None:
    path = tmp_path / "some.ckpt"
    path.write_bytes(content)
    with pytest.raises(UserError) as told:
        read_checkpoint(path)
    assert words in str(told.value)
    assert "()" not in str(told.value)


def test_a_damaged_checkpoint_falls_back_to_the_one_before(tmp_path: Path) -> None:
    assert resumable(tmp_path) == (None, "")
    last, previous = tmp_path / "last.ckpt", tmp_path / "last.previous.ckpt"
    for step in range(2):
        SafeCheckpointIO().save_checkpoint({"step": step, "weights": torch.ones(100)}, last)
    assert resumable(tmp_path) == (last, "")
    damage(last)
    path, why = resumable(tmp_path)
    assert path == previous
    assert "checksum" in why
    previous.write_bytes(b"")
    path, why = resumable(tmp_path)
    assert path is None
    assert "checksum" in why
    last.unlink()
    assert resumable(tmp_path) == (None, "it is empty (0 bytes)")


def test_of_many_that_want_a_folder_each_gets_its_own(tmp_path: Path) -> None:
    claimed: list[Path] = []
    start = threading.Barrier(8)

    def ask() -> None:
        start.wait()
        claimed.append(make_unique_folder(tmp_path / "model/2026-01-01_00-00-00"))

    threads = [threading.Thread(target=ask) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(claimed)) == 8
    assert names(tmp_path / "model") == ["2026-01-01_00-00-00", *(f"2026-01-01_00-00-00-{n}" for n in range(2, 9))]


def test_a_folder_is_held_until_its_process_is_gone(tmp_path: Path) -> None:
    with lock_folder(tmp_path, "training"):
        with pytest.raises(UserError, match="Another training is writing to"), lock_folder(tmp_path, "training"):
            pass
        with lock_folder(tmp_path, "evaluation"):
            pass
    with lock_folder(tmp_path, "training"):
        pass
