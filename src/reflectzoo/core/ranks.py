"""Processes of one training: who is which, how they agree on a folder, and what they say when they end early."""

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
    """This process's number and how many there are, if torchrun or srun started them all; None if we start them.

    Args:
        environment: variables; the process's own when None.
    """
    given = os.environ if environment is None else environment
    if "TORCHELASTIC_RUN_ID" in given and "RANK" in given and "WORLD_SIZE" in given:
        return int(given["RANK"]), int(given["WORLD_SIZE"])
    # As Lightning has it: within an interactive allocation nobody has started anything yet.
    if (
        "SLURM_NTASKS" in given
        and "SLURM_PROCID" in given
        and given.get("SLURM_JOB_NAME") not in ("bash", "interactive")
    ):
        return int(given["SLURM_PROCID"]), int(given["SLURM_NTASKS"])
    return None


def agreed(choose: Callable[[], str], output_dir: Path, question: tuple[str, ...]) -> str:
    """What the first process chooses, in all processes of a job; each would choose by its own clock.

    Within torchrun by its own store, within SLURM by a file below ``output_dir``, which all see, as they must anyway.

    Args:
        choose: is called once, in the first process or in the only one.
        output_dir: where runs are kept.
        question: what it is about; asked again, the answer stays the same.

    Raises:
        UserError: if the first process has not answered in five minutes.
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
        # torchrun itself holds the store; it is there before any of us.
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
"""Variable with the folder in which processes that a training started itself leave their last words."""


class Farewell(NamedTuple):
    """What a process had to say when it ended early.

    Attributes:
        text: a sentence.
        status: its exit status.
        hearsay: whether it only noticed that another process was gone.
    """

    text: str
    status: int
    hearsay: bool


def say_farewell(word: Farewell) -> bool:
    """Leave a sentence for the first process, which speaks for all that it started.

    Returns:
        False if this is the first process, or that one has ended: nobody will read it.
    """
    folder, rank = os.environ.get(FAREWELLS), os.environ.get("LOCAL_RANK", "0")
    if folder is None or rank == "0" or not os.path.isdir(folder) or os.getppid() != _PARENT:
        return False
    write_text(Path(folder) / f"{rank}.json", json.dumps(word))
    return True


_PARENT = os.getppid()


def farewell(folder: Path, rank: int) -> Farewell | None:
    """What the process of that number said; None if nothing."""
    try:
        return Farewell(*json.loads((folder / f"{rank}.json").read_text(encoding="utf-8")))
    except (OSError, ValueError):
        return None
