"""Evaluation from beginning to end: plan, score the remaining pictures, average, write."""

from __future__ import annotations

import json
import platform
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import pytorch_lightning as pl
import torch
import torch.distributed as dist

import reflectzoo
from reflectzoo.core.disk import write_text
from reflectzoo.errors import Interrupted, LostProcess, TrainingError, UserError, lost_process_error
from reflectzoo.evaluation.benchmark import AVERAGES, Benchmark, BenchmarkData, EvaluationSet
from reflectzoo.evaluation.candidates import Candidate, InputCandidate, make_names_unique
from reflectzoo.evaluation.predictions import PredictionsCandidate
from reflectzoo.evaluation.protocol import Protocol
from reflectzoo.evaluation.results import (
    PLAN,
    Row,
    averages,
    check_same_plan,
    fingerprint,
    read_rows,
    write_results,
)
from reflectzoo.evaluation.scorer import Masks, Scorer
from reflectzoo.training.processes import supervise_processes

_NAMED = 10
"""Largest number of missing, and of extra, predictions that are listed individually."""

CandidateFactory = Callable[[Sequence[EvaluationSet], Protocol], Candidate]


def run_benchmark(
    benchmark: Benchmark,
    protocol: Protocol,
    entries: Sequence[Candidate | CandidateFactory],
    folder: str | Path,
    trainer: Callable[..., pl.Trainer] = pl.Trainer,
    *,
    masks: str | Path | None = None,
    save_pictures: bool = False,
    num_workers: int | Literal["auto"] = "auto",
    configuration: Mapping[str, Any] | None = None,
    command: Sequence[str] = (),
    say: Callable[[str], None] = lambda _line: None,
) -> dict[str, Any]:
    """Evaluate networks, predictions produced elsewhere, and the untouched input on a benchmark.

    Args:
        benchmark: the pictures.
        protocol: defines the scores.
        entries: besides the input, which always comes first. An entry whose construction requires the pictures
            (:class:`~reflectzoo.evaluation.predictions.PredictionsCandidate`) is given as a function of sets and
            protocol.
        folder: run folder. If it contains an unfinished evaluation with the same plan (entries, protocol, pictures,
            masks, precision), the run resumes from there.
        trainer: creates the Trainer from ``callbacks`` and other arguments; choose devices and precision here.
        masks: folder of regions for SSIMr and SIr.
        save_pictures: save predictions, mixtures and ground truth as PNG files.
        num_workers: worker processes that read pictures.
        configuration: to be recorded in the result.
        command: overrides, to be recorded in the result.
        say: called with one-line messages on the progress.

    Returns:
        The content of ``results.json``, see :mod:`reflectzoo.evaluation.results`.

    Raises:
        UserError: if the arguments do not fit each other, or ``folder`` contains another evaluation.
        TrainingError: if a network cannot be run, a process is lost, or scores are missing from ``folder`` at the end.
        Interrupted: after Ctrl-C; everything scored so far is kept.
    """
    from reflectzoo.evaluation.progress import EvaluationProgress

    folder = Path(folder)
    sets = benchmark.open(protocol)
    regions = Masks(masks, sets) if masks is not None else None
    # First of all, since a score may need weights that are not available.
    scores = protocol.scores(regions is not None)
    made: list[Candidate] = [InputCandidate()]
    made += [entry if isinstance(entry, Candidate) else entry(sets, protocol) for entry in entries]
    make_names_unique(made)
    say(f"Protocol {protocol}")
    scored = sum(len(each.pictures) for each in sets)
    if benchmark.left_out:
        say(
            f"{scored} of {scored + benchmark.left_out} pictures can be scored; the reasons for the others are given "
            "above"
        )
    for sentence in _remarks(sets, made):
        say(sentence)

    quiet: dict[str, Any] = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    progress = EvaluationProgress()
    runner = trainer(callbacks=[progress], **quiet)
    plan = _plan(benchmark, sets, protocol, made, regions, save_pictures, str(runner.precision))
    folder.mkdir(parents=True, exist_ok=True)
    if (folder / PLAN).is_file():
        check_same_plan(folder, plan)
    elif runner.global_rank == 0:
        write_text(folder / PLAN, _dump(plan))
    # Every process reads the rows before any of them writes: they synchronise when the Trainer starts.
    done = read_rows(folder)
    names = {entry.name for entry in made}
    done = {key: row for key, row in done.items() if key[0] in names}
    remaining = [
        [
            place
            for place, picture in enumerate(each.pictures)
            if any(
                entry.has(each.name, picture.name) and (entry.name, each.name, picture.name) not in done
                for entry in made
            )
        ]
        for each in sets
    ]
    if done:
        left = sum(map(len, remaining))
        say(f"{len(done)} scores of pictures are already in '{folder}', {left} pictures are left")
    scorer = Scorer(made, sets, protocol, scores, done, folder, regions, save_pictures)
    progress.expect([each.pixels(places, protocol) for each, places in zip(sets, remaining, strict=True)])
    if any(remaining):
        _score(runner, scorer, BenchmarkData(sets, remaining, num_workers), folder)
    rows = _in_order(folder, made, sets)
    results: dict[str, Any] = {
        "complete": benchmark.limit is None
        and not any(isinstance(each, PredictionsCandidate) and each.missing for each in made),
        "version": reflectzoo.__version__,
        "command": list(command),
        "configuration": dict(configuration or {}),
        "environment": {
            "python": platform.python_version(),
            "torch": torch.__version__,
            "device": _device(runner),
            "precision": str(runner.precision),
            "processes": runner.world_size,
        },
        "fingerprint": fingerprint(plan),
        "benchmark": {
            "name": benchmark.name,
            "average": AVERAGES.get(frozenset(each.name for each in sets)),
            "left_out": [notice.sentence for notice in benchmark.notices],
            "left_out_pictures": benchmark.left_out,
            "limit": benchmark.limit,
            "masks": str(masks) if masks is not None else None,
        },
        "sets": [{key: value for key, value in each.record().items() if key != "files"} for each in sets],
        "protocol": {**protocol.record(), "in_words": str(protocol)},
        "metrics": [score.describe() for score in scores.values()],
        "entries": [entry.record() for entry in made],
        "images": rows,
        "averages": averages(
            rows,
            [entry.name for entry in made],
            {each.name: len(each.pictures) for each in sets},
            protocol,
            list(scores),
        ),
    }
    if runner.global_rank == 0:
        write_results(folder, results)
    return results


