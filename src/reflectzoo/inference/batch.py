"""Process many photographs: find the inputs, name the results, and report failures at the end."""

from __future__ import annotations

import contextlib
import glob
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

from reflectzoo.core.annotations import Share
from reflectzoo.core.settings import check_value
from reflectzoo.data.images import find_images
from reflectzoo.errors import Interrupted, UserError
from reflectzoo.inference.separator import Separator, side_by_side
from reflectzoo.photo.files import quoted_path, result_name
from reflectzoo.photo.model import PICTURE_SUFFIXES, RAW_SUFFIXES, Picture
from reflectzoo.photo.raw import INSTALL, can_develop
from reflectzoo.photo.read import read_picture
from reflectzoo.photo.write import format_of, reduce_to_format, suffix_for

_KINDS = ("transmission", "reflection", "side-by-side")


@dataclass(frozen=True)
class OutputOptions:
    """Options for the results of each photograph; the transmission is always written.

    Attributes:
        reflection: also write the reflection.
        side_by_side: also write input, transmission and reflection in one picture.
        strength: see :meth:`reflectzoo.inference.separator.Separator.picture`.
        overwrite: replace existing results.
        max_pixels: photographs with more pixels are refused; None takes Pillow's limit, 179 million.
        skip_existing: skip photographs whose results all exist.
        keep_dates: give the results the photograph's access and modification times.
        suffix: suffix of all results, such as ``.jpg``; empty keeps the photograph's if its format can store them.
        quality: quality of lossy formats, 1 to 100; None keeps the photograph's or takes the format's default.
    """

    reflection: bool = False
    side_by_side: bool = False
    strength: float = 1.0
    overwrite: bool = False
    max_pixels: int | None = None
    skip_existing: bool = False
    keep_dates: bool = False
    suffix: str = ""
    quality: int | None = None

    @property
    def kinds(self) -> list[str]:
        """Names of the results that are written."""
        chosen = (True, self.reflection, self.side_by_side)
        return [kind for kind, wanted in zip(_KINDS, chosen, strict=True) if wanted]


@dataclass(frozen=True)
class Task:
    """One photograph to process.

    Attributes:
        source: its file.
        stem: path of the results without ``.<kind><suffix>``.
        exact: path of the transmission, if the user gave one.
    """

    source: Path
    stem: Path
    exact: Path | None = None

    def target(self, kind: str, suffix: str) -> Path:
        """The path of a result."""
        if self.exact is not None:
            if kind == "transmission":
                return self.exact
            return self.exact.with_name(result_name(self.exact.stem, f".{kind}{self.exact.suffix}"))
        return self.stem.with_name(result_name(self.stem.name, f".{kind}{suffix}"))


def find_tasks(inputs: Sequence[str], output: Path | None, recursive: bool, wanted: OutputOptions) -> list[Task]:
    """Find the photographs given on the command line.

    Each argument is a file, a folder, or, if no such file exists, a pattern with ``*``, ``?`` or ``[``. In folders,
    earlier results (``.transmission.`` and so on) and hidden files are skipped and links to folders are not followed;
    with ``output``, the structure below a folder is kept.

    Args:
        inputs: arguments of the command line.
        output: a folder; or a file with a picture's suffix, if there is a single photograph.
        recursive: include subfolders.
        wanted: options for the results.

    Raises:
        UserError: if an argument does not exist, no photographs are found, ``output`` does not fit, two results would
            have the same name, or the strength is outside [0, 1].
    """
    check_value("--strength", wanted.strength, Share)
    found: dict[Path, Path] = {}  # file -> its path within a result folder
    for word in inputs:
        for file, place in _meant(word, recursive):
            found.setdefault(file, place)
    if not found:
        words = ", ".join(quoted_path(word) for word in inputs)
        deeper = "" if recursive else "; -r includes subfolders"
        raise UserError(f"There are no photographs in {words}{deeper}.")
    exact = output is not None and not output.is_dir() and bool(output.suffix) and len(found) == 1
    if output is not None and exact:
        format_of(output)
        source = next(iter(found))
        return [Task(source, output.with_suffix(""), output)]
    if output is not None and output.exists() and not output.is_dir():
        if len(found) == 1:
            raise UserError(
                f"-o {quoted_path(output)} is a file that is not named like a picture: give a folder, or a name.png."
            )
        raise UserError(f"-o {quoted_path(output)} is a file, but several photographs need a folder: give one.")
    tasks = []
    stems: dict[Path, Path] = {}
    for source, place in found.items():
        stem = source.with_suffix("") if output is None else output / place.with_suffix("")
        # For photo.jpg and photo.png in one folder, the result of the second keeps its suffix in the name.
        if stem in stems:
            stem = stem.with_name(source.name)
        if stem in stems:
            raise UserError(
                f"The results of {quoted_path(stems[stem])} and {quoted_path(source)} would have the same name: "
                "use two folders."
            )
        stems[stem] = source
        tasks.append(Task(source, stem))
    return tasks


