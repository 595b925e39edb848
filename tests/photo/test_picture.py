"""Pictures keep what their files say."""

from __future__ import annotations

import io
import os
import threading
from pathlib import Path

import cv2
import numpy as np
import pytest
import tifffile
from PIL import Image, ImageCms, JpegImagePlugin

from reflectzoo.data.images import UnreadableImage
from reflectzoo.errors import UserError
from reflectzoo.photo import files, png
from reflectzoo.photo.model import FileMetadata, Picture
from reflectzoo.photo.read import picture_size, read_picture
from reflectzoo.photo.write import suffix_for

RNG = np.random.default_rng(0)
SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()


def noise(*shape: int, bits: int = 8) -> np.ndarray:
    return RNG.integers(0, 2**bits, shape).astype(np.uint8 if bits == 8 else np.uint16)


def again(path: Path, suffix: str | None = None) -> Picture:
    """What comes out when a picture is read and written unchanged."""
    first = read_picture(path)
    target = path.with_name("again" + (suffix or suffix_for(path, first)))
    first.with_values(first.tensor()).save(target)
    return read_picture(target)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_orientation_is_applied_and_reset(tmp_path: Path, orientation: int) -> None:
    upright = noise(5, 7, 3)
    stored = {
        1: upright,
        2: upright[:, ::-1],
        3: upright[::-1, ::-1],
        4: upright[::-1],
        5: upright.swapaxes(0, 1),
        6: upright.swapaxes(0, 1)[::-1],
        7: upright[::-1, ::-1].swapaxes(0, 1),
        8: upright.swapaxes(0, 1)[:, ::-1],
    }[orientation]
    exif = Image.Exif()
    exif[0x0112] = orientation
    exif[0x010F] = "Maker"
    Image.fromarray(np.ascontiguousarray(stored)).save(tmp_path / "a.png", exif=exif)
    found = read_picture(tmp_path / "a.png")
    assert np.array_equal(found.values, upright)
    found.save(tmp_path / "b.png")
    with Image.open(tmp_path / "b.png") as image:
        assert image.size == (7, 5)
        assert image.getexif().get(0x0112, 1) == 1
        assert image.getexif()[0x010F] == "Maker"


def test_jpeg_keeps_profile_metadata_tables_and_sampling(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0110] = "Model"
    exif.get_ifd(0x8769)[0x829A] = 0.01
    xmp = b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><a tiff:Orientation="6"/></x:xmpmeta>'
    image = Image.fromarray(cv2.GaussianBlur(noise(64, 48, 3), (0, 0), 3))
    image.save(
        tmp_path / "a.jpg", quality=83, subsampling=1, progressive=True, icc_profile=SRGB, exif=exif, xmp=xmp,
        dpi=(240, 240), comment=b"hello",
    )  # fmt: skip
    again(tmp_path / "a.jpg")
    with Image.open(tmp_path / "a.jpg") as before, Image.open(tmp_path / "again.jpg") as after:
        assert after.quantization == before.quantization
        assert JpegImagePlugin.get_sampling(after) == 1
        assert after.info["progressive"]
        assert after.info["icc_profile"] == SRGB
        assert after.getexif()[0x0110] == "Model"
        assert float(after.getexif().get_ifd(0x8769)[0x829A]) == pytest.approx(0.01)
        assert b'tiff:Orientation="1"' in after.info["xmp"]
        assert after.info["dpi"] == (240, 240)
        assert after.info["comment"] == b"hello"


@pytest.mark.parametrize("suffix", [".png", ".tif"])
@pytest.mark.parametrize("channels", [1, 3, 4])
def test_sixteen_bits_stay(tmp_path: Path, suffix: str, channels: int) -> None:
    values = noise(9, 11, channels, bits=16)
    path = tmp_path / f"a{suffix}"
    if suffix == ".png":
        code = values[..., [2, 1, 0, 3][:channels]] if channels > 1 else values
        cv2.imwrite(os.fspath(path), np.ascontiguousarray(code))
    else:
        photometric = "minisblack" if channels == 1 else "rgb"
        extra = {"extrasamples": ["UNASSALPHA"]} if channels == 4 else {}
        squeezed = values[..., 0] if channels == 1 else values
        tifffile.imwrite(path, squeezed, photometric=photometric, iccprofile=SRGB, **extra)
    found = again(path)
    assert found.depth == 16
    assert np.array_equal(found.values, values[..., : min(channels, 3)])
    if channels == 4:
        assert found.alpha is not None
        assert np.array_equal(found.alpha, values[..., 3])
    if suffix == ".tif":
        assert found.origin.icc == SRGB


