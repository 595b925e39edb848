"""The command line: what is written, what is said, with which status it ends."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import reflectzoo
from reflectzoo.__main__ import COMMANDS, main
from reflectzoo.errors import UserError
from reflectzoo.inference import batch
from reflectzoo.photo import files

TINY = ["--model", "ytmt_pcs", "--untrained", "--override", "model.net.width=4"]


def photo(path: Path, size: tuple[int, int] = (24, 16)) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    values = np.random.default_rng(0).integers(0, 256, (size[1], size[0], 3)).astype(np.uint8)
    Image.fromarray(values).save(path)
    return path


def names(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


def test_one_photograph(tmp_path: Path) -> None:
    path = photo(tmp_path / "a.jpg")
    assert main(["remove", str(path), *TINY, "--reflection", "--side-by-side"]) == 0
    assert names(tmp_path) == ["a.jpg", "a.reflection.jpg", "a.side-by-side.jpg", "a.transmission.jpg"]
    for kind, size in (("transmission", (24, 16)), ("reflection", (24, 16)), ("side-by-side", (72, 16))):
        with Image.open(tmp_path / f"a.{kind}.jpg") as image:
            assert image.size == size


def test_strength_zero_is_the_photograph(tmp_path: Path) -> None:
    path = photo(tmp_path / "a.png")
    assert main(["remove", str(path), *TINY, "--strength", "0", "-o", str(tmp_path / "b.png")]) == 0
    with Image.open(path) as before, Image.open(tmp_path / "b.png") as after:
        assert np.array_equal(np.asarray(before), np.asarray(after))


def test_folders_are_kept_and_results_left_out(tmp_path: Path) -> None:
    for name in ("in/a.png", "in/b/c.JPG", "in/a.transmission.png", "in/.hidden.png", "in/a.jpg"):
        photo(tmp_path / name)
    (tmp_path / "in/b/loop").symlink_to(tmp_path / "in", target_is_directory=True)
    assert main(["remove", str(tmp_path / "in"), "-r", "-o", str(tmp_path / "out"), *TINY]) == 0
    assert names(tmp_path / "out") == [
        "a.png.transmission.png", "a.transmission.jpg", "b/c.transmission.JPG",
    ]  # fmt: skip


def test_patterns(tmp_path: Path) -> None:
    for name in ("a1.png", "a2.png", "b.png", "[x].png"):
        photo(tmp_path / name)
    assert main(["remove", str(tmp_path / "a*.png"), str(tmp_path / "[x].png"), *TINY]) == 0
    assert [name for name in names(tmp_path) if "transmission" in name] == [
        "[x].transmission.png", "a1.transmission.png", "a2.transmission.png",
    ]  # fmt: skip


def test_it_goes_on_past_a_bad_file(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    photo(tmp_path / "a.png")
    (tmp_path / "b.png").write_bytes(b"nothing")
    photo(tmp_path / "c.png")
    assert main(["remove", str(tmp_path), *TINY]) == 1
    told = capfd.readouterr().err
    assert "2 of 3 done, 1 failed" in told
    assert "not a picture" in told
    assert "Traceback" not in told
    assert names(tmp_path) == ["a.png", "a.transmission.png", "b.png", "c.png", "c.transmission.png"]


def test_nothing_is_overwritten_unless_asked(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    path = photo(tmp_path / "a.png")
    (tmp_path / "a.transmission.png").write_bytes(b"mine")
    assert main(["remove", str(path), *TINY]) == 2
    assert (tmp_path / "a.transmission.png").read_bytes() == b"mine"
    assert main(["remove", str(path), *TINY, "--overwrite"]) == 0
    assert (tmp_path / "a.transmission.png").read_bytes() != b"mine"
    before = path.read_bytes()
    (tmp_path / "same.png").symlink_to(path)
    for target in (path, tmp_path / "same.png"):
        assert main(["remove", str(path), *TINY, "--overwrite", "-o", str(target)]) == 2
    assert path.read_bytes() == before
    assert "never replaced" in capfd.readouterr().err


def test_a_full_disk_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def full(handle: int) -> None:
        raise OSError(28, "No space left on device")

    path = photo(tmp_path / "a.png")
    monkeypatch.setattr(files.os, "fsync", full)
    assert main(["remove", str(path), *TINY]) == 2
    assert names(tmp_path) == ["a.png"]
    assert "disk is full" in capfd.readouterr().err


def test_interrupted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    def interrupted(*arguments: object) -> list[str]:
        raise KeyboardInterrupt

    monkeypatch.setattr(batch, "_one", interrupted)
    assert main(["remove", str(photo(tmp_path / "a.png")), *TINY]) == 130
    assert "0 of 1" in capfd.readouterr().err


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["none.jpg", *TINY], "does not exist"),
        (["."], "no photographs"),
        (["a.png", "--model", "ytmt_pcs"], "not trained"),
        (["a.png", "--model", "ytmt"], "no model 'ytmt'"),
        (["a.png", "--untrained"], "--model NAME"),
        (["a.png", *TINY, "--strength", "2"], "--strength"),
        (["a.png", *TINY, "--memory", "much"], "amount of memory"),
        (["a.png", *TINY, "--device", "tpu"], "no device"),
        (["a.png", *TINY, "-o", "b.xyz"], "not a supported format"),
        (["a.png", "--weights", "none.pth"], "no weights file"),
        (["a.png", "b.png", *TINY, "-o", "a.png"], "need a folder"),
    ],
)
def test_mistakes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], words: list[str], sentence: str
) -> None:
    monkeypatch.chdir(tmp_path)
    if words != ["."]:
        photo(tmp_path / "a.png")
        photo(tmp_path / "b.png")
    before = names(tmp_path)
    assert main(["remove", *words]) == 2
    told = capfd.readouterr().err
    assert sentence in told
    assert "Traceback" not in told
    assert names(tmp_path) == before


def test_names_with_anything_in_them(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    odd = ["-o.png", "[red]x.png", "a\x1b[2Jb.png", "zwei\nZeilen.png", "ü 日本.png", "x" * 230 + ".png"]
    for name in odd:
        photo(tmp_path / "in" / name)
    assert (
        main(["remove", *TINY, "-o", str(tmp_path / "out"), "--", *(str(tmp_path / "in" / name) for name in odd)]) == 0
    )
    assert len(names(tmp_path / "out")) == len(odd)
    assert "\x1b[2J" not in capfd.readouterr().err


def test_convert(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    model = reflectzoo.load_model("location_aware", None, "model.net.width=4", untrained=True)
    torch.save(dict(model.net.state_dict()), tmp_path / "model.pth")
    assert main(["convert", str(tmp_path / "model.pth"), "--licence", "CC0"]) == 0
    assert "model=location_aware" in capfd.readouterr().out
    path = photo(tmp_path / "a.png")
    assert main(["remove", str(path), "--weights", str(tmp_path / "model.safetensors")]) == 0
    assert main(["convert", str(path)]) == 2
    assert main(["convert", str(tmp_path / "none.pth")]) == 2


def test_models(capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["models", "ytmt_pcs", "--json"]) == 0
    entry = json.loads(capfd.readouterr().out)[0]
    assert entry["parameters"] == 772_496  # as the paper's program counts them
    convolutions = sum(
        module.weight.numel()
        for module in reflectzoo.load_model("ytmt_pcs", untrained=True).net.modules()
        if isinstance(module, torch.nn.Conv2d) and "ca" not in str(module)
    )
    assert entry["gflop_per_megapixel"] == pytest.approx(2 * convolutions / 1e3, rel=0.05)
    assert main(["models", "--fast"]) == 0
    listed = capfd.readouterr().out
    assert all(name in listed for name in reflectzoo.list_models())
    assert main(["models", "nothing"]) == 2


@pytest.mark.parametrize("command", COMMANDS)
def test_help(command: str, capfd: pytest.CaptureFixture[str]) -> None:
    try:
        status = main([command, "--help"])
    except SystemExit as stop:
        status = int(stop.code or 0)
    assert status == 0
    assert f"reflectzoo {command}" in capfd.readouterr().out


def test_a_command_of_hydra_reads_its_own_words(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    before = sys.argv, sys.modules["__main__"].__spec__
    assert main(["train", "model=lite", "--cfg", "job", "--package", "optimizer"]) == 0
    assert "_target_: torch.optim" in capfd.readouterr().out
    assert main(["train", "model=lita"]) == 2
    assert "did you mean lite" in capfd.readouterr().err
    assert (sys.argv, sys.modules["__main__"].__spec__) == before


def test_one_word_more_is_told_in_one_way(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["rank", "--folder", str(tmp_path)]) == 2
    assert main(["rank", "--folder", str(tmp_path), "add", str(tmp_path)]) == 2
    assert main(["report", str(tmp_path / "none")]) == 2
    assert main(["parity", str(tmp_path / "none")]) == 2
    told = capfd.readouterr().err.splitlines()
    assert len(told) == 4
    assert all(line.startswith("reflectzoo: ") for line in told)


def test_help_answers_without_loading_torch() -> None:
    code = "import sys; from reflectzoo.__main__ import main; main([]); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, check=False).returncode == 0


def test_a_file_in_the_way_of_results_is_called_what_it_is(tmp_path: Path) -> None:
    from reflectzoo.inference.batch import OutputOptions, find_tasks

    (tmp_path / "taken").write_text("")
    for name in ("a.png", "b.png"):
        (tmp_path / name).write_text("")
    with pytest.raises(UserError, match="is a file that is not named like a picture"):
        find_tasks([str(tmp_path / "a.png")], tmp_path / "taken", False, OutputOptions())
    with pytest.raises(UserError, match="several photographs need a folder"):
        find_tasks([str(tmp_path / "a.png"), str(tmp_path / "b.png")], tmp_path / "taken", False, OutputOptions())
