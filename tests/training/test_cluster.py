"""Jobs of SLURM and torchrun on several nodes: what they agree on, how they start again, and what they say."""

from __future__ import annotations

import os
import signal
import stat
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from omegaconf import DictConfig, OmegaConf
from tests.conftest import TINY
from tests.faults.children import Child, preload, started_by_srun
from torch.distributed import DistNetworkError, DistStoreError, TCPStore  # type: ignore[attr-defined]
from torch.distributed.elastic.utils.distributed import get_free_port

from reflectzoo.cli import command
from reflectzoo.config import compose_config
from reflectzoo.core import ranks
from reflectzoo.errors import Interrupted, LostPeer, Preempted, UserError
from reflectzoo.training import run
from reflectzoo.training.callbacks.interrupt import GracefulInterrupt
from reflectzoo.training.devices import check_devices, cluster_of
from reflectzoo.training.processes import requeue, why_not_met

SRUN = {"SLURM_NTASKS": "4", "SLURM_PROCID": "0", "SLURM_JOB_ID": "4711", "SLURM_STEP_ID": "0"}
TORCHRUN = {"TORCHELASTIC_RUN_ID": "none", "RANK": "0", "WORLD_SIZE": "4"}


@pytest.fixture(autouse=True)
def outside_any_job(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in os.environ:
        if name.startswith(("SLURM_", "TORCHELASTIC_")) or name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "GROUP_RANK"):
            monkeypatch.delenv(name)
    monkeypatch.setattr(ranks, "_agreed", {})


def within(monkeypatch: pytest.MonkeyPatch, environment: dict[str, str]) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)


def trainer(**settings: Any) -> Any:
    return OmegaConf.create({"trainer": {"accelerator": "cpu", "devices": 1, "num_nodes": 1, **settings}})


# -- starting ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("environment", "settings", "told"),
    [
        ({}, {"num_nodes": 2}, "trainer.num_nodes=2 needs processes on every node"),
        (SRUN, {}, "SLURM started 4 processes, but trainer.devices=1 and trainer.num_nodes=1 are for 1"),
        (SRUN, {"devices": 2}, "are for 2: use trainer=ddp"),
        ({**SRUN, "SLURM_NTASKS": "1"}, {"devices": 2}, "SLURM started 1 process, but"),
        (TORCHRUN, {"devices": 4, "num_nodes": 2}, "torchrun started 4 processes, but .* are for 8"),
        ({key: SRUN[key] for key in [*SRUN][:3]}, {"devices": 4}, "has 4 tasks, but .* write srun in front"),
        ({}, {"accelerator": "cuda"}, "trainer.accelerator=cuda, but PyTorch .* finds no GPU"),
    ],
)
def test_what_would_wait_for_ever_is_refused(
    monkeypatch: pytest.MonkeyPatch, environment: dict[str, str], settings: dict[str, Any], told: str
) -> None:
    within(monkeypatch, environment)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    with pytest.raises(UserError, match=told):
        check_devices(trainer(**settings))


def test_srun_needs_no_tasks_per_node_and_sigusr1_is_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    assert cluster_of() == []
    within(monkeypatch, SRUN)
    monkeypatch.delenv("SLURM_NTASKS_PER_NODE", raising=False)
    check_devices(trainer(devices=2, num_nodes=2))
    assert os.environ["SLURM_NTASKS_PER_NODE"] == "2"
    (plugin,) = cluster_of()
    assert not plugin.auto_requeue  # type: ignore[attr-defined]
    monkeypatch.delenv("SLURM_STEP_ID")
    check_devices(trainer())  # alone, in the batch script
    monkeypatch.delenv("SLURM_NTASKS_PER_NODE")
    within(monkeypatch, TORCHRUN)  # within SLURM
    check_devices(trainer(devices=2, num_nodes=2))
    assert cluster_of() == []


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (DistNetworkError("... port: 4711, code: -98, name: EADDRINUSE, message: address already in use"), "port 4711"),
        (DistStoreError("Timed out after 2 seconds waiting for clients. 3/4 clients joined."), "Only 3 of the 4 proc"),
        (DistNetworkError("The client socket has timed out after 1000ms while trying to connect to (a, 1)."), "a:4711"),
        (DistNetworkError("Connection reset by peer"), None),
        (RuntimeError("3/4 clients joined"), None),
    ],
)
def test_processes_that_do_not_meet(monkeypatch: pytest.MonkeyPatch, error: Exception, told: str | None) -> None:
    within(monkeypatch, {"MASTER_ADDR": "a", "MASTER_PORT": "4711"})
    found = why_not_met(error, 4)
    assert (found is None) if told is None else told in str(found)


