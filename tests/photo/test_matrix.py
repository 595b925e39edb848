"""Format by depth by orientation by kind of alpha: exact values in, through a network that changes nothing, and out.

Each file is written by another library than reads it here (tifffile, OpenCV, Pillow, by hand), and what comes out is
read by a third (OpenCV, Pillow, tifffile, ImageMagick).
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable
from io import BytesIO
from pathlib import Path

import cv2
import numpy as np
import pytest
import tifffile
from PIL import Image

from reflectzoo.data.images import picture_size, read_rgb
from reflectzoo.photo.read import read_picture
from tests.photo.conftest import seen_by_magick, stored

Removed = Callable[..., Path]
ORIENTATIONS = range(1, 9)
HEIGHT, WIDTH = 5, 7


def noise(channels: int, kind: str = "u2", seed: int = 0) -> np.ndarray:
    """(H, W, channels) of all values that there are."""
    rng = np.random.default_rng(seed)
    if kind.startswith("f"):
        return (rng.integers(0, 2049, (HEIGHT, WIDTH, channels)) / 2048).astype(kind)
    return rng.integers(0, 256 ** int(kind[1]), (HEIGHT, WIDTH, channels)).astype(kind)


def full(values: np.ndarray, bits: int) -> np.ndarray:
    """Whole numbers of some bits as what a picture of 8 or 16 bits has for them."""
    top, kind = (255, np.uint8) if bits <= 8 else (65535, np.uint16)
    return np.rint(values.astype(np.float64) * top / (2**bits - 1)).astype(kind)


def on_white(values: np.ndarray, alpha: np.ndarray | None = None) -> np.ndarray:
    """(H, W, 3) in [0, 255], not rounded."""
    top = 1 if values.dtype.kind == "f" else np.iinfo(values.dtype).max
    seen = np.broadcast_to(values / top, (*values.shape[:2], 3))
    if alpha is not None:
        share = alpha[..., None] / top
        seen = seen * share + 1 - share
    return seen * 255


def check(path: Path, values: np.ndarray, alpha: np.ndarray | None = None) -> None:
    """What both ends read: ``remove`` exactly, training rounded to 8 bits."""
    found = read_picture(path)
    assert found.values.dtype == values.dtype
    np.testing.assert_array_equal(found.values, values)
    assert (found.alpha is None) == (alpha is None)
    if alpha is not None:
        np.testing.assert_array_equal(found.alpha, alpha)
    np.testing.assert_allclose(read_rgb(path), on_white(values, alpha), atol=1.01 if alpha is not None else 0.51)
    assert picture_size(path) == (values.shape[1], values.shape[0])


# -- TIFF --------------------------------------------------------------------------------------------------------------

ALPHAS = {"none": 0, "unassociated": 2, "associated": 1}


def tiff(path: Path, data: np.ndarray, orientation: int = 1, **options: object) -> Path:
    extra = [] if orientation == 1 else [(274, "H", 1, orientation, True)]
    photometric = "rgb" if data.shape[-1] >= 3 or options.get("planarconfig") == "separate" else "minisblack"
    options = {"photometric": photometric, "metadata": None, **options}
    tifffile.imwrite(path, data if data.shape[-1] > 1 else data[..., 0], extratags=extra, **options)
    return path


@pytest.mark.parametrize("orientation", ORIENTATIONS)
@pytest.mark.parametrize("kind", ["u1", "u2", "f4"])
@pytest.mark.parametrize("channels", [1, 3])
def test_tiff_orientations(tmp_path: Path, removed: Removed, orientation: int, kind: str, channels: int) -> None:
    values = noise(channels, kind)
    path = tiff(tmp_path / "a.tif", stored(values, orientation), orientation)
    check(path, values)
    np.testing.assert_array_equal(tifffile.imread(removed(path)).reshape(values.shape), values)


@pytest.mark.parametrize("alpha", ["unassociated", "associated", "unsaid"])
@pytest.mark.parametrize("kind", ["u1", "u2", "f4"])
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("orientation", [1, 6])
def test_tiff_alpha(tmp_path: Path, removed: Removed, alpha: str, kind: str, channels: int, orientation: int) -> None:
    top = 1 if kind == "f4" else np.iinfo(kind).max
    share = noise(1, kind, seed=1)
    share[0, 0], share[0, 1] = 0, top
    straight = noise(channels, kind)
    straight[0, 0] = 0
    if kind == "f4":
        straight, share = np.round(straight), np.where(share == 0, 0, 0.5).astype(kind)
    file = straight
    if alpha == "associated":
        product = straight.astype(np.float64) * share
        file = (product if kind == "f4" else np.rint(product / top)).astype(kind)
        if kind != "f4":  # what is the nearest colour that gives this product
            whole = file.astype(np.float64) * top / np.maximum(share, 1)
            straight = np.floor(whole + 0.5).astype(kind) * (share > 0).astype(kind)
    data = stored(np.concatenate((file, share), axis=2), orientation)
    kinds = {"unassociated": [2], "associated": [1], "unsaid": None}[alpha]
    path = tiff(tmp_path / "a.tif", data, orientation, extrasamples=[2] if kinds is None else kinds)
    if kinds is None:
        raw = path.read_bytes()  # the tag becomes one that nobody knows
        path.write_bytes(raw.replace(struct.pack("<HHI", 338, 3, 1), struct.pack("<HHI", 337, 3, 1)))
    check(path, straight.astype(kind), share[..., 0])
    with tifffile.TiffFile(removed(path)) as after:
        assert tuple(after.pages[0].extrasamples) == ((1,) if alpha == "associated" else (2,))
        np.testing.assert_array_equal(after.asarray(), np.concatenate((file, share), axis=2))


LAYOUTS = {
    "planar": {"planarconfig": "separate"},
    "planar strips": {"planarconfig": "separate", "rowsperstrip": 2},
    "strips": {"rowsperstrip": 2},
    "tiled": {"tile": (16, 16)},
    "planar tiled": {"tile": (16, 16), "planarconfig": "separate"},
    "big-endian": {"byteorder": ">"},
    "BigTIFF": {"bigtiff": True},
    "deflate": {"compression": "zlib"},
    "deflate, predictor": {"compression": "zlib", "predictor": 2},
    "big-endian, predictor": {"compression": "zlib", "predictor": 2, "byteorder": ">"},
    "LZMA": {"compression": "lzma"},
}


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("kind", ["u1", "u2", "f2", "f4"])
def test_tiff_layouts(tmp_path: Path, removed: Removed, layout: str, kind: str) -> None:
    options = LAYOUTS[layout]
    if "predictor" in options and kind.startswith("f"):
        options = {**options, "predictor": None}
    values = noise(3, kind)
    data = values.transpose(2, 0, 1) if "planarconfig" in options else values
    path = tiff(tmp_path / "a.tif", np.ascontiguousarray(data), **options)
    check(path, values.astype("f4") if kind == "f2" else values)
    after = tifffile.imread(removed(path))
    assert after.dtype == values.dtype
    np.testing.assert_array_equal(after, values)


@pytest.mark.parametrize("bits", [1, 2, 3, 4, 6, 9, 10, 12, 14, 15])
@pytest.mark.parametrize(("channels", "polarity"), [(1, "minisblack"), (1, "miniswhite"), (3, "minisblack")])
def test_tiff_of_few_bits(tmp_path: Path, removed: Removed, bits: int, polarity: str, channels: int) -> None:
    numbers = np.random.default_rng(bits).integers(0, 2**bits, (HEIGHT, WIDTH, channels))
    flags = (numbers[..., None] >> np.arange(bits)[::-1] & 1).reshape(HEIGHT, -1).astype(np.uint8)
    rows = np.packbits(flags, axis=1).tobytes()
    code = {"miniswhite": 0, "minisblack": 1}[polarity] if channels == 1 else 2
    path = tmp_path / "a.tif"
    path.write_bytes(hand_made_tiff(rows, [bits] * channels, code))
    shown = 2**bits - 1 - numbers if polarity == "miniswhite" else numbers
    check(path, full(shown, bits))
    np.testing.assert_array_equal(tifffile.imread(removed(path)).reshape(shown.shape), full(shown, bits))


def hand_made_tiff(rows: bytes, bits: list[int], photometric: int, compression: int = 1) -> bytes:
    """One strip behind one directory, little-endian."""
    tags = [(256, 3, [WIDTH]), (257, 3, [HEIGHT]), (258, 3, bits), (259, 3, [compression]), (262, 3, [photometric])]
    tags += [(273, 4, [0]), (277, 3, [len(bits)]), (278, 3, [HEIGHT]), (279, 4, [len(rows)])]
    place = 8 + 2 + 12 * len(tags) + 4
    out, behind = struct.pack("<H", len(tags)), b""
    strip = place + (2 * len(bits) if len(bits) > 2 else 0)
    for tag, kind, numbers in tags:
        numbers = [strip] if tag == 273 else numbers
        raw = struct.pack(f"<{len(numbers)}{'H' if kind == 3 else 'I'}", *numbers)
        if len(raw) > 4:
            behind += raw
            raw = struct.pack("<I", place)
        out += struct.pack("<HHI", tag, kind, len(numbers)) + raw.ljust(4, b"\0")
    return b"II*\0" + struct.pack("<I", 8) + out + b"\0\0\0\0" + behind + rows


@pytest.mark.parametrize("kind", ["u1", "u2"])
def test_tiff_white_is_zero(tmp_path: Path, removed: Removed, kind: str) -> None:
    values = noise(1, kind)
    path = tiff(tmp_path / "a.tif", values, photometric="miniswhite")
    shown = np.iinfo(kind).max - values
    check(path, shown)
    np.testing.assert_array_equal(cv2.imread(str(removed(path)), cv2.IMREAD_UNCHANGED), shown[..., 0])


@pytest.mark.parametrize("deep", [False, True])
def test_tiff_palette(tmp_path: Path, deep: bool) -> None:
    colours = np.random.default_rng(0).integers(0, 256, (3, 256)).astype(np.uint16)
    colours = colours * 257 + (np.arange(256, dtype=np.uint16) % 7 if deep else 0)
    numbers = noise(1, "u1")
    path = tiff(tmp_path / "a.tif", numbers, photometric="palette", colormap=colours)
    expected = colours.T[numbers[..., 0]]
    check(path, expected if deep else (expected // 257).astype(np.uint8))


@pytest.mark.parametrize("compression", ["tiff_lzw", "packbits", "tiff_adobe_deflate", "zstd", "raw"])
@pytest.mark.parametrize("mode", ["L", "RGB", "RGBA", "I;16"])
def test_tiff_of_libtiff(tmp_path: Path, removed: Removed, compression: str, mode: str) -> None:
    values = noise({"L": 1, "RGB": 3, "RGBA": 4, "I;16": 1}[mode], "u2" if mode == "I;16" else "u1")
    image = Image.fromarray(values if values.shape[2] > 1 else values[..., 0])
    path = tmp_path / "a.tif"
    image.save(path, compression=compression, tiffinfo={317: 2} if compression == "tiff_lzw" else {})
    check(path, values[..., :3], values[..., 3] if mode == "RGBA" else None)
    np.testing.assert_array_equal(tifffile.imread(removed(path)).reshape(values.shape), values)


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_tiff_of_opencv(tmp_path: Path, removed: Removed, channels: int) -> None:
    """LZW with predictor, 16 bits."""
    values = noise(channels)
    path = tmp_path / "a.tif"
    cv2.imwrite(str(path), values[..., [2, 1, 0, 3][:channels]] if channels > 1 else values)
    check(path, values[..., :3], values[..., 3] if channels == 4 else None)
    np.testing.assert_array_equal(tifffile.imread(removed(path)).reshape(values.shape), values)


@pytest.mark.parametrize("orientation", [1, 6])
@pytest.mark.parametrize("mode", ["L", "RGB"])
def test_tiff_with_jpeg_inside(tmp_path: Path, removed: Removed, orientation: int, mode: str) -> None:
    upright = cv2.GaussianBlur(np.random.default_rng(0).integers(0, 256, (40, 56, 3), np.uint8), (0, 0), 4)
    image = Image.fromarray(stored(upright, orientation)).convert(mode)
    path = tmp_path / "a.tif"
    image.save(path, compression="jpeg", quality=95, tiffinfo={274: orientation})
    found = read_picture(path)
    expected = np.asarray(Image.fromarray(upright).convert(mode)).reshape(40, 56, -1)
    assert np.abs(found.values.astype(int) - expected).mean() < 3
    np.testing.assert_array_equal(tifffile.imread(removed(path)).reshape(found.values.shape), found.values)


def test_tiff_fax_and_bilevel(tmp_path: Path) -> None:
    bits = np.random.default_rng(0).integers(0, 2, (HEIGHT, WIDTH)).astype(bool)
    for compression in ("group4", "group3", "raw", "tiff_lzw"):
        Image.fromarray(bits).save(tmp_path / "a.tif", compression=compression)
        check(tmp_path / "a.tif", bits[..., None].astype(np.uint8) * 255)


def test_tiff_further_channels_stay(tmp_path: Path, removed: Removed) -> None:
    data = noise(6)
    path = tiff(tmp_path / "a.tif", data, extrasamples=[0, 2, 0], planarconfig="contig")
    found = read_picture(path)
    np.testing.assert_array_equal(found.values, data[..., :3])
    np.testing.assert_array_equal(found.alpha, data[..., 4])
    np.testing.assert_array_equal(found.extra, data[..., [3, 5]])
    with tifffile.TiffFile(removed(path)) as after:
        assert tuple(after.pages[0].extrasamples) == (2, 0, 0)
        np.testing.assert_array_equal(after.asarray(), data[..., [0, 1, 2, 4, 3, 5]])


@pytest.mark.parametrize("kind", ["u1", "u2"])
def test_tiff_cmyk_becomes_rgb(tmp_path: Path, kind: str) -> None:
    top = np.iinfo(kind).max
    ink = np.zeros((HEIGHT, WIDTH, 4), kind)
    ink[:, :, 1] = ink[:, :, 2] = top
    path = tiff(tmp_path / "a.tif", ink, photometric="separated")
    np.testing.assert_array_equal(read_picture(path).values, np.full((HEIGHT, WIDTH, 3), (255, 0, 0)))
    assert any("sRGB" in note for note in read_picture(path).notes)


def test_tiff_main_page_is_not_its_thumbnail(tmp_path: Path) -> None:
    values = noise(3)
    with tifffile.TiffWriter(tmp_path / "a.tif") as file:
        file.write(noise(3, "u1")[:2, :2], photometric="rgb", subfiletype=1, metadata=None)
        file.write(values, photometric="rgb", metadata=None)
    check(tmp_path / "a.tif", values)


# -- PNG ---------------------------------------------------------------------------------------------------------------


def png(path: Path, numbers: np.ndarray, bits: int, *chunks: tuple[bytes, bytes], colour: int | None = None) -> Path:
    """Written by hand: any depth, any chunks, no filter."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    height, width, channels = numbers.shape
    flags = (numbers.astype(np.int64)[..., None] >> np.arange(bits)[::-1] & 1).reshape(height, -1).astype(np.uint8)
    rows = b"".join(b"\0" + row.tobytes() for row in np.packbits(flags, axis=1))
    if colour is None:
        colour = {1: 0, 2: 4, 3: 2, 4: 6}[channels]
    head = struct.pack(">IIBBBBB", width, height, bits, colour, 0, 0, 0)
    body = b"".join(chunk(*each) for each in ((b"IHDR", head), *chunks, (b"IDAT", zlib.compress(rows)), (b"IEND", b"")))
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + body)
    return path


