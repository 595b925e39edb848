"""Odd files, each of a kind that was once read wrong in silence, or refused with words that were not true."""

from __future__ import annotations

import io
import struct
from pathlib import Path

import cv2
import numpy as np
import pytest
import tifffile
from PIL import Image, ImageCms

from reflectzoo.photo import jpeg2000, png
from reflectzoo.photo.model import UnreadableImage
from reflectzoo.photo.read import decode, picture_size
from reflectzoo.photo.write import encode
from tests.photo.test_kinds import joined, jpeg_bytes, photo, with_segments
from tests.photo.test_matrix import HEIGHT, WIDTH, noise
from tests.photo.test_matrix import png as write_png


def tiff(data: np.ndarray, **options: object) -> bytes:
    buffer = io.BytesIO()
    tifffile.imwrite(buffer, data, metadata=None, **options)
    return buffer.getvalue()


# -- TIFF --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["f2", "f4", "f8"])
def test_premultiplied_floats_of_any_length(kind: str) -> None:
    values, alpha = noise(3, "f4").round(), np.full((HEIGHT, WIDTH), 0.5)
    data = np.dstack((values / 2, alpha)).astype(kind)
    found = decode(tiff(data, photometric="rgb", extrasamples=[1]))
    np.testing.assert_array_equal(found.values, values)
    with tifffile.TiffFile(io.BytesIO(encode(found, "TIFF"))) as after:
        assert after.pages[0].dtype == (np.float16 if kind == "f2" else np.float32)
        np.testing.assert_array_equal(after.asarray(), data)


def test_big_tiff_of_the_other_byte_order_with_jpeg_inside() -> None:
    """Pillow finds no size in it."""
    buffer = io.BytesIO()
    Image.fromarray(photo()).save(buffer, "TIFF", compression="jpeg", quality=95)
    with tifffile.TiffFile(io.BytesIO(buffer.getvalue())) as file:
        page = file.pages[0]
        strips = [buffer.getvalue()[at : at + n] for at, n in zip(page.dataoffsets, page.databytecounts, strict=True)]
        tables, rows = page.tags.get(347), page.rowsperstrip
        photometric = int(page.photometric)
    entries = [(256, 4, [80]), (257, 4, [64]), (258, 3, [8] * 3), (259, 3, [7]), (262, 3, [photometric])]
    entries += [(273, 16, [0] * len(strips)), (274, 3, [6]), (277, 3, [3]), (278, 4, [rows])]
    entries += [(279, 16, [len(each) for each in strips])]
    entries += [(347, 7, list(tables.value))] if tables else []
    entries += [(530, 3, [2, 2])] if photometric == 6 else []
    letters = {3: "H", 4: "I", 7: "B", 16: "Q"}
    behind = 16 + 8 + 20 * len(entries) + 8
    places = list(np.cumsum([behind, *map(len, strips)]))
    tail = bytearray(b"".join(strips))
    head = struct.pack(">Q", len(entries))
    for tag, kind, given in entries:
        values = places[:-1] if tag == 273 else given
        raw = struct.pack(f">{len(values)}{letters[kind]}", *values)
        if len(raw) > 8:
            raw, _ = struct.pack(">Q", behind + len(tail)), tail.extend(raw)
        head += struct.pack(">HHQ", tag, kind, len(values)) + raw.ljust(8, b"\0")
    data = b"MM\0+\0\x08\0\0" + struct.pack(">Q", 16) + head + bytes(8) + bytes(tail)
    np.testing.assert_array_equal(decode(data).values, np.rot90(decode(buffer.getvalue()).values, -1))