# -- starting again ---------------------------------------------------------------------------------------------------


def test_a_job_that_starts_again_keeps_its_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    choices = iter("abcdefgh")

    def ask(*question: str, lasting: bool = True) -> str:
        monkeypatch.setattr(ranks, "_agreed", {})
        return ranks.share_choice(lambda: next(choices), tmp_path, question, lasting)

    assert [ask("now"), ask("later")] == ["a", "b"], "outside a job"
    for environment in ({"SLURM_JOB_ID": "17"}, {**SRUN, "SLURM_RESTART_COUNT": "0"}):
        within(monkeypatch, environment)
        first = ask("now")
        monkeypatch.setenv("SLURM_RESTART_COUNT", "1")
        assert ask("later") == first
        assert ask("an evaluation", lasting=False) > first
        monkeypatch.setattr("sys.argv", ["train", "another command"])
        assert ask("later") > first
        monkeypatch.undo()
    within(monkeypatch, {"SLURM_JOB_ID": "17", "SLURM_JOB_NAME": "interactive", "SLURM_RESTART_COUNT": "1"})
    assert ranks.job_name() is None


def test_processes_that_torchrun_starts_again_meet_at_another_port(monkeypatch: pytest.MonkeyPatch) -> None:
    """In torchrun's own store, PyTorch 2.13 finds the addresses of the processes before."""
    store = TCPStore("127.0.0.1", 0, is_master=True)
    agent = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(store.port), "TORCHELASTIC_USE_AGENT_STORE": "True"}
    within(monkeypatch, TORCHRUN | agent | {"TORCHELASTIC_RESTART_COUNT": "0"})
    ranks.meet_anew()
    assert os.environ["MASTER_PORT"] == str(store.port)
    ports = []
    for rank in ("0", "1"):
        within(monkeypatch, agent | {"TORCHELASTIC_RESTART_COUNT": "1", "RANK": rank})
        for _ in range(2):  # jobs of a sweep
            ranks.meet_anew()
            ports.append(os.environ["MASTER_PORT"])
        assert os.environ["TORCHELASTIC_USE_AGENT_STORE"] == "False"
    assert len({*ports}) == 1
    assert ports[0] != str(store.port)