def _meant(word: str, recursive: bool) -> list[tuple[Path, Path]]:
    path = Path(word).expanduser()
    if path.is_dir():
        files = find_images(path, recursive, unopened=_warn, suffixes=PICTURE_SUFFIXES)
        return [(file, file.relative_to(path)) for file in _readable(files)]
    if not os.path.lexists(path) and glob.has_magic(word):
        matches = [Path(match) for match in sorted(glob.glob(str(path), recursive=recursive))]
        files = [match for match in matches if match.is_file() and match.suffix.lower() in PICTURE_SUFFIXES]
        return [(file, Path(file.name)) for file in _readable(files)]
    if not os.path.lexists(path):
        raise UserError(f"{quoted_path(path)} does not exist: give a photograph, a folder or a pattern.")
    return [(path, Path(path.name))]


def _readable(files: Sequence[Path]) -> list[Path]:
    """Remove earlier results, and, with a warning, camera raw files if rawpy is not installed."""
    files = [file for file in files if not _is_result(file)]
    raws = [file for file in files if file.suffix.lower() in RAW_SUFFIXES]
    if not raws or can_develop():
        return files
    _warn("", f"{len(raws)} camera raw files are skipped: {INSTALL} reads them.")
    return [file for file in files if file not in raws]


def _is_result(file: Path) -> bool:
    return file.stem.endswith(tuple(f".{kind}" for kind in _KINDS))


def _warn(path: str, text: str) -> None:
    sys.stderr.write(f"reflectzoo: {text}\n")


@dataclass(frozen=True)
class Outcome:
    """The outcome of one photograph.

    Attributes:
        lines: messages to print; the results' paths come first.
        error: why there is no result; None if it succeeded.
    """

    lines: tuple[str, ...] = ()
    error: str | None = None


ProgressCallback = Callable[[int, float, str], None]
"""Progress callback: number of the current photograph, finished fraction of it, and its name."""


def run_tasks(tasks: Sequence[Task], separator: Separator, wanted: OutputOptions) -> int:
    """Separate photographs one after the other, continuing after failures.

    Args:
        tasks: see :func:`find_tasks`.
        separator: the network.
        wanted: options for the results.

    Returns:
        0 on success; 1 if any of several failed; 2 if the only one failed.

    Raises:
        Interrupted: after Ctrl-C; every result written so far is complete.
    """

    def one_by_one(told: ProgressCallback) -> Iterator[Outcome]:
        for number, task in enumerate(tasks):
            name = quoted_path(task.source.name)
            told(number, 0.0, name)
            yield outcome_of(task, separator, wanted, partial(_tiles, told, number, name))

    return report(len(tasks), one_by_one)


def _tiles(told: ProgressCallback, number: int, name: str, tile: int, tiles: int) -> None:
    told(number, tile / tiles, name)


def outcome_of(task: Task, separator: Separator, wanted: OutputOptions, told: object = None) -> Outcome:
    """Separate one photograph; a :class:`UserError` becomes the outcome's error instead of being raised."""
    try:
        return Outcome(tuple(_one(task, separator, wanted, told)))
    except UserError as error:
        return Outcome(error=str(error))


