"""``reflectzoo remove``: remove reflections from photographs and videos."""

from __future__ import annotations

import argparse
import sys
from dataclasses import replace
from pathlib import Path
from typing import cast, get_args

from reflectzoo.errors import UserError
from reflectzoo.inference.batch import OutputOptions, find_tasks, run_tasks
from reflectzoo.inference.load import default_model, load
from reflectzoo.inference.pipe import STREAM, run_pipe
from reflectzoo.inference.separator import Precision, Quality, Separator, choose_device, parse_bytes
from reflectzoo.inference.video import is_video
from reflectzoo.photo.files import quoted_path
from reflectzoo.photo.read import parse_pixels
from reflectzoo.photo.write import FORMATS

EPILOG = """examples:
  reflectzoo remove photo.jpg
  reflectzoo remove photo.jpg -o clean.png --reflection
  reflectzoo remove *.jpg -o clean/ --strength 0.7
  reflectzoo remove holiday/ -r -o clean/ --side-by-side
  reflectzoo remove archive/ -r -o clean/ --engine ray --ray-address head:6379
  reflectzoo remove photo.jpg --model ytmt_uct --weights ytmt_uct_sirs_68_077_00595364.pt

Results keep the photograph's size, bit depth, colour profile, transparency and metadata. Without -o, they are written
beside it: photo.transmission.jpg, photo.reflection.jpg, photo.side-by-side.jpg.

exit status: 0 success; 1 some photographs failed and are listed at the end; 2 invalid arguments; 130 Ctrl-C.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments to a parser."""
    parser.add_argument("input", nargs="+", help="photographs, folders, or patterns in quotes ('*.jpg')")
    parser.add_argument("-o", "--output", type=Path, metavar="PATH", help="a folder or, for one photograph, a file")
    parser.add_argument("-r", "--recursive", action="store_true", help="include subfolders")
    group = parser.add_argument_group("output")
    group.add_argument("--reflection", action="store_true", help="also write the reflection")
    group.add_argument("--side-by-side", action="store_true", help="also write photograph and layers in one picture")
    group.add_argument(
        "--strength", type=float, default=1.0, metavar="0…1", help="how much is removed (default %(default)s)"
    )
    group.add_argument("--overwrite", action="store_true", help="replace existing results, but never a photograph")
    group.add_argument("--max-pixels", metavar="N", help="refuse larger photographs, e.g. 400M (default 179M)")
    group.add_argument("--skip-existing", action="store_true", help="skip photographs that already have results")
    group.add_argument("--keep-dates", action="store_true", help="copy the photographs' dates")
    group.add_argument("--format", metavar="NAME", help="jpg, png, tif, webp, … (default: as the input)")
    group.add_argument(
        "--quality",
        action="append",
        type=_quality,
        default=[],
        metavar="fast|best|1…100",
        help="fast: without lite's average over the mirrored photograph, almost twice as fast; best: average over "
        "flips and quarter turns, 8 times slower than fast; a number: quality of JPEG, WebP, AVIF",
    )
    group.add_argument(
        "--steady",
        type=float,
        default=0.7,
        metavar="0…1",
        help="for videos: weight of the previous frame (default %(default)s)",
    )
    group.add_argument("--watch", action="store_true", help="keep processing new files in the folder until Ctrl-C")
    group = parser.add_argument_group("machines")
    group.add_argument(
        "--engine", default="local", choices=["local", "ray"], help="ray: use a Ray cluster (default %(default)s)"
    )
    group.add_argument("--workers", type=int, metavar="N", help="Ray processes (default: one per GPU or core)")
    group.add_argument("--ray-address", metavar="HOST:PORT", help="address of the cluster (default: this machine only)")
    add_model_arguments(parser)


def _quality(text: str) -> int | Quality:
    """Parse the name of a quality or an integer from 1 to 100."""
    if text in get_args(Quality):
        return cast(Quality, text)
    if text.isdecimal() and 1 <= int(text) <= 100:
        return int(text)
    raise argparse.ArgumentTypeError(f"must be fast, normal or best, or a whole number from 1 to 100, got '{text}'")


def _working_size(text: str) -> int:
    """Parse ``full``, returned as 0, or a number of pixels from 32."""
    if text == "full":
        return 0
    if text.isdecimal() and int(text) >= 32:
        return int(text)
    raise argparse.ArgumentTypeError(f"must be full, or a whole number of pixels from 32, got '{text}'")


