"""Pictures made by other programs than those that read them here, and read back by third ones."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from reflectzoo.inference.separator import Separator
from reflectzoo.photo.model import Picture
from reflectzoo.photo.read import read_picture
from reflectzoo.photo.write import suffix_for


def stored(upright: np.ndarray, orientation: int) -> np.ndarray:
    """How a file of this EXIF orientation holds an upright picture (EXIF 2.32, 4.6.4)."""
    across = upright.swapaxes(0, 1)
    return np.ascontiguousarray(
        {
            1: upright,
            2: upright[:, ::-1],
            3: upright[::-1, ::-1],
            4: upright[::-1],
            5: across,
            6: across[::-1],
            7: across[::-1, ::-1],
            8: across[:, ::-1],
        }[orientation]
    )


@pytest.fixture(scope="session")
def identity() -> Separator:
    """A network that gives its picture back."""
    return Separator(lambda mixture: {"transmission": mixture, "reflection": torch.zeros_like(mixture)}, "cpu")


@pytest.fixture
def removed(identity: Separator) -> Callable[[Path], Path]:
    """Read, separated by :func:`identity`, written: the path of what ``reflectzoo remove`` would write."""

    def run(path: Path, suffix: str | None = None) -> Path:
        picture = read_picture(path)
        result = identity.picture(picture).transmission
        assert isinstance(result, Picture)
        target = path.with_name(f"{path.stem}.out{suffix or suffix_for(path, picture)}")
        return result.save(target)

    return run


def needs(program: str) -> str:
    """The path of a program; the test is skipped where it is not installed, or another one has its name."""
    found = shutil.which(program)
    if found is not None and program == "convert":
        said = subprocess.run([found, "-version"], capture_output=True, check=False).stdout
        found = found if b"ImageMagick" in said else None
    if found is None:
        pytest.skip(f"{program} is not installed (Debian: imagemagick, libimage-exiftool-perl)")
    return found


def magick(*words: str | Path) -> bytes:
    """What ImageMagick's convert prints."""
    program = shutil.which("convert-im6.q16") or shutil.which("magick") or needs("convert")
    done = subprocess.run([program, *map(str, words)], capture_output=True, check=True)
    # libtiff has no name for the pointer to the directory of interoperability, and says so.
    words = [line for line in done.stderr.splitlines() if line.strip(b"' ") and b"tag 40965 (0xa005)" not in line]
    assert not words, words
    return done.stdout


def seen_by_magick(path: Path, channels: int) -> np.ndarray:
    """A picture as ImageMagick reads it, (H, W, channels) in 16 bits; 2 and 4 channels with alpha."""
    width, height = map(int, magick(f"{path}[0]", "-format", "%w %h", "info:").split())
    kind = {1: "gray", 2: "graya", 3: "rgb", 4: "rgba"}[channels]
    raw = magick(f"{path}[0]", "-depth", "16", "-endian", "LSB", f"{kind}:-")
    return np.frombuffer(raw, "<u2").reshape(height, width, channels)


def tags_of(path: Path) -> dict[str, str]:
    """What exiftool reads, by group and name."""
    words = [needs("exiftool"), "-G1", "-s", "-a", "-n", str(path)]
    printed = subprocess.run(words, capture_output=True, check=True, text=True).stdout
    found = {}
    for line in printed.splitlines():
        name, _, value = line.partition(":")
        group, _, tag = name.strip("[").partition("]")
        found[f"{group.strip()}:{tag.strip()}"] = value.strip()
    return found
