"""``python -m reflectzoo.bench.inference``: time and memory per photograph, for each method.

Each cell of the table runs in its own process, with random weights (speed does not depend on them) and the default
tiling. The time covers only the separation, not the start of Python; memory is the peak of the whole process, including
libraries and weights. A cell that exceeds ``--seconds`` stops at the end of the current tile and extrapolates its time,
naming the number of tiles measured; its memory is the peak so far, which later tiles do not exceed.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import torch

from reflectzoo.bench.measure import machine
from reflectzoo.cli import sentence
from reflectzoo.core.annotations import Count
from reflectzoo.core.registry import methods
from reflectzoo.core.settings import check_value
from reflectzoo.inference.load import load
from reflectzoo.inference.separator import Separator, parse_bytes

_SIZES = {"400x540": (400, 540), "1024x768": (768, 1024), "4000x3000": (3000, 4000)}
_CHILD_SECONDS = 3600


class _EnoughError(Exception):
    """The time limit is reached."""


def measure_inference(
    model: str, height: int, width: int, limit: float, memory: int | None, overrides: Sequence[str]
) -> dict[str, object]:
    """Measure one cell in this process.

    Args:
        model: one of :func:`reflectzoo.list_models`.
        height: height of the photograph, in pixels.
        width: width of the photograph, in pixels.
        limit: time in seconds after which to stop at the end of a tile.
        memory: as for :class:`~reflectzoo.inference.separator.Separator`.
        overrides: overrides of the model.

    Returns:
        ``seconds`` (extrapolated if fewer tiles were measured), ``tiles``, ``measured_tiles``, ``tile`` (size or None)
        and ``peak_bytes``.
    """
    module = load(model, None, ("model.vgg=random", *overrides), untrained=True)
    separator = Separator(module.enter_last_phase(), "cpu", memory=memory)
    picture = torch.rand(3, height, width, generator=torch.Generator().manual_seed(0))
    times = [time.perf_counter()]
    counts = [0, 1]

    def told(done: int, tiles: int) -> None:
        times.append(time.perf_counter())
        counts[:] = [done, tiles]
        if times[-1] - times[0] > limit and done < tiles:
            raise _EnoughError

    with contextlib.suppress(_EnoughError):
        separator.layers(picture, told)
    times.append(time.perf_counter())
    done, tiles = counts
    # Exclude the first tile, which includes the pass over the reduced picture. The others take equally long, except for
    # the last ones of rows and columns, which may be smaller.
    taken = times[-1] - times[0]
    if done < tiles:
        each = (times[done] - times[1]) / (done - 1) if done > 1 else taken
        taken += (tiles - done) * each
    job = separator.last
    return {
        "seconds": taken,
        "tiles": tiles,
        "measured_tiles": done,
        "tile": list(job.tile) if job else None,
        "peak_bytes": _peak(),
    }


def main(argv: Sequence[str] | None = None) -> int:
    """Measure all cells and print a table.

    Args:
        argv: arguments; None for those of the command line.

    Returns:
        Exit status: 0, or that of the first cell that failed.
    """
    parser = argparse.ArgumentParser(
        prog="python -m reflectzoo.bench.inference",
        description="Measure time and peak memory per photograph, for each method and size, on this machine.",
    )
    mains = [method.main for method in methods().values()]
    parser.add_argument("model", nargs="*", default=mains, help="models (default: %(default)s)")
    parser.add_argument("--size", action="append", choices=list(_SIZES), help="only these sizes")
    parser.add_argument(
        "--seconds", type=float, default=60, help="extrapolate cells that take longer (default %(default)s)"
    )
    parser.add_argument("--memory", help="as for reflectzoo remove, e.g. 2G")
    parser.add_argument("--threads", type=int, help="torch threads")
    parser.add_argument(
        "--override", action="append", default=[], help="override of the model, e.g. model.net.width=16"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the numbers there")
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args(argv)
    check_value("--threads", arguments.threads, Count | None)
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    sizes = arguments.size or list(_SIZES)
    if arguments.child:
        memory = parse_bytes(arguments.memory) if arguments.memory else None
        cell = measure_inference(arguments.model[0], *_SIZES[sizes[0]], arguments.seconds, memory, arguments.override)
        _say(json.dumps(cell))
        return 0
    here = machine()
    _say(f"{here['cpu']}, {here['threads']} threads, torch {here['torch']}, load {here['load']} at the start")
    rows = []
    for model in arguments.model:
        for size in sizes:
            command = [sys.executable, "-m", "reflectzoo.bench.inference", model, "--child", "--size", size]
            command += ["--seconds", str(arguments.seconds), "--threads", str(torch.get_num_threads())]
            command += [word for each in arguments.override for word in ("--override", each)]
            command += ["--memory", arguments.memory] if arguments.memory else []
            done = subprocess.run(command, capture_output=True, text=True, timeout=_CHILD_SECONDS, check=False)
            if done.returncode:
                _say(f"{model} {size} failed: {done.stderr.strip().splitlines()[-1]}")
                return done.returncode
            cell = json.loads(done.stdout.splitlines()[-1])
            rows.append({"model": model, "size": size, **cell})
            whole = cell["measured_tiles"] == cell["tiles"]
            note = "" if whole else f"  ESTIMATED from {cell['measured_tiles']} of {cell['tiles']} tiles"
            if whole and cell["tiles"] > 1:
                note = f"  {cell['tiles']} tiles"
            _say(f"  {model:18s} {size:>10s} {cell['seconds']:9.1f} s {cell['peak_bytes'] / 2**30:6.2f} GiB{note}")
    if arguments.json:
        arguments.json.write_text(json.dumps({"machine": here, "rows": rows}, indent=1) + "\n")
    return 0


def _peak() -> int:
    """Peak resident memory of this process, in bytes."""
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def _say(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    try:
        sys.exit(main())
    except Exception as error:
        told = sentence(error, [])
        if told is None:
            raise
        sys.stderr.write(f"reflectzoo: {told[0]}\n")
        sys.exit(told[1])