def _score(runner: pl.Trainer, scorer: Scorer, data: BenchmarkData, folder: Path) -> None:
    def going_on() -> str:
        kept = len(read_rows(folder))
        again = f"the same command with resume={folder} continues from there"
        return f"{kept} scores of pictures are saved in '{folder}'; {again}"

    supervise_processes(runner, going_on)
    try:
        runner.test(scorer, data, verbose=False)
    except (SystemExit, KeyboardInterrupt) as stop:  # raised by Lightning after Ctrl-C
        scorer.close()
        raise Interrupted(f"Interrupted; {going_on()}.") from stop
    except (RuntimeError, LostProcess) as error:
        scorer.close()
        lost = error if isinstance(error, LostProcess) else lost_process_error(str(error), runner.world_size)
        if lost is None:
            raise
        raise type(lost)(f"{lost} {going_on()}.") from error
    except (UserError, TrainingError):
        scorer.close()
        raise
    # Wait until all processes have written their rows.
    if runner.world_size > 1 and dist.is_available() and dist.is_initialized():
        dist.barrier()


def _in_order(folder: Path, entries: Sequence[Candidate], sets: Sequence[EvaluationSet]) -> list[Row]:
    rows = read_rows(folder)
    keys = [
        (entry.name, each.name, picture.name)
        for entry in entries
        for each in sets
        for picture in each.pictures
        if entry.has(each.name, picture.name)
    ]
    absent = [key for key in keys if key not in rows]
    if absent:
        raise TrainingError(
            f"{len(absent)} scores are missing in '{folder}' although every picture was processed (the first is "
            f"{absent[0]}): if processes write to different disks, give them a common one with paths.output_dir."
        )
    return [rows[key] for key in keys]


def _plan(
    benchmark: Benchmark,
    sets: Sequence[EvaluationSet],
    protocol: Protocol,
    entries: Sequence[Candidate],
    masks: Masks | None,
    save_pictures: bool,
    precision: str,
) -> dict[str, Any]:
    regions = sorted((*key, path.stat().st_size) for key, path in masks.paths.items()) if masks else None
    return {
        "benchmark": benchmark.name,
        "protocol": {key: value for key, value in protocol.record().items() if key != "source"},
        "entries": {entry.name: entry.identity() for entry in entries},
        "pictures": {each.name: each.record()["files"] for each in sets},
        "masks": [list(region) for region in regions] if regions is not None else None,
        "save_pictures": save_pictures,
        "precision": precision,
    }


def _remarks(sets: Sequence[EvaluationSet], entries: Sequence[Candidate]) -> list[str]:
    """Remarks for the user on the pictures and predictions, before scoring starts."""
    remarks = []
    for each in sets:
        record = each.record()
        wanted = record["published_images"]
        if record["images"] < record["images_found"]:
            remarks.append(f"Only {record['images']} of the {record['images_found']} pictures of {each.title} are used")
        elif wanted is not None and wanted != record["images"]:
            remarks.append(
                f"{each.title} has {record['images']} pictures here, published numbers use {wanted}: they cannot be "
                "compared directly"
            )
    for entry in entries:
        if isinstance(entry, PredictionsCandidate):
            remarks += _some(
                [
                    f"MISSING: {entry.name} has no usable prediction for '{miss['image']}' of {miss['set']} "
                    f"({miss['reason']}); it is skipped"
                    for miss in entry.missing
                ]
            )
            remarks += _some(
                [f"EXTRA: {entry.name} has '{path}', which matches no picture; it is ignored" for path in entry.extra]
            )
    return remarks


def _some(sentences: Sequence[str]) -> list[str]:
    more = len(sentences) - _NAMED
    return [*sentences[:_NAMED], *([f"... and {more} more, all listed in results.json"] if more > 0 else [])]


def _device(runner: pl.Trainer) -> str:
    device = runner.strategy.root_device
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type


def _dump(plan: Mapping[str, Any]) -> str:
    return json.dumps(plan, indent=1) + "\n"
