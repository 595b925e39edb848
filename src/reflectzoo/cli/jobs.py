"""Results of the jobs of a multirun, including those that failed or were interrupted."""

from __future__ import annotations

import functools
import json
import re
import sys
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.core.utils import filter_overrides
from hydra.experimental.callback import Callback
from hydra.types import RunMode
from omegaconf import DictConfig

from reflectzoo.cli.tables import Column, TextTable
from reflectzoo.core.disk import write_text
from reflectzoo.errors import Interrupted

RECORD = "job.json"
"""File in a job's folder with its state, overrides and error message."""
_DONE, _FAILED, _RUNNING, _STOPPED, _WAITING = "done", "failed", "not finished", "interrupted", "not started"


class Carried(BaseException):
    """Wraps an exception on its way out of Hydra, which would print its own message for an ``Exception``.

    Attributes:
        error: the original exception.
    """

    def __init__(self, error: BaseException) -> None:
        super().__init__(error)
        self.error = error


def task(work: Callable[[DictConfig], Any]) -> Callable[[DictConfig], Any]:
    """Wrap the function of a command for ``hydra.main``, so that each job of a multirun records its result.

    If a job of a multirun fails, the others still run; Ctrl-C stops all of them.

    Args:
        work: function of the composed configuration.

    Returns:
        The wrapped function. It raises :class:`Carried` for all errors of a single run, and for Ctrl-C in a multirun;
        a failed job of a multirun returns None.
    """

    @functools.wraps(work)
    def job(config: DictConfig) -> Any:
        hydra = HydraConfig.get()
        many = hydra.mode == RunMode.MULTIRUN
        record = _Record(Path(hydra.runtime.output_dir), list(hydra.overrides.task)) if many else None
        try:
            result = work(config)
        except BaseException as error:
            from reflectzoo.cli import sentence

            if record is None:
                raise Carried(error) from error
            if isinstance(error, Interrupted | KeyboardInterrupt):
                record.write(_STOPPED, str(error) or "Interrupted.")
                raise Carried(error) from error
            if not isinstance(error, Exception | SystemExit):
                raise
            told = sentence(error, record.overrides)
            if told is None:
                traceback.print_exception(error)
            text = told[0] if told is not None else f"{type(error).__name__}: {error}"
            sys.stderr.write(f"reflectzoo: job {record.folder.name}: {text}\n")
            record.write(_FAILED, text)
            return None
        if record is not None:
            record.write(_DONE)
        return result

    return job


class _Record:
    def __init__(self, folder: Path, overrides: Sequence[str]) -> None:
        self.folder, self.overrides = folder, list(overrides)
        self.write(_RUNNING)

    def write(self, state: str, text: str = "") -> None:
        content = {"state": state, "overrides": self.overrides, "text": text}
        write_text(self.folder / RECORD, json.dumps(content, indent=1) + "\n")


@dataclass(frozen=True)
class Job:
    """One job of a multirun.

    Attributes:
        name: its folder, relative to the multirun's.
        overrides: configuration overrides of the job.
        state: ``done``, ``failed``, ``interrupted``, ``not finished`` (its process was killed, or is still running) or
            ``not started``.
        text: error message; empty if there is none.
    """

    name: str
    overrides: tuple[str, ...]
    state: str
    text: str = ""


def read_jobs(folder: Path, planned: Sequence[Sequence[str]] = ()) -> list[Job]:
    """Read the jobs in the folder of a multirun, and append planned jobs that did not start.

    Args:
        folder: folder of the multirun.
        planned: overrides of each job, if they are known in advance.
    """
    found: dict[tuple[str, ...], Job] = {}
    for path in folder.rglob(RECORD):
        record = json.loads(path.read_text(encoding="utf-8"))
        overrides = tuple(record["overrides"])
        found[overrides] = Job(str(path.parent.relative_to(folder)), overrides, record["state"], record["text"])
    jobs = sorted(found.values(), key=lambda job: (len(job.name), job.name))
    for number, wanted in enumerate(planned):
        if tuple(wanted) not in found:
            jobs.append(Job(str(number), tuple(wanted), _WAITING))
    return jobs


def table(folder: Path, jobs: Sequence[Job]) -> str:
    """Format a table with one line per job, and how to resume those that are not done."""
    every = set(jobs[0].overrides).intersection(*(job.overrides for job in jobs)) if len(jobs) > 1 else set()
    rows = []
    for job in jobs:
        own = " ".join(each for each in job.overrides if each not in every)
        # The beginning suffices: the full message was printed when the job failed, and is in its record.
        rows.append([job.name, job.state, f"{own}  {re.split(r'[:;] ', job.text)[0]}".strip()])
    text = "\n".join(TextTable([Column("job"), Column("result"), Column("overrides")], rows).plain())
    done = sum(job.state == _DONE for job in jobs)
    more = ""
    if any(job.state in (_STOPPED, _RUNNING, _FAILED) for job in jobs):
        more = f"; to resume a job, use its overrides, hydra.run.dir={folder}/JOB and ckpt_path=last"
    return f"{text}\n{done} of {len(jobs)} jobs are done, in {folder}{more}\n"


class Overview(Callback):
    """Hydra callback that remembers the current multirun, so that :func:`print_job_table` can print it at its end.

    Attributes:
        folder: folder of the multirun; None if there is none.
        planned: overrides of each job; empty for sweepers other than Hydra's ``BasicSweeper``.
    """

    folder: Path | None = None
    planned: Sequence[Sequence[str]] = ()

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Remember the folder, and for Hydra's own sweeper the jobs."""
        Overview.folder = Path(str(config.hydra.sweep.dir))
        Overview.planned = _planned(config)


def _planned(config: DictConfig) -> Sequence[Sequence[str]]:
    if not str(config.hydra.sweeper.get("_target_", "")).endswith("BasicSweeper"):
        return ()
    from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
    from hydra.core.override_parser.overrides_parser import OverridesParser

    words = [f"{key}={value}" for key, value in (config.hydra.sweeper.get("params") or {}).items()]
    overrides = OverridesParser.create().parse_overrides([*words, *config.hydra.overrides.task])
    if any(override.is_sweep_override() and not override.is_discrete_sweep() for override in overrides):
        return ()  # Hydra reports this error itself
    return [filter_overrides(job) for batch in BasicSweeper.split_arguments(overrides, None) for job in batch]


def print_job_table() -> bool:
    """Print the summary table of this process's multirun to stderr, if there was one.

    Returns:
        Whether all jobs are done; true if there was no multirun.
    """
    folder, planned = Overview.folder, Overview.planned
    Overview.folder, Overview.planned = None, ()
    if folder is None or not folder.is_dir():
        return True
    jobs = read_jobs(folder, planned)
    if not jobs:
        return True
    sys.stdout.flush()
    sys.stderr.write(table(folder, jobs))
    return all(job.state == _DONE for job in jobs)
