"""Measure all results of docs/ranking.md on the data in one folder: ``make ranking DATA=../shared/data``.

Scores the untouched input, the packaged weights, a classical method without training (tools/convex_suppression.py, in
its own environment), and the given checkpoints on Real20, Nature, the scenes, CEILNet and SIR². Missing data sets are
skipped with a message.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import venv
from dataclasses import dataclass
from pathlib import Path

TOOLS = Path(__file__).resolve().parent
CONVEX = ("fast-reflection-removal==1.1", "numpy<2", "pillow")
NOTES = {
    "input": ("untouched input", ""),
    "lite": ("lite (packaged weights)", "The default of `reflectzoo remove`; its model card describes the training."),
    "lite_1": ("lite_1 (packaged before)", "The previous default weights; `model=lite_1`."),
    "convex": (
        "convex suppression (no training)",
        "Yang et al., CVPR 2019, run with the package fast-reflection-removal 1.1 and its default h = 0.03; it "
        "stretches the contrast of the result, see tools/convex_suppression.py.",
    ),
}


@dataclass(frozen=True)
class Measured:
    """One benchmark.

    Attributes:
        benchmark: choice of ``benchmark=`` in ``reflectzoo.evaluate``.
        root: folder, relative to the data.
        mixtures: folder of the mixtures, relative to ``root``; empty to skip convex suppression.
        end: suffix of the mixtures' names after the name of the picture.
        overrides: further overrides of the command.
    """

    benchmark: str
    root: str
    mixtures: str
    end: str = ""
    overrides: tuple[str, ...] = ()


MODELS = ("lite", "lite_1")
SETS = (
    Measured("real20", "real/zhang", "test/blended"),
    Measured("nature", "real/nature", "test/blended"),
    Measured("folder", "real/scenes/val", "blended", overrides=("benchmark.name=scenes",)),
    Measured("ceilnet", "ceilnet_synthetic", ".", end="-input"),
    Measured("sir2", "sir2", ""),
)


def main() -> int:
    """Measure, store the results, and generate the page.

    Returns:
        Exit status: 0, or 1 if there was nothing to measure.

    Raises:
        subprocess.CalledProcessError: if an evaluation fails.
        SystemExit: with status 2, if a result cannot be ranked.
    """
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("data", type=Path, help="folder that contains " + ", ".join(each.root for each in SETS))
    parser.add_argument("--work", type=Path, default=Path("build/ranking"), help="folder for intermediate files")
    parser.add_argument("--ckpt", default="", metavar="{NAME: FILE, ...}", help="further checkpoints to measure")
    parser.add_argument("--only", default="", metavar="BENCHMARK", help="only this benchmark")
    parser.add_argument("--models", nargs="+", default=MODELS, help="only these packaged models, and nothing else")
    arguments = parser.parse_args()
    convex = _convex_python(arguments.work / "convex") if arguments.models == MODELS else None
    measured = 0
    for each in SETS:
        root = arguments.data / each.root
        if arguments.only not in ("", each.benchmark):
            continue
        if not root.is_dir():
            _say(f"{root} does not exist: {each.benchmark} is skipped.")
            continue
        common = [f"benchmark={each.benchmark}", f"data.root={root}", "report=false", *each.overrides]
        others = []
        suppressed = arguments.work / "suppressed" / each.benchmark
        if convex is not None and each.mixtures:
            if not suppressed.is_dir():
                _run(convex, TOOLS / "convex_suppression.py", root / each.mixtures, suppressed, f"--only={each.end}")
            others.append(f"predictions={{convex: '{suppressed}'}}")
        if arguments.ckpt:
            others.append(f"ckpt={arguments.ckpt}")
        for model in arguments.models:
            run = arguments.work / "runs" / f"{each.benchmark}-{model}"
            place = f"resume={run}" if (run / "plan.json").is_file() else f"hydra.run.dir={run}"
            # Entries other than the packaged models are measured only once.
            words = [*common, f"model={model}", *(others if model == arguments.models[0] else [])]
            _run(sys.executable, "-m", "reflectzoo.evaluate", *words, place)
            _keep(run)
        measured += 1
    if measured:
        _rank()
    return 0 if measured else 1


def _convex_python(folder: Path) -> str | None:
    """Python interpreter of an environment with the classical method; None if the package cannot be installed."""
    python = folder / "bin" / "python"
    if not python.is_file():
        venv.create(folder, with_pip=True)
        try:
            _run(python, "-m", "pip", "install", "--quiet", *CONVEX)
        except subprocess.CalledProcessError:
            _say("fast-reflection-removal cannot be installed: convex suppression is skipped.")
            return None
    return str(python)


def _run(*words: object) -> None:
    subprocess.run([str(word) for word in words], check=True)


def _keep(run: Path) -> None:
    """Store all entries of a result for the page."""
    content = json.loads((run / "results.json").read_text(encoding="utf-8"))
    for entry in content["entries"]:
        title, note = NOTES.get(entry["name"], (entry["name"], ""))
        _rank("add", str(run), "--entry", entry["name"], "--title", title, *(["--note", note] if note else []))


def _rank(*words: str) -> None:
    """Run ``reflectzoo.ranking`` in this process, which saves the start of a new one each time."""
    from reflectzoo.evaluation.ranking import main as ranking

    if ranking(words):
        raise SystemExit(2)


def _say(sentence: str) -> None:
    sys.stderr.write(f"{sentence}\n")


if __name__ == "__main__":
    sys.exit(main())
