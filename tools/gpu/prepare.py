"""Collect the data for a remote GPU machine in folders that git ignores, each small enough for one transfer.

    python tools/gpu/prepare.py ../shared/data [--out .gpu] [--limit MB]

The machine has PyTorch, but no network, and accepts 64 MiB per transfer, including this repository. Hence there are two
loads, each an uncompressed archive, which ``tools/gpu/run.sh`` unpacks and uses: ``.gpu/photos`` (every second training
photograph, recoded with a shorter side of 288, and the validation photographs) and ``.gpu/pairs`` (real pairs for
training, with a few of each of our scenes, the validation pairs, and the wheels that the machine lacks).
"""

from __future__ import annotations

import argparse
import io
import subprocess
import sys
import tarfile
from collections import defaultdict
from collections.abc import Iterable, Iterator
from pathlib import Path

from PIL import Image, ImageOps

WHEELS = (
    "hydra-core==1.3.8", "omegaconf==2.3.1", "kornia==0.9.0", "kornia_rs==0.2.0", "pydantic", "pydantic_core",
    "annotated_types", "typing_inspection",
)  # fmt: skip
"""Packages that the machine lacks; versions as in constraints.txt where listed there."""
PLATFORMS = ("manylinux_2_28_x86_64", "manylinux_2_27_x86_64", "manylinux_2_17_x86_64", "manylinux2014_x86_64", "any")
PER_SCENE = 2
"""Largest number of mixtures per scene; more of them hardly improve the training."""


def main() -> int:
    """Write both archives.

    Returns:
        Exit status: 0; 1 if an archive exceeds the limit; 2 if a folder of the data is missing.
    """
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("data", type=Path, help="folder with photos/ and real/")
    parser.add_argument("--out", type=Path, default=Path(".gpu"))
    parser.add_argument("--limit", type=float, default=21, metavar="MB", help="size of one load without the repository")
    parser.add_argument("--side", type=int, default=288, help="shorter side of the photographs (pairs: 320)")
    parser.add_argument("--no-wheels", action="store_true", help="omit the wheels, e.g. for a local rehearsal")
    wanted = parser.parse_args()
    real = wanted.data / "real"
    for folder in (wanted.data / "photos/train", wanted.data / "photos/val", real / "zhang/train", real / "scenes/val"):
        if not folder.is_dir():
            print(f"{folder} is not a folder: give the one that holds photos/ and real/.", file=sys.stderr)  # noqa: T201
            return 2
    wanted.out.mkdir(parents=True, exist_ok=True)
    photos = [
        *encoded(wanted.data / "photos/train", "photos/train", wanted.side, 78, every=2),
        *encoded(wanted.data / "photos/val", "photos/val", wanted.side, 90),
    ]
    pairs = [
        *both(real / "zhang/train", "pairs/zhang", 10**6),
        *both(real / "scenes/train", "pairs/scenes", PER_SCENE),
        *both(real / "scenes/val", "pairs/val", 10**6),
    ]
    if not wanted.no_wheels:
        pairs += wheels(wanted.out / "wheels")
    fits = True
    for name, members in (("photos", photos), ("pairs", pairs)):
        (wanted.out / name).mkdir(exist_ok=True)
        path = wanted.out / name / f"{name}.tar"
        with tarfile.open(path, "w") as archive:
            for member, content in members:
                info = tarfile.TarInfo(member)
                info.size = len(content)
                archive.addfile(info, io.BytesIO(content))
        size = path.stat().st_size / 1e6
        fits &= size <= wanted.limit
        print(f"{path}: {len(members)} files, {size:.1f} MB{'' if size <= wanted.limit else ', too much'}")  # noqa: T201
    return 0 if fits else 1


def both(folder: Path, target: str, per_scene: int) -> Iterator[tuple[str, bytes]]:
    """Recode mixtures and their transmissions, at most ``per_scene`` of each scene (files SCENE-N).

    Yields:
        Path in the archive, and content of the file.
    """
    scenes: dict[str, list[Path]] = defaultdict(list)
    for path in sorted((folder / "blended").iterdir()):
        scenes[path.stem.rpartition("-")[0] or path.stem].append(path)
    kept = [
        path for of_scene in scenes.values() for path in of_scene[:: max(len(of_scene) // per_scene, 1)][:per_scene]
    ]
    for layer in ("blended", "transmission_layer"):
        for path in kept:
            yield f"{target}/{layer}/{path.stem}.webp", recode(folder / layer / path.name, 320, 81)


def encoded(folder: Path, target: str, side: int, quality: int, every: int = 1) -> Iterator[tuple[str, bytes]]:
    """Recode every ``every``-th photograph of a folder.

    Yields:
        Path in the archive, and content of the file.
    """
    for path in sorted(folder.iterdir())[::every]:
        yield f"{target}/{path.stem}.webp", recode(path, side, quality)


def recode(path: Path, side: int, quality: int) -> bytes:
    """Encode a picture as WebP with a shorter side of at most ``side`` pixels."""
    with Image.open(path) as opened:
        picture = ImageOps.exif_transpose(opened).convert("RGB")
    if (scale := side / min(picture.size)) < 1:
        picture = picture.resize([round(length * scale) for length in picture.size], Image.Resampling.LANCZOS)
    file = io.BytesIO()
    picture.save(file, "WEBP", quality=quality)
    return file.getvalue()


def wheels(folder: Path) -> Iterable[tuple[str, bytes]]:
    """Download the wheels for the machine's Python; ANTLR's runtime has only a source distribution and is built here.

    Returns:
        Path in the archive, and content, of each wheel.
    """
    pip = [sys.executable, "-m", "pip"]
    wants = ["--only-binary=:all:", "--python-version", "3.12", "--implementation", "cp"]
    for platform in PLATFORMS:
        wants += ["--platform", platform]
    constraints = ["-c", "constraints.txt"]
    subprocess.run([*pip, "download", "-q", "--no-deps", *wants, *constraints, "-d", folder, *WHEELS], check=True)
    subprocess.run([*pip, "wheel", "-q", "--no-deps", "-w", folder, "antlr4-python3-runtime==4.9.3"], check=True)
    return [(f"wheels/{path.name}", path.read_bytes()) for path in sorted(folder.glob("*.whl"))]


if __name__ == "__main__":
    sys.exit(main())
