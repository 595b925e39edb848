"""Small folders in the layouts in which the field's data sets are published, and ways to spoil them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image

from tests.data.conftest import write_photo

Size = tuple[int, int]


def layered(folder: Path, names: list[str], size: Size = (48, 40), reflection: bool = False) -> Path:
    """``blended/``, ``transmission_layer/`` and perhaps ``reflection_layer/``."""
    for layer in ("blended", "transmission_layer", *(["reflection_layer"] if reflection else [])):
        for name in names:
            write_photo(folder / layer / f"{name}.png", size, seed=abs(hash_of(f"{layer}/{name}")))
    return folder


def hash_of(text: str) -> int:
    """The same in every process."""
    return int.from_bytes(text.encode()[-6:], "big")


def zhang(folder: Path, count: int = 110) -> Path:
    """All of the authors' pairs in one folder, by number."""
    return layered(folder, [str(number) for number in range(1, count + 1)], (20, 16))


def sir2(folder: Path, size: Size = (36, 28)) -> Path:
    """The authors' nesting of the three subsets."""
    for scene in ("1", "2"):
        for kind, settings in (("Focus", ("11", "32")), ("Thickness", ("3", "10"))):
            for setting in settings:
                shot = folder / "SolidObjectDataset" / scene / kind / setting
                for role in "mgr":
                    write_photo(shot / f"{role}.jpg", size, seed=hash_of(f"{scene}{setting}{role}"))
    for kind, settings in (("Focus", ("11", "13", "32")), ("Thickness", ("3",))):
        for scene in ("a", "b"):
            for setting in settings:
                for role in "mgr":
                    path = folder / "Postcard Dataset" / kind / scene / setting / f"{scene}-{role}-{setting}.png"
                    write_photo(path, size, seed=hash_of(f"{scene}{setting}{role}"))
    for scene in ("1", "2", "10"):
        for role in "mgr":
            write_photo(folder / "WildSceneDataset" / "withgt" / scene / f"{role}.jpg", size)
    write_photo(folder / "WildSceneDataset" / "withoutgt" / "7" / "m.jpg", size)
    return folder


def ceilnet(folder: Path, count: int = 6) -> Path:
    """Triplets and two photographs without truth."""
    for index in range(count):
        for role in ("input", "label1", "label2"):
            write_photo(folder / "synthetic" / f"2007_{index:06d}-{role}.png", (40, 32), seed=index * 3 + len(role))
    for name in ("19-input.png", "qingnan-new2-1-input.jpg"):
        write_photo(folder / "real" / name, (44, 33))
    return folder


def seq1k(folder: Path, count: int = 8, size: Size = (44, 36), frames: int = 3) -> Path:
    """A folder for each sequence, frames by number and T."""
    for index in range(count):
        for frame in range(1, frames + 1):
            write_photo(folder / f"seq {index:03d}" / f"I{frame}.png", size, seed=100 * index + frame)
        write_photo(folder / f"seq {index:03d}" / "T.png", size, seed=100 * index + 99)
    return folder


def rid(folder: Path, backgrounds: int = 10, reflections: int = 6) -> Path:
    """Photographs of reflections and of scenes, landscape and portrait."""
    for index in range(backgrounds):
        write_photo(folder / "backgrounds" / f"b{index}.jpg", (60, 40) if index % 2 else (36, 50))
    for index in range(reflections):
        write_photo(folder / "reflections" / f"r{index}.jpg", (64, 48))
    return folder


def empty(path: Path) -> None:
    path.write_bytes(b"")


def cut_short(path: Path) -> None:
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])


def a_text(path: Path) -> None:
    path.write_text("not a picture\n")


def dangling(path: Path) -> None:
    path.unlink()
    path.symlink_to(path.with_name("gone.png"))


def other_size(path: Path) -> None:
    Image.fromarray(np.zeros((21, 33, 3), np.uint8)).save(path)


SPOILERS: dict[str, tuple[Callable[[Path], None], str]] = {
    "empty": (empty, "is empty (0 bytes)"),
    "cut_short": (cut_short, "is damaged or truncated"),
    "text": (a_text, "is not a picture that can be read"),
    "dangling": (dangling, "is a link to"),
    "missing": (Path.unlink, "of the same name in"),
    "other_size": (other_size, "the layers of a pair must have the same size"),
}
"""Ways to spoil a transmission, and what is then said."""


def openrr1k(folder: Path, counts: tuple[int, int, int] = (6, 2, 3)) -> Path:
    """As the archives of NTIRE 2025 unpack."""
    for name, count in zip(("train_800", "val_100", "test_100"), counts, strict=True):
        layered(folder / name, [f"{name[:2]}{index:04d}" for index in range(count)], (24, 20))
    return folder


def openrr5k(folder: Path) -> Path:
    """As the archives of NTIRE 2026 unpack: mixtures and truths of the validation apart, no truth for the test."""
    layered(folder / "train_5000", [f"{index:04d}" for index in range(5)], (24, 20))
    for name in ("0001", "0002"):
        write_photo(folder / "val_300_blended" / f"{name}.jpg", (24, 20))
        write_photo(folder / "val_300_transmission" / f"{name}.jpg", (24, 20))
    write_photo(folder / "test_100_blended" / "0007.jpg", (24, 20))
    return folder


def rrw(folder: Path) -> Path:
    """Frames of five scenes, three each."""
    return layered(
        folder / "train", [f"scene{scene}_{frame:04d}" for scene in range(5) for frame in range(3)], (24, 20)
    )


def cdr(folder: Path, converted: bool) -> Path:
    """Triplets, some cut into two crops: as the converter writes them, or in the authors' nesting with annotations."""
    shots = {"C1/8001_8000": "0", "C1/8003_8002": "1", "N2/5001_5000": "2", "N2/5003_5002": "2"}
    for shot, use in shots.items():
        camera, pair = shot.split("/")
        for role in "MTR":
            for crop in ("0", "1") if pair == "5001_5000" else ("0",):
                name = f"{pair}_{role}_{crop}.png"
                if converted:
                    part = {"0": "train", "1": "val", "2": "test"}[use]
                    write_photo(folder / part / role / f"{camera}_{name}", (24, 20))
                else:
                    write_photo(folder / "data" / "isprgb_crop" / "with_gt" / camera / name, (24, 20))
    if not converted:
        rows = [f"{shot},BRST,weak,0,1,{use}" for shot, use in shots.items()]
        (folder / "data" / "annotation.csv").write_text("name,type,reflection,ghost,motion,set\n" + "\n".join(rows))
    return folder
