"""What every test may use: the command line in this process or another one, and small settings."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.quick import remember

os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")
os.environ.setdefault("WANDB_MODE", "offline")
os.environ.setdefault("WANDB_ERROR_REPORTING", "false")
# Tests use small networks, for which handing work to a second thread costs more than it saves.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("GOMP_SPINCOUNT", "10000")

REPOSITORY = Path(__file__).resolve().parents[1]
SHARED = REPOSITORY.parent / "shared"

collect_ignore = ["plugin"]
"""Its doctests would import it from here, where tests want the copy that pip installed."""

TINY = (
    "model.net.width=8",
    "model.vgg=random",
    "data.crop=32",
    "data.eval_crop=32",
    "data.batch_size=2",
    "data.samples_per_epoch=4",
    "trainer.max_epochs=2",
    "trainer.accelerator=cpu",
    "trainer.log_every_n_steps=1",
)
"""Overrides that make any YTMT run a matter of seconds."""

TINY_GAN = (
    "loss.terms.adversarial.start_epoch=0",
    "loss.terms.adversarial.discriminator.width=8",
)


@pytest.fixture(scope="session", autouse=True)
def nothing_is_parsed_twice() -> Iterator[None]:
    """See tests/quick.py."""
    with pytest.MonkeyPatch.context() as patch:
        remember(patch)
        yield


@dataclass
class Run:
    """What a command did."""

    status: int
    out: str
    err: str
    folder: Path

    @property
    def sentence(self) -> str:
        """The sentence told on stderr."""
        return next((line for line in self.err.splitlines() if line.startswith("reflectzoo: ")), "")


@pytest.fixture
def train(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Callable[..., Run]:
    """Run ``reflectzoo.train`` in this process, in an empty folder; the run's folder is ``tmp_path/run`` by default."""

    def call(*overrides: str, folder: str | None = "run") -> Run:
        from reflectzoo.train import main

        monkeypatch.chdir(tmp_path)
        monkeypatch.setenv("HYDRA_FULL_ERROR", "0")
        where = (f"hydra.run.dir={folder}",) if folder else ()
        monkeypatch.setattr(sys, "argv", ["reflectzoo.train", *where, *overrides])
        with pytest.raises(SystemExit) as stop:
            main()
        captured = capfd.readouterr()
        return Run(int(stop.value.code or 0), captured.out, captured.err, tmp_path / (folder or "outputs"))

    return call


def command(*arguments: str, cwd: Path, timeout: float = 240, **environment: str) -> Run:
    """Run ``python -m ...`` in a process of its own."""
    done = subprocess.run(
        [sys.executable, "-m", *arguments],
        cwd=cwd,
        env={**os.environ, "HYDRA_FULL_ERROR": "0", **environment},
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
    )
    return Run(done.returncode, done.stdout, done.stderr, cwd)


def in_two_processes(work: Callable[..., None], *arguments: Any) -> None:
    """Call ``work(rank, *arguments)`` in two processes at once."""
    import torch
    from torch.multiprocessing.spawn import start_processes

    # A fork has everything imported already, but autograd refuses to work in it if an accelerator is in use here.
    method = "spawn" if torch.accelerator.is_available() else "fork"
    start_processes(work, args=arguments, nprocs=2, start_method=method)  # type: ignore[no-untyped-call]


@pytest.fixture
def layers() -> Callable[..., tuple[Any, ...]]:
    """Random images in [0, 1)."""
    import torch  # after the settings above, which it reads

    def draw(number: int, *shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> tuple[torch.Tensor, ...]:
        generator = torch.Generator().manual_seed(seed)
        return tuple(torch.rand(shape, generator=generator, dtype=dtype) for _ in range(number))

    return draw
