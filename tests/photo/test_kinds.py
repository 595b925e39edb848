"""Kinds of files that programs read wrong without a word, or drop parts of."""

from __future__ import annotations

import io
import struct
import subprocess
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
import tifffile
from PIL import Image, ImageCms

from reflectzoo.data.images import read_rgb
from reflectzoo.inference.separator import Separator
from reflectzoo.photo import ifd, jpeg, jpeg2000, metadata, png
from reflectzoo.photo.model import Picture
from reflectzoo.photo.read import decode, picture_size, read_picture
from reflectzoo.photo.write import encode, reduce_to_format
from tests.photo.conftest import needs, seen_by_magick, stored, tags_of
from tests.photo.test_matrix import noise, on_white
from tests.photo.test_matrix import png as write_png

Removed = Callable[..., Path]
SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
GREY = SRGB[:16] + b"GRAY" + SRGB[20:]  # what counts is the colour model that its header says
XMP = b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">%s</rdf:RDF></x:xmpmeta>'


def photo(side: int = 64) -> np.ndarray:
    """Smooth, as photographs are."""
    return cv2.GaussianBlur(np.random.default_rng(0).integers(0, 256, (side, side + 16, 3), np.uint8), (0, 0), 4)


def jpeg_bytes(**options: object) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(photo()).save(buffer, "JPEG", **{"quality": 92, **options})
    return buffer.getvalue()


def with_segments(data: bytes, *segments: tuple[int, bytes]) -> bytes:
    parts = b"".join(struct.pack(">BBH", 0xFF, marker, len(body) + 2) + body for marker, body in segments)
    return data[:20] + parts + data[20:]


def joined(notes: tuple[str, ...]) -> str:
    return " ".join(notes)


# -- how colours are meant ---------------------------------------------------------------------------------------------


def test_png_gamma_is_heeded_and_stays(tmp_path: Path, removed: Removed) -> None:
    """Linear values: training sees them along the curve of sRGB, remove writes them back as they were."""
    values = noise(3)
    path = write_png(tmp_path / "a.png", values, 16, (b"gAMA", struct.pack(">I", 100000)))
    light = values / 65535
    curve = np.where(light <= 0.0031308, light * 12.92, 1.055 * light ** (1 / 2.4) - 0.055)
    np.testing.assert_allclose(read_rgb(path), curve * 255, atol=0.51)
    np.testing.assert_allclose(read_picture(path).tensor().permute(1, 2, 0).numpy(), curve, atol=1e-5)
    after = removed(path)
    assert (b"gAMA", struct.pack(">I", 100000)) in [tuple(chunk) for chunk in png.chunks(after.read_bytes())]
    np.testing.assert_array_equal(cv2.imread(str(after), -1)[..., ::-1], values)
    other = removed(path, ".tif")  # which has no gAMA: the values follow sRGB then
    np.testing.assert_allclose(tifffile.imread(other) / 65535, curve, atol=1e-5)


@pytest.mark.parametrize(
    ("chunks", "gamma"),
    [
        ([(b"gAMA", struct.pack(">I", 45455))], None),
        ([(b"gAMA", struct.pack(">I", 100000))], 1.0),
        ([(b"gAMA", struct.pack(">I", 55556))], 0.55556),
        ([(b"sRGB", b"\0"), (b"gAMA", struct.pack(">I", 100000))], None),
        ([(b"cICP", b"\x0c\x0d\0\1"), (b"gAMA", struct.pack(">I", 100000))], None),
        ([(b"cICP", b"\x01\x08\0\1")], 1.0),
        ([(b"iCCP", png.profile_chunk(SRGB).body), (b"gAMA", struct.pack(">I", 100000))], None),
        ([(b"iCCP", png.profile_chunk(GREY).body), (b"gAMA", struct.pack(">I", 100000))], 1.0),
        ([(b"gAMA", struct.pack(">I", 0))], None),
    ],
)
def test_png_what_comes_before_gamma(tmp_path: Path, chunks: list[tuple[bytes, bytes]], gamma: float | None) -> None:
    """PNG, third edition, 4.3: cICP, then iCCP, sRGB, gAMA; a profile for grey in a file of colours is none."""
    path = write_png(tmp_path / "a.png", noise(3, "u1"), 8, *chunks)
    assert read_picture(path).origin.gamma == gamma