def test_sixteen_bit_png_keeps_its_chunks(tmp_path: Path) -> None:
    title = png.text_chunk("Title", "glass")
    origin = FileMetadata("PNG", SRGB, xmp=b"<xmp/>", dpi=(300.0, 300.0), chunks=(title,))
    first = Picture(noise(4, 5, 3, bits=16), None, origin)
    first.save(tmp_path / "a.png")
    found = read_picture(tmp_path / "a.png")
    assert np.array_equal(found.values, first.values)
    assert found.origin.icc == SRGB
    assert found.origin.xmp == b"<xmp/>"
    assert found.origin.dpi == pytest.approx((300, 300), abs=0.1)
    assert found.origin.chunks == (title,)
    with Image.open(tmp_path / "a.png") as image:
        image.verify()


@pytest.mark.parametrize("mode", ["L", "LA", "RGB", "RGBA", "P", "1"])
def test_modes_of_png(tmp_path: Path, mode: str) -> None:
    image = Image.fromarray(noise(6, 8, 4)).convert(mode)
    image.save(tmp_path / "a.png")
    found = again(tmp_path / "a.png")
    wanted = {"L": "L", "LA": "LA", "RGB": "RGB", "RGBA": "RGBA", "P": "RGBA", "1": "L"}[mode]
    with Image.open(tmp_path / "a.png") as before:
        reference = np.asarray(before.convert("RGBA" if wanted in ("RGBA", "LA") else "RGB"))
    back = found.to_pil()
    assert back.mode == wanted
    assert np.array_equal(np.asarray(back.convert("RGBA" if wanted in ("RGBA", "LA") else "RGB")), reference)


@pytest.mark.parametrize("mode", ["P", "L", "RGB"])
def test_transparency_given_as_one_colour(tmp_path: Path, mode: str) -> None:
    image = Image.fromarray(np.array([[0, 1], [2, 0]], np.uint8), mode="L").convert(mode)
    image.save(tmp_path / "a.png", transparency=(0, 0, 0) if mode == "RGB" else 0)
    found = read_picture(tmp_path / "a.png")
    assert found.alpha is not None
    assert found.alpha.tolist() == [[0, 255], [255, 0]]


def test_cmyk_is_written_as_rgb(tmp_path: Path) -> None:
    Image.fromarray(noise(8, 8, 3)).convert("CMYK").save(tmp_path / "a.jpg", quality=95)
    found = again(tmp_path / "a.jpg")
    assert found.values.shape == (8, 8, 3)
    assert "sRGB" in read_picture(tmp_path / "a.jpg").notes[0]


@pytest.mark.parametrize("suffix", [".webp", ".avif", ".bmp", ".ppm", ".jp2"])
def test_other_formats_keep_their_kind_and_size(tmp_path: Path, suffix: str) -> None:
    Image.fromarray(cv2.GaussianBlur(noise(34, 47, 3), (0, 0), 3)).save(tmp_path / f"a{suffix}")
    found = again(tmp_path / f"a{suffix}")
    assert found.values.shape == (34, 47, 3)
    assert (tmp_path / f"again{suffix}").is_file()


def test_lossless_webp_stays_lossless(tmp_path: Path) -> None:
    values = noise(16, 16, 4)
    Image.fromarray(values).save(tmp_path / "a.webp", lossless=True, exact=True)
    found = again(tmp_path / "a.webp")
    assert np.array_equal(found.values, values[..., :3])
    assert np.array_equal(found.alpha, values[..., 3])


