"""Metadata of a photograph, adapted to a picture that has been rotated upright and processed."""

from __future__ import annotations

import re

from reflectzoo.photo import ifd

_ORIENTATION_ATTRIBUTE = re.compile(rb"""(tiff:Orientation=)(["'])[2-8]\2""")
_ORIENTATION_ELEMENT = re.compile(rb"(<tiff:Orientation>)\s*[2-8]\s*(</tiff:Orientation>)")
_ORIENTATION_VALUE = re.compile(rb"""tiff:Orientation(?:=["']|>)\s*([1-8])""")
_DECLARED = re.compile(rb"""xmlns:([\w.-]+)\s*=\s*["']([^"']*)["']""")
_GONE = re.compile(
    rb"http://ns\.adobe\.com/hdr-gain-map/|http://ns\.apple\.com/(HDRGainMap|pixeldatainfo)/"
    rb"|http://ns\.google\.com/photos/1\.0/(container|depthmap|image|audio)|http://ns\.google\.com/photos/dd/"
)
"""Namespaces used only for further parts of a file: gain maps, depth maps, sound, lists of parts."""
_CAMERA = re.compile(rb"http://ns\.(google|xiaomi)\.com/photos/1\.0/camera/")
_MOTION = rb"(?:MicroVideo|MotionPhoto)\w*"
_NOTE = b"http://ns.adobe.com/xmp/note/"
_XAP = b"http://ns.adobe.com/xap/1.0/"

SPACES = {b"GRAY": "grey", b"RGB ": "RGB", b"CMYK": "CMYK", b"Lab ": "Lab"}


def profile_space(icc: bytes) -> bytes:
    """The colour model of an ICC profile, four bytes (ICC.1:2022, 7.2.6)."""
    return icc[16:20]


def profile_fits(icc: bytes, channels: int, strictly: bool = False) -> bool:
    """Whether a profile is valid for grey (1) or colour (3) values.

    Args:
        icc: the profile.
        channels: 1 or 3.
        strictly: refuse an RGB profile for grey values; most programs apply it to three equal channels.
    """
    if not _sound(icc):
        return False
    space = profile_space(icc)
    return (space == b"RGB " and not (strictly and channels == 1)) or (space == b"GRAY" and channels == 1)


def profile_note(icc: bytes, channels: int) -> str:
    """The sentence on why a profile was dropped."""
    if not _sound(icc):
        return "Its colour profile is damaged, or not one for pictures: dropped."
    model = SPACES.get(profile_space(icc), "another colour model")
    return f"Its colour profile is for {model}, but its values are {'grey' if channels == 1 else 'RGB'}: dropped."


def _sound(icc: bytes) -> bool:
    """Whether a profile is complete, and of a device or a colour space (ICC.1:2022, 7.2)."""
    whole = icc[36:40] == b"acsp" and 132 <= int.from_bytes(icc[:4], "big") <= len(icc)
    return whole and icc[12:16] in (b"mntr", b"scnr", b"prtr", b"spac")


def bare_exif(block: bytes | None) -> bytes | None:
    """An EXIF block without the ``Exif`` prefix that some containers add; None if nothing is left."""
    return block.removeprefix(b"Exif\0\0") or None if block else None


def orientation(exif: bytes | None, xmp: bytes | None) -> int:
    """The orientation, 1 to 8, from EXIF, else from XMP; defaults to 1."""
    if exif:
        try:
            found = ifd.exif_orientation(exif)
        except ValueError:
            found = None
        if found is not None:
            return found
    match = _ORIENTATION_VALUE.search(xmp or b"")
    return int(match[1]) if match else 1


def upright_xmp(xmp: bytes) -> bytes:
    """The XMP packet with orientation 1, for a picture that has been rotated upright."""
    xmp = _ORIENTATION_ATTRIBUTE.sub(rb"\g<1>\g<2>1\g<2>", xmp)
    return _ORIENTATION_ELEMENT.sub(rb"\g<1>1\g<2>", xmp)


def without_parts(xmp: bytes) -> bytes:
    """Remove the description of gain maps, video, depth maps and thumbnails, which a processed picture lacks, from XMP.

    Namespace prefixes are looked up, as each writer chooses its own.
    """
    names: list[bytes] = []
    for prefix, space in _DECLARED.findall(xmp):
        name = re.escape(prefix) + b":"
        if _GONE.match(space):
            names.append(name + rb"[\w.-]+")
        elif _CAMERA.match(space):
            names.append(name + _MOTION)
        elif space == _NOTE:
            names.append(name + b"HasExtendedXMP")
        elif space == _XAP:
            names.append(name + b"Thumbnails")
    for name in names:
        xmp = re.sub(rb"\s+" + name + rb"""\s*=\s*("[^"]*"|'[^']*')""", b"", xmp)
        # Outer elements first: a list of parts is removed with its content.
        xmp = re.sub(rb"\s*<(" + name + rb")(?=[\s>/])[^>]*?(?:/>|(?<!/)>.*?</\1\s*>)", b"", xmp, flags=re.DOTALL)
    used = [prefix for prefix, space in _DECLARED.findall(xmp) if _GONE.match(space) or space == _NOTE]
    for prefix in used:
        if not re.search(rb"[\s<]" + re.escape(prefix) + b":", xmp):
            xmp = re.sub(rb"\s+xmlns:" + re.escape(prefix) + rb"""\s*=\s*("[^"]*"|'[^']*')""", b"", xmp)
    return xmp


def announces_gain_map(xmp: bytes | None) -> bool:
    """Whether an XMP packet describes a gain map (HDR)."""
    return xmp is not None and (b"hdr-gain-map" in xmp or b"HDRGainMap" in xmp or b'"GainMap"' in xmp)


def announces_video(xmp: bytes | None) -> bool:
    """Whether an XMP packet describes a short video appended to the picture."""
    return xmp is not None and re.search(rb"MicroVideo|MotionPhoto", xmp) is not None
