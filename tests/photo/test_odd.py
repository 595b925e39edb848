"""Odd files, each of a kind that was once read wrong in silence, or refused with words that were not true."""

from __future__ import annotations

import io
import struct
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
import pytest
import simplejpeg
import tifffile
from PIL import Image, ImageCms

from reflectzoo.photo import avif, jpeg2000, png
from reflectzoo.photo.model import Picture, UnreadableImage
from reflectzoo.photo.read import decode, picture_size
from reflectzoo.photo.write import encode, reduce_to_format
from tests.photo.test_kinds import SRGB, joined, jpeg_bytes, photo, with_segments
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
    with pytest.raises(UnreadableImage, match="damaged or truncated"):
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
        with pytest.raises(UnreadableImage, match="truncated"):
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
    assert "check it closely" in joined(decode(longer).notes)


def test_jpeg_relatives() -> None:
    whole = jpeg_bytes()
    assert "1 further picture." in joined(decode(whole + whole).notes)
    with pytest.raises(UnreadableImage, match="JPEG-LS"):
        decode(with_segments(whole, (0xF7, bytes(12))))
    frame = whole.index(b"\xff\xc0")
    with pytest.raises(UnreadableImage, match="does not say its height"):
        decode(whole[: frame + 5] + b"\0\0" + whole[frame + 7 :])


def test_jpeg_that_is_damaged_between_two_restart_markers() -> None:
    """All decoders go on with the next marker, in silence."""
    for options in ({"restart_marker_rows": 1}, {"restart_marker_blocks": 2, "subsampling": 0}):
        whole = jpeg_bytes(**options)
        assert decode(whole).notes == ()
        assert decode(whole[:-2] + b"\0\0\xff\xff\xd9").notes == (), "padding is none"
        marker = whole.index(b"\xff\xd2", whole.index(b"\xff\xda"))
        for broken in (whole[: marker - 6] + whole[marker:], whole[:marker] + b"\x12" * 9 + whole[marker:]):
            assert "check it closely" in joined(decode(broken).notes)
        assert decode(broken, shorter=8).notes == (), "training takes what it gets"


