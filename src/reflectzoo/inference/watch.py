"""Watch folders, and separate each new photograph once it is complete, until Ctrl-C."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from reflectzoo.errors import Interrupted, UserError
from reflectzoo.inference.batch import OutputOptions, Task, find_tasks
from reflectzoo.photo.files import quoted_path

Look = tuple[int, int]
"""Size and modification time of a file."""


def watch_folder(
    folders: Sequence[str],
    output: Path | None,
    recursive: bool,
    wanted: OutputOptions,
    work: Callable[[list[Task]], int],
    pause: float = 1.0,
    rounds: int | None = None,
) -> int:
    """Separate the photographs in folders, and any that are added later.

    A photograph is processed once two consecutive scans find the same size and modification time, because it may still
    be being copied. One that fails is reported, and tried again when it changes.

    Args:
        folders: the folders to watch.
        output: see :func:`~reflectzoo.inference.batch.find_tasks`.
        recursive: likewise.
        wanted: likewise; photographs whose results all exist are skipped.
        work: separates and reports photographs, as :func:`~reflectzoo.inference.batch.run_tasks` does.
        pause: seconds between scans.
        rounds: number of scans; None continues until Ctrl-C.

    Returns:
        0.

    Raises:
        UserError: if an argument is not a folder.
        Interrupted: after Ctrl-C.
    """
    for folder in folders:
        if not Path(folder).expanduser().is_dir():
            raise UserError(f"--watch needs folders, and {quoted_path(folder)} is not one.")
    seen: dict[Path, Look] = {}
    finished: dict[Path, Look] = {}
    sys.stderr.write(f"Watching {', '.join(quoted_path(each) for each in folders)}; Ctrl-C to stop.\n")
    done = 0
    try:
        while rounds is None or rounds > 0:
            rounds = None if rounds is None else rounds - 1
            ready = []
            for task in _tasks(folders, output, recursive, replace(wanted, skip_existing=True)):
                look = _look(task.source)
                if look is not None and seen.get(task.source) == look and finished.get(task.source) != look:
                    ready.append(task)
                    finished[task.source] = look
                if look is not None:
                    seen[task.source] = look
            if ready:
                work(ready)
                done += len(ready)
            elif rounds is None or rounds > 0:
                time.sleep(pause)
    except KeyboardInterrupt:
        raise Interrupted(f"Stopped watching: {done} photographs were processed, no result is incomplete.") from None
    return 0


def _tasks(folders: Sequence[str], output: Path | None, recursive: bool, wanted: OutputOptions) -> list[Task]:
    try:
        return find_tasks(folders, output, recursive, wanted)
    except UserError as error:
        if "There are no photographs" in str(error):
            return []
        raise


def _look(file: Path) -> Look | None:
    try:
        status = os.stat(file)
    except OSError:
        return None
    return status.st_size, status.st_mtime_ns
