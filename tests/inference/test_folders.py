"""Folders as people use them: what is there already, dates, formats, pipes, and a folder that is watched."""

from __future__ import annotations

import io
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from torch import Tensor

from reflectzoo.__main__ import main
from reflectzoo.errors import UserError
from reflectzoo.inference.batch import OutputOptions, Task, find_tasks, run_tasks
from reflectzoo.inference.separator import Separator
from reflectzoo.inference.watch import watch_folder


def halved(mixture: Tensor) -> dict[str, Tensor]:
    return {"transmission": mixture / 2}


SEPARATOR = Separator(halved)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    photos = tmp_path / "photos"
    photos.mkdir()
    rng = np.random.default_rng(0)
    for name in ("a.jpg", "b.png"):
        Image.fromarray(rng.integers(0, 255, (40, 50, 3), dtype=np.uint8)).save(photos / name)
    return photos


def separated(folder: Path, **settings: object) -> int:
    wanted = OutputOptions(**settings)  # type: ignore[arg-type]
    return run_tasks(find_tasks([str(folder)], None, False, wanted), SEPARATOR, wanted)


def test_what_is_there_already_counts_as_done(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "a.transmission.jpg").write_bytes(b"mine")
    assert separated(folder, skip_existing=True) == 0
    assert (folder / "a.transmission.jpg").read_bytes() == b"mine"
    assert (folder / "b.transmission.png").is_file()
    assert "already exists" in capsys.readouterr().err
    assert separated(folder, skip_existing=True) == 0
    assert separated(folder) == 1, "without it they are named as failures"


def test_results_get_the_dates_of_their_photographs(folder: Path) -> None:
    os.utime(folder / "a.jpg", (1_000_000_000, 1_100_000_000))
    assert separated(folder, keep_dates=True) == 0
    assert (folder / "a.transmission.jpg").stat().st_mtime == 1_100_000_000


def test_format_and_quality_of_a_whole_folder(folder: Path) -> None:
    assert separated(folder, suffix=".jpg", quality=30) == 0
    for name in ("a", "b"):
        with Image.open(folder / f"{name}.transmission.jpg") as rough:
            assert rough.format == "JPEG"
            # Pillow's first luminance entry at quality 30 is 16 * (5000 / 30) / 100, rounded.
            assert rough.quantization[0][0] == 27


def test_words_that_are_no_format_or_quality(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["remove", str(folder), "--format", "gif"]) == 2
    assert "--format gif cannot be written: use one of jpg" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main(["remove", str(folder), "--quality", "200"])
    assert "must be fast, normal or best, or a whole number from 1 to 100" in capsys.readouterr().err
    assert main(["remove", "-", str(folder)]) == 2
    assert "standard input" in capsys.readouterr().err
    assert main(["remove", str(folder / "a.jpg"), "--watch"]) == 2
    assert "--watch needs folders" in capsys.readouterr().err


def test_through_a_pipe(folder: Path) -> None:
    command = [sys.executable, "-m", "reflectzoo", "remove", "-", "--format", "png"]
    ran = subprocess.run(command, input=(folder / "a.jpg").read_bytes(), capture_output=True, check=False)
    assert ran.returncode == 0, ran.stderr.decode()
    with Image.open(io.BytesIO(ran.stdout)) as result:
        assert (result.format, result.size) == ("PNG", (50, 40))


def test_a_watched_folder(folder: Path) -> None:
    """A photograph waits until it stays as it is; one that came later is found; nothing is done twice."""
    worked: list[list[str]] = []

    def work(tasks: list[Task]) -> int:
        worked.append([task.source.name for task in tasks])
        if len(worked) == 1:
            (folder / "late.png").write_bytes((folder / "b.png").read_bytes())
        return run_tasks(tasks, SEPARATOR, OutputOptions(skip_existing=True))

    assert watch_folder([str(folder)], None, False, OutputOptions(), work, pause=0, rounds=6) == 0
    assert worked == [["a.jpg", "b.png"], ["late.png"]]
    assert (folder / "late.transmission.png").is_file()
    with pytest.raises(UserError, match="is not one"):
        watch_folder([str(folder / "a.jpg")], None, False, OutputOptions(), work)


def test_names_of_245_letters_and_leading_dashes(tmp_path: Path) -> None:
    picture = Image.new("RGB", (20, 20), (90, 90, 90))
    names = ("x" * 245 + ".png", "x" * 244 + "y.png", "é" * 124 + ".png", "x" * 232 + ".png", "-o.png")
    for name in names:
        picture.save(tmp_path / name)
    wanted = OutputOptions()
    assert run_tasks(find_tasks([str(tmp_path)], None, False, wanted), SEPARATOR, wanted) == 0
    assert (tmp_path / "-o.transmission.png").is_file()
    assert (tmp_path / ("x" * 232 + ".transmission.png")).is_file()
    results = [each.name for each in tmp_path.iterdir() if ".transmission." in each.name]
    assert len(results) == len(names), "shortened names differ"
    assert len(find_tasks([str(tmp_path)], None, False, wanted)) == len(names), "results are no photographs"
