"""Photographs over a Ray cluster: many machines, or many processes of one, any of which may die."""

from __future__ import annotations

import argparse
import logging
import os
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import reflectzoo
from reflectzoo.errors import UserError
from reflectzoo.inference.batch import Outcome, Task, Told, Wanted, outcome_of, report
from reflectzoo.photo.files import shown

TRIES = 3
"""So often a photograph is given to a process; each time the process died with it."""


class Worker:
    """One process of the cluster, with a network of its own.

    Args:
        arguments: the command line, from which it makes the network.
        wanted: what to write.
    """

    def __init__(self, arguments: argparse.Namespace, wanted: Wanted) -> None:
        self.arguments, self.wanted = arguments, wanted
        self.separator: Any = None

    def ready(self) -> tuple[str, str | None]:
        """The version of reflectzoo here, and why this process cannot work; None if it can."""
        from reflectzoo.inference.commands.remove import make_separator

        try:
            self.separator = make_separator(self.arguments)
        except UserError as error:
            return reflectzoo.__version__, str(error)
        return reflectzoo.__version__, None

    def separate(self, task: Task) -> Outcome:
        """Separate one photograph."""
        if self.separator is None:
            self.ready()
        return outcome_of(task, self.separator, self.wanted)


def run_on_ray(tasks: Sequence[Task], arguments: argparse.Namespace, wanted: Wanted) -> int:
    """Separate photographs on a Ray cluster, with the guarantees of one process.

    Results are written whole or not at all, by the processes themselves, so every machine must see the folders under
    the same paths. Nothing is overwritten. A photograph whose process dies is given to another one, at most
    :data:`TRIES` times, unless its results are there already; a broken one is named at the end.

    Args:
        tasks: see :func:`~reflectzoo.inference.batch.find_tasks`.
        arguments: the command line: the model's, ``ray_address`` (None: of ``RAY_ADDRESS``, else a cluster of this
            machine alone, for as long as it takes) and ``workers`` (None: one a GPU, else one a core).
        wanted: what to write.

    Returns:
        As :func:`~reflectzoo.inference.batch.run_tasks`.

    Raises:
        UserError: if Ray is not installed, the cluster is not there, or the network cannot be made.
        Interrupted: after Ctrl-C; what is written is complete.
    """
    whole = [
        replace(task, source=task.source.absolute(), stem=task.stem.absolute(), exact=_absolute(task.exact))
        for task in tasks
    ]
    ray = _connect(arguments)
    try:
        return report(len(whole), lambda told: _spread(ray, whole, arguments, wanted, told))
    finally:
        ray.shutdown()


def _absolute(path: Path | None) -> Path | None:
    return None if path is None else path.absolute()


def _connect(arguments: argparse.Namespace) -> Any:
    if arguments.workers is not None and arguments.workers < 1:
        raise UserError(f"--workers must be at least 1, got {arguments.workers}.")
    # It would ask, and start a web page; nobody asked for either.
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    try:
        import ray
    except ModuleNotFoundError as error:
        raise UserError("--engine ray needs Ray: pip install 'reflectzoo[ray]'.") from error
    address = arguments.ray_address or os.environ.get("RAY_ADDRESS")
    own = {} if address else {"num_cpus": arguments.workers, "include_dashboard": False}
    # Ray gives its own processes half a minute to start, too little on a busy machine; the next time they are quicker.
    for attempt in range(1 if address else TRIES, 0, -1):
        try:
            ray.init(address=address, logging_level=logging.ERROR, log_to_driver=False, **own)
            break
        except Exception as error:  # Ray raises plain ones, too
            ray.shutdown()
            if attempt > 1:
                continue
            said = next(iter(str(error).splitlines()), "") or type(error).__name__
            where = f"at {address}" if address else "of this machine"
            raise UserError(f"The Ray cluster {where} is not available: {said.rstrip('.')}.") from error
    return ray