@pytest.mark.parametrize("bits", [8, 16])
def test_png_colour_chunks_and_texts_stay(tmp_path: Path, removed: Removed, bits: int) -> None:
    carried = {
        b"cICP": b"\x0c\x0d\0\1",
        b"cHRM": struct.pack(">8I", 31270, 32900, 68000, 32000, 26500, 69000, 15000, 6000),
        b"gAMA": struct.pack(">I", 45455),
        b"tEXt": b"Title\0glass",
        b"zTXt": png.Chunk(b"zTXt", b"Note\0\0" + __import__("zlib").compress(b"long")).body,
        b"prVt": b"private, safe to copy",
    }
    path = write_png(tmp_path / "a.png", noise(3, f"u{bits // 8}"), bits, *carried.items(), (b"caBX", b"signed"))
    assert "content credentials" in joined(read_picture(path).notes)
    after = {chunk.kind: chunk.body for chunk in png.chunks(removed(path).read_bytes())}
    assert {kind: after.get(kind) for kind in carried} == carried
    assert b"caBX" not in after


@pytest.mark.parametrize("bits", [8, 16])
@pytest.mark.parametrize("channels", [1, 2, 3, 4])
@pytest.mark.parametrize("profile", ["grey", "RGB"])
def test_png_profile_of_the_other_colour_model(
    tmp_path: Path, removed: Removed, bits: int, channels: int, profile: str
) -> None:
    icc = GREY if profile == "grey" else SRGB
    layers = noise(channels, f"u{bits // 8}")
    path = write_png(tmp_path / "a.png", layers, bits, png.profile_chunk(icc))
    after = {chunk.kind: chunk.body for chunk in png.chunks(removed(path).read_bytes())}
    assert after[b"IHDR"][8:10] == bytes((bits, {1: 0, 2: 4, 3: 2, 4: 6}[channels]))
    fits = (channels in (1, 2)) == (profile == "grey")
    assert (b"iCCP" in after) == fits
    if not fits:
        found = reduce_to_format(read_picture(path), "PNG")
        assert "Its colour profile is for" in joined(found.notes)


def test_profiles_of_grey_pictures_stay_where_they_may(tmp_path: Path) -> None:
    Image.fromarray(noise(1, "u1")[..., 0]).save(tmp_path / "a.jpg", icc_profile=SRGB)
    picture = read_picture(tmp_path / "a.jpg")
    assert decode(encode(picture, "JPEG")).origin.icc == SRGB
    assert decode(encode(picture, "PNG")).origin.icc is None


# -- parts of a JPEG ---------------------------------------------------------------------------------------------------

GAIN_MAP = XMP % (
    b'<rdf:Description xmlns:hdrgm="http://ns.adobe.com/hdr-gain-map/1.0/" hdrgm:Version="1.0" hdrgm:GainMapMax="2.3"'
    b' xmlns:dc="http://purl.org/dc/elements/1.1/" dc:format="image/jpeg"'
    b' xmlns:C="http://ns.google.com/photos/1.0/container/" xmlns:Item="http://ns.google.com/photos/1.0/container/item/">'
    b'<C:Directory><rdf:Seq><rdf:li rdf:parseType="Resource"><C:Item Item:Semantic="Primary" Item:Mime="image/jpeg"/>'
    b'</rdf:li><rdf:li rdf:parseType="Resource"><C:Item Item:Semantic="GainMap" Item:Length="999"/></rdf:li></rdf:Seq>'
    b"</C:Directory></rdf:Description>"
)
MOTION = XMP % (
    b'<rdf:Description xmlns:GCamera="http://ns.google.com/photos/1.0/camera/" GCamera:MotionPhoto="1"'
    b' GCamera:MotionPhotoVersion="1" GCamera:BurstID="7" GCamera:MicroVideoOffset="4000"/>'
)
EXTENDED = XMP % (
    b'<rdf:Description xmlns:xmpNote="http://ns.adobe.com/xmp/note/" xmpNote:HasExtendedXMP="A1B2" '
    b'xmlns:xmp="http://ns.adobe.com/xap/1.0/" xmp:Rating="4"/>'
)