def test_a_requeued_training_resumes_what_it_has_written(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    asked: list[str | None] = []

    def remember(config: DictConfig, *_: Any) -> dict[str, float]:
        asked.append(config.ckpt_path)
        return {}

    monkeypatch.setattr(run, "_train", remember)
    last = tmp_path / "checkpoints/last.ckpt"
    config = compose_config(["model=ytmt_pcs", f"run_dir={tmp_path}"])

    def start(count: int, job: str = "17") -> str | None:
        within(monkeypatch, {"SLURM_JOB_ID": job, "SLURM_RESTART_COUNT": str(count)})
        run.train(config.copy())
        return asked.pop()

    last.parent.mkdir()
    last.write_text("of an earlier run")
    assert start(0) is None
    assert start(1) is None, "nothing new to resume from"
    last.write_text("ours")
    os.utime(last, ns=(1, 1))
    assert start(2) == "last"
    assert start(2, job="18") is None, "another job's"
    os.utime(last, ns=(2, 2))
    assert start(3, job="18") == "last", "it got here for the first time when it was started again"


def test_sigusr1_in_a_job_saves_and_the_job_is_requeued(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("SLURM_JOB_ID", "17")
    interrupt = GracefulInterrupt(str(tmp_path / "last.ckpt"))
    saved: list[Path] = []
    validation = SimpleNamespace(restarted_mid_evaluation=False)
    fake: Any = SimpleNamespace(
        strategy=SimpleNamespace(reduce_boolean_decision=lambda value, all: value),
        fit_loop=SimpleNamespace(epoch_loop=SimpleNamespace(val_loop=validation)),
        save_checkpoint=lambda path, **_: saved.append(path),
        sanity_checking=False, state=SimpleNamespace(fn="fit"),
    )  # fmt: skip
    interrupt.on_train_start(fake, fake)
    interrupt.on_train_epoch_end(fake, fake)
    assert saved == []
    for _ in range(2):  # SLURM may repeat itself
        os.kill(os.getpid(), signal.SIGUSR1)
    with pytest.raises(KeyboardInterrupt):
        interrupt.on_train_epoch_end(fake, fake)
    interrupt.on_exception(fake, fake, KeyboardInterrupt())
    assert saved == [interrupt.path]
    assert interrupt.saved
    assert interrupt.preempted
    assert signal.getsignal(signal.SIGUSR1) is signal.SIG_DFL

    def preempted(*_: Any) -> None:
        raise Preempted("All is saved.")

    monkeypatch.setattr(run, "_train", preempted)
    config = compose_config(["model=ytmt_pcs", f"run_dir={tmp_path}"])
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(Interrupted, match=r"saved\. Job 17 was not requeued \(scontrol: No such file.*ckpt_path=last"):
        run.train(config.copy())
    scontrol(tmp_path, f"echo $@ > {tmp_path}/asked")
    with pytest.raises(Interrupted, match=r"All is saved\. Job 17 is requeued"):
        run.train(config.copy())
    assert (tmp_path / "asked").read_text() == "requeue 17\n"
    within(monkeypatch, {"SLURM_ARRAY_JOB_ID": "5", "SLURM_ARRAY_TASK_ID": "2"})
    scontrol(tmp_path, "echo 'Requested operation not supported' >&2; exit 1")
    assert requeue().startswith("Job 5_2 was not requeued (Requested operation not supported)")


def scontrol(folder: Path, text: str) -> None:
    (folder / "scontrol").write_text(f"#!/bin/sh\n{text}\n")
    (folder / "scontrol").chmod(stat.S_IRWXU)


# -- losing a node ----------------------------------------------------------------------------------------------------


def test_of_each_node_one_process_says_that_another_died(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    error = LostPeer("x")

    def speak(rank: int) -> str:
        node = {"SLURM_PROCID": str(rank), "SLURM_NODEID": str(rank // 2), "SLURM_LOCALID": str(rank % 2)}
        within(monkeypatch, SRUN | node)
        command._speak(error, "It is gone.", 1)
        return capsys.readouterr().err

    told = "reflectzoo: It is gone.\n"
    assert [speak(rank) for rank in range(4)] == [told, "", told, ""], "no folder: the first of each node"
    error.folder = tmp_path
    assert [speak(rank) for rank in (1, 3, 2)] == [told, told, ""], "the first is dead, or late"
    ranks.forget_lost(tmp_path)
    assert list(tmp_path.iterdir()) == []


WORDS = (
    *("model=ytmt_pcs", "loss=pixel", *TINY, "test=false", "callbacks.panels=null", "data.num_workers=0"),
    *("callbacks=ema", "trainer=ddp", "trainer.devices=1", "trainer.num_nodes=2"),
)


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("killed", [0, 1])
def test_a_node_dies_and_the_other_ends_in_a_sentence(tmp_path: Path, killed: int) -> None:
    preload()
    nodes = started_by_srun([*WORDS, "trainer.max_epochs=1000"], tmp_path, "17")
    checkpoint = wait_for_checkpoint(tmp_path, nodes[0])
    nodes[killed].send(signal.SIGKILL)
    ended = nodes[1 - killed].result(120)
    assert ended.status == 1
    assert "Traceback" not in ended.told
    assert ended.told.count("reflectzoo: ") == 1
    assert f"is in {checkpoint}: the same command with ckpt_path=last resumes from there" in ended.told
    epochs = torch.load(checkpoint, weights_only=True)["epoch"] + 2
    again = started_by_srun([*WORDS, f"trainer.max_epochs={epochs}", "ckpt_path=last"], tmp_path, "18")
    assert [each.result(300).status for each in again] == [0, 0]
    assert len([*tmp_path.glob("outputs/ytmt_pcs/*")]) == 1, "one folder"


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_job_that_is_preempted_ends_like_one_that_is_not(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    preload()
    scontrol(tmp_path, f"echo $@ >> {tmp_path}/asked")
    words = [*WORDS, "trainer.max_epochs=3", "data.samples_per_epoch=16"]
    path = {"PATH": f"{tmp_path}:{os.environ['PATH']}"}
    nodes = started_by_srun(words, tmp_path, "17", path)
    checkpoint = wait_for_checkpoint(tmp_path, nodes[0])
    for node in nodes:
        node.send(signal.SIGUSR1)
    ended = [node.result(120) for node in nodes]
    assert [each.status for each in ended] == [130, 130]
    assert "Job 17 is requeued and will resume from there." in ended[0].told
    assert (tmp_path / "asked").read_text() == "requeue 17\n"
    again = started_by_srun(words, tmp_path, "17", path | {"SLURM_RESTART_COUNT": "1"})
    assert [each.result(300).status for each in again] == [0, 0]
    whole = started_by_srun([*words, f"hydra.run.dir={tmp_path}/whole"], tmp_path, "18")
    assert [each.result(300).status for each in whole] == [0, 0]
    one, other = (
        torch.load(file, weights_only=True) for file in (checkpoint, tmp_path / "whole/checkpoints/last.ckpt")
    )
    for part in ("state_dict", "averaging_state"):
        assert one[part].keys() == other[part].keys()
        assert all(torch.equal(torch.as_tensor(one[part][key]), torch.as_tensor(other[part][key])) for key in one[part])


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_torchrun_starts_again_where_it_was(tmp_path: Path) -> None:
    """The real command on two nodes, on one of which a process is killed."""
    port = str(get_free_port())
    agents = []
    for rank in range(2):
        (tmp_path / str(rank)).mkdir()
        launch = [
            "--nnodes=2",
            f"--node-rank={rank}",
            "--nproc-per-node=1",
            "--master-addr=127.0.0.1",
            "--max-restarts=1",
        ]
        words = [*launch, f"--master-port={port}", "-m", "reflectzoo.train", *WORDS, "trainer.max_epochs=40"]
        command = [sys.executable, "-m", "torch.distributed.run", *words, f"paths.output_dir={tmp_path}/outputs"]
        with (tmp_path / f"{rank}/told").open("w") as log:
            agents.append(subprocess.Popen(command, cwd=tmp_path / str(rank), stdout=log, stderr=log))
    try:
        while not [*tmp_path.glob("outputs/ytmt_pcs/*/checkpoints/last.ckpt")]:
            assert agents[0].poll() is None, (tmp_path / "0/told").read_text()
            time.sleep(0.1)
        (worker,) = (
            int(pid)
            for thread in Path(f"/proc/{agents[1].pid}/task").iterdir()
            for pid in (thread / "children").read_text().split()
        )
        os.kill(worker, signal.SIGKILL)
        assert [agent.wait(400) for agent in agents] == [0, 0]
    finally:
        for agent in agents:
            agent.terminate()
    (run_dir,) = tmp_path.glob("outputs/ytmt_pcs/*")
    told = (tmp_path / "0/told").read_text()
    assert f"Resuming from {run_dir}/checkpoints/last.ckpt" in told
    assert "epoch 40/40" in told
    assert torch.load(run_dir / "checkpoints/last.ckpt", weights_only=True)["epoch"] == 39


def wait_for_checkpoint(folder: Path, child: Child) -> Path:
    while not (found := [*folder.glob("outputs/ytmt_pcs/*/checkpoints/last.ckpt")]):
        assert not child.ended(0.02), child.result().told
    return found[0]
