"""Every kind of picture file, good and bad."""

from __future__ import annotations

import contextlib
import os
import socket
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from reflectzoo.data.images import PhotoCache, UnreadableImage, find_images, picture_size, read_rgb
from tests.data.conftest import write_photo


def png(
    path: Path, width: int, height: int, depth: int, colour: int, rows: bytes, *chunks: tuple[bytes, bytes]
) -> Path:
    """A PNG written by hand, for what Pillow cannot write."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    body = b"".join(chunk(kind, data) for kind, data in ((b"IHDR", header), *chunks, (b"IDAT", zlib.compress(rows))))
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + body + chunk(b"IEND", b""))
    return path


def test_colour_is_read_as_it_is(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (7, 5, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    photo = read_rgb(tmp_path / "a.png")
    assert photo.flags.c_contiguous
    assert photo.flags.writeable
    np.testing.assert_array_equal(photo, pixels)


def test_grey_becomes_three_equal_channels(tmp_path: Path) -> None:
    grey = np.arange(30, dtype=np.uint8).reshape(5, 6)
    Image.fromarray(grey).save(tmp_path / "grey.png")
    np.testing.assert_array_equal(read_rgb(tmp_path / "grey.png"), np.repeat(grey[..., None], 3, axis=2))


def test_bilevel(tmp_path: Path) -> None:
    Image.fromarray(np.eye(8, dtype=bool)).save(tmp_path / "one.png")
    np.testing.assert_array_equal(read_rgb(tmp_path / "one.png")[..., 1], np.eye(8, dtype=np.uint8) * 255)


def test_cmyk(tmp_path: Path) -> None:
    Image.new("CMYK", (8, 8), (0, 255, 255, 0)).save(tmp_path / "ink.jpg", quality=100)
    np.testing.assert_allclose(read_rgb(tmp_path / "ink.jpg"), np.full((8, 8, 3), (255, 0, 0)), atol=3)


def test_transparent_pixels_are_seen_on_white(tmp_path: Path) -> None:
    pixels = np.zeros((2, 2, 4), np.uint8)
    pixels[0, 0] = (200, 100, 50, 255)
    pixels[0, 1] = (200, 100, 50, 0)
    pixels[1, 0] = (0, 0, 0, 128)
    Image.fromarray(pixels).save(tmp_path / "alpha.png")
    photo = read_rgb(tmp_path / "alpha.png")
    np.testing.assert_array_equal(photo[0, 0], (200, 100, 50))
    np.testing.assert_array_equal(photo[0, 1], (255, 255, 255))
    np.testing.assert_allclose(photo[1, 0], (127, 127, 127), atol=1)


@pytest.mark.parametrize("transparent", [False, True])
def test_palette(tmp_path: Path, transparent: bool) -> None:
    image = Image.fromarray(np.array([[0, 1], [2, 0]], np.uint8), mode="P")
    image.putpalette([10, 20, 30, 40, 50, 60, 70, 80, 90])
    image.save(tmp_path / "p.png", **({"transparency": 1} if transparent else {}))
    expected = np.array([[[10, 20, 30], [255] * 3 if transparent else [40, 50, 60]], [[70, 80, 90], [10, 20, 30]]])
    np.testing.assert_array_equal(read_rgb(tmp_path / "p.png"), expected)


def test_grey_of_16_bits_is_scaled_not_cut(tmp_path: Path) -> None:
    values = np.array([[0, 128, 129, 256], [1000, 30000, 65407, 65535]], np.uint16)
    for name in ("deep.png", "deep.tif"):
        cv2.imwrite(str(tmp_path / name), values)
        photo = read_rgb(tmp_path / name)
        np.testing.assert_array_equal(photo[..., 2], np.rint(values / 257))
        np.testing.assert_array_equal(photo[..., 0], photo[..., 2])


def test_colour_of_16_bits_is_rounded(tmp_path: Path) -> None:
    values = np.random.default_rng(1).integers(0, 65536, (6, 7, 3), dtype=np.uint16)
    for name in ("deep.png", "deep.tif"):
        cv2.imwrite(str(tmp_path / name), values[..., ::-1])
        np.testing.assert_array_equal(read_rgb(tmp_path / name), np.rint(values / 257))


def test_colour_of_16_bits_with_alpha(tmp_path: Path) -> None:
    values = np.zeros((2, 2, 4), np.uint16)
    values[0] = (20000, 40000, 60000, 65535)
    cv2.imwrite(str(tmp_path / "deep.png"), values[..., [2, 1, 0, 3]])
    photo = read_rgb(tmp_path / "deep.png")
    np.testing.assert_array_equal(photo[0, 0], np.rint(np.array([20000, 40000, 60000]) / 257))
    np.testing.assert_array_equal(photo[1, 1], (255, 255, 255))


def test_grey_and_alpha_of_16_bits(tmp_path: Path) -> None:
    rows = b"\0" + struct.pack(">4H", 40000, 65535, 40000, 0)
    photo = read_rgb(png(tmp_path / "la.png", 2, 1, 16, 4, rows))
    np.testing.assert_array_equal(photo, [[[156] * 3, [255] * 3]])


@pytest.mark.parametrize("orientation", [1, 3, 6, 8])
@pytest.mark.parametrize("suffix", ["jpg", "png"])
def test_the_camera_may_have_been_turned(tmp_path: Path, orientation: int, suffix: str) -> None:
    upright = np.zeros((32, 64, 3), np.uint8)
    upright[:16, :32] = (250, 10, 10)
    turns = {1: 0, 3: 2, 6: 1, 8: 3}[orientation]
    image = Image.fromarray(np.ascontiguousarray(np.rot90(upright, turns)))
    exif = Image.Exif()
    exif[0x0112] = orientation
    image.save(tmp_path / f"x.{suffix}", exif=exif, **({"quality": 95} if suffix == "jpg" else {}))
    photo = read_rgb(tmp_path / f"x.{suffix}")
    assert photo.shape == upright.shape
    assert np.abs(photo[8, 16].astype(int) - (250, 10, 10)).max() < 8
    assert photo[24, 48].max() < 12
    assert picture_size(tmp_path / f"x.{suffix}") == (64, 32)


@pytest.mark.filterwarnings("ignore")
def test_damaged_exif_does_not_matter(tmp_path: Path) -> None:
    Image.new("RGB", (8, 8), (9, 9, 9)).save(tmp_path / "x.png", exif=b"Exif\0\0II*\0\xff\xff\xff\xff")
    assert read_rgb(tmp_path / "x.png").shape == (8, 8, 3)


def test_a_jpeg_may_be_decoded_smaller_but_not_too_small(tmp_path: Path) -> None:
    path = write_photo(tmp_path / "big.jpg", (640, 480))
    assert read_rgb(path, shorter=120).shape == (120, 160, 3)
    assert read_rgb(path, shorter=121).shape == (240, 320, 3)
    assert read_rgb(path, shorter=481).shape == (480, 640, 3)
    assert read_rgb(write_photo(tmp_path / "big.png", (64, 48)), shorter=5).shape == (48, 64, 3)


@pytest.mark.parametrize("size", [(1, 1), (1200, 2), (3, 700)])
@pytest.mark.parametrize("suffix", ["jpg", "png"])
def test_odd_sizes(tmp_path: Path, size: tuple[int, int], suffix: str) -> None:
    Image.new("RGB", size, (1, 2, 3)).save(tmp_path / f"x.{suffix}")
    assert read_rgb(tmp_path / f"x.{suffix}", shorter=64).shape == (size[1], size[0], 3)


def test_the_first_frame_of_an_animation(tmp_path: Path) -> None:
    frames = [Image.new("RGB", (4, 4), colour) for colour in ((255, 0, 0), (0, 0, 255))]
    frames[0].save(tmp_path / "x.gif", save_all=True, append_images=frames[1:])
    np.testing.assert_array_equal(read_rgb(tmp_path / "x.gif")[0, 0], (255, 0, 0))


def test_names_with_spaces_and_letters_from_everywhere(tmp_path: Path) -> None:
    for name in ("two words.jpg", "straße_пейзаж_写真.png", "100%_{0}.png"):
        path = write_photo(tmp_path / name)
        assert read_rgb(path).shape == (48, 60, 3)
        deep = path.with_suffix(".tif")
        deep.write_bytes(cv2.imencode(".tif", np.full((3, 3, 3), 65535, np.uint16))[1].tobytes())
        assert read_rgb(deep).min() == 255


def truncated(path: Path) -> Path:
    whole = write_photo(path, (200, 150)).read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    return path


def dangling(path: Path) -> Path:
    path.symlink_to(path.with_name("gone.jpg"))
    return path


def made(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (lambda folder: made(folder / "zero.jpg", b""), "is empty (0 bytes)"),
        (lambda folder: made(folder / "text.png", b"not a picture\n"), "is not a picture that can be read"),
        (lambda folder: truncated(folder / "cut.jpg"), "is damaged or truncated"),
        (lambda folder: truncated(folder / "cut.png"), "is damaged or truncated"),
        (lambda folder: dangling(folder / "link.jpg"), "is a link to"),
        (lambda folder: folder / "missing.jpg", "does not exist"),
        (lambda folder: folder, "is a folder, not a picture"),
        (lambda folder: made(folder / "head.jpg", b"\xff\xd8\xff\xe0\0\x10JFIF"), "head.jpg"),
    ],
    ids=["zero", "text", "cut_jpg", "cut_png", "dangling", "missing", "folder", "header_only"],
)
def test_what_cannot_be_read_is_told_in_one_sentence(tmp_path: Path, make, reason: str) -> None:
    path = make(tmp_path)
    with pytest.raises(UnreadableImage) as error:
        read_rgb(path)
    message = str(error.value)
    assert reason in message
    assert str(path) in message
    assert message.endswith(".")
    assert "\n" not in message
    if not path.is_dir():
        with pytest.raises(UnreadableImage):
            read_rgb(path, shorter=8)


@pytest.mark.filterwarnings("ignore")
def test_random_bytes_never_raise_anything_else(tmp_path: Path) -> None:
    rng = np.random.default_rng(3)
    for suffix in ("jpg", "png", "webp", "tif", "gif", "bmp"):
        whole = write_photo(tmp_path / f"x.{suffix}", (30, 20)).read_bytes()
        for _ in range(25):
            broken = bytearray(whole)
            for place in rng.integers(0, len(whole), 12):
                broken[place] = rng.integers(256)
            path = made(tmp_path / f"broken.{suffix}", bytes(broken))
            # Anything but a picture or this error fails the test.
            with contextlib.suppress(UnreadableImage):
                assert read_rgb(path).ndim == 3


def test_floating_point_is_read_where_it_is_a_picture(tmp_path: Path) -> None:
    Image.fromarray(np.full((4, 4), 0.5, np.float32)).save(tmp_path / "f.tif")
    assert np.unique(read_rgb(tmp_path / "f.tif")).tolist() == [128]
    Image.fromarray(np.full((4, 4), 300.5, np.float32)).save(tmp_path / "f.tif")
    with pytest.raises(UnreadableImage, match=r"values from 300.5 to 300.5"):
        read_rgb(tmp_path / "f.tif")


def test_bombs_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_photo(tmp_path / "bomb.png", (60, 50))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    with pytest.raises(UnreadableImage, match="is too large"):
        read_rgb(path)


def test_permission(tmp_path: Path) -> None:
    path = write_photo(tmp_path / "secret.jpg")
    path.chmod(0)
    if os.access(path, os.R_OK):
        # Nothing is forbidden to this user, so the system would not refuse.
        assert read_rgb(path).shape == (48, 60, 3)
        return
    with pytest.raises(UnreadableImage, match="permission denied"):
        read_rgb(path)


def test_finding_pictures(tmp_path: Path) -> None:
    for name in ("b.JPG", "a.png", "c.txt", "._a.png", "sub/d.jpeg", ".hidden/e.jpg", "sub/Ä ö.webp"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    dangling(tmp_path / "z.jpg")
    names = [path.relative_to(tmp_path).as_posix() for path in find_images(tmp_path)]
    assert names == ["a.png", "b.JPG", "z.jpg"]
    names = [path.relative_to(tmp_path).as_posix() for path in find_images(tmp_path, recursive=True)]
    assert names == ["a.png", "b.JPG", "sub/d.jpeg", "sub/Ä ö.webp", "z.jpg"]


def test_the_cache_keeps_to_its_bound_and_forgets_the_oldest(tmp_path: Path) -> None:
    paths = [write_photo(tmp_path / f"{i}.png", (10, 10)) for i in range(4)]
    cache = PhotoCache(max_bytes=650)
    first = cache.read(paths[0])
    cache.read(paths[1])
    assert cache.read(paths[0]) is first
    cache.read(paths[2])
    assert cache.bytes == 600
    assert cache.read(paths[0]) is first, "the one used last stays"
    np.testing.assert_array_equal(cache.read(paths[1]), read_rgb(paths[1]))
    with pytest.raises(ValueError, match="read-only"):
        first[0] = 0
    nothing = PhotoCache(0)
    assert nothing.read(paths[0]) is not nothing.read(paths[0])
    assert nothing.bytes == 0


@pytest.mark.parametrize("read", [read_rgb, picture_size])
def test_what_is_no_regular_file_is_said_at_once(read: Callable[[Path], object], tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.png")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(tmp_path / "socket.png"))
        (tmp_path / "zero.png").symlink_to("/dev/zero")
        (tmp_path / "folder.png").mkdir()
        for name, words in (
            ("pipe", "is not a regular file"),
            ("socket", "socket.png"),
            ("zero", "is not a regular file"),
            ("folder", "is a folder, not a picture"),
        ):
            with pytest.raises(UnreadableImage, match=words):
                read(tmp_path / f"{name}.png")
