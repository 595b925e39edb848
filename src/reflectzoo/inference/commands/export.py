"""``reflectzoo export``: export a network to ONNX and compare it with PyTorch."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from reflectzoo.errors import UserError
from reflectzoo.inference.export import OPSET, export
from reflectzoo.inference.load import default_model, load
from reflectzoo.photo.files import quoted_path

EPILOG = """examples:
  reflectzoo export lite.onnx
  reflectzoo export --weights checkpoints/last.ckpt reflections.onnx
  reflectzoo export --model ytmt_uct --weights ytmt_uct_sirs_68_077_00595364.pt ytmt.onnx
  reflectzoo remove photo.jpg --backend onnx --weights ytmt.onnx

Height and width are dynamic. The file is written only if onnxruntime agrees with PyTorch at three sizes. Needs
pip install 'reflectzoo[onnx]'; large networks take a minute or two.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments to a parser."""
    parser.add_argument("output", type=Path, help="the file to write, *.onnx")
    parser.add_argument("--model", metavar="NAME", help="method (default: that of the weights)")
    parser.add_argument("--weights", metavar="FILE", help="checkpoint, safetensors, authors' file, or a listed name")
    parser.add_argument("--untrained", action="store_true", help="export an untrained model, whose output is noise")
    parser.add_argument(
        "--override",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="override of the model, e.g. model.net.width=32",
    )
    parser.add_argument("--opset", type=int, default=OPSET, help="ONNX opset (default %(default)s)")
    parser.add_argument("--overwrite", action="store_true", help="replace an existing file")


def run(arguments: argparse.Namespace) -> int:
    """Export a network and print a summary; returns the exit status 0."""
    model = arguments.model
    if model is None and arguments.weights is None:
        if arguments.untrained:
            raise UserError("Say which model to export untrained: --model NAME.")
        model = default_model()
    network = load(model, arguments.weights, tuple(arguments.override), arguments.untrained)
    done = export(network, arguments.output, opset=arguments.opset, overwrite=arguments.overwrite)
    sys.stdout.write(
        f"{quoted_path(arguments.output)}: model={done.model}, opset {done.opset}, {done.size / 2**20:.1f} MiB, "
        f"{' and '.join(done.layers)}\n"
    )
    for (height, width), difference in done.differences.items():
        sys.stdout.write(f"{width}x{height}: differs from PyTorch by at most {difference:.1e}\n")
    return 0
