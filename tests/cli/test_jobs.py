"""Sweeps that say what became of each job, runs that do not share a folder, and sentences about overrides."""

from __future__ import annotations

import shlex
from pathlib import Path

import pytest
from tests.faults.children import Child

from reflectzoo.cli import nearest, sentence
from reflectzoo.errors import UserError

APP = """
import hydra
from reflectzoo.cli import run
from reflectzoo.config import register_resolvers
from reflectzoo.errors import Interrupted, UserError
from reflectzoo.cli.jobs import task

register_resolvers()

@hydra.main(version_base="1.3", config_path={folder!r}, config_name="app")
@task
def main(config):
    if config.x == 2:
        raise UserError("x is two: take another, any other.")
    if config.x == 3:
        return 1 / 0
    if config.x == 4:
        raise Interrupted("Interrupted; everything so far is kept.")

run(main)
"""

CONF = """
x: 1
y: 0
hydra:
  callbacks: {jobs: {_target_: reflectzoo.cli.jobs.Overview}}
  run: {dir: "${reflectzoo.run_dir:out,model,null,null,now}"}
  sweep: {dir: "${reflectzoo.sweep_dir:out,multirun,now}", subdir: "${hydra:job.num}"}
"""


@pytest.fixture
def app(tmp_path: Path) -> Path:
    (tmp_path / "conf").mkdir()
    (tmp_path / "conf/app.yaml").write_text(CONF)
    script = tmp_path / "app.py"
    script.write_text(APP.format(folder=str(tmp_path / "conf")))
    return script


def start(app: Path, *words: str, **environment: str) -> Child:
    return Child(app.name, list(words), app.parent, environment=environment)


def test_a_job_that_fails_does_not_stop_the_others_and_a_table_says_so(app: Path) -> None:
    done = start(app, "x=1,2,3,5", "-m", "y=7").result()
    assert done.status == 1
    lines = done.told.splitlines()
    assert "reflectzoo: job 1: x is two: take another, any other." in lines
    assert "ZeroDivisionError: division by zero" in lines, "a bug keeps its traceback"
    table = lines[lines.index(next(line for line in lines if line.startswith("job "))) :]
    assert [line.split() for line in table[:5]] == [
        ["job", "result", "overrides"],
        ["0", "done", "x=1"],
        ["1", "failed", "x=2", "x", "is", "two"],
        ["2", "failed", "x=3", "ZeroDivisionError"],
        ["3", "done", "x=5"],
    ]
    assert table[5].startswith("2 of 4 jobs are done, in out/multirun/now")
    assert "Error executing job" not in done.told


def test_after_an_interruption_the_table_says_what_was_not_started(app: Path) -> None:
    done = start(app, "-m", "x=1,4,5").result()
    assert done.status == 130
    lines = [line.split() for line in done.told.splitlines()]
    for row in (["0", "done", "x=1"], ["1", "interrupted", "x=4", "Interrupted"], ["2", "not", "started", "x=5"]):
        assert row in lines
    assert done.told.splitlines()[-1] == "reflectzoo: Interrupted; everything so far is kept."


def test_one_run_says_one_sentence_and_its_traceback_on_demand(app: Path) -> None:
    plain, verbose = start(app, "x=2"), start(app, "x=2", REFLECTZOO_DEBUG="1")
    assert plain.result().told == "reflectzoo: x is two: take another, any other.\n"
    assert plain.status == 2
    told = verbose.result().told
    assert "Traceback" in told
    assert "UserError: x is two" in told


def test_runs_and_sweeps_that_start_together_have_a_folder_each(app: Path) -> None:
    together = [start(app, "x=1") for _ in range(2)] + [start(app, "-m", "x=1") for _ in range(2)]
    for each in together:
        ended = each.result()
        assert ended.status == 0, ended.told
    assert sorted(path.name for path in (app.parent / "out/model").iterdir()) == ["now", "now-2"]
    assert sorted(path.name for path in (app.parent / "out/multirun").iterdir()) == ["now", "now-2"]
    assert (app.parent / "out/multirun/now-2/0/job.json").is_file()


@pytest.mark.parametrize(
    "value", ["my photo's.jpg", "a,b.jpg", 'it\'s "so".jpg', "ü.jpg", "[half.jpg", "a\\'b.jpg", "x{1}.jpg"]
)
def test_the_advice_on_quoting_can_be_copied(value: str) -> None:
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.errors import OverrideParseException

    parser = OverridesParser.create()
    word = f"input={value}"
    try:
        parser.parse_overrides([word])
        return  # nothing to advise
    except OverrideParseException as error:
        told = sentence(error, [word])
        assert told is not None
        (copied,) = shlex.split(told[0].split("with quotes around its value: ")[1])
        assert parser.parse_override(copied).value() == value


def test_no_word_is_suggested_twice() -> None:
    assert nearest("modle", ["model", "model", "data"]) == ["model"]


def test_a_worker_s_sentence_arrives_as_one() -> None:
    assert sentence(UserError("Caught UserError in x.\nTraceback\nreflectzoo.errors.UserError: It is so."), []) == (
        "It is so.",
        2,
    )