def _spread(
    ray: Any, tasks: Sequence[Task], arguments: argparse.Namespace, wanted: Wanted, told: Told
) -> Iterator[Outcome]:
    gpu = 1 if ray.cluster_resources().get("GPU", 0) and arguments.device != "cpu" else 0
    here = ray.cluster_resources().get("GPU" if gpu else "CPU", 1)
    count = min(arguments.workers or max(int(here), 1), len(tasks))
    make = ray.remote(num_cpus=1, num_gpus=gpu)(Worker)
    idle = deque(_first_workers(ray, make, count, arguments, wanted))
    before = _names(tasks)
    waiting = deque((index, 1) for index in range(len(tasks)))
    running: dict[Any, tuple[Any, int, int]] = {}
    done = 0
    while waiting or running:
        while waiting and idle:
            index, attempt = waiting.popleft()
            worker = idle.popleft()
            running[worker.separate.remote(tasks[index])] = (worker, index, attempt)
        (finished, *_), _ = ray.wait(list(running), num_returns=1)
        worker, index, attempt = running.pop(finished)
        try:
            outcome = ray.get(finished)
        except ray.exceptions.RayActorError:
            idle.append(make.remote(arguments, wanted))
            outcome = _after_death(tasks[index], wanted, before, attempt)
            if outcome is None:
                waiting.appendleft((index, attempt + 1))
                continue
        else:
            idle.append(worker)
        done += 1
        told(done, 0.0, shown(tasks[index].source.name))
        yield outcome


def _first_workers(ray: Any, make: Any, count: int, arguments: argparse.Namespace, wanted: Wanted) -> list[Any]:
    workers = [make.remote(arguments, wanted) for _ in range(count)]
    try:
        answers = ray.get([worker.ready.remote() for worker in workers])
    except ray.exceptions.RayActorError as error:
        raise UserError(
            "A process of the Ray cluster died while it read the network, most likely because memory ran out: use "
            "fewer --workers, or a smaller --memory."
        ) from error
    for version, fault in answers:
        if fault is not None:
            raise UserError(fault)
        if version != reflectzoo.__version__:
            raise UserError(
                f"A machine of the Ray cluster has reflectzoo {version}, this one {reflectzoo.__version__}: install "
                "the same everywhere."
            )
    return workers


def _names(tasks: Sequence[Task]) -> dict[Path, set[str]]:
    """What lies in the folders of the results before the work."""
    return {folder: _listed(folder) for folder in {_place(task).parent for task in tasks}}


def _place(task: Task) -> Path:
    return task.exact if task.exact is not None else task.stem


def _listed(folder: Path) -> set[str]:
    try:
        return set(os.listdir(folder))
    except OSError:
        return set()


def _after_death(task: Task, wanted: Wanted, before: dict[Path, set[str]], attempt: int) -> Outcome | None:
    """What became of a photograph whose process died; None if another one is to try."""
    folder = _place(task).parent
    new = sorted(_listed(folder) - before[folder])
    found = [[name for name in new if _is_of(name, task, kind)] for kind in wanted.kinds]
    if all(found) and not wanted.overwrite:
        # It died between its last file and its answer; files are whole or not there.
        return Outcome(tuple(str(shown(folder / names[0])) for names in found))
    if any(found) and not wanted.overwrite:
        there = ", ".join(str(shown(folder / names[0])) for names in found if names)
        return Outcome(
            error=(
                f"{shown(task.source)}: its process died when only {there} was written: --overwrite writes all "
                "results again."
            )
        )
    if attempt >= TRIES:
        return Outcome(
            error=f"{shown(task.source)}: {TRIES} processes died with it, most likely because memory ran out: use "
            "fewer --workers, or a smaller --memory."
        )
    return None


def _is_of(name: str, task: Task, kind: str) -> bool:
    if task.exact is not None:
        return name == task.target(kind, "").name
    prefix = f"{task.stem.name}.{kind}."
    return name.startswith(prefix) and "." not in name[len(prefix) :]
