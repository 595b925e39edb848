"""Files that are cut off, are no pictures, or are pictures of a kind or size that is not read."""

from __future__ import annotations

import contextlib
import struct
from pathlib import Path

import cv2
import numpy as np
import pytest
import tifffile
from PIL import Image

from reflectzoo.data.images import read_rgb
from reflectzoo.photo import png
from reflectzoo.photo.model import UnreadableImage
from reflectzoo.photo.read import decode, picture_size, read_picture
from reflectzoo.photo.write import encode
from tests.photo.test_kinds import joined, jpeg_bytes, jpeg_file, photo
from tests.photo.test_matrix import hand_made_tiff, noise
from tests.photo.test_matrix import png as write_png
from tests.photo.test_matrix import tiff as write_tiff

# -- cut files ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("progressive", [False, True])
@pytest.mark.parametrize("missing", [1, 2, 3, 6, 0.1, 0.5])
def test_jpeg_that_is_cut(progressive: bool, missing: float) -> None:
    """A few bytes are a corner at most; more is a picture that is not there."""
    data = jpeg_bytes(progressive=progressive)
    lost = int(missing) if missing >= 1 else int(missing * len(data))
    if missing < 1:
        with pytest.raises(UnreadableImage, match="truncated"):
            decode(data[:-lost])
        return
    found = decode(data[:-lost])
    assert "last bytes of its file are missing" in joined(found.notes)
    differs = (found.values != decode(data).values).any(axis=2)
    assert differs.mean() < 0.1
    if lost <= 2:
        assert not differs.any()


def test_png_that_is_cut() -> None:
    whole = png.assembled(*_png_parts())
    for lost in (1, 12, 14, 16):  # the end chunk, checksums
        found = decode(whole[:-lost])
        np.testing.assert_array_equal(found.values, noise(3))
        assert "missing" in joined(found.notes)
    with pytest.raises(UnreadableImage, match="truncated"):
        decode(whole[:-60])


def _png_parts() -> tuple[png.Chunk, list[png.Chunk], list[png.Chunk]]:
    header, body = png.encode_deep(noise(3))
    return header, [], body


def test_tiff_that_is_cut(tmp_path: Path) -> None:
    data = write_tiff(tmp_path / "a.tif", noise(3)).read_bytes()
    for lost in (1, 100):
        (tmp_path / "a.tif").write_bytes(data[:-lost])
        with pytest.raises(UnreadableImage, match="truncated"):
            read_picture(tmp_path / "a.tif")


@pytest.mark.filterwarnings("ignore")
def test_random_bytes_never_raise_anything_else(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    files = [write_tiff(tmp_path / "a.tif", noise(3), 6).read_bytes(), b"P6 7 5 4095\n" + noise(3).tobytes()]
    files += [jpeg_file(tmp_path).read_bytes(), png.assembled(*_png_parts()), encode(decode(jpeg_bytes()), "JPEG2000")]
    for whole in files:
        for _ in range(12):
            broken = bytearray(whole)
            for place in rng.integers(0, min(len(whole), 400), 8):
                broken[place] = rng.integers(256)
            # Anything but a picture or this error fails the test.
            with contextlib.suppress(UnreadableImage):
                assert decode(bytes(broken)).values.ndim == 3


# -- what is no picture, or none of ours -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"<!DOCTYPE html><html><body>Sign in</body></html>", "a web page: download it again"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 9\n", "a Git LFS pointer"),
        (b'{"error": "not found"}', "a JSON text"),
        (b"<?xml version='1.0'?><Error><Code>AccessDenied</Code></Error>", "an XML text"),
        (b"%PDF-1.7 ...", "a PDF document"),
        (bytes(1000), "nothing but zeros"),
        (b"", r"is empty \(0 bytes\): download or copy it again"),
    ],
)
def test_what_was_saved_in_its_place(tmp_path: Path, data: bytes, words: str) -> None:
    (tmp_path / "a.jpg").write_bytes(data)
    for read in (read_picture, read_rgb, picture_size):
        with pytest.raises(UnreadableImage, match=words):
            read(tmp_path / "a.jpg")


@pytest.mark.parametrize(("values", "words"), [(1.5, "from 0 to 1.5"), (-0.5, "from -0.5"), (np.nan, "non-finite")])
def test_floating_point_that_is_no_picture(tmp_path: Path, values: float, words: str) -> None:
    data = np.zeros((4, 4, 3), np.float32)
    data[1, 1, 1] = values
    with pytest.raises(UnreadableImage, match=words):
        read_picture(write_tiff(tmp_path / "a.tif", data))