def test_animations_and_palettes_become_png(tmp_path: Path) -> None:
    first, second = (Image.fromarray(noise(4, 4)) for _ in range(2))
    first.save(tmp_path / "a.gif", save_all=True, append_images=[second])
    found = read_picture(tmp_path / "a.gif")
    assert suffix_for(tmp_path / "a.gif", found) == ".png"
    assert "only the first" in found.notes[0]


def test_transparency_is_seen_on_white_where_there_is_none(tmp_path: Path) -> None:
    Picture(noise(4, 4, 3), np.zeros((4, 4), np.uint8)).save(tmp_path / "a.jpg")
    assert read_picture(tmp_path / "a.jpg").values.min() > 250


def test_damaged_exif_does_not_hide_a_picture(tmp_path: Path) -> None:
    Image.fromarray(noise(4, 4, 3)).save(tmp_path / "a.jpg", exif=b"Exif\x00\x00MM\x00*\xff\xff\xff\xff")
    assert read_picture(tmp_path / "a.jpg").values.shape == (4, 4, 3)


# -- what is no picture ------------------------------------------------------------------------------------------------


def bomb() -> bytes:
    """A small file that claims 60000x60000 pixels."""
    buffer = io.BytesIO()
    Image.new("L", (1, 1)).save(buffer, "PNG")
    data = bytearray(buffer.getvalue())
    data[16:24] = (60000).to_bytes(4, "big") * 2
    import zlib

    data[29:33] = zlib.crc32(bytes(data[12:29])).to_bytes(4, "big")
    return bytes(data)


@pytest.mark.parametrize(
    ("data", "sentence"),
    [
        (b"", "empty"),
        (b"no picture at all", "not a picture"),
        (
            b"\x00\x00\x00\x18ftypheic\x00\x00\x00\x00mif1heic",
            "is a HEIC picture(, .*pip install pillow-heif| that is damaged)",
        ),
        (bomb(), "million pixels"),
        (b"\x89PNG\r\n\x1a\n" + b"\x00" * 40, "not a picture|damaged"),
    ],
)
def test_no_pictures(tmp_path: Path, data: bytes, sentence: str) -> None:
    (tmp_path / "a.jpg").write_bytes(data)
    with pytest.raises(UnreadableImage, match=sentence):
        read_picture(tmp_path / "a.jpg")


