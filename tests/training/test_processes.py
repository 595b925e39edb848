"""Processes that a training started and that end early: one sentence, no orphan, and nobody waits for ever."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from pytorch_lightning.strategies.launchers.subprocess_script import _SubprocessScriptLauncher
from tests.faults.cases import TRAININGS
from tests.faults.children import Child, preload
from torch.multiprocessing.spawn import ProcessExitedException, ProcessRaisedException

from reflectzoo.cli import command
from reflectzoo.core import ranks
from reflectzoo.errors import Interrupted, LostPeer, LostProcess, TrainingError, UserError
from reflectzoo.training import processes
from reflectzoo.training.processes import SupervisedLauncher, translate_spawn_error

PEER = "[gloo/transport/tcp/pair.cc:534] Connection closed by peer [127.0.0.1]:3"
SPEAK = """
import json, os, sys
with open(os.path.join(os.environ["REFLECTZOO_FAREWELLS"], "1.json"), "w") as file:
    json.dump(json.loads(sys.argv[1]), file)
sys.exit(json.loads(sys.argv[1])[1])
"""


class Two(SupervisedLauncher):
    """Starts a small program for the second process."""

    def __init__(self, *program: str) -> None:
        environment: Any = SimpleNamespace(creates_processes_externally=False)
        super().__init__(_SubprocessScriptLauncher(environment, 2, 1), lambda: "It is saved")
        self.program = program

    def _call_children_scripts(self) -> None:
        self.procs = [subprocess.Popen([sys.executable, "-c", *self.program])]


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processes, "_GLANCE", 0.02)
    monkeypatch.setattr(processes, "_GRACE", 0.3)
    # Is set for the processes that are started.
    monkeypatch.setenv(ranks.FAREWELLS, "")


def fails(error: Exception) -> Callable[[], None]:
    def work() -> None:
        raise error

    return work


@pytest.mark.parametrize(
    ("program", "kind", "told"),
    [
        ((SPEAK, '["No such file.", 2, false]'), UserError, r"^\(process 1\) No such file\.$"),
        ((SPEAK, '["It is nan.", 1, false]'), TrainingError, r"^\(process 1\) It is nan\.$"),
        (("import os; os.kill(os.getpid(), 9)",), LostProcess, r"^Process 1 of 2 was killed \(SIGKILL\), most likely"),
        (("import os; os.kill(os.getpid(), 6)",), LostProcess, r"^Process 1 of 2 was killed \(SIGABRT\)\.$"),
        (("import sys; sys.exit(1)",), LostProcess, "^Process 1 of 2 failed, as it says above"),
        # It knows no more than we do.
        ((SPEAK, '["One died.", 1, true]'), RuntimeError, "Connection closed by peer"),
    ],
)
def test_what_ended_the_other_is_what_ends_the_first(program: tuple[str, ...], kind: type, told: str) -> None:
    with pytest.raises(kind, match=told):
        Two(*program).launch(fails(RuntimeError(PEER)))


def test_what_happened_here_is_told_and_the_other_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processes, "_WAIT", 0.1)
    two = Two("import time; time.sleep(60)")
    with pytest.raises(UserError, match="mine"):
        two.launch(fails(UserError("mine")))
    assert two.procs[0].returncode == -signal.SIGKILL
    two = Two("import time; time.sleep(60)")
    with pytest.raises(ValueError, match="a fault of ours"):
        two.launch(fails(ValueError("a fault of ours")))


@pytest.mark.parametrize(
    ("program", "status", "told"),
    [
        ((SPEAK, '["No such file.", 2, false]'), 2, "reflectzoo: (process 1) No such file.\n"),
        (
            ("import os; os.kill(os.getpid(), 9)",),
            1,
            "reflectzoo: Process 1 of 2 was killed (SIGKILL), most likely because memory ran out. It is saved.\n",
        ),
    ],
)
def test_nobody_waits_for_ever(tmp_path: Path, program: tuple[str, ...], status: int, told: str) -> None:
    """The first process is within a call that never ends, as NCCL's may be."""
    pid = os.fork()
    if pid == 0:
        os.dup2(os.open(tmp_path / "told", os.O_WRONLY | os.O_CREAT), 2)
        sys.stderr = os.fdopen(2, "w", closefd=False)
        Two(*program).launch(lambda: time.sleep(60))
        os._exit(99)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == status
    assert (tmp_path / "told").read_text() == told