def add_model_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments that select a network and how it runs to a parser."""
    group = parser.add_argument_group("network")
    group.add_argument("--model", metavar="NAME", help="method (default: that of the weights)")
    group.add_argument("--weights", metavar="FILE", help="checkpoint, safetensors, authors' file, or a listed name")
    group.add_argument("--untrained", action="store_true", help="use an untrained model, whose output is noise")
    group.add_argument(
        "--override",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="override of the model, e.g. model.net.width=32",
    )
    group.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1, mps (default %(default)s)")
    group.add_argument(
        "--precision", default="32", choices=["32", "16", "bf16"], help="of the computation (default %(default)s)"
    )
    group.add_argument("--backend", default="torch", choices=["torch", "onnx"], help="onnx: --weights is an .onnx file")
    group.add_argument("--memory", metavar="SIZE", help="memory limit, e.g. 2G; larger photographs are tiled")
    group.add_argument(
        "--working-size",
        type=_working_size,
        metavar="N|full",
        help="separate larger photographs with a shorter side of N pixels (default: the model's, 384 for lite)",
    )


def make_separator(arguments: argparse.Namespace) -> Separator:
    """Build the separator selected on the command line.

    Raises:
        UserError: as in :func:`~reflectzoo.inference.load.load` and
            :class:`~reflectzoo.inference.separator.Separator`, or if arguments do not fit an ONNX file.
    """
    choose_device(arguments.device)
    memory = None if arguments.memory is None else parse_bytes(arguments.memory)
    model = arguments.model
    if arguments.backend == "onnx" or Path(arguments.weights or "").suffix == ".onnx":
        return _onnx_separator(arguments, memory)
    if model is None and arguments.weights is None:
        if arguments.untrained:
            raise UserError("Say which model to try untrained: --model NAME.")
        model = default_model()
    network = load(model, arguments.weights, tuple(arguments.override), arguments.untrained)
    return Separator(
        network,
        arguments.device,
        cast(Precision, arguments.precision),
        memory,
        quality=_how_good(arguments),
        working=arguments.working_size,
    )


def _onnx_separator(arguments: argparse.Namespace, memory: int | None) -> Separator:
    from reflectzoo.inference.onnx import OnnxSeparator, Session

    if arguments.weights is None:
        raise UserError(
            "--backend onnx needs a file: create one with `reflectzoo export` and pass it with --weights FILE.onnx."
        )
    if arguments.device not in ("auto", "cpu") or arguments.precision != "32" or arguments.override:
        raise UserError(
            "An ONNX file runs as it is, on the CPU in full precision: leave --device, --precision and --override out."
        )
    session = Session(Path(arguments.weights).expanduser())
    found = session.facts["model"]
    if arguments.model not in (None, found):
        raise UserError(f"The ONNX file holds model={found}, not model={arguments.model}: leave --model out.")
    return OnnxSeparator(session, memory, _how_good(arguments), arguments.working_size)


def _qualities(arguments: argparse.Namespace) -> list[int | Quality]:
    return getattr(arguments, "quality", None) or []


def _how_good(arguments: argparse.Namespace) -> Quality:
    """The last quality named, unless it is one of JPEG."""
    return next((each for each in reversed(_qualities(arguments)) if isinstance(each, str)), "normal")


def _suffix(name: str | None) -> str:
    """Convert a format such as ``jpg`` or ``.JPG`` to a suffix, and check that it can be written; None gives ""."""
    if name is None:
        return ""
    suffix = f".{name.lower().lstrip('.')}"
    if suffix not in FORMATS:
        raise UserError(f"--format {name} cannot be written: use one of {', '.join(each[1:] for each in FORMATS)}.")
    return suffix


def _videos(arguments: argparse.Namespace, wanted: OutputOptions) -> int:
    from reflectzoo.inference.video import run_video

    if not all(is_video(word) for word in arguments.input):
        raise UserError("Give videos or photographs in one command, not both.")
    if len(arguments.input) > 1 and arguments.output is not None and not arguments.output.is_dir():
        raise UserError(f"-o {quoted_path(arguments.output)} must be a folder for several videos.")
    separator = make_separator(arguments)
    for word in arguments.input:
        run_video(word, arguments.output, separator, wanted, arguments.steady)
    return 0


def _watch(arguments: argparse.Namespace, wanted: OutputOptions) -> int:
    from reflectzoo.inference.watch import watch_folder

    separator = make_separator(arguments)
    return watch_folder(
        arguments.input,
        arguments.output,
        arguments.recursive,
        wanted,
        lambda tasks: run_tasks(tasks, separator, replace(wanted, skip_existing=True)),
    )


def run(arguments: argparse.Namespace) -> int:
    """Remove reflections.

    Returns:
        The exit status: 0 on success; 1 if any of several photographs failed; 2 if the only one failed.
    """
    most = None if arguments.max_pixels is None else parse_pixels(str(arguments.max_pixels))
    wanted = OutputOptions(
        arguments.reflection,
        arguments.side_by_side,
        arguments.strength,
        arguments.overwrite,
        most,
        skip_existing=getattr(arguments, "skip_existing", False),
        keep_dates=getattr(arguments, "keep_dates", False),
        suffix=_suffix(getattr(arguments, "format", None)),
        quality=next((each for each in reversed(_qualities(arguments)) if isinstance(each, int)), None),
    )
    spread = getattr(arguments, "engine", "local") == "ray"
    streams = STREAM in arguments.input or any(is_video(word) for word in arguments.input)
    if spread and (streams or getattr(arguments, "watch", False)):
        raise UserError("--engine ray takes photographs and folders: leave it out for videos, - and --watch.")
    if STREAM in arguments.input:
        if len(arguments.input) > 1:
            raise UserError("- stands for the one photograph on standard input: give no others with it.")
        return run_pipe(make_separator(arguments), wanted, arguments.output)
    if any(is_video(word) for word in arguments.input):
        return _videos(arguments, wanted)
    if getattr(arguments, "watch", False):
        return _watch(arguments, wanted)
    tasks = find_tasks(arguments.input, arguments.output, arguments.recursive, wanted)
    if spread:
        from reflectzoo.inference.spread import run_on_ray

        return run_on_ray(tasks, arguments, wanted)
    separator = make_separator(arguments)
    if arguments.untrained and arguments.weights is None:
        sys.stderr.write("reflectzoo: --untrained: this model is not trained, so its output is noise.\n")
    return run_tasks(tasks, separator, wanted)
