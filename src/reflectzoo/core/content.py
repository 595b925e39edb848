"""Detection of the actual type of a file whose content does not match its name."""

from __future__ import annotations

import codecs
import re
from pathlib import Path

_LFS = b"version https://git-lfs.github.com/spec/"
_PAGE = re.compile(rb"<!doctype html|<html|<head|<body|<script", re.IGNORECASE)
_AGAIN = "download it again"
_MAGICS = (
    (b"%PDF", "a PDF document"),
    (b"PK\x03\x04", "a zip archive"),
    (b"Rar!", "a rar archive"),
    (b"7z\xbc\xaf\x27\x1c", "a 7z archive"),
    (b"\x1f\x8b", "a gzip archive"),
    (b"\x89HDF", "an HDF5 file"),
    (b"\x1aE\xdf\xa3", "a Matroska or WebM video"),
    (b"\x93NUMPY", "a numpy array"),
)


def describe_content(data: bytes) -> str | None:
    """Name the type of data that is neither a picture nor weights, with a remedy; None if it is not recognised.

    Args:
        data: the file, or its first few thousand bytes.

    Example:
        >>> describe_content(b"%PDF-1.7")
        'a PDF document'
        >>> describe_content(b"version https://git-lfs.github.com/spec/v1")
        "a Git LFS pointer, which only names the file: run 'git lfs pull', or download it again"
    """
    lead = data[:2048].lstrip(b"\xef\xbb\xbf \t\r\n")
    if lead.startswith(_LFS):
        return f"a Git LFS pointer, which only names the file: run 'git lfs pull', or {_AGAIN}"
    if lead[:1] == b"<" and _PAGE.search(lead):
        return f"a web page: {_AGAIN} (its address may need a login, or lead to a page about the file)"
    if lead.startswith(b"<") and b"<svg" in lead:
        return "an SVG drawing: export it as PNG"
    if lead.startswith((b"<?xml", b"<Error", b"<error")):
        return f"an XML text, perhaps a server's error message: {_AGAIN}"
    if re.match(rb'[\[{]\s*"', lead):
        return f"a JSON text, perhaps a server's error message: {_AGAIN}"
    for magic, name in _MAGICS:
        if data.startswith(magic):
            return name
    if data[4:8] == b"ftyp" and data[8:11] in (b"mp4", b"iso", b"qt ", b"M4V", b"avc", b"3gp"):
        return "a video"
    if data and not data[:4096].strip(b"\0"):
        return f"nothing but zeros, probably from an interrupted download: {_AGAIN}"
    if lead and all(byte >= 32 or byte in b"\t\r\n\f" for byte in lead) and _is_utf8(lead):
        return f"a text: {_AGAIN}"
    return None


def _is_utf8(lead: bytes) -> bool:
    """Whether the bytes are the beginning of a UTF-8 text; the last character may be incomplete."""
    try:
        codecs.getincrementaldecoder("utf-8")().decode(lead)
    except UnicodeDecodeError:
        return False
    return True


def describe_file(path: Path) -> str | None:
    """Apply :func:`describe_content` to a file; recognises empty files, too."""
    with path.open("rb") as file:
        lead = file.read(4096)
    return describe_content(lead) if lead else f"empty (0 bytes): {_AGAIN}"