def test_one_that_ends_well_ends_nothing() -> None:
    assert Two("pass").launch(lambda: time.sleep(0.5) or 7) == 7  # type: ignore[func-returns-value]


def test_the_first_speaks_for_those_it_started(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv(ranks.FAREWELLS, str(tmp_path))
    monkeypatch.setenv("LOCAL_RANK", "1")
    command._speak(UserError("x"), "No such file.", 2)
    assert json.loads((tmp_path / "1.json").read_text()) == ["No such file.", 2, False]
    for error in (LostPeer("x"), Interrupted("x")):
        command._speak(error, "It is gone.", 1)
        assert ranks.read_exit_message(tmp_path, 1) == ranks.ExitMessage("It is gone.", 1, True)
    assert capsys.readouterr().err == ""
    monkeypatch.setattr(ranks, "_PARENT", -1)  # the first one has died
    command._speak(LostPeer("x"), "It is gone.", 1)
    assert capsys.readouterr().err == "reflectzoo: It is gone.\n"


def test_of_processes_that_others_started_each_says_what_only_it_knows(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv(ranks.FAREWELLS)
    for key, value in {"TORCHELASTIC_RUN_ID": "x", "RANK": "3", "WORLD_SIZE": "4", "LOCAL_RANK": "1"}.items():
        monkeypatch.setenv(key, value)
    command._speak(UserError("x"), "A word is wrong.", 2)
    command._speak(LostPeer("x"), "It is gone.", 1)
    assert capsys.readouterr().err == "", "all of them make the same mistake before they meet"
    monkeypatch.setattr(command, "_together", lambda: True)
    command._speak(UserError("x"), "No such file.", 2)
    assert capsys.readouterr().err == "reflectzoo: (process 3) No such file.\n"


def test_of_forked_processes_only_a_text_is_left() -> None:
    text = "\n\n-- Process 1 terminated with the following error:\nTraceback ...\nreflectzoo.errors.UserError: No file."
    found = translate_spawn_error(ProcessRaisedException(text, 1, 7), 2)
    assert isinstance(found, UserError)
    assert str(found) == "No file."
    other = text.replace("errors.UserError", "photo.model.UnreadableImage")
    assert isinstance(translate_spawn_error(ProcessRaisedException(other, 1, 7), 2), UserError)
    assert isinstance(translate_spawn_error(ProcessRaisedException(f"...\nRuntimeError: {PEER}", 1, 7), 2), LostPeer)
    assert translate_spawn_error(ProcessRaisedException("...\nKeyError: 'a fault of ours'", 1, 7), 2) is None
    killed = translate_spawn_error(ProcessExitedException("...", 1, 7, -9, "SIGKILL"), 2)
    assert str(killed).startswith("Process 1 of 2 was killed (SIGKILL)")


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("rank", [0, 1])
def test_a_killed_process_of_the_real_command(tmp_path: Path, rank: int) -> None:
    preload()
    words = [*TRAININGS["averaged"], "trainer=ddp", "hydra.run.dir=run"]
    child = Child("train", [*words, "trainer.max_epochs=1000"], tmp_path)
    while not (tmp_path / "run/checkpoints/last.ckpt").exists():
        assert not child.ended(0.05), child.result().told
    (other,) = child.children()
    os.kill([child.pid, other][rank], signal.SIGKILL)
    start = time.monotonic()
    # Before anybody asks how the first one ended, which ends its whole group.
    while Path(f"/proc/{other}").exists() and time.monotonic() - start < 120:
        time.sleep(0.1)
    assert not Path(f"/proc/{other}").exists(), "an orphan"
    ended = child.result(300)
    assert ended.status == (1 if rank else -signal.SIGKILL)
    told = ended.told
    assert "Traceback" not in told
    assert told.count("reflectzoo: ") == 1
    assert "last.ckpt: the same command with ckpt_path=last resumes from there" in told
    assert ("Process 1 of 2 was killed (SIGKILL)" if rank else "One of the 2 processes died") in told
    again = Child("train", [*words, "trainer.max_epochs=2", "ckpt_path=last"], tmp_path).result(300)
    assert again.status == 0, again.told
