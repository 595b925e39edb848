"""``python -m reflectzoo.data``: every choice composes, what is found is said, mistakes are one sentence."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from hydra.utils import instantiate
from PIL import Image

from reflectzoo.config import compose_config, config_dir
from reflectzoo.data.check import check, find_sets
from reflectzoo.data.modules.base import ReflectionDataModule
from reflectzoo.data.modules.pairs import PlainPairs
from tests.conftest import Run
from tests.data import layouts
from tests.data.conftest import write_photo

CHOICES = sorted(path.stem for path in (Path(config_dir()) / "data").glob("*.yaml") if not path.stem.startswith("_"))


@pytest.fixture(scope="module")
def everything(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small copy of every data set, each in the folder of its configuration's name."""
    top = tmp_path_factory.mktemp("data")
    for index in range(12):
        write_photo(top / "voc" / f"{index}.jpg")
    layouts.rid(top / "rid")
    layouts.zhang(top / "zhang")
    layouts.layered(top / "nature" / "train", [f"{i}" for i in range(6)])
    layouts.layered(top / "nature" / "test", ["a", "b"])
    layouts.layered(top / "unaligned", [f"{i}" for i in range(6)])
    layouts.sir2(top / "sir2")
    layouts.ceilnet(top / "ceilnet")
    layouts.layered(top / "pairs", [f"{i}" for i in range(12)])
    layouts.seq1k(top / "seq1k")
    layouts.openrr1k(top / "openrr1k")
    layouts.openrr5k(top / "openrr5k")
    layouts.rrw(top / "rrw")
    layouts.cdr(top / "cdr", converted=True)
    layouts.layered(top / "nightirs" / "train", ["a", "b"], reflection=True)
    layouts.layered(top / "nightirs" / "test", ["c"], reflection=True)
    write_photo(top / "photographs" / "a.png", (40, 32))
    layouts.layered(top / "gapfree", ["a", "b"])
    layouts.layered(top / "scenes" / "train", ["1-1", "1-2", "2-1"])
    layouts.layered(top / "scenes" / "val", ["3-1"])
    return top


@pytest.mark.parametrize("choice", CHOICES)
def test_every_choice_of_data_builds_and_checks(choice: str, everything: Path) -> None:
    roots = {"sequences": "voc"}
    overrides = [f"data={choice}"]
    config = compose_config(overrides)
    parts = list(config.data.get("parts", ()))
    small = [("crop", 16), ("eval_crop", 16), ("sizes", "[[12,20]]"), ("reflection_step", "[2,3]")]
    for prefix, name in [(f"data.parts.{part}", part) for part in parts] or [("data", choice)]:
        node = config.data.parts[name] if parts else config.data
        if name != "sample" and "root" in node:
            overrides.append(f"{prefix}.root={everything / roots.get(name, name)}")
        overrides += [
            f"{prefix}.{key}={value}" for key, value in small if key in node and not (parts and key == "crop")
        ]
    if parts:
        overrides += ["data.crop=16", "data.samples_per_epoch=20"]
    module = instantiate(compose_config(overrides).data)
    assert isinstance(module, ReflectionDataModule)
    assert module.seed == 2018
    summary, sheet = check(module)
    assert summary.sets
    assert not summary.unreadable
    if choice != "mixture":
        assert not summary.shared
    assert min(sheet.size) > 100
    if choice not in ("sir2", "ceilnet", "photographs"):
        module.setup("fit")
        raw = next(iter(module.train_dataloader()))
        module.complete_batch(module.on_before_batch_transfer(raw, 0))


