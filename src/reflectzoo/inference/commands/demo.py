"""``reflectzoo demo``: serve a web page to this machine only."""

from __future__ import annotations

import argparse
import os
import shutil
import signal
import sys
import tempfile
import threading
from pathlib import Path
from typing import Annotated

from annotated_types import Ge, Le

from reflectzoo.core.settings import check_value
from reflectzoo.errors import Interrupted, UserError
from reflectzoo.inference.demo import DemoService, import_gradio, serve
from reflectzoo.inference.load import default_model, load
from reflectzoo.inference.separator import Separator, choose_device, parse_bytes

#: Grace period in seconds for the current tile to finish after Ctrl-C.
_PATIENCE = 5.0

EPILOG = """examples:
  reflectzoo demo                                                             with the packaged weights
  reflectzoo demo --weights checkpoints/last.ckpt
  reflectzoo demo --weights ytmt.safetensors --weights corrn.safetensors      lets you choose on the page
  reflectzoo demo --untrained --model ytmt_ucs                                to see the page; the results are noise

Needs pip install 'reflectzoo[demo]'. The page is available on this machine only, and nothing leaves it. Ctrl-C stops it
and deletes all its files.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments to a parser."""
    parser.add_argument("--weights", metavar="FILE", action="append", default=[], help="weights; can be repeated")
    parser.add_argument("--model", metavar="NAME", help="method (default: that of the weights)")
    parser.add_argument("--untrained", action="store_true", help="use an untrained model, whose output is noise")
    parser.add_argument(
        "--override",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="override of the model, e.g. model.net.width=32",
    )
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1, mps (default %(default)s)")
    parser.add_argument("--memory", metavar="SIZE", help="memory limit, e.g. 2G")
    parser.add_argument("--port", type=int, help="default: the first free port from 7860")
    parser.add_argument("--no-browser", action="store_true", help="do not open a browser")


def run(arguments: argparse.Namespace) -> int:
    """Serve the page until Ctrl-C, and delete all of its files; returns the exit status 0."""
    choose_device(arguments.device)
    check_value("--port", arguments.port, Annotated[int, Ge(1), Le(65535)] | None)
    if threading.current_thread() is threading.main_thread():
        # SIGTERM must remove the files as well.
        signal.signal(signal.SIGTERM, signal.default_int_handler)
    with tempfile.TemporaryDirectory(prefix="reflectzoo-demo-") as folder:
        uploads, results = Path(folder) / "page", Path(folder) / "results"
        results.mkdir()
        gradio = import_gradio(uploads)
        separators = _separators(arguments)
        learnt = bool(arguments.weights) or not arguments.untrained
        desk = DemoService(separators, results)
        served = serve(desk, gradio, port=arguments.port, browser=not arguments.no_browser, learnt=learnt)
        sys.stdout.write(f"{served.local_url}  (Ctrl-C to stop)\n")
        sys.stdout.flush()
        try:
            threading.Event().wait()
        except (KeyboardInterrupt, Interrupted):
            pass
        finally:
            idle = desk.close(0)
            served.close(verbose=False)
            if not idle and not desk.close(_PATIENCE):
                # A thread that still runs a network would crash with a traceback on interpreter shutdown.
                shutil.rmtree(folder, ignore_errors=True)
                sys.stdout.flush()
                os._exit(0)
    return 0


def _separators(arguments: argparse.Namespace) -> dict[str, Separator]:
    memory = None if arguments.memory is None else parse_bytes(arguments.memory)
    if len(arguments.weights) > 1 and (arguments.model or arguments.override):
        raise UserError("Leave out --model and --override with several --weights: each file names its own model.")
    model = arguments.model
    if model is None and not arguments.weights:
        if arguments.untrained:
            raise UserError("Say which model to show untrained: --model NAME.")
        model = default_model()
    found: dict[str, Separator] = {}
    for weights in arguments.weights or [None]:
        network = load(model, weights, tuple(arguments.override), arguments.untrained)
        name = f"{network.name} (untrained)" if weights is None and arguments.untrained else network.name
        if name in found:
            name = f"{name}, {Path(weights).name}"
        found[name] = Separator(network, arguments.device, "32", memory)
    return found
