"""Photographs over a Ray cluster: the same results, whoever dies on the way."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from reflectzoo.__main__ import main
from reflectzoo.inference.batch import Outcome, OutputOptions, Task
from reflectzoo.inference.spread import TRIES, _after_death, _names

NETWORK = ("--model", "lite", "--untrained", "--override", "model.net.width=8", "--device", "cpu")


def photographs(folder: Path, count: int, size: tuple[int, int] = (48, 40)) -> list[str]:
    folder.mkdir()
    rng = np.random.default_rng(0)
    for index in range(count):
        Image.fromarray(rng.integers(0, 256, (*size, 3), dtype=np.uint8)).save(folder / f"{index}.png")
    return [f"{index}.transmission.png" for index in range(count)]


class TestAfterDeath:
    """What is said of a photograph whose process died."""

    def test_it_is_tried_again_but_not_for_ever(self, tmp_path: Path) -> None:
        task = Task(tmp_path / "a.jpg", tmp_path / "a")
        assert _after_death(task, OutputOptions(), _names([task]), 1) is None
        last = _after_death(task, OutputOptions(), _names([task]), TRIES)
        assert last is not None
        assert f"{TRIES} processes died with it" in str(last.error)

    def test_results_that_are_there_are_results(self, tmp_path: Path) -> None:
        task = Task(tmp_path / "a.jpg", tmp_path / "a")
        before = _names([task])
        (tmp_path / "a.transmission.jpg").write_bytes(b"whole")
        done = _after_death(task, OutputOptions(), before, 1)
        assert done is not None
        assert done.error is None
        assert "a.transmission.jpg" in done.lines[0]
        half = _after_death(task, OutputOptions(reflection=True), before, 1)
        assert half is not None
        assert "when only" in str(half.error)

    def test_what_was_there_before_is_nobodys_result(self, tmp_path: Path) -> None:
        task = Task(tmp_path / "a.jpg", tmp_path / "a")
        (tmp_path / "a.transmission.jpg").write_bytes(b"somebody's")
        assert _after_death(task, OutputOptions(), _names([task]), 1) is None, "the next process says that it exists"

    def test_a_named_file(self, tmp_path: Path) -> None:
        task = Task(tmp_path / "a.jpg", tmp_path / "b", tmp_path / "b.png")
        before = _names([task])
        (tmp_path / "b.png").write_bytes(b"whole")
        assert isinstance(_after_death(task, OutputOptions(), before, 1), Outcome)


def test_without_a_cluster_it_is_one_sentence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    photographs(tmp_path / "in", 1)
    assert main(["remove", str(tmp_path / "in"), "--engine", "ray", "--workers", "0", *NETWORK]) == 2
    assert "--workers must be at least 1" in capsys.readouterr().err


def _workers(of: int) -> list[int]:
    """Processes of Ray's that separate, by the title that Ray gives them."""
    psutil = pytest.importorskip("psutil")
    found = []
    for each in psutil.Process(of).children(recursive=True):
        try:
            if "ray::Worker" in " ".join(each.cmdline()):
                found.append(each.pid)
        except psutil.Error:
            continue
    return found


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_two_workers_one_of_them_killed(tmp_path: Path) -> None:
    """Every result is there and equals that of one process; a broken photograph and an existing result are named."""
    pytest.importorskip("ray")
    names = photographs(tmp_path / "in", 40, (160, 200))
    (tmp_path / "in/broken.png").write_bytes(b"no picture")
    (tmp_path / "out").mkdir()
    (tmp_path / "out/7.transmission.png").write_bytes(b"somebody's")
    words = ["remove", str(tmp_path / "in"), *NETWORK]
    command = [
        sys.executable,
        "-m",
        "reflectzoo",
        *words,
        "-o",
        str(tmp_path / "out"),
        "--engine",
        "ray",
        "--workers",
        "2",
    ]
    work = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=dict(os.environ))
    start = time.monotonic()
    while len(list((tmp_path / "out").iterdir())) < 4 and time.monotonic() - start < 400 and work.poll() is None:
        time.sleep(0.05)
    workers = _workers(work.pid)
    assert workers, "the cluster of this machine is a child of the command"
    os.kill(workers[0], signal.SIGKILL)
    _, err = work.communicate(timeout=400)
    assert work.returncode == 1, err
    assert "39 of 41 done, 2 failed" in err
    assert "broken.png" in err
    assert "7.transmission.png' already exists" in err
    assert (tmp_path / "out/7.transmission.png").read_bytes() == b"somebody's"
    assert sorted(each.name for each in (tmp_path / "out").iterdir()) == sorted(names)
    # What one process makes of the first.
    assert main(["remove", str(tmp_path / "in/0.png"), *NETWORK, "-o", str(tmp_path / "alone.png")]) == 0
    with Image.open(tmp_path / "alone.png") as alone, Image.open(tmp_path / "out/0.transmission.png") as there:
        assert alone.size == there.size