def test_jpeg_gain_map_goes_with_what_points_at_it(tmp_path: Path, removed: Removed) -> None:
    index = b"MPF\0II*\0\x08\0\0\0\x01\0" + struct.pack("<HHII", 0xB001, 4, 1, 2) + b"\0\0\0\0"
    data = with_segments(jpeg_bytes(), (0xE2, index), (0xE1, b"http://ns.adobe.com/xap/1.0/\0" + GAIN_MAP))
    data = with_segments(data, (0xE2, b"urn:iso:std:iso:ts:21496:-1\0\0\0\0\0"))
    (tmp_path / "a.jpg").write_bytes(data + jpeg_bytes(quality=50))
    assert "a gain map (HDR)" in joined(read_picture(tmp_path / "a.jpg").notes)
    after = removed(tmp_path / "a.jpg").read_bytes()
    for word in (b"MPF", b"GainMap", b"hdrgm", b"hdr-gain-map", b"Directory", b"21496"):
        assert word not in after
    assert b'dc:format="image/jpeg"' in after
    assert after.count(b"\xff\xd8\xff") == 1


def test_jpeg_video_goes_with_what_points_at_it(tmp_path: Path, removed: Removed) -> None:
    data = with_segments(jpeg_bytes(), (0xE1, b"http://ns.adobe.com/xap/1.0/\0" + MOTION))
    (tmp_path / "a.jpg").write_bytes(data + b"\0\0\0\x18ftypmp42" + bytes(4000))
    assert "a short video" in joined(read_picture(tmp_path / "a.jpg").notes)
    after = removed(tmp_path / "a.jpg").read_bytes()
    for word in (b"MotionPhoto", b"MicroVideo", b"ftyp"):
        assert word not in after
    assert b'GCamera:BurstID="7"' in after


def test_jpeg_extended_xmp_goes_with_what_points_at_it(tmp_path: Path, removed: Removed) -> None:
    more = b"http://ns.adobe.com/xmp/extension/\0" + b"A1B2" * 8 + struct.pack(">II", 5, 0) + b"<x/>."
    data = with_segments(jpeg_bytes(), (0xE1, b"http://ns.adobe.com/xap/1.0/\0" + EXTENDED), (0xE1, more))
    (tmp_path / "a.jpg").write_bytes(data)
    assert "5 bytes of extended XMP" in joined(read_picture(tmp_path / "a.jpg").notes)
    after = removed(tmp_path / "a.jpg").read_bytes()
    assert b"HasExtendedXMP" not in after
    assert b"xmp/extension" not in after
    assert b'xmp:Rating="4"' in after


def test_jpeg_other_segments_are_named(tmp_path: Path) -> None:
    data = with_segments(jpeg_bytes(), (0xEB, b"JP\0\1"), (0xEC, b"Ducky\0\1"))
    notes = joined(decode(data).notes)
    assert "content credentials (C2PA)" in notes
    assert "APP12 'Ducky'" in notes
    assert "12 bytes after the picture" in joined(decode(jpeg_bytes() + b"and the rest").notes)


def test_plain_files_have_no_notes() -> None:
    assert decode(jpeg_bytes(icc_profile=SRGB, dpi=(72, 72), comment=b"x")).notes == ()
    assert decode(encode(decode(jpeg_bytes()), "PNG")).notes == ()
    assert decode(encode(decode(jpeg_bytes()), "TIFF")).notes == ()


