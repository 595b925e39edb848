"""A finished evaluation, made up: two sets, three entries, nasty names, stored pictures; nothing is computed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from reflectzoo.evaluation.protocol import Protocol
from reflectzoo.evaluation.results import averages, write_results
from tests.evaluation.conftest import evaluate, noise, pairs

__all__ = ["evaluate", "pairs"]

METRICS = [
    {"key": "psnr", "title": "PSNR", "unit": "dB", "higher_is_better": True},
    {"key": "lmse", "title": "LMSE", "unit": "", "higher_is_better": False},
]
NASTY = "<script>alert(1)</script>"
ENTRIES = ("input", "ours", NASTY)
NETWORK = {"model": "m", "parameters": 12345, "path": "/x/best.ckpt", "sha256": "ab" * 32, "provenance": {"epoch": 3}}
SETS = {"real20": 25, "own": 3}


def image_names(dataset: str) -> list[str]:
    names = [f"{k}" for k in range(1, SETS[dataset] + 1)]
    return [f"a|b_{NASTY}", *names[1:]] if dataset == "own" else names


def make_run(folder: Path, shift: float = 0.0, seed: int = 0, pictures: bool = True, **changes: Any) -> Path:
    """An evaluation in which ``ours`` scores 1 dB + ``shift`` above the input, with a spread of 2 dB."""
    rng = np.random.default_rng(7)
    noisy = np.random.default_rng(seed)
    rows = []
    for entry in ENTRIES:
        for dataset in SETS:
            for index, image in enumerate(image_names(dataset)):
                base = 20 + 5 * float(np.random.default_rng(index).random())
                gain = 0.0 if entry == "input" else 1 + shift + 2 * float(noisy.standard_normal())
                stored = _store(folder, entry, dataset, index, rng) if pictures else {}
                scores = {"psnr": base + gain, "lmse": 0.01 - gain / 1000}
                rows.append(
                    {
                        **{"entry": entry, "set": dataset, "image": image, "height": 40, "width": 60},
                        **{"source_height": 40, "source_width": 60, "tags": {}, "transmission": scores},
                        **{"reflection": None, "errors": {"transmission": [0.01] * 3}, "pictures": stored},
                        "seconds": 0.1,
                    }
                )
    protocol = Protocol("plain", **changes)
    kinds = {"input": "input", "ours": "checkpoint", NASTY: "predictions"}
    results = {
        **{"complete": True, "version": "0", "command": ["benchmark=sirs"], "fingerprint": f"{shift}{seed}"},
        "configuration": {"benchmark": {"name": NASTY}},
        "environment": {"python": "3", "torch": "2", "device": "cpu", "precision": "32", "processes": 1},
        "benchmark": {"name": "sirs", "average": None, "left_out": [], "limit": None, "masks": None},
        "sets": [
            {
                **{"name": name, "title": name.title(), "images": count, "images_found": count},
                **{"published": "Real20" if name == "real20" else None, "root": "/data"},
                "published_images": 20 if name == "real20" else None,
            }
            for name, count in SETS.items()
        ],
        "protocol": {**protocol.record(), "in_words": str(protocol)},
        "metrics": METRICS,
        "entries": [
            {
                **{"name": name, "kind": kinds[name]},
                **(NETWORK if name == "ours" else {}),
            }
            for name in ENTRIES
        ],
        "images": rows,
        "averages": averages(rows, ENTRIES, SETS, protocol, [metric["key"] for metric in METRICS]),
    }  # fmt: skip
    folder.mkdir(parents=True, exist_ok=True)
    write_results(folder, results)
    return folder


def _store(folder: Path, entry: str, dataset: str, index: int, rng: np.random.Generator) -> dict[str, str]:
    kinds = ("mixture", "truth_transmission") if entry == "input" else ("transmission",)
    stored = {}
    for kind in kinds:
        path = Path("pictures") / str(ENTRIES.index(entry)) / dataset / f"{index}_{kind}.png"
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        picture = noise(40, 60, int(rng.integers(1000)))
        Image.fromarray(picture).save(folder / path)
        stored[kind] = path.as_posix()
    return stored


@pytest.fixture(scope="session")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_run(tmp_path_factory.mktemp("report") / "run")