def exif_of(orientation: int) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return exif.tobytes().removeprefix(b"Exif\0\0")


@pytest.mark.parametrize("orientation", ORIENTATIONS)
@pytest.mark.parametrize("bits", [8, 16])
@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_png(tmp_path: Path, removed: Removed, orientation: int, bits: int, channels: int) -> None:
    layers = noise(channels, f"u{bits // 8}")
    path = png(tmp_path / "a.png", stored(layers, orientation), bits, (b"eXIf", exif_of(orientation)))
    values, alpha = (layers[..., :-1], layers[..., -1]) if channels in (2, 4) else (layers, None)
    check(path, values, alpha)
    after = cv2.imread(str(removed(path)), cv2.IMREAD_UNCHANGED)
    after = after.reshape(*after.shape[:2], -1)
    if channels == 2:
        np.testing.assert_array_equal(after[..., [0, 3]], layers)
    else:
        np.testing.assert_array_equal(after[..., [2, 1, 0, 3][:channels]] if channels > 1 else after, layers)


@pytest.mark.parametrize("bits", [1, 2, 4, 8, 16])
@pytest.mark.parametrize("single", [False, True])
def test_png_grey_of_any_depth(tmp_path: Path, bits: int, single: bool) -> None:
    numbers = np.random.default_rng(bits).integers(0, 2**bits, (HEIGHT, WIDTH, 1))
    clear = int(numbers[2, 3, 0])
    path = png(tmp_path / "a.png", numbers, bits, *([(b"tRNS", struct.pack(">H", clear))] if single else []))
    values = full(numbers, bits)
    check(path, values, np.where(numbers[..., 0] == clear, 0, np.iinfo(values.dtype).max) if single else None)