IPTC = b"\x1c\x02\x78\x00\x05glass"


@pytest.mark.parametrize("suffix", [".jpg", ".tif"])
def test_iptc_stays(tmp_path: Path, removed: Removed, suffix: str) -> None:
    kept = b"8BIM\x03\xed\0\0\0\0\0\x02ab"
    thumbnail = b"8BIM\x04\x0c\0\0\0\0\0\x04jpeg"
    if suffix == ".jpg":
        block = b"Photoshop 3.0\0" + thumbnail + jpeg.iptc_resource(IPTC) + kept
        data = with_segments(jpeg_bytes(), (0xED, block))
        (tmp_path / "a.jpg").write_bytes(data)
    else:
        extra = [(33723, 7, len(IPTC), IPTC, True), (34377, 1, len(kept + thumbnail), kept + thumbnail, True)]
        tifffile.imwrite(tmp_path / "a.tif", photo(), photometric="rgb", extratags=extra)
    origin = read_picture(tmp_path / f"a{suffix}").origin
    assert (origin.iptc, origin.photoshop) == (IPTC, kept)
    for other in (".jpg", ".tif"):
        after = read_picture(removed(tmp_path / f"a{suffix}", other))
        assert (after.origin.iptc, after.origin.photoshop) == (IPTC, kept)
    found = reduce_to_format(read_picture(tmp_path / f"a{suffix}"), "PNG")
    assert "IPTC" in joined(found.notes)


# -- EXIF --------------------------------------------------------------------------------------------------------------


def exif_block(order: str = "<") -> bytes:
    """With exposure, place, interoperability, a maker's note that points into the block, and a turned orientation."""

    def text(tag: int, words: bytes) -> ifd.Entry:
        return ifd.Entry(tag, 2, len(words) + 1, words + b"\0")

    image = {0x010F: text(0x010F, b"Maker"), ifd.ORIENTATION: ifd.integer_entry(ifd.ORIENTATION, 6, order)}
    exif = {
        0x829A: ifd.Entry(0x829A, 5, 1, struct.pack(order + "II", 1, 50)),
        ifd.MAKER_NOTE: ifd.Entry(ifd.MAKER_NOTE, 7, 12, b"maker's note"),
        0xA002: ifd.integer_entry(0xA002, 640, order, 4),
        0xA003: ifd.integer_entry(0xA003, 480, order, 4),
    }
    gps = {1: text(1, b"N"), 2: ifd.Entry(2, 5, 3, struct.pack(order + "6I", 52, 1, 30, 1, 0, 1))}
    return ifd.Exif(order, image, exif, gps, {1: text(1, b"R98")}).to_bytes()


@pytest.mark.parametrize("order", ["<", ">"])
def test_exif_is_changed_where_it_lies(order: str) -> None:
    block = exif_block(order)
    after = ifd.upright(block)
    assert len(after) == len(block)
    assert after.index(b"maker's note") == block.index(b"maker's note")
    found = ifd.Exif.parse(after)
    assert ifd.exif_orientation(block) == 6
    assert ifd.exif_orientation(after) == 1
    assert [ifd.integer(found.exif[tag], order) for tag in (0xA002, 0xA003)] == [480, 640]
    assert found.gps == ifd.Exif.parse(block).gps
    assert found.interop[1].raw == b"R98\0"


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("suffix", [".jpg", ".png", ".tif", ".webp", ".jp2"])
def test_exif_reaches_every_format(tmp_path: Path, removed: Removed, order: str, suffix: str) -> None:
    data = with_segments(jpeg_bytes(), (0xE1, b"Exif\0\0" + exif_block(order)))
    (tmp_path / "a.jpg").write_bytes(data)
    tags = tags_of(removed(tmp_path / "a.jpg", suffix))
    assert tags["IFD0:Make"] == "Maker"
    assert tags["ExifIFD:ExposureTime"] == "0.02"
    assert tags["GPS:GPSLatitudeRef"] == "N"
    assert float(tags["GPS:GPSLatitude"]) == 52.5
    assert tags["InteropIFD:InteropIndex"] == "R98"
    assert tags.get("IFD0:Orientation", "1") == "1"
    assert "ExifTool:Warning" not in tags


