"""Distribute photographs over a Ray cluster of machines or processes, any of which may fail."""

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
from reflectzoo.inference.batch import Outcome, OutputOptions, ProgressCallback, Task, outcome_of, report
from reflectzoo.photo.files import quoted_path

TRIES = 3
"""Maximum number of attempts per photograph, if its process dies each time."""


class Worker:
    """One process of the cluster, with its own copy of the network.

    Args:
        arguments: the parsed command line, from which the network is built.
        wanted: options for the results.
    """

    def __init__(self, arguments: argparse.Namespace, wanted: OutputOptions) -> None:
        self.arguments, self.wanted = arguments, wanted
        self.separator: Any = None

    def ready(self) -> tuple[str, str | None]:
        """Build the network; return this machine's version of reflectzoo, and an error message or None."""
        from reflectzoo.inference.commands.remove import make_separator

        try:
            self.separator = make_separator(self.arguments)
        except UserError as error:
            return reflectzoo.__version__, str(error)
        return reflectzoo.__version__, None

    def separate(self, task: Task) -> Outcome:
        """Separate one photograph, after building the network if :meth:`ready` was not called."""
        if self.separator is None:
            self.ready()
        return outcome_of(task, self.separator, self.wanted)


def run_on_ray(tasks: Sequence[Task], arguments: argparse.Namespace, wanted: OutputOptions) -> int:
    """Separate photographs on a Ray cluster, with the same guarantees as in one process.

    The worker processes write the results atomically, so every machine must have the folders under the same paths.
    Existing results are only replaced with ``overwrite``. If a process dies, its photograph is given to another one, up
    to :data:`TRIES` times in all, unless results were already written; failures are listed at the end.

    Args:
        tasks: see :func:`~reflectzoo.inference.batch.find_tasks`.
        arguments: the parsed command line: options of the model, ``ray_address`` (None takes ``RAY_ADDRESS``, or else
            starts a temporary cluster on this machine) and ``workers`` (None: one per GPU, or else one per core).
        wanted: options for the results.

    Returns:
        The exit code, as from :func:`~reflectzoo.inference.batch.run_tasks`.

    Raises:
        UserError: if Ray is not installed, the cluster is not available, or the network cannot be built.
        Interrupted: after Ctrl-C; every result written so far is complete.
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
    # Neither usage statistics nor a warning about GPUs hidden from processes that request none.
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    try:
        import ray
    except ModuleNotFoundError as error:
        raise UserError("--engine ray needs Ray: pip install 'reflectzoo[ray]'.") from error
    address = arguments.ray_address or os.environ.get("RAY_ADDRESS")
    own = {} if address else {"num_cpus": arguments.workers, "include_dashboard": False}
    # Ray's processes must start within half a minute, which a busy machine may miss; the next attempt is faster.
    for attempt in range(1 if address else TRIES, 0, -1):
        try:
            ray.init(address=address, logging_level=logging.ERROR, log_to_driver=False, **own)
            break
        except Exception as error:  # Ray also raises plain exceptions
            ray.shutdown()
            if attempt > 1:
                continue
            said = next(iter(str(error).splitlines()), "") or type(error).__name__
            where = f"at {address}" if address else "of this machine"
            raise UserError(f"The Ray cluster {where} is not available: {said.rstrip('.')}.") from error
    return ray


def _spread(
    ray: Any, tasks: Sequence[Task], arguments: argparse.Namespace, wanted: OutputOptions, told: ProgressCallback
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
        told(done, 0.0, quoted_path(tasks[index].source.name))
        yield outcome


def _first_workers(ray: Any, make: Any, count: int, arguments: argparse.Namespace, wanted: OutputOptions) -> list[Any]:
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
    """Names of the files in each result folder before the run."""
    return {folder: _listed(folder) for folder in {_place(task).parent for task in tasks}}


def _place(task: Task) -> Path:
    return task.exact if task.exact is not None else task.stem


def _listed(folder: Path) -> set[str]:
    try:
        return set(os.listdir(folder))
    except OSError:
        return set()


def _after_death(task: Task, wanted: OutputOptions, before: dict[Path, set[str]], attempt: int) -> Outcome | None:
    """The outcome of a photograph whose process died; None if it should be tried again."""
    folder = _place(task).parent
    new = sorted(_listed(folder) - before[folder])
    found = [[name for name in new if _is_of(name, task, kind)] for kind in wanted.kinds]
    if all(found) and not wanted.overwrite:
        # The process died after writing its last result, and results are written atomically.
        return Outcome(tuple(str(quoted_path(folder / names[0])) for names in found))
    if any(found) and not wanted.overwrite:
        there = ", ".join(str(quoted_path(folder / names[0])) for names in found if names)
        return Outcome(
            error=(
                f"{quoted_path(task.source)}: its process died when only {there} was written: --overwrite writes all "
                "results again."
            )
        )
    if attempt >= TRIES:
        return Outcome(
            error=f"{quoted_path(task.source)}: {TRIES} processes died with it, most likely because memory ran out: "
            "use fewer --workers, or a smaller --memory."
        )
    return None


def _is_of(name: str, task: Task, kind: str) -> bool:
    if task.exact is not None:
        return name == task.target(kind, "").name
    prefix = f"{task.stem.name}.{kind}."
    return name.startswith(prefix) and "." not in name[len(prefix) :]