def report(count: int, work: Callable[[ProgressCallback], Iterator[Outcome]]) -> int:
    """Print outcomes and a progress bar while photographs are processed, and a summary of failures at the end.

    Args:
        count: number of photographs.
        work: takes the progress callback and yields one outcome per photograph, in any order.

    Returns:
        0 on success; 1 if any of several failed; 2 if the only one failed.

    Raises:
        Interrupted: after Ctrl-C; every result written so far is complete.
    """
    console = Console(stderr=True, soft_wrap=True)
    failed: list[str] = []
    done = 0
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TaskProgressColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console, disable=not console.is_terminal, transient=True) as progress:
        bar = progress.add_task("", total=count)

        def told(number: int, share: float, name: str) -> None:
            # Fractional, so that the bar also moves during a large photograph.
            progress.update(bar, description=escape(name), completed=number + share)

        try:
            for outcome in work(told):
                if outcome.error is None:
                    done += 1
                    for line in outcome.lines:
                        console.print(escape(line), highlight=False)
                else:
                    failed.append(outcome.error)
                    console.print(f"[red]failed[/]: {escape(outcome.error)}", highlight=False)
        except KeyboardInterrupt:
            raise Interrupted(
                f"Interrupted: {done} of {count} photographs are done, no result is incomplete."
            ) from None
    if failed and count > 1:
        console.print(f"{done} of {count} done, {len(failed)} failed:", highlight=False)
        for text in failed:
            console.print(f"  {escape(text)}", highlight=False)
    if not failed:
        return 0
    return 1 if count > 1 else 2


def _one(task: Task, separator: Separator, wanted: OutputOptions, told: object) -> list[str]:
    """Separate one photograph, and return the messages to print."""
    picture = read_picture(task.source, wanted.max_pixels)
    suffix = wanted.suffix or suffix_for(task.source, picture)
    targets = {kind: task.target(kind, suffix) for kind in wanted.kinds}
    if wanted.skip_existing and all(os.path.lexists(target) for target in targets.values()):
        return [f"{quoted_path(next(iter(targets.values())))} already exists"]
    for target in targets.values():
        # Checked before the work, and again on writing.
        if _same_file(target, task.source):
            raise UserError(
                f"{quoted_path(target)} is the photograph itself and is never replaced: choose another name."
            )
        if not wanted.overwrite and os.path.lexists(target):
            raise UserError(f"{quoted_path(target)} already exists: --overwrite replaces it.")
    both = wanted.reflection or wanted.side_by_side
    try:
        transmission, reflection = separator.picture(picture, wanted.strength, told, both)  # type: ignore[arg-type]
    except UserError as error:
        raise UserError(f"{quoted_path(task.source)}: {error}") from error
    results: dict[str, Picture] = {"transmission": transmission, "reflection": reflection}
    if wanted.side_by_side:
        results["side-by-side"] = side_by_side([picture, transmission, reflection])
    lines = []
    notes = dict.fromkeys(picture.notes)
    for kind, target in targets.items():
        result = reduce_to_format(results[kind], format_of(target))
        notes |= dict.fromkeys(result.notes)
        if wanted.quality is not None:
            result = replace(result, origin=replace(result.origin, quality=wanted.quality))
        result.save(target, wanted.overwrite)
        if wanted.keep_dates:
            _give_dates(task.source, target)
        lines.append(str(quoted_path(target)))
    job = separator.last
    if job is not None and job.tiles > 1:
        lines[0] += f" ({job.tiles} tiles of up to {job.tile[1]}x{job.tile[0]})"
    return [*lines, *(f"  {note}" for note in notes)]


def _give_dates(source: Path, target: Path) -> None:
    """Copy a photograph's access and modification times to a result; ignored if the file system refuses."""
    with contextlib.suppress(OSError):
        dates = source.stat()
        os.utime(target, ns=(dates.st_atime_ns, dates.st_mtime_ns))


def _same_file(one: Path, other: Path) -> bool:
    try:
        return os.path.samefile(one, other)
    except OSError:
        return False