@pytest.mark.parametrize("bits", [8, 16])
def test_png_one_colour_is_transparent(tmp_path: Path, bits: int) -> None:
    values = noise(3, f"u{bits // 8}")
    clear = values[1, 2]
    path = png(tmp_path / "a.png", values, bits, (b"tRNS", struct.pack(">3H", *clear)))
    check(path, values, np.where((values == clear).all(axis=2), 0, np.iinfo(values.dtype).max))


@pytest.mark.parametrize("bits", [1, 2, 4, 8])
def test_png_palette(tmp_path: Path, bits: int) -> None:
    numbers = np.random.default_rng(0).integers(0, 2**bits, (HEIGHT, WIDTH, 1))
    colours = np.random.default_rng(1).integers(0, 256, (2**bits, 3)).astype(np.uint8)
    path = png(tmp_path / "a.png", numbers, bits, (b"PLTE", colours.tobytes()), (b"tRNS", b"\x40"), colour=3)
    check(path, colours[numbers[..., 0]], np.where(numbers[..., 0] == 0, 64, 255))


def test_png_interlaced(tmp_path: Path) -> None:
    values = noise(3, "u2")
    writer = BytesIO()
    writer.write(cv2.imencode(".png", values[..., ::-1])[1].tobytes())
    (tmp_path / "a.png").write_bytes(writer.getvalue())
    check(tmp_path / "a.png", values)


