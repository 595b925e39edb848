"""Processes of a distributed training: their ranks, a common output folder, and their final error messages."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Mapping
from datetime import timedelta
from pathlib import Path
from typing import NamedTuple

from reflectzoo.core.disk import write_text
from reflectzoo.errors import UserError

_PATIENCE = 300.0
_agreed: dict[tuple[str, ...], str] = {}


def started_outside(environment: Mapping[str, str] | None = None) -> tuple[int, int] | None:
    """Rank of this process and number of processes if torchrun or srun started them; None if reflectzoo starts them.

    Args:
        environment: environment variables; defaults to ``os.environ``.
    """
    given = os.environ if environment is None else environment
    if "TORCHELASTIC_RUN_ID" in given and "RANK" in given and "WORLD_SIZE" in given:
        return int(given["RANK"]), int(given["WORLD_SIZE"])
    # As in Lightning: within an interactive allocation, srun has not started any processes yet.
    if (
        "SLURM_NTASKS" in given
        and "SLURM_PROCID" in given
        and given.get("SLURM_JOB_NAME") not in ("bash", "interactive")
    ):
        return int(given["SLURM_PROCID"]), int(given["SLURM_NTASKS"])
    return None


def agreed(choose: Callable[[], str], output_dir: Path, question: tuple[str, ...]) -> str:
    """Share the choice of rank 0, such as a folder named after the time, with all processes of a job.

    Uses torchrun's key-value store, or under SLURM a file below ``output_dir``, which all nodes must share anyway.

    Args:
        choose: called only in rank 0, or in the only process.
        output_dir: folder of all runs.
        question: cache key: with several processes, later calls with the same key return the same answer.

    Raises:
        UserError: if rank 0 has not answered within five minutes, or torchrun's store is not available.
    """
    known = _agreed.get(question)
    if known is not None:
        return known
    here = started_outside()
    if here is None or here[1] == 1:
        return choose()
    rank, _ = here
    number = len(_agreed)
    if "TORCHELASTIC_RUN_ID" in os.environ:
        answer = _by_store(choose, rank, number)
    else:
        answer = _by_file(choose, rank, output_dir / ".jobs" / f"{_slurm_step()}.{number}")
    _agreed[question] = answer
    return answer


def _slurm_step() -> str:
    parts = ("SLURM_JOB_ID", "SLURM_STEP_ID", "SLURM_RESTART_COUNT")
    return ".".join(os.environ.get(part, "0") for part in parts)


def _by_store(choose: Callable[[], str], rank: int, number: int) -> str:
    from torch.distributed import DistError, TCPStore  # type: ignore[attr-defined]

    key = f"reflectzoo/{os.environ.get('TORCHELASTIC_RESTART_COUNT', '0')}/{number}"
    try:
        # torchrun itself hosts the store and starts it before any of its processes.
        address, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
        store = TCPStore(address, port, is_master=False, timeout=timedelta(seconds=_PATIENCE))
        if rank == 0:
            store.set(key, choose())
        return str(store.get(key).decode())
    except (DistError, KeyError, ValueError, TimeoutError) as error:
        raise UserError(
            "The processes of this torchrun cannot agree on a folder for the run: set one with hydra.run.dir=FOLDER."
        ) from error


def _by_file(choose: Callable[[], str], rank: int, file: Path) -> str:
    if rank == 0:
        answer = choose()
        write_text(file, answer)
        return answer
    start = time.monotonic()
    while time.monotonic() - start < _PATIENCE:
        try:
            return file.read_text(encoding="utf-8")
        except OSError:
            time.sleep(0.1)
    raise UserError(
        f"The first process of this job has not written the run's folder to {file}: make sure that every node sees "
        "that file, or set hydra.run.dir=FOLDER."
    )


FAREWELLS = "REFLECTZOO_FAREWELLS"
"""Environment variable with the folder for the final error messages of child processes."""


class Farewell(NamedTuple):
    """Final error message of a process that ended early.

    Attributes:
        text: a sentence.
        status: exit status of the process.
        hearsay: whether the process was interrupted or lost a peer, so that the actual cause lies elsewhere.
    """

    text: str
    status: int
    hearsay: bool


def say_farewell(word: Farewell) -> bool:
    """Write a child process's final error message to a file, for rank 0 to report.

    Returns:
        Whether it was written: false in rank 0, or if rank 0 has already exited and nobody would read it.
    """
    folder, rank = os.environ.get(FAREWELLS), os.environ.get("LOCAL_RANK", "0")
    if folder is None or rank == "0" or not os.path.isdir(folder) or os.getppid() != _PARENT:
        return False
    write_text(Path(folder) / f"{rank}.json", json.dumps(word))
    return True


_PARENT = os.getppid()


def farewell(folder: Path, rank: int) -> Farewell | None:
    """Read the final error message of the process with that rank; None if it left none."""
    try:
        return Farewell(*json.loads((folder / f"{rank}.json").read_text(encoding="utf-8")))
    except (OSError, ValueError):
        return None
