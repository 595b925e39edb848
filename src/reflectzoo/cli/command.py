"""Running a command: exit status, and a one-sentence message for errors."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from types import ModuleType
from typing import Any, NoReturn

from reflectzoo.cli.sentences import sentence
from reflectzoo.errors import Interrupted, LostPeer, TrainingError, UserError

# Must be set before torch is imported, because OpenMP reads it then. The default spin time makes a training step many
# times slower as soon as anything else runs on the same cores; no spinning at all slows small networks down on an idle
# machine.
os.environ.setdefault("GOMP_SPINCOUNT", "10000")


_DEBUG, _FULL_ERROR = "REFLECTZOO_DEBUG", "HYDRA_FULL_ERROR"


def debugging() -> bool:
    """Whether to print tracebacks: ``REFLECTZOO_DEBUG=1``, or if that is unset, Hydra's ``HYDRA_FULL_ERROR=1``."""
    return os.environ.get(_DEBUG, os.environ.get(_FULL_ERROR, "0")) not in ("", "0")


def run(command: Callable[[], Any], config_name: str = "train") -> NoReturn:
    """Run a Hydra command and exit with status 0, 1 (it failed), 2 (invalid arguments) or 130 (Ctrl-C).

    Expected errors are reported in one sentence on stderr. Bugs keep their traceback; with ``REFLECTZOO_DEBUG=1``, all
    errors do. A multirun ends with a table of the results of its jobs; its status is 1 if not all of them are done.

    Args:
        command: function decorated with ``hydra.main``.
        config_name: the configuration to which the overrides apply.
    """
    from reflectzoo.cli import jobs

    # Hydra's argparse accepts only consecutive overrides, so that -m between two of them would be an error.
    sys.argv[1:] = sorted(sys.argv[1:], key=lambda word: word not in ("-m", "--multirun"))
    verbose, before = debugging(), {name: os.environ.get(name) for name in (_DEBUG, _FULL_ERROR)}
    # Otherwise Hydra would print its own message and exit before we can print a better one. REFLECTZOO_DEBUG passes the
    # user's own choice on to child processes, which see HYDRA_FULL_ERROR=1 in any case.
    os.environ.update({_DEBUG: str(int(verbose)), _FULL_ERROR: "1"})
    try:
        command()
    except BaseException as raised:
        error = raised.error if isinstance(raised, jobs.Carried) else raised
        jobs.print_job_table()
        told = sentence(error, config_name=config_name)
        if verbose or told is None:
            raise error from error.__cause__
        text, status = told
        _speak(error, text, status)
        sys.exit(status)
    finally:
        for name, value in before.items():
            os.environ.pop(name, None) if value is None else os.environ.update({name: value})
    sys.exit(0 if jobs.print_job_table() else 1)


def run_reporting_errors(work: Callable[[], int]) -> int:
    """Run a command that does not use Hydra and return its exit status; reports expected errors in one sentence."""
    try:
        return work()
    except BaseException as error:
        told = sentence(error, [])
        if told is None or debugging():
            raise
        sys.stderr.write(f"reflectzoo: {told[0]}\n")
        return told[1]


def run_standalone(command: str, module: ModuleType, argv: Sequence[str] | None) -> int:
    """Run a command's module on its own, as ``python -m reflectzoo.<command>``.

    Args:
        command: name of the module below ``reflectzoo``, for the help.
        module: with ``DESCRIPTION``, ``add_arguments(parser)`` and ``run(arguments) -> status``.
        argv: arguments; None for those of the command line.

    Returns:
        The exit status of ``run``, or that of the error (:func:`sentence`): 1, 2 or 130.

    Raises:
        SystemExit: if argparse cannot parse the arguments (status 2), or after printing the help.
    """
    parser = argparse.ArgumentParser(prog=f"python -m reflectzoo.{command}", description=module.DESCRIPTION)
    module.add_arguments(parser)
    arguments = parser.parse_args(argv)
    return run_reporting_errors(lambda: int(module.run(arguments)))


def _speak(error: BaseException, text: str, status: int) -> None:
    """Print an error message once, even if several processes fail with it."""
    from reflectzoo.core.ranks import ExitMessage, external_rank, first_to_tell, write_exit_message

    if write_exit_message(ExitMessage(text, status, isinstance(error, LostPeer | Interrupted))):
        return
    outside = external_rank()
    if isinstance(error, LostPeer) and outside is not None:
        # The nodes may have consoles of their own.
        if first_to_tell(error.folder):
            sys.stderr.write(f"reflectzoo: {text}\n")
        return
    rank = outside[0] if outside is not None else int(os.environ.get("LOCAL_RANK", "0"))
    if rank == 0:
        sys.stderr.write(f"reflectzoo: {text}\n")
    elif isinstance(error, LostPeer):
        # Rank 0 reports it, unless it is the process that exited; then rank 1 does.
        if rank == 1:
            sys.stderr.write(f"reflectzoo: {text}\n")
    elif isinstance(error, TrainingError) or (isinstance(error, UserError) and _together()):
        sys.stderr.write(f"reflectzoo: (process {rank}) {text}\n")


def _together() -> bool:
    """Whether the process group is initialised. Until then every rank fails in the same way, and rank 0 reports it."""
    distributed = sys.modules.get("torch.distributed")
    return bool(distributed is not None and distributed.is_available() and distributed.is_initialized())