@pytest.mark.parametrize(
    "options", [{"keep_rgb": True}, {"mode": "CMYK"}, {"subsampling": "4:1:1"}, {"progressive": True, "keep_rgb": True}]
)
def test_jpeg_of_rare_kinds_that_was_cut(options: dict[str, Any]) -> None:
    """In some of them brightness has no layer of its own."""
    if subsampling := options.get("subsampling"):
        whole = simplejpeg.encode_jpeg(photo(), quality=92, colorsubsampling=subsampling.replace(":", "")[:3])
    else:
        buffer = io.BytesIO()
        image = Image.fromarray(photo()).convert(options.pop("mode", "RGB"))
        image.save(buffer, "JPEG", quality=92, **options)
        whole = buffer.getvalue()
    for end in (b"", b"\xff\xd9"):
        if not (end and "progressive" in options):
            with pytest.raises(UnreadableImage, match="truncated"):
                decode(whole[: len(whole) * 2 // 3] + end)
    assert "last bytes" in joined(decode(whole[:-1]).notes)


def test_jpeg_with_arithmetic_coding(monkeypatch: pytest.MonkeyPatch) -> None:
    """Made by cjpeg of libjpeg-turbo. Its decoder cannot wait for more, as Pillow makes it from 64 kB on."""
    data = bytes.fromhex(
        "ffd8ffe000104a46494600010100000100010000ffdb0043000201010101010201010102020202020403020202020504040304060506060605"
        "060606070908060709070606080b08090a0a0a0a0a06080b0c0b0a0c090a0a0affc9000b08000c001001011100ffcc000600101005ffda0008"
        "010100003f00ff00e778ee78481cd4f4921f8374fea3f3186ef8faa0673e494178e2942eb5cdf28ab2d21db8d5360f40ffd9"
    )
    monkeypatch.setattr("PIL.ImageFile.MAXBLOCK", 120)
    np.testing.assert_allclose(decode(data).values[..., 0], np.arange(12 * 16).reshape(12, 16) % 200 + 20, atol=3)


def test_jpeg_without_transform_is_refused() -> None:
    """Pillow's libjpeg writes beyond its memory for some of them."""
    lossless = jpeg_bytes(subsampling=0).replace(b"\xff\xc0\0\x11", b"\xff\xc3\0\x11")
    with pytest.raises(UnreadableImage, match="lossless or hierarchical JPEG"):
        decode(lossless)
    strip = tiff(noise(1, "u1"), photometric="minisblack")
    place = struct.pack("<HHII", 259, 3, 1, 1)
    at = strip.index(struct.pack("<HHI", 273, 4, 1)) + 8
    inside = strip[:at] + struct.pack("<I", len(strip)) + strip[at + 4 :]
    inside = inside.replace(place, struct.pack("<HHII", 259, 3, 1, 7))
    at = inside.index(struct.pack("<HHI", 279, 4, 1)) + 8
    inside = inside[:at] + struct.pack("<I", len(lossless)) + inside[at + 4 :]
    with pytest.raises(UnreadableImage, match="lossless JPEG"):
        decode(inside + lossless)


@pytest.mark.parametrize("kind", ["u1", "u2"])
def test_png_with_bytes_behind_its_end(tmp_path: Path, kind: str) -> None:
    """A cropped screenshot over a longer one, for one."""
    values = noise(3, kind)
    data = write_png(tmp_path / "a.png", values, 8 * values.itemsize).read_bytes()
    found = decode(data + bytes(100) + b"secret" * 3)
    np.testing.assert_array_equal(found.values, values)
    assert found.notes == ("Dropped: 18 bytes after the picture.",)
    assert b"secret" not in encode(found, "PNG")
    assert decode(data + bytes(9)).notes == ()
    with pytest.raises(UnreadableImage, match="CgBI"):
        decode(data[:8] + png.Chunk(b"CgBI", bytes(4)).to_bytes() + data[8:])


# -- the others --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"P1 2 1\n0 2\n", "above its maximum"),
        (b"P2 2 1 9\n3 -1\n", "above its maximum"),
        (b"P5 2 1 9\n\x03\x0a", "above its maximum"),
        (b"P2 2 1 9\n3 a\n", "'a' found where a number is expected"),
        (b"P7\nWIDTH 2\nHEIGHT 1\nDEPTH 1\n", "the header has no end"),
        (b"P7\nWIDTH 2\nENDHDR\n", "the header lacks a size"),
        (
            b"P7\nWIDTH 1\nHEIGHT 1\nDEPTH 4\nMAXVAL 255\nTUPLTYPE CMYK\nENDHDR\n1234",
            "its 4 channels are of an unsupported kind",
        ),
        (b"\xff\x0a" + bytes(30), "a JPEG XL picture, which is not supported"),
        (b"SIMPLE  =                    T", "a FITS picture"),
        (b"8BPS\0\1" + bytes(40), "a Photoshop document"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "a PostScript drawing"),
        (b"/* XPM */\nstatic char *a[] = {", "an X bitmap or pixmap"),
        (b"#define a_width 8\n#define a_height 1\n", "an X bitmap or pixmap"),
        (b"\x59\xa6\x6a\x95" + bytes(40), "a Sun raster picture"),
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
    found = jpeg2000.BoxContents(bits, 1, False)
    np.testing.assert_array_equal(
        jpeg2000.rescale_to_8_bits(values << (8 - bits), found), values * (255 // (2**bits - 1))
    )
    assert jpeg2000.rescale_to_8_bits(values, found._replace(alike=False)) is values


def test_jpeg_2000_of_grey_and_alpha_in_16_bits() -> None:
    """Made by opj_compress of random numbers."""
    data = bytes.fromhex(
        "ff4fff51002c0000000000070000000500000000000000000000000700000005000000000000000000020f01010f0101ff52000c0000000100"
        "0004040001ff5c00044080ff640025000143726561746564206279204f70656e4a5045472076657273696f6e20322e352e30ff90000a000000"
        "0000ae0001ff93cffc313413e5ecc59af4b3b4ad7c60af7e5e8f884a1c073c13075166b5c378b9d262fbca70cc481a00c64bc87e63669eee2d"
        "af680b7e769d952e1e6e845e60b5e5426506b08356220867eeedf882cd457fcffc312c0240c7b4e40ceafae062f17eca81adb94024642df03e"
        "cff205c7b82d29c4ff3c685b053ef1cd8c30ceaa7df695d8853b7065bf7862370f452806552cb3d3331469f5a680befcd56ed7028bffd9"
    )
    stored = np.random.default_rng(0).integers(0, 65536, (5, 7, 2))
    found = decode(data)
    np.testing.assert_array_equal(found.values[..., 0], stored[..., 0])
    np.testing.assert_array_equal(found.alpha, stored[..., 1])
    assert found.notes == ()


def test_jpeg_2000_of_ycbcr(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """Values of 16 bits come as they are from OpenCV; Pillow takes halved colours from other places."""
    data = cv2.imencode(".jp2", cv2.resize(noise(3), (40, 40)), [cv2.IMWRITE_JPEG2000_COMPRESSION_X1000, 1000])[1]
    plain = data.tobytes()
    assert decode(plain).depth == 16
    stream = plain[plain.index(jpeg2000.CODESTREAM) :]
    assert decode(stream).depth == 16
    assert capfd.readouterr() == ("", ""), "OpenCV says what it assumes of a colour space that is not named"
    at = plain.index(b"colr\1\0\0\0\0\0\x10") + 10
    assert "reduced to 8 bits" in joined(decode(plain[:at] + b"\x12" + plain[at + 1 :]).notes)
    with av.open(str(tmp_path / "a.jp2"), "w", format="image2") as out:
        video = out.add_stream("jpeg2000", rate=25)
        video.width, video.height, video.pix_fmt = 41, 39, "yuv420p"
        out.mux([*video.encode(av.VideoFrame(41, 39, "yuv420p")), *video.encode(None)])
    with pytest.raises(UnreadableImage, match="stored at another size than its brightness"):
        decode((tmp_path / "a.jp2").read_bytes())


@pytest.mark.parametrize(("primaries", "transfer"), [(12, 13), (9, 16), (9, 18), (1, 8)])
def test_avif_colours_stay(primaries: int, transfer: int) -> None:
    """Display P3, PQ, HLG and linear values, which would be seen as sRGB."""
    plain = encode(Picture(photo(16)), "AVIF")
    assert decode(plain).origin.chunks == ()
    meant = png.Chunk(b"cICP", bytes((primaries, transfer, 0, 1)))
    data = avif.with_colours(plain, meant)
    found = decode(data)
    assert found.origin.chunks == (meant,)
    assert ("HDR" in joined(found.notes)) == (transfer in (16, 18))
    for kind in ("AVIF", "PNG"):
        again = decode(encode(found, kind))
        assert again.origin.chunks == (meant,)
        np.testing.assert_allclose(again.values.astype(int), found.values, atol=6 if kind == "AVIF" else 0)
        assert decode(encode(again, "AVIF")).origin.chunks == (meant,)
    assert "cICP" in joined(reduce_to_format(found, "JPEG").notes)


def test_avif_of_which_a_part_is_to_be_shown() -> None:
    plain = encode(Picture(photo(16)), "AVIF")
    assert "not heeded" in joined(decode(plain + b"\0\0\0\x30free\0\0\0\x28clap" + bytes(32)).notes)
    place = plain.index(b"\0\0\0\x13colrnclx")
    with pytest.raises(UnreadableImage, match="AVIF picture that is damaged"):
        decode(plain[:place] + bytes(200) + plain[place + 200 :])


@pytest.mark.parametrize(
    ("bits", "masks"),
    [
        (16, None),
        (16, (0x7C00, 0x3E0, 0x1F, 0x8000)),
        (16, (0xF800, 0x7E0, 0x1F, 0)),
        (16, (0xF00, 0xF0, 0xF, 0xF000)),
        (32, (0xFF, 0xFF00, 0xFF0000, 0xFF000000)),
        (32, (0x3FF00000, 0xFFC00, 0x3FF, 0xC0000000)),
    ],
)
@pytest.mark.parametrize("upwards", [True, False])
def test_bmp_of_masks(tmp_path: Path, bits: int, masks: tuple[int, ...] | None, upwards: bool) -> None:
    """By hand; Pillow knows some masks alone, drops alpha of one bit and rounds down."""
    pixels = np.random.default_rng(0).integers(0, 2**bits, (HEIGHT, WIDTH), np.uint64)
    rows = np.pad(pixels, ((0, 0), (0, WIDTH * bits // 8 % 4 // 2)))[:: -1 if upwards else 1]
    high = HEIGHT if upwards else -HEIGHT
    header = struct.pack("<IiiHHIIiiII", 124, WIDTH, high, 1, bits, 3 if masks else 0, 0, 11811, 11811, 0, 0)
    header += struct.pack("<4I", *(masks or (0, 0, 0, 0))) + b"DEBM" + bytes(52) + struct.pack("<II", 124, len(SRGB))
    data = b"BM" + bytes(8) + struct.pack("<I", 138 + len(SRGB)) + header.ljust(124, b"\0") + SRGB
    (tmp_path / "a.bmp").write_bytes(data + rows.astype(f"<u{bits // 8}").tobytes())
    found = decode((tmp_path / "a.bmp").read_bytes())
    masks = masks or (0x7C00, 0x3E0, 0x1F, 0)
    layers = [found.values[..., 0], found.values[..., 1], found.values[..., 2], found.alpha]
    for mask, layer in zip(masks, layers, strict=True):
        if mask == 0:
            assert layer is None
        else:
            numbers = (pixels & np.uint64(mask)).astype(float)
            np.testing.assert_array_equal(layer, np.rint(numbers / mask * (2**found.depth - 1)))
    assert found.depth == (16 if max(masks) == 0xC0000000 else 8)
    assert found.origin.icc == SRGB
    assert found.origin.dpi == pytest.approx((300, 300), abs=0.01)
    assert picture_size(tmp_path / "a.bmp") == (WIDTH, HEIGHT)
    with pytest.raises(UnreadableImage, match="truncated"):
        decode((tmp_path / "a.bmp").read_bytes()[:-3])


def document(planes: np.ndarray, colours: int, layers: int, merged: int = 1) -> bytes:
    """A Photoshop document of a picture (channels, H, W), with runs of one row each where it has 8 bits."""
    count, height, width = planes.shape
    bits = 8 * planes.itemsize
    head = b"8BPS\0\1" + bytes(6) + struct.pack(">HIIHH", count, height, width, bits, 3 if colours == 3 else 1)
    resolution = struct.pack(">IHHIHH", 300 << 16, 1, 1, 300 << 16, 1, 1)
    resources = b"".join(
        struct.pack(">4sHHI", b"8BIM", number, 0, len(body)) + body + b"\0" * (len(body) % 2)
        for number, body in ((1039, SRGB), (1005, resolution), (1057, struct.pack(">IB", 1, merged)))
    )
    inside = struct.pack(">Ih", 4, layers) + bytes(6) if bits == 8 else bytes(8) + b"8BIMLr16"
    if bits == 16:
        inside += struct.pack(">Ih", 4, layers) + bytes(2)
    rows = [row.astype(f">u{bits // 8}").tobytes() for plane in planes for row in plane]
    body = b"\0\0" + b"".join(rows)
    if bits == 8:
        lengths = struct.pack(f">{len(rows)}H", *(len(row) + 1 for row in rows))
        body = b"\0\1" + lengths + b"".join(bytes([len(row) - 1]) + row for row in rows)
    return head + bytes(4) + b"".join(struct.pack(">I", len(each)) + each for each in (resources, inside)) + body


@pytest.mark.parametrize("kind", ["u1", "u2"])
@pytest.mark.parametrize("colours", [1, 3])
def test_photoshop_s_transparency_lies_on_white_and_selections_are_none(
    tmp_path: Path, kind: str, colours: int
) -> None:
    """Checked once with psd-tools, which agrees within a level."""
    values, top = noise(colours, kind), np.iinfo(kind).max
    alpha = np.full((HEIGHT, WIDTH), top, kind)
    alpha[0], alpha[1] = 0, top // 3
    share = alpha[..., None] / top
    seen = np.rint(values * share + top * (1 - share)).astype(kind)
    data = document(np.dstack((seen, alpha)).transpose(2, 0, 1), colours, layers=-1)
    (tmp_path / "a.psd").write_bytes(data)
    found = decode(data)
    np.testing.assert_array_equal(found.alpha, alpha)
    np.testing.assert_allclose(found.values[1:].astype(float), values[1:], atol=2)
    assert not found.values[0].any()
    np.testing.assert_array_equal(found.values[2:], values[2:])
    assert found.origin.icc == (SRGB if colours == 3 else found.origin.icc)
    assert found.origin.dpi == (300, 300)
    assert picture_size(tmp_path / "a.psd") == (WIDTH, HEIGHT)
    selection = decode(document(np.dstack((values, alpha)).transpose(2, 0, 1), colours, layers=1))
    np.testing.assert_array_equal(selection.values, values)
    assert selection.alpha is None
    assert "1 further channels are dropped" in joined(reduce_to_format(selection, "PNG").notes)
    with pytest.raises(UnreadableImage, match="maximum compatibility"):
        decode(document(values.transpose(2, 0, 1), colours, layers=1, merged=0))
    with pytest.raises(UnreadableImage, match=r"truncated|damaged"):
        decode(data[:-9])


def test_the_size_of_what_only_pillow_reads(tmp_path: Path) -> None:
    for kind in ("TGA", "PCX", "SGI", "QOI"):
        path = tmp_path / f"a.{kind.lower()}"
        Image.fromarray(noise(3, "u1")).save(path, kind)
        assert picture_size(path) == (decode(path.read_bytes()).width, decode(path.read_bytes()).height)