def test_cut_short(tmp_path: Path) -> None:
    Image.fromarray(noise(64, 64, 3)).save(tmp_path / "a.jpg")
    data = (tmp_path / "a.jpg").read_bytes()
    (tmp_path / "a.jpg").write_bytes(data[: len(data) // 2])
    with pytest.raises(UnreadableImage, match="truncated"):
        read_picture(tmp_path / "a.jpg")


def test_places_that_are_no_files(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.jpg")
    (tmp_path / "loop.jpg").symlink_to(tmp_path / "loop.jpg")
    (tmp_path / "gone.jpg").symlink_to(tmp_path / "nothing.jpg")
    (tmp_path / "folder.jpg").mkdir()
    for name, sentence in {
        "pipe": "not a regular file",
        "loop": "circle",
        "gone": "is a link to",
        "folder": "is a folder",
        "none": "does not exist",
    }.items():
        with pytest.raises(UnreadableImage, match=sentence):
            read_picture(tmp_path / f"{name}.jpg")


def test_a_file_that_grows_while_it_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.jpg"
    path.write_bytes(b"x" * 100)
    honest, calls = os.fstat, []

    def fstat(handle: int) -> os.stat_result:
        calls.append(handle)
        if len(calls) == 3:  # when it was opened, and before it is read
            with path.open("ab") as file:
                file.write(b"more")
        return honest(handle)

    monkeypatch.setattr(files.os, "fstat", fstat)
    with pytest.raises(UnreadableImage, match="changed while"):
        files.read_bytes(path)


# -- writing -----------------------------------------------------------------------------------------------------------


def test_nothing_half_written_when_the_disk_is_full(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(handle: int) -> None:
        raise OSError(28, "No space left on device")

    (tmp_path / "a.png").write_bytes(b"old")
    monkeypatch.setattr(files.os, "fsync", full)
    with pytest.raises(UserError, match="disk is full"):
        files.write_atomically(tmp_path / "a.png", b"new", overwrite=True)
    assert (tmp_path / "a.png").read_bytes() == b"old"
    assert [path.name for path in tmp_path.iterdir()] == ["a.png"]


def test_a_really_full_disk() -> None:
    if not Path("/dev/full").exists():
        pytest.skip("no /dev/full here")
    with pytest.raises(UserError):
        files.write_atomically(Path("/dev/full/a.png"), b"x")


def test_of_two_runs_one_writes(tmp_path: Path) -> None:
    won, lost = [], []
    barrier = threading.Barrier(8)

    def write(number: int) -> None:
        barrier.wait()
        try:
            files.write_atomically(tmp_path / "a.png", bytes([number]) * 10000)
            won.append(number)
        except UserError:
            lost.append(number)

    threads = [threading.Thread(target=write, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(won) == 1
    assert len(lost) == 7
    assert (tmp_path / "a.png").read_bytes() == bytes(won) * 10000
    assert len(list(tmp_path.iterdir())) == 1


def test_names_do_not_move_the_cursor() -> None:
    assert files.quoted_path("a\x1b[2Jb\n.jpg") == "'a\\x1b[2Jb\\n.jpg'"


def test_a_suffix_that_is_no_format(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="not a supported format"):
        Picture(noise(2, 2, 3)).save(tmp_path / "a.xyz")


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".webp"])
@pytest.mark.parametrize(
    "block",
    [
        b"garbage",
        b"MM\0*\0\0\0\x08\xff\xff",
        b"II*\0\x08\0\0\0\x02\0\x12\1\3\0\1\0\0\0\6\0\0\0\x12\1\3\0\1\0\0\0\3\0\0\0\0\0\0\0",  # twice, the first counts
        b"II*\0\x08\0\0\0\x02\0\x12\1\3\0\1\0\0\0\6\0\0\0",  # cut short
    ],
)
def test_sizes_are_those_of_what_is_read_whatever_exif_says(tmp_path: Path, suffix: str, block: bytes) -> None:
    path = tmp_path / f"a{suffix}"
    Image.fromarray(noise(9, 12, 3)).save(path, exif=b"Exif\0\0" + block)
    found = read_picture(path)
    assert picture_size(path) == (found.width, found.height)


def test_exif_behind_the_values_of_a_png(tmp_path: Path) -> None:
    """As ImageMagick writes it."""
    Image.fromarray(noise(9, 12, 3)).save(tmp_path / "a.png")
    block = b"II*\0\x08\0\0\0\x01\0\x12\1\3\0\1\0\0\0\6\0\0\0\0\0\0\0"
    chunks = png.chunks((tmp_path / "a.png").read_bytes())
    chunks.insert(-1, png.Chunk(b"eXIf", block))
    (tmp_path / "a.png").write_bytes(png.SIGNATURE + b"".join(chunk.to_bytes() for chunk in chunks))
    assert read_picture(tmp_path / "a.png").values.shape == (12, 9, 3)
    assert picture_size(tmp_path / "a.png") == (9, 12)


@pytest.mark.parametrize("kind", [b"mntr", b"scnr", b"prtr", b"spac", b"abst", b"link", b"nmcl", b"short", b"text"])
def test_profiles_that_are_none_for_pictures_are_dropped(tmp_path: Path, kind: bytes) -> None:
    icc = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    icc = {b"short": icc[:200], b"text": b"no profile" * 30}.get(kind, icc[:12] + kind + icc[16:])
    Image.fromarray(noise(9, 12, 3)).save(tmp_path / "a.png", icc_profile=icc)
    found = read_picture(tmp_path / "a.png")
    assert (found.origin.icc == icc) == (kind in (b"mntr", b"scnr", b"prtr", b"spac"))
    assert ("damaged" in " ".join(found.notes)) == (found.origin.icc is None)
