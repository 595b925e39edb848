"""Processes of a distributed training: their ranks, a common output folder, and their final error messages."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import sys
import time
from collections.abc import Callable, Mapping
from datetime import timedelta
from pathlib import Path
from typing import NamedTuple

from reflectzoo.core.disk import write_text
from reflectzoo.errors import UserError

_PATIENCE = 300.0
_agreed: dict[tuple[str, ...], str] = {}
_INTERACTIVE = ("bash", "interactive")


def external_rank(environment: Mapping[str, str] | None = None) -> tuple[int, int] | None:
    """Rank of this process and number of processes if torchrun or srun started them; None if reflectzoo starts them.

    Args:
        environment: environment variables; defaults to ``os.environ``.
    """
    given = os.environ if environment is None else environment
    if "TORCHELASTIC_RUN_ID" in given and "RANK" in given and "WORLD_SIZE" in given:
        return int(given["RANK"]), int(given["WORLD_SIZE"])
    # As in Lightning: within an interactive allocation, srun has not started any processes yet.
    if "SLURM_NTASKS" in given and "SLURM_PROCID" in given and given.get("SLURM_JOB_NAME") not in _INTERACTIVE:
        return int(given["SLURM_PROCID"]), int(given["SLURM_NTASKS"])
    return None


def slurm_job() -> str | None:
    """Name by which ``scontrol`` knows the SLURM batch job that this process belongs to; None outside one."""
    if "SLURM_JOB_ID" not in os.environ or os.environ.get("SLURM_JOB_NAME") in _INTERACTIVE:
        return None
    array, task = os.environ.get("SLURM_ARRAY_JOB_ID"), os.environ.get("SLURM_ARRAY_TASK_ID")
    return f"{array}_{task}" if array and task else os.environ["SLURM_JOB_ID"]


def job_name() -> str | None:
    """Name of a job that can be started again by SLURM or torchrun, the same each time; None for any other process."""
    command = hashlib.sha256("\0".join(sys.argv[1:]).encode()).hexdigest()[:8]
    if slurm_job() is not None:
        return f"{os.environ['SLURM_JOB_ID']}.{os.environ.get('SLURM_STEP_ID', 'batch')}.{command}"
    if os.environ.get("TORCHELASTIC_MAX_RESTARTS", "0") != "0" and external_rank() is not None:
        return f"{os.environ['TORCHELASTIC_RUN_ID']}.{command}"
    return None


def restarts() -> int:
    """How often SLURM (after a requeue) or torchrun (``--max-restarts``) has started this job again."""
    counts = (os.environ.get(name, "0") for name in ("TORCHELASTIC_RESTART_COUNT", "SLURM_RESTART_COUNT"))
    return sum(int(count) for count in counts if count.isdigit())


def share_choice(choose: Callable[[], str], output_dir: Path, question: tuple[str, ...], lasting: bool = False) -> str:
    """Share the choice of rank 0, such as a folder named after the time, with all processes of a job.

    Uses torchrun's key-value store, or under SLURM a file below ``output_dir``, which all nodes must share anyway.

    Args:
        choose: called only in rank 0, or in the only process.
        output_dir: folder of all runs.
        question: cache key: with several processes, later calls with the same key return the same answer.
        lasting: whether the answer holds for a job that is started again, too (:func:`restarts`).

    Raises:
        UserError: if rank 0 has not answered within five minutes, or torchrun's store is not available.
    """
    known = _agreed.get(question)
    if known is not None:
        return known
    rank, count = external_rank() or (0, 1)
    job, number, torchrun = job_name(), len(_agreed), "TORCHELASTIC_RUN_ID" in os.environ
    if count == 1 and (job is None or not lasting):
        return choose()
    file = output_dir / ".jobs" / f"{job}.{'all' if lasting else restarts()}.{number}"

    def first() -> str:
        if lasting and job is not None and restarts() > 0:
            with contextlib.suppress(OSError):
                return file.read_text(encoding="utf-8")
        answer = choose()
        if job is not None or not torchrun:
            write_text(file, answer)
        return answer

    if torchrun:
        answer = _by_store(first, rank, str(number))
    elif rank == 0:
        answer = first()
    else:
        answer = _by_file(file)
    _agreed[question] = answer
    return answer


def meet_anew() -> None:
    """Let processes that torchrun has started again meet at another port.

    In torchrun's store PyTorch would find the addresses of the dead processes.
    """
    here, agents = external_rank(), "TORCHELASTIC_USE_AGENT_STORE"
    if here is None or os.environ.get("TORCHELASTIC_RESTART_COUNT", "0") == "0" or os.environ.get(agents) != "True":
        return
    from torch.distributed.elastic.utils.distributed import get_free_port

    port = _by_store(lambda: str(get_free_port()), here[0], "port")  # type: ignore[no-untyped-call]
    os.environ.update({"MASTER_PORT": port, agents: "False"})


def _by_store(choose: Callable[[], str], rank: int, name: str) -> str:
    from torch.distributed import DistError, TCPStore  # type: ignore[attr-defined]

    key = f"reflectzoo/{os.environ.get('TORCHELASTIC_RESTART_COUNT', '0')}/{name}"
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


def _by_file(file: Path) -> str:
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


class ExitMessage(NamedTuple):
    """Final error message of a process that ended early.

    Attributes:
        text: a sentence.
        status: exit status of the process.
        hearsay: whether the process was interrupted or lost a peer, so that the actual cause lies elsewhere.
    """

    text: str
    status: int
    hearsay: bool


def write_exit_message(word: ExitMessage) -> bool:
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


_LOST = ".lost-"


def first_to_tell(folder: Path | None) -> bool:
    """Whether this process is the one of its node to say that a peer died, where torchrun or srun started them.

    The first one to create a file in the run's folder, as any of them may be the one that died.

    Args:
        folder: of the run; None if there is none, where the first process of each node is the one.
    """
    node = os.environ.get("GROUP_RANK", os.environ.get("SLURM_NODEID", "0"))
    if folder is not None:
        try:
            (folder / f"{_LOST}{node}").touch(exist_ok=False)
        except FileExistsError:
            return False
        except OSError:  # a folder that cannot be written to (any more)
            pass
        else:
            return True
    return os.environ.get("LOCAL_RANK", os.environ.get("SLURM_LOCALID", "0")) == "0"


def forget_lost(folder: Path) -> None:
    """Remove what :func:`first_to_tell` left in a run's folder. Only for its holder."""
    for file in folder.glob(f"{_LOST}*"):
        file.unlink(missing_ok=True)


def read_exit_message(folder: Path, rank: int) -> ExitMessage | None:
    """Read the final error message of the process with that rank; None if it left none."""
    try:
        return ExitMessage(*json.loads((folder / f"{rank}.json").read_text(encoding="utf-8")))
    except (OSError, ValueError):
        return None