@pytest.mark.parametrize("signed", [True, False])
@pytest.mark.parametrize("bits", [8, 16])
def test_lab_with_alpha(bits: int, signed: bool) -> None:
    """White, black, and the primaries of sRGB as Lindbloom's calculator has them for D50; soft colours by LittleCMS."""
    colours = np.array([[255, 255, 255], [0, 0, 0], [255, 0, 0], [0, 255, 0], [0, 0, 255]], np.uint8)
    lab = np.array([[100, 0, 0], [0, 0, 0], [54.29, 80.81, 69.89], [87.82, -79.29, 80.99], [29.57, 68.30, -112.03]])
    unit = 2 ** (bits - 8)
    if bits == 8:
        colours = np.array([[255, 255, 255], [120, 120, 120], [200, 120, 90], [90, 140, 180], [60, 70, 50]], np.uint8)
        spaces = (ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB"))
        made = np.asarray(ImageCms.profileToProfile(Image.fromarray(colours[None]), *spaces, outputMode="LAB"))[0]
        lab = np.column_stack((made[:, 0] / 2.55, made[:, 1:].view(np.int8)))
    level = lab[:, 0] / 100 * (65535 if bits == 16 and signed else 255 * unit)
    rest = lab[:, 1:] * unit + (0 if signed else 128 * unit)
    stored = np.rint(np.column_stack((level, rest))).astype(np.int64) % 2**bits
    data = np.column_stack((stored, [2**bits - 1, 0, 7, 8, 9])).astype(f"u{bits // 8}")[None]
    found = decode(tiff(data, photometric="cielab" if signed else "icclab", extrasamples=[2], planarconfig="contig"))
    assert found.depth == bits
    np.testing.assert_allclose(found.values[0] * (255 / (2**bits - 1)), colours, atol=3)
    np.testing.assert_array_equal(found.alpha, data[..., 3])
    assert "Lab" in joined(found.notes)


@pytest.mark.parametrize("sampling", [(1, 1), (2, 2), None])
def test_ycbcr_that_is_not_compressed(sampling: tuple[int, int] | None) -> None:
    """Four pixels of one colour; where nothing is said, three bytes for each pixel tell that no colour is halved."""
    light, blue, red = 150, 100, 200
    data = bytes([light] * 4 + [blue, red]) if sampling == (2, 2) else bytes([light, blue, red] * 4)
    entries = [(256, 2), (257, 2), (258, 8), (259, 1), (262, 6), (273, 0), (277, 3), (278, 2), (279, len(data))]
    tags = [struct.pack("<HHII", tag, 3, 1, value) for tag, value in entries]
    if sampling:
        tags.append(struct.pack("<HHIHH", 530, 3, 2, *sampling))
    at = 8 + 2 + 12 * len(tags) + 4
    tags[5] = struct.pack("<HHII", 273, 4, 1, at)
    file = b"II*\0\x08\0\0\0" + struct.pack("<H", len(tags)) + b"".join(tags) + bytes(4) + data
    green = light - 0.344136 * (blue - 128) - 0.714136 * (red - 128)
    right = [light + 1.402 * (red - 128), green, light + 1.772 * (blue - 128)]
    np.testing.assert_allclose(decode(file).values, np.broadcast_to(np.clip(right, 0, 255), (2, 2, 3)), atol=1.5)


def test_damage_that_only_a_checksum_shows() -> None:
    data = tiff(noise(3), photometric="rgb", compression="zlib")
    with tifffile.TiffFile(io.BytesIO(data)) as file:
        at = file.pages[0].dataoffsets[0] + file.pages[0].databytecounts[0] - 1  # the last byte of Adler's sum
    with pytest.raises(UnreadableImage, match="damaged or cut short"):
        decode(data[:at] + bytes([data[at] ^ 255]) + data[at + 1 :])


@pytest.mark.parametrize(
    ("file", "words"),
    [
        (tiff((noise(1, "u1") + 1j).astype("c8")), "cannot be read: its values are of a kind that no picture"),
        (tiff(noise(4, "f4"), photometric="separated"), r"cannot be read: its values \(floating-point CMYK"),
        (tiff(noise(3), photometric="logluv"), r"cannot be read: its colour model \(number 32845"),
    ],
)
def test_what_is_not_known_is_not_called_damaged(file: bytes, words: str) -> None:
    with pytest.raises(UnreadableImage, match=words):
        decode(file)


# -- JPEG and PNG ------------------------------------------------------------------------------------------------------


def test_jpeg_that_was_cut_and_given_an_end() -> None:
    """Recovery programs do so; libjpeg fills the rest with grey, and says nothing."""
    whole = jpeg_bytes()
    assert decode(whole).notes == ()
    for missing in (0.5, 0.2):
        with pytest.raises(UnreadableImage, match="cut short"):
            decode(whole[: int(len(whole) * (1 - missing))] + b"\xff\xd9")
    assert "last bytes" in joined(decode(whole[:-3] + b"\xff\xd9").notes)
    slow = jpeg_bytes(progressive=True)
    assert "scans" in joined(decode(slow[: len(slow) // 2] + b"\xff\xd9").notes)
    assert decode(slow).notes == ()


def test_jpeg_whose_values_end_early() -> None:
    rough = np.random.default_rng(0).integers(0, 256, (96, 96, 3), np.uint8)
    whole = cv2.imencode(".jpg", rough)[1].tobytes()
    assert decode(whole).notes == ()
    scan = whole.index(b"\xff\xda") + 14
    longer = whole[:-2] + whole[scan : scan + 3000].replace(b"\xff", b"\x01") + whole[-2:]
    assert "look at it closely" in joined(decode(longer).notes)


def test_jpeg_relatives() -> None:
    whole = jpeg_bytes()
    assert "1 further picture." in joined(decode(whole + whole).notes)
    with pytest.raises(UnreadableImage, match="JPEG-LS"):
        decode(with_segments(whole, (0xF7, bytes(12))))
    frame = whole.index(b"\xff\xc0")
    with pytest.raises(UnreadableImage, match="does not say its height"):
        decode(whole[: frame + 5] + b"\0\0" + whole[frame + 7 :])


@pytest.mark.parametrize("kind", ["u1", "u2"])
def test_png_with_bytes_behind_its_end(tmp_path: Path, kind: str) -> None:
    """A cropped screenshot over a longer one, for one."""
    values = noise(3, kind)
    data = write_png(tmp_path / "a.png", values, 8 * values.itemsize).read_bytes()
    found = decode(data + bytes(100) + b"secret" * 3)
    np.testing.assert_array_equal(found.values, values)
    assert found.notes == ("Left out: 18 bytes behind the picture.",)
    assert b"secret" not in encode(found, "PNG")
    assert decode(data + bytes(9)).notes == ()
    with pytest.raises(UnreadableImage, match="CgBI"):
        decode(data[:8] + png.Chunk(b"CgBI", bytes(4)).to_bytes() + data[8:])


# -- the others --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"P1 2 1\n0 2\n", "beyond the greatest"),
        (b"P2 2 1 9\n3 -1\n", "beyond the greatest"),
        (b"P5 2 1 9\n\x03\x0a", "beyond the greatest"),
        (b"P2 2 1 9\n3 a\n", "'a' stands where a number should"),
        (b"P7\nWIDTH 2\nHEIGHT 1\nDEPTH 1\n", "the header has no end"),
        (b"P7\nWIDTH 2\nENDHDR\n", "the header lacks a size"),
        (b"P7\nWIDTH 1\nHEIGHT 1\nDEPTH 4\nMAXVAL 255\nTUPLTYPE CMYK\nENDHDR\n1234", "its 4 channels are of a kind"),
        (b"\xff\x0a" + bytes(30), "a JPEG XL picture, which is not read here"),
        (b"SIMPLE  =                    T", "a FITS picture"),
        (b"8BPS\0\1" + bytes(40), "a Photoshop document"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "a PostScript drawing"),
        (b"\xfe\xfe\xff\xc0" * 9, "is not a picture that can be read.$"),
    ],
)
def test_words_for_what_is_not_read(tmp_path: Path, data: bytes, words: str) -> None:
    with pytest.raises(UnreadableImage, match=words):
        decode(data)


def test_netpbm_of_several_pictures_and_of_windows() -> None:
    one = b"P5\r\n3 1\r\n255\r\n\x01\x02\x03"
    assert decode(one).values.ravel().tolist() == [1, 2, 3]
    assert decode(b"P5\r\n3 1\r\n255\r\n\x01\x02").values.ravel().tolist() == [10, 1, 2]  # as the standard says
    assert decode(one).notes == ()
    one = b"P5 3 1 255\n\x01\x02\x03"
    assert "only the first" in joined(decode(one + one).notes)


@pytest.mark.parametrize("bits", [1, 4])
def test_jpeg_2000_of_few_bits(tmp_path: Path, bits: int) -> None:
    """White is white; OpenJPEG's values are shifted by Pillow. Its header alone is changed: 8 bits become a few."""
    values = np.random.default_rng(0).integers(0, 2**bits, (HEIGHT, WIDTH, 1)).astype(np.uint8)
    found = jpeg2000.Contents(bits, 1, False)
    np.testing.assert_array_equal(jpeg2000.spread(values << (8 - bits), found), values * (255 // (2**bits - 1)))
    assert jpeg2000.spread(values, found._replace(alike=False)) is values


def test_the_size_of_what_only_pillow_reads(tmp_path: Path) -> None:
    for kind in ("TGA", "PCX", "SGI", "QOI"):
        path = tmp_path / f"a.{kind.lower()}"
        Image.fromarray(noise(3, "u1")).save(path, kind)
        assert picture_size(path) == (decode(path.read_bytes()).width, decode(path.read_bytes()).height)