# -- the others --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("top", [1, 3, 100, 255, 256, 1023, 4095, 65535])
@pytest.mark.parametrize("kind", ["P2", "P3", "P5", "P6", "P7"])
def test_netpbm(tmp_path: Path, removed: Removed, top: int, kind: str) -> None:
    channels = {"P2": 1, "P5": 1, "P7": 4}.get(kind, 3)
    numbers = np.random.default_rng(top).integers(0, top + 1, (HEIGHT, WIDTH, channels))
    size = f"{WIDTH} {HEIGHT}"
    if kind in ("P2", "P3"):
        body = f"{kind}\n# made by hand\n{size}\n{top}\n{' '.join(map(str, numbers.ravel()))}\n".encode()
    else:
        head = f"{kind}\n{size}\n{top}\n"
        if kind == "P7":
            head = f"P7\nWIDTH {WIDTH}\nHEIGHT {HEIGHT}\nDEPTH 4\nMAXVAL {top}\nTUPLTYPE RGB_ALPHA\nENDHDR\n"
        body = head.encode() + numbers.astype("u1" if top < 256 else ">u2").tobytes()
    path = tmp_path / {"P2": "a.pgm", "P3": "a.ppm", "P5": "a.pgm", "P6": "a.ppm", "P7": "a.pam"}[kind]
    path.write_bytes(body)
    most, number = (255, np.uint8) if top < 256 else (65535, np.uint16)
    layers = ((numbers * 2 * most + top) // (2 * top)).astype(number)
    check(path, layers[..., :3], layers[..., 3] if channels == 4 else None)
    after = removed(path)
    assert after.suffix == path.suffix
    if channels == 4:
        check(after, layers[..., :3], layers[..., 3])
    else:
        seen = cv2.imread(str(after), cv2.IMREAD_UNCHANGED).reshape(layers.shape)
        np.testing.assert_array_equal(seen[..., ::-1], layers)


def test_netpbm_bits_and_floats(tmp_path: Path, removed: Removed) -> None:
    bits = np.random.default_rng(0).integers(0, 2, (HEIGHT, WIDTH, 1))
    for body in (
        f"P1\n{WIDTH} {HEIGHT}\n{''.join(map(str, bits.ravel()))}\n".encode(),
        f"P4\n{WIDTH} {HEIGHT}\n".encode() + np.packbits(bits[..., 0].astype(np.uint8), axis=1).tobytes(),
    ):
        (tmp_path / "a.pbm").write_bytes(body)
        check(tmp_path / "a.pbm", (1 - bits).astype(np.uint8) * 255)
    values = noise(3, "f4")
    cv2.imwrite(str(tmp_path / "b.pfm"), values[..., ::-1])
    check(tmp_path / "b.pfm", values)
    np.testing.assert_array_equal(cv2.imread(str(removed(tmp_path / "b.pfm")), -1)[..., ::-1], values)


@pytest.mark.parametrize("channels", [1, 3, 4])
@pytest.mark.parametrize("kind", ["u1", "u2"])
def test_jpeg_2000(tmp_path: Path, removed: Removed, channels: int, kind: str) -> None:
    values = np.random.default_rng(0).integers(0, np.iinfo(kind).max + 1, (40, 48, channels)).astype(kind)
    layers = values[..., [2, 1, 0, 3][:channels]] if channels > 1 else values
    data = cv2.imencode(".jp2", layers, [cv2.IMWRITE_JPEG2000_COMPRESSION_X1000, 1000])[1]
    (tmp_path / "a.jp2").write_bytes(data.tobytes())
    check(tmp_path / "a.jp2", values[..., :3], values[..., 3] if channels == 4 else None)
    after = removed(tmp_path / "a.jp2")
    assert after.suffix == ".jp2"
    seen = cv2.imread(str(after), cv2.IMREAD_UNCHANGED).reshape(values.shape)
    np.testing.assert_array_equal(seen[..., [2, 1, 0, 3][:channels]] if channels > 1 else seen, values)


@pytest.mark.parametrize("orientation", ORIENTATIONS)
@pytest.mark.parametrize("suffix", [".webp", ".jpg", ".avif"])
def test_lossy_formats_are_turned(tmp_path: Path, removed: Removed, orientation: int, suffix: str) -> None:
    upright = np.zeros((32, 48, 3), np.uint8)
    upright[:16, :24] = (250, 20, 20)
    upright[16:, 24:] = (20, 20, 250)
    path = tmp_path / f"a{suffix}"
    options = {".webp": {"lossless": True}, ".jpg": {"quality": 98, "subsampling": 0}, ".avif": {"quality": 95}}[suffix]
    Image.fromarray(stored(upright, orientation)).save(path, exif=b"Exif\0\0" + exif_of(orientation), **options)
    assert np.abs(read_picture(path).values.astype(int) - upright).mean() < 4
    assert picture_size(path) == (48, 32)
    with Image.open(removed(path)) as after:
        assert after.size == (48, 32)
        assert after.getexif().get(0x0112, 1) == 1
        assert np.abs(np.asarray(after.convert("RGB")).astype(int) - upright).mean() < 6


def test_heic_is_turned(tmp_path: Path) -> None:
    heif = pytest.importorskip("pillow_heif", reason="pillow-heif is not installed (pip install pillow-heif)")
    upright = np.zeros((64, 96, 3), np.uint8)
    upright[:32, :48] = (250, 20, 20)
    image = Image.fromarray(stored(upright, 6))
    heif.register_heif_opener()
    image.save(tmp_path / "a.heic", exif=exif_of(6), quality=95)
    assert np.abs(read_picture(tmp_path / "a.heic").values.astype(int) - upright).mean() < 6


# -- through ImageMagick -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
@pytest.mark.parametrize("suffix", [".png", ".tif"])
def test_imagemagick_sees_the_same(tmp_path: Path, removed: Removed, channels: int, suffix: str) -> None:
    layers = noise(channels)
    if suffix == ".png":
        path = png(tmp_path / "a.png", stored(layers, 8), 16, (b"eXIf", exif_of(8)))
    else:
        path = tiff(tmp_path / "a.tif", stored(layers, 8), 8, **({"extrasamples": [2]} if channels in (2, 4) else {}))
    np.testing.assert_array_equal(seen_by_magick(removed(path), channels), layers)
