"""Running a command of the zoo: its exit status, and one sentence for what went wrong."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from types import ModuleType
from typing import Any, NoReturn

from reflectzoo.cli.sentences import sentence
from reflectzoo.errors import Interrupted, LostPeer, TrainingError, UserError

# Read by OpenMP when torch is loaded, which every command does after this. Threads that spin as long as by default
# make a step many times slower as soon as anything else runs on the same cores; threads that do not spin at all make
# small networks slower on a quiet machine.
os.environ.setdefault("GOMP_SPINCOUNT", "10000")


_DEBUG, _FULL_ERROR = "REFLECTZOO_DEBUG", "HYDRA_FULL_ERROR"


def debugging() -> bool:
    """Whether tracebacks are wanted: ``REFLECTZOO_DEBUG=1``, or without it Hydra's ``HYDRA_FULL_ERROR=1``."""
    return os.environ.get(_DEBUG, os.environ.get(_FULL_ERROR, "0")) not in ("", "0")


def run(command: Callable[[], Any], config_name: str = "train") -> NoReturn:
    """Run a Hydra command and exit: 0, 1 (it failed), 2 (a mistake in what was given) or 130 (Ctrl-C).

    A user's mistake is told in one sentence on stderr. Anything else is a bug and keeps its traceback; with
    ``REFLECTZOO_DEBUG=1`` everything does. After a multirun a table says what became of each job.

    Args:
        command: what to run.
        config_name: the configuration that its overrides are for.
    """
    from reflectzoo.cli import jobs

    # Hydra's argparse takes overrides in one piece only, so that -m between two of them would be an error.
    sys.argv[1:] = sorted(sys.argv[1:], key=lambda word: word not in ("-m", "--multirun"))
    verbose, before = debugging(), {name: os.environ.get(name) for name in (_DEBUG, _FULL_ERROR)}
    # Otherwise Hydra prints tracebacks of its own and exits before we can say it better. Processes that are started
    # from here are to know that nobody asked for that.
    os.environ.update({_DEBUG: str(int(verbose)), _FULL_ERROR: "1"})
    try:
        command()
    except BaseException as raised:
        error = raised.error if isinstance(raised, jobs.Carried) else raised
        jobs.tell()
        told = sentence(error, config_name=config_name)
        if verbose or told is None:
            raise error from error.__cause__
        text, status = told
        _speak(error, text, status)
        sys.exit(status)
    finally:
        for name, value in before.items():
            os.environ.pop(name, None) if value is None else os.environ.update({name: value})
    sys.exit(0 if jobs.tell() else 1)


def answer(work: Callable[[], int]) -> int:
    """Do the work of a command without Hydra and give its exit status; a user's mistake is told in one sentence."""
    try:
        return work()
    except BaseException as error:
        told = sentence(error, [])
        if told is None or debugging():
            raise
        sys.stderr.write(f"reflectzoo: {told[0]}\n")
        return told[1]


def alone(command: str, module: ModuleType, argv: Sequence[str] | None) -> int:
    """Run the module of one command as ``python -m reflectzoo.<command>`` does.

    Args:
        command: what follows ``reflectzoo.``, for the help.
        module: with ``DESCRIPTION``, ``add_arguments(parser)`` and ``run(arguments) -> status``.
        argv: arguments; those of the command line when None.

    Returns:
        The exit status: what ``run`` says, 2 for a mistake in what was given.
    """
    parser = argparse.ArgumentParser(prog=f"python -m reflectzoo.{command}", description=module.DESCRIPTION)
    module.add_arguments(parser)
    arguments = parser.parse_args(argv)
    return answer(lambda: int(module.run(arguments)))


def _speak(error: BaseException, text: str, status: int) -> None:
    """Say a sentence once, of however many processes that have it to say."""
    from reflectzoo.core.ranks import Farewell, say_farewell, started_outside

    if say_farewell(Farewell(text, status, isinstance(error, LostPeer | Interrupted))):
        return
    outside = started_outside()
    rank = outside[0] if outside is not None else int(os.environ.get("LOCAL_RANK", "0"))
    if rank == 0:
        sys.stderr.write(f"reflectzoo: {text}\n")
    elif isinstance(error, LostPeer):
        # The first process says it, unless it is the one that died.
        if rank == 1 and outside is None:
            sys.stderr.write(f"reflectzoo: {text}\n")
    elif isinstance(error, TrainingError) or (isinstance(error, UserError) and _together()):
        sys.stderr.write(f"reflectzoo: (process {rank}) {text}\n")


def _together() -> bool:
    """Whether the processes have met: until then each of them makes the same mistake, and the first one says so."""
    distributed = sys.modules.get("torch.distributed")
    return bool(distributed is not None and distributed.is_available() and distributed.is_initialized())