def test_exif_of_a_tiff_and_its_own_tags_stay(tmp_path: Path, removed: Removed) -> None:
    first = removed(jpeg_file(tmp_path), ".tif")
    with tifffile.TiffFile(first) as file:
        values = file.asarray()
    assert tags_of(first)["ExifIFD:ExposureTime"] == "0.02"
    again = removed(first)
    tags = tags_of(again)
    assert (tags["ExifIFD:ExposureTime"], tags["GPS:GPSLatitudeRef"], tags["IFD0:Make"]) == ("0.02", "N", "Maker")
    np.testing.assert_array_equal(tifffile.imread(again), values)
    private = [(65000, 2, 6, b"scan1\0", True), (65001, 5, 1, (1, 3), True)]
    tifffile.imwrite(
        tmp_path / "b.tif", values, photometric="rgb", extratags=private, resolution=(240, 240), resolutionunit=2
    )
    with tifffile.TiffFile(removed(tmp_path / "b.tif")) as file:
        found = file.pages[0].tags
        assert (found[65000].value, found[65001].value, found[282].value) == ("scan1", (1, 3), (240, 1))
    assert "TIFF tags 65000, 65001" in joined(reduce_to_format(read_picture(tmp_path / "b.tif"), "PNG").notes)


def jpeg_file(folder: Path) -> Path:
    (folder / "a.jpg").write_bytes(with_segments(jpeg_bytes(), (0xE1, b"Exif\0\0" + exif_block())))
    return folder / "a.jpg"


@pytest.mark.parametrize("orientation", [3, 6])
def test_jpeg_2000_with_exif_is_turned(tmp_path: Path, orientation: int) -> None:
    block = ifd.Exif("<", {ifd.ORIENTATION: ifd.integer_entry(ifd.ORIENTATION, orientation, "<")}).to_bytes()
    values = photo(40)
    plain = encode(Picture(np.ascontiguousarray(stored(values, orientation))), "JPEG2000")
    boxes = jpeg2000.BoxContents(8, 3, False, exif=block)
    (tmp_path / "a.jp2").write_bytes(jpeg2000.with_boxes(plain, boxes))
    np.testing.assert_array_equal(read_picture(tmp_path / "a.jp2").values, values)
    assert picture_size(tmp_path / "a.jp2") == (56, 40)


def test_a_maker_s_note_too_long_for_a_jpeg(tmp_path: Path, removed: Removed) -> None:
    found = ifd.Exif.parse(exif_block())
    found.exif[ifd.MAKER_NOTE] = ifd.Entry(ifd.MAKER_NOTE, 7, 70000, bytes(70000))
    path = write_png(tmp_path / "a.png", noise(3, "u1"), 8, (b"eXIf", found.to_bytes()))
    assert "maker's note" in joined(reduce_to_format(read_picture(path), "JPEG").notes)
    assert tags_of(removed(path, ".jpg"))["ExifIFD:ExposureTime"] == "0.02"


def test_the_orientation_that_only_xmp_says(tmp_path: Path) -> None:
    packet = XMP % b'<rdf:Description xmlns:tiff="http://ns.adobe.com/tiff/1.0/" tiff:Orientation="6"/>'
    (tmp_path / "a.jpg").write_bytes(with_segments(jpeg_bytes(), (0xE1, b"http://ns.adobe.com/xap/1.0/\0" + packet)))
    found = read_picture(tmp_path / "a.jpg")
    assert found.values.shape == (80, 64, 3)
    assert found.origin.xmp is not None
    assert b'tiff:Orientation="1"' in found.origin.xmp


