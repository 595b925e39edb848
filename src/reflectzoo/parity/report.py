"""Running of a folder of recordings, with a report."""

from __future__ import annotations

import difflib
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Literal

from reflectzoo.errors import UserError
from reflectzoo.parity.fixture import Case, Fixture, ParityError, is_other_json, load_fixture
from reflectzoo.parity.registry import CaseResult, Runner, find_runners

CaseVerdict = Literal["pass", "FAIL", "no such method yet"]


@dataclass(frozen=True)
class ParityLine:
    """One line of the report.

    Args:
        name: ``recording/case``, or only the recording if it could not be read.
        verdict: result of the case.
        difference: difference of the tensor or number that is largest relative to its tolerance; None without one.
        tolerance: tolerance of the same tensor or number.
        remark: reason of a failure, or the note of the case.
    """

    name: str
    verdict: CaseVerdict
    difference: float | None = None
    tolerance: float | None = None
    remark: str = ""

    def __str__(self) -> str:
        numbers = (f"{'-' if value is None else f'{value:.2e}':>9}" for value in (self.difference, self.tolerance))
        remark = f"  ({self.remark})" if self.remark else ""
        return f"{self.name:<44} {'  '.join(numbers)}  {self.verdict}{remark}"


def run_folder(
    folder: Path, only: Sequence[str] = (), report: Callable[[str], None] = lambda _line: None
) -> list[ParityLine]:
    """Run every recorded case of a folder.

    Args:
        folder: with pairs of ``.json`` and ``.npz``.
        only: names of recordings, or ``recording/case``, with wildcards; all if empty.
        report: called with each line as soon as it is available, and with the summary at the end.

    Returns:
        All lines.

    Raises:
        UserError: if the folder is missing or contains no readable recording, or an entry of ``only`` matches nothing.
    """
    started = time.monotonic()
    runners = find_runners()
    lines: list[ParityLine] = []
    loaded, others = _load_all(folder)
    for name in others:
        report(f"{name} is not a recording, left out")
    for fixture in _chosen(loaded, only):
        cases = _run_broken(fixture) if isinstance(fixture, _Broken) else _run(fixture, runners, only)
        for line in cases:
            lines.append(line)
            report(str(line))
    verdicts = Counter(line.verdict for line in lines)
    report(
        f"{len(lines)} cases: {verdicts['pass']} pass, {verdicts['FAIL']} FAIL, "
        f"{verdicts['no such method yet']} no such method yet ({time.monotonic() - started:.0f} s)"
    )
    return lines


@dataclass(frozen=True)
class _Broken:
    stem: str
    reason: str

    @property
    def name(self) -> str:
        return self.stem


def _load_all(folder: Path) -> tuple[list[Fixture | _Broken], list[str]]:
    """Load all recordings, and list the names of other json files."""
    if not folder.is_dir():
        raise UserError(f"{folder} is not a folder: give one with recorded cases (pairs of .json and .npz).")
    try:
        stems = sorted({path.stem for path in folder.iterdir() if path.suffix in (".json", ".npz")})
    except OSError as error:
        raise UserError(f"{folder} cannot be read ({error.strerror}).") from error
    if not stems:
        raise UserError(f"{folder} holds no recorded cases: it should have pairs of .json and .npz files.")
    loaded: list[Fixture | _Broken] = []
    others: list[str] = []
    for stem in stems:
        path = folder / f"{stem}.json"
        if is_other_json(path):
            others.append(path.name)
            continue
        try:
            loaded.append(load_fixture(path))
        except ParityError as error:
            loaded.append(_Broken(stem, str(error)))
    broken = [entry for entry in loaded if isinstance(entry, _Broken)]
    if not loaded:
        raise UserError(f"{folder} holds no recorded cases: {others[0]} has no cases and no .npz beside it.")
    if len(broken) == len(loaded):
        raise UserError(f"No recorded case in {folder} can be read: {broken[0].reason}.")
    return loaded, others


def _chosen(loaded: list[Fixture | _Broken], only: Sequence[str]) -> Iterator[Fixture | _Broken]:
    names = {label for entry in loaded for label in _labels(entry)}
    for pattern in only:
        if not any(fnmatchcase(label, pattern) for label in names):
            near = difflib.get_close_matches(pattern, sorted(names), n=1)
            hint = f" (did you mean {near[0]}?)" if near else ""
            raise UserError(f"--only {pattern} fits no recording in the folder{hint}.")
    for entry in loaded:
        if not only or any(fnmatchcase(label, pattern) for label in _labels(entry) for pattern in only):
            yield entry


def _labels(entry: Fixture | _Broken) -> list[str]:
    names = sorted({entry.stem, entry.name})
    cases = [case["name"] for case in entry.cases] if isinstance(entry, Fixture) else []
    return names + [f"{name}/{case}" for name in names for case in cases]


def _run_broken(entry: _Broken) -> Iterator[ParityLine]:
    yield ParityLine(entry.stem, "FAIL", remark=entry.reason)


def _run(fixture: Fixture, runners: Sequence[Runner], only: Sequence[str]) -> Iterator[ParityLine]:
    cases = [case for case in fixture.cases if _case_wanted(fixture, case, only)]
    try:
        runner = next((runner for runner in runners if runner.matches(fixture)), None)
        run_case = runner.open(fixture) if runner is not None else None
    except Exception as error:
        yield from (ParityLine(f"{fixture.name}/{case['name']}", "FAIL", remark=_reason(error)) for case in cases)
        return
    if run_case is None:
        yield from (ParityLine(f"{fixture.name}/{case['name']}", "no such method yet") for case in cases)
        return
    for case in cases:
        yield _run_case(f"{fixture.name}/{case['name']}", case, run_case)


def _case_wanted(fixture: Fixture, case: Case, only: Sequence[str]) -> bool:
    labels = [label for name in (fixture.stem, fixture.name) for label in (name, f"{name}/{case['name']}")]
    return not only or any(fnmatchcase(label, pattern) for label in labels for pattern in only)


def _run_case(name: str, case: Case, run_case: Callable[[Case], CaseResult]) -> ParityLine:
    # Any error is the result of this case, so that the others still run.
    try:
        result = run_case(case)
    except Exception as error:
        return ParityLine(name, "FAIL", remark=_reason(error))
    if not result.comparisons:
        return ParityLine(name, "FAIL", remark="nothing was compared")
    worst = max(result.comparisons, key=lambda comparison: comparison.severity)
    if worst.passed:
        return ParityLine(name, "pass", worst.difference, worst.tolerance, result.note)
    failed = sum(not comparison.passed for comparison in result.comparisons)
    remark = f"{worst.what}; {failed} of {len(result.comparisons)} comparisons fail"
    return ParityLine(name, "FAIL", worst.difference, worst.tolerance, remark)


def _reason(error: Exception) -> str:
    text = (str(error).splitlines() or [""])[0]
    return text if isinstance(error, ParityError) else f"{type(error).__name__}: {text}"