@pytest.fixture
def data_check(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> Callable[..., Run]:
    """Run the command in this process, in an empty folder."""

    def call(*overrides: str) -> Run:
        from reflectzoo.data.__main__ import main

        where = tmp_path / "here"
        where.mkdir(exist_ok=True)
        monkeypatch.chdir(where)
        monkeypatch.setenv("HYDRA_FULL_ERROR", "0")
        monkeypatch.setattr(sys, "argv", ["reflectzoo.data", *overrides])
        with pytest.raises(SystemExit) as stop:
            main()
        captured = capfd.readouterr()
        return Run(int(stop.value.code or 0), captured.out, captured.err, where)

    return call


def test_the_command_says_what_is_there(data_check: Callable[..., Run], tmp_path: Path) -> None:
    root = layouts.layered(tmp_path / "my pairs é", [f"{i}" for i in range(12)])
    layouts.cut_short(root / "blended" / "3.png")
    (root / "transmission_layer" / "5.png").unlink()
    run = data_check("data=pairs", f"data.root='{root}'")
    assert run.status == 0, run.err
    lines = run.out.splitlines()
    assert [line.split()[0] for line in lines[:3]] == ["train", "val", "test"]
    assert "48x40" in lines[0]
    assert "2 files or pairs cannot be used:" in run.out
    assert "3.png' is damaged or truncated" in run.out
    assert "5.png' has no transmission" in run.out
    assert [path.name for path in run.folder.iterdir()] == ["contact_sheet.png"], "nothing else is left behind"
    with Image.open(run.folder / "contact_sheet.png") as sheet:
        assert sheet.width > 400
        shades = sheet.resize((40, 40)).convert("L").histogram()
    assert sum(count > 0 for count in shades) > 20


def test_without_a_sheet(data_check: Callable[..., Run]) -> None:
    run = data_check("sheet=null", "data.crop=32", "data.eval_crop=32")
    assert run.status == 0, run.err
    assert "Every picture can be read." in run.out
    assert not list(run.folder.iterdir())


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["data=zang"], ["no data=zang", "did you mean zhang"]),
        (["data=zhang", "data.rot=x"], ["'data.rot'", "data.root"]),
        (["data=zhang"], ["needs data.root=FOLDER", "github.com/ceciliavision/perceptual-reflection-removal"]),
        (["data=sir2", "data.root=/no/such"], ["data.root=/no/such does not exist", "sir2data.github.io"]),
        (
            ["data=zhang", "data.root=.", "data.crop=big"],
            ["data.crop must be a whole number from 1 to 16384"],
        ),
        (["data=sequences", "data.frames=2"], ["odd number"]),
        (["sheet=/proc/no/x.png", "data.crop=32", "data.eval_crop=32"], ["sheet=/proc/no/x.png"]),
        (["sheet=sheet.text", "data.crop=32", "data.eval_crop=32"], ["sheet=sheet.text"]),
    ],
    ids=lambda value: " ".join(value) if "=" in value[0] else "",
)
def test_mistakes_are_one_sentence(data_check: Callable[..., Run], overrides: list[str], words: list[str]) -> None:
    run = data_check(*overrides)
    assert run.status == 2, run.err
    assert "Traceback" not in run.err
    told = [line for line in run.err.splitlines() if line.startswith("reflectzoo: ")]
    assert len(told) == 1, run.err
    for word in words:
        assert word in told[0]


def test_raise_stops_at_the_first_bad_file(data_check: Callable[..., Run], tmp_path: Path) -> None:
    root = layouts.layered(tmp_path / "pairs", [f"{i}" for i in range(8)])
    layouts.empty(root / "blended" / "3.png")
    run = data_check("data=pairs", f"data.root={root}", "data.on_error=raise")
    assert run.status == 2
    assert "3.png' is empty (0 bytes): download or copy it again." in run.err


def test_a_picture_in_two_splits_is_noticed(tmp_path: Path) -> None:
    layouts.layered(tmp_path / "train", ["a", "b", "c"])
    layouts.layered(tmp_path / "test", ["d"])
    linked = tmp_path / "train" / "transmission_layer" / "a.png"
    linked.unlink()
    linked.symlink_to(tmp_path / "test" / "transmission_layer" / "d.png")
    summary, _ = check(PlainPairs(tmp_path, crop=16))
    assert [path.name for path in summary.shared] == ["d.png"]
    assert "1 pictures are in more than one split" in str(summary)


def test_a_set_without_training_pictures_says_so(tmp_path: Path) -> None:
    config = compose_config(["data=sir2", f"data.root={layouts.sir2(tmp_path)}"])
    found, summary = find_sets(instantiate(config.data))
    assert set(found) == {"test"}
    assert "for evaluation only" in summary.without["train"]
    assert "nothing is held out" in summary.without["val"]