def test_xmp_of_parts_in_elements() -> None:
    packet = XMP % (
        b'<rdf:Description xmlns:g="http://ns.google.com/photos/1.0/camera/" xmlns:d="http://ns.google.com/photos/1.0/depthmap/">'
        b"<g:MotionPhoto>1</g:MotionPhoto><d:Format>RangeInverse</d:Format><g:BurstID>7</g:BurstID></rdf:Description>"
    )
    after = metadata.without_parts(packet)
    assert b"MotionPhoto" not in after
    assert b"RangeInverse" not in after
    assert b"<g:BurstID>7</g:BurstID>" in after


# -- the network's part ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("tile", [0, 320])
@pytest.mark.parametrize("wrong", [float("nan"), float("inf")])
def test_output_that_is_no_number(tmp_path: Path, tile: int, wrong: float) -> None:
    from reflectzoo.errors import UserError
    from reflectzoo.inference.batch import OutputOptions, Task, run_tasks

    path = tmp_path / "a.png"
    Image.fromarray(photo(400)).save(path)

    def network(mixture):
        mixture = mixture.clone()
        mixture[..., 3, 3] = wrong
        return {"transmission": mixture}

    separator = Separator(network, "cpu", tile=tile)
    with pytest.raises(UserError, match="non-finite"):
        separator.picture(read_picture(path))
    assert run_tasks([Task(path, tmp_path / "b")], separator, OutputOptions()) == 2
    assert [each.name for each in tmp_path.iterdir()] == ["a.png"]


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("strength", [0.5, 1.0])
def test_bands_are_the_whole(channels: int, strength: float) -> None:
    """Row of tiles by row of tiles gives what the whole gives."""
    from reflectzoo.photo.model import Picture

    values = np.random.default_rng(0).integers(0, 256, (700, 500, channels)).astype(np.uint8)

    def network(mixture):
        return {"transmission": mixture * 0.5, "reflection": mixture * 0.25}

    whole = Separator(network, "cpu", tile=0).picture(Picture(values), strength)
    cut = Separator(network, "cpu", tile=288, halo=64)
    found = cut.picture(Picture(values), strength)
    assert cut.last is not None
    assert cut.last.tiles > 4
    for one, other in zip(whole, found, strict=True):
        assert np.abs(one.values.astype(int) - other.values).max() <= 1
    assert cut.picture(Picture(values), strength, reflection=False).reflection is None


# -- other programs ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "words", [["-compress", "LZW"], ["-compress", "Zip", "-interlace", "Plane"], ["-endian", "MSB"]]
)
@pytest.mark.parametrize("depth", [8, 16])
def test_tiff_of_imagemagick(tmp_path: Path, words: list[str], depth: int) -> None:
    values = noise(3, f"u{depth // 8}")
    (tmp_path / "a.ppm").write_bytes(
        f"P6 7 5 {2**depth - 1}\n".encode() + values.astype("u1" if depth == 8 else ">u2").tobytes()
    )
    program = needs("convert")
    subprocess.run([program, "a.ppm", *words, "a.tif"], cwd=tmp_path, check=True, capture_output=True)
    np.testing.assert_array_equal(read_picture(tmp_path / "a.tif").values, values)
    np.testing.assert_allclose(read_rgb(tmp_path / "a.tif"), on_white(values), atol=0.51)


def test_imagemagick_and_exiftool_have_nothing_to_complain_about(tmp_path: Path, removed: Removed) -> None:
    path = jpeg_file(tmp_path)
    for suffix in (".jpg", ".png", ".tif", ".webp"):
        after = removed(path, suffix)
        assert seen_by_magick(after, 3).shape == (80, 64, 3)
        assert not [name for name in tags_of(after) if "Warning" in name or "Error" in name]