def test_whole_numbers_of_32_bits(tmp_path: Path) -> None:
    values = noise(1, "u4")
    found = read_picture(write_tiff(tmp_path / "a.tif", values))
    np.testing.assert_allclose(found.values / 65535, values / (2**32 - 1), atol=0.51 / 65535)
    assert "kept as 16-bit" in joined(found.notes)
    with pytest.raises(UnreadableImage, match="cannot be read: it contains signed integers"):
        read_picture(write_tiff(tmp_path / "b.tif", values.astype(np.int32)))


def test_tiff_of_an_unknown_compression(tmp_path: Path) -> None:
    (tmp_path / "a.tif").write_bytes(hand_made_tiff(bytes(200), [16], 1, compression=34712))
    with pytest.raises(UnreadableImage, match=r"its compression \(JPEG 2000\) is not supported"):
        read_picture(tmp_path / "a.tif")


def test_more_pixels_than_allowed(tmp_path: Path) -> None:
    for suffix in (".png", ".jpg", ".tif", ".webp", ".pgm"):
        path = tmp_path / f"a{suffix}"
        Image.fromarray(noise(1, "u1")[..., 0]).save(path)
        with pytest.raises(UnreadableImage, match=r"too large \(7x5, .*--max-pixels"):
            read_picture(path, max_pixels=34)
        assert read_picture(path, max_pixels=35).values.shape[:2] == (5, 7)


def test_the_bound_counts_pixels_not_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Strips are unpacked as rows of bytes, of which there are more."""
    values = noise(3)
    cv2.imwrite(str(tmp_path / "a.tif"), values[..., ::-1])  # LZW
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 18)
    np.testing.assert_array_equal(read_picture(tmp_path / "a.tif").values, values)


def test_a_size_beyond_the_usual_bound_can_be_allowed(tmp_path: Path) -> None:
    path = write_png(tmp_path / "a.png", np.zeros((1, 1, 1), np.uint8), 1)
    data = bytearray(path.read_bytes())
    struct.pack_into(">II", data, 16, 20000, 10000)
    with pytest.raises(UnreadableImage, match=r"20000x10000, 200 million pixels.*--max-pixels 200M"):
        decode(bytes(data))
    with pytest.raises(UnreadableImage, match=r"truncated|damaged"):  # let through, and found to be empty
        decode(bytes(data), max_pixels=200_000_000)


def test_camera_raw_is_developed_or_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = raw_file(tmp_path / "a.dng")
    with monkeypatch.context() as patch:
        patch.setattr("reflectzoo.photo.raw.find_spec", lambda name: None)
        for read in (read_picture, read_rgb, picture_size):
            with pytest.raises(UnreadableImage, match=r"raw file.*pip install 'reflectzoo\[raw\]'"):
                read(path)
    pytest.importorskip("rawpy", reason="rawpy is not installed (pip install 'reflectzoo[raw]')")
    found = read_picture(path)
    assert found.values.shape == (48, 64, 3)
    assert found.depth == 16
    assert picture_size(path) == (64, 48)
    left, right = found.values[:, 8:24].mean(), found.values[:, 40:56].mean()
    assert left < right
    assert "LibRaw" in joined(found.notes)
    assert found.origin.exif is not None


def test_raw_files_of_a_folder_are_counted_where_nothing_develops_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from reflectzoo.inference.batch import OutputOptions, find_tasks

    raw_file(tmp_path / "a.dng")
    Image.fromarray(photo(8)).save(tmp_path / "a.png")
    monkeypatch.setattr("reflectzoo.photo.raw.find_spec", lambda name: None)
    assert [task.source.name for task in find_tasks([str(tmp_path)], None, False, OutputOptions())] == ["a.png"]
    assert "1 camera raw files are skipped" in capsys.readouterr().err


def raw_file(path: Path) -> Path:
    """A DNG: its first picture is a thumbnail, the mosaic stands behind."""
    mosaic = np.full((48, 64), 6000, np.uint16)
    mosaic[:, 32:] = 40000
    tags = [(50706, 1, 4, b"\1\4\0\0", True), (50708, 2, 5, b"Test\0", True), (271, 2, 5, b"Test\0", True)]
    cfa = [(33421, 3, 2, (2, 2), True), (33422, 1, 4, b"\0\1\1\2", True)]
    with tifffile.TiffWriter(path) as file:
        file.write(noise(3, "u1"), photometric="rgb", subfiletype=1, subifds=1, extratags=tags, metadata=None)
        file.write(mosaic, photometric="cfa", extratags=cfa, metadata=None)
    return path
