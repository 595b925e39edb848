"""Separate one photograph from standard input to standard output, without temporary files."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

from reflectzoo.errors import UserError
from reflectzoo.inference.batch import OutputOptions
from reflectzoo.inference.separator import Separator
from reflectzoo.photo.read import decode
from reflectzoo.photo.write import FORMATS, encode, format_of, reduce_to_format, suffix_for, write_picture

STREAM = "-"
"""File name that denotes standard input and standard output."""


def run_pipe(separator: Separator, wanted: OutputOptions, output: Path | None) -> int:
    """Read a photograph from standard input; write its transmission to standard output, or to a file.

    Args:
        separator: the network.
        wanted: options for the result; only the transmission is supported.
        output: a file; None or ``-`` for standard output.

    Returns:
        0.

    Raises:
        UserError: if the input cannot be read as a picture, or further results are requested.
    """
    if wanted.reflection or wanted.side_by_side:
        raise UserError("A pipe carries only the transmission: leave --reflection and --side-by-side out.")
    name = "The picture on standard input"
    picture = decode(sys.stdin.buffer.read(), name, wanted.max_pixels)
    transmission, _ = separator.picture(picture, wanted.strength, reflection=False)
    to_stream = output is None or str(output) == STREAM
    usual = next((suffix for suffix, kind in FORMATS.items() if kind == picture.origin.format), ".png")
    suffix = wanted.suffix or suffix_for(Path(f"stdin{usual}"), picture)
    kind = format_of(Path(f"stdout{suffix}") if to_stream or output is None else output)
    result = reduce_to_format(transmission, kind)
    if wanted.quality is not None:
        result = replace(result, origin=replace(result.origin, quality=wanted.quality))
    for note in dict.fromkeys((*picture.notes, *result.notes)):
        sys.stderr.write(f"reflectzoo: {note}\n")
    if to_stream or output is None:
        sys.stdout.buffer.write(encode(result, kind))
        sys.stdout.buffer.flush()
    else:
        write_picture(result, output, wanted.overwrite)
    return 0
