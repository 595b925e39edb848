"""``reflectzoo convert``: convert weights of any supported layout to a safe, self-describing file."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from reflectzoo.inference.convert import convert
from reflectzoo.photo.files import quoted_path

EPILOG = """examples:
  reflectzoo convert ytmt_uct_sirs_68_077_00595364.pt
  reflectzoo convert model.pth -o location_aware.safetensors --licence unknown
  reflectzoo convert checkpoints/last.ckpt --model ytmt_uct

The layout is recognised automatically; use --model if weights fit two methods. Nothing in the file is executed; files
that would require it are refused.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments to a parser."""
    parser.add_argument("file", type=Path, help="the authors' .pt, .pth, .pth.tar, a checkpoint, or safetensors")
    parser.add_argument(
        "-o", "--output", type=Path, metavar="FILE", help="default: <name>.safetensors beside the input"
    )
    parser.add_argument("--model", metavar="NAME", help="the model, if it is not recognised correctly")
    parser.add_argument("--override", action="append", default=[], metavar="KEY=VALUE", help="override of the model")
    parser.add_argument("--trained-by", default="", help="who trained it; stored in the file, like the next two")
    parser.add_argument("--trained-on", default="", help="training data")
    parser.add_argument("--licence", default="", help="licence of the weights")
    parser.add_argument("--half", action="store_true", help="store 16-bit numbers, which halves the size")
    parser.add_argument("--overwrite", action="store_true", help="replace an existing file")


def run(arguments: argparse.Namespace) -> int:
    """Convert a file and print a summary; returns the exit status 0."""
    provenance = {
        "trained_by": arguments.trained_by,
        "trained_on": arguments.trained_on,
        "licence": arguments.licence,
    }
    target = arguments.output or arguments.file.with_suffix(".safetensors")
    overrides = tuple(arguments.override)
    done = convert(
        arguments.file, target, arguments.model, overrides, provenance, arguments.overwrite, half=arguments.half
    )
    sys.stdout.write(
        f"{quoted_path(target)}: model={done.model}, {done.tensors} tensors, {done.parameters:,} numbers\n"
        f"sha256 {done.sha256}\n"
    )
    return 0
