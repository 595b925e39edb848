"""What a training tells dashboards, and that all of them hear the same."""

from __future__ import annotations

import csv
import importlib
import json
import os
import signal
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
from omegaconf import OmegaConf
from tests.conftest import TINY, TINY_GAN, Run

from reflectzoo.training.loggers import _artefact_of, _by_set, _own_words

Train = Callable[..., Run]

VITALS = {
    "train/grad_norm/phase1",
    "train/grad_norm/discriminator",
    "speed/images_per_second",
    "speed/wait",
    "memory/process_gb",
}


def curves(run: Path) -> dict[str, list[float]]:
    """What is in the CSV files, those of a training that was interrupted one after the other."""
    values: dict[str, list[float]] = {}
    for number in range(len(list(run.glob("logs/version_*")))):
        with (run / f"logs/version_{number}/metrics.csv").open() as file:
            for row in csv.DictReader(file):
                for key, value in row.items():
                    if value and key not in ("step", "epoch"):
                        values.setdefault(key, []).append(float(value))
    return values


def records(file: Path) -> Iterator[bytes]:
    """What lies in an offline run of W&B's: a log as LevelDB writes them, after seven bytes of W&B's own."""
    data, place, whole = file.read_bytes(), 7, b""
    while place + 7 <= len(data):
        left = 2**15 - place % 2**15
        if left < 7:
            place += left
            continue
        length, kind = int.from_bytes(data[place + 4 : place + 6], "little"), data[place + 6]
        part = data[place + 7 : place + 7 + length]
        place += 7 + length
        whole = part if kind in (1, 2) else whole + part  # all of it, or its beginning
        if kind in (1, 4):  # all of it, or its end
            yield whole


@dataclass
class Offline:
    """What W&B would show of a run.

    Attributes:
        id: of the run.
        name: for people.
        group: that it belongs to.
        config: fields to search by.
        scalars: name -> values in their order.
        captions: of each picture that was logged, by its panel.
        tables: columns and rows of each table.
        artefacts: name -> metadata.
        complete: whether its end has been written.
    """

    id: str = ""
    name: str = ""
    group: str = ""
    config: dict[str, Any] = field(default_factory=dict)
    scalars: dict[str, list[float]] = field(default_factory=dict)
    captions: dict[str, list[Any]] = field(default_factory=dict)
    tables: dict[str, Any] = field(default_factory=dict)
    artefacts: dict[str, dict[str, Any]] = field(default_factory=dict)
    complete: bool = False

    @classmethod
    def read(cls, folder: Path) -> Offline:
        """From the folder of an offline run, which W&B goes on writing for a moment after the command has ended."""
        start = time.monotonic()
        while not (found := cls._read(folder)).complete and time.monotonic() - start < 30:
            time.sleep(0.2)
        return found

    @classmethod
    def _read(cls, folder: Path) -> Offline:
        protocol: Any = importlib.import_module("wandb.proto.wandb_internal_pb2")
        run = cls()
        for content in records(next(folder.glob("run-*.wandb"))):
            record = protocol.Record.FromString(content)
            if record.HasField("run"):
                run.id, run.name, run.group = record.run.run_id, record.run.display_name, record.run.run_group
            for update in (*record.run.config.update, *record.config.update):
                run.config[update.key or update.nested_key[0]] = json.loads(update.value_json)
            media: dict[str, dict[str, Any]] = {}
            for item in record.history.item:
                key, *inner = item.nested_key or [item.key]
                if inner:
                    media.setdefault(key, {})[inner[0]] = json.loads(item.value_json)
                else:
                    run.scalars.setdefault(key, []).append(json.loads(item.value_json))
            for key, parts in media.items():
                if parts.get("_type") == "table-file":
                    run.tables[key] = json.loads((folder / "files" / parts["path"]).read_text())
                elif "captions" in parts:
                    run.captions.setdefault(key, []).append(parts["captions"])
            if record.HasField("artifact"):
                run.artefacts[record.artifact.name] = json.loads(record.artifact.metadata or "{}")
            run.complete |= record.HasField("exit")
        return run


class CtrlC(pl.Callback):
    """Presses it after so many batches."""

    def __init__(self, batches: int) -> None:
        self.left = batches

    def on_train_batch_end(self, *_: Any, **__: Any) -> None:
        self.left -= 1
        if self.left == 0:
            os.kill(os.getpid(), signal.SIGINT)


def test_wandb_offline_from_the_first_step_over_ctrl_c_to_the_artefact(train: Train) -> None:
    common = ("model=ytmt_pcs", "~loss.terms.perceptual", *TINY, *TINY_GAN, "logger=[csv,wandb]")
    stop = ("+callbacks.stop._target_=tests.training.test_dashboards.CtrlC", "+callbacks.stop.batches=3")
    first = train(*common, *stop, folder="first")
    assert first.status == 130, first.err
    again = train(*common, "ckpt_path=last", folder="first")
    assert again.status == 0, again.err
    parts = [Offline.read(folder) for folder in sorted(first.folder.glob("wandb/offline-run-*"))]
    run_id = (first.folder / "wandb_run_id").read_text()
    assert [part.id for part in parts] == [run_id, run_id]
    last = parts[1]
    assert (last.name, last.group) == ("ytmt_pcs first", "")
    assert last.config["model"]["net"]["width"] == 8
    assert last.config["choices"]["model"] == "ytmt_pcs"
    # Nothing is missed, and nothing shown twice.
    shown = {key: [value for part in parts for value in part.scalars.get(key, [])] for key in curves(first.folder)}
    assert shown.keys() >= VITALS
    assert len(shown["train/total"]) == 4
    for key, values in curves(first.folder).items():
        assert shown[key] == pytest.approx(values), key
    captions = [each for part in parts for each in part.captions["panels/val/sample"]]
    assert len(captions) == 2
    assert captions[0] == captions[1]
    table = last.tables["evaluation"]
    scores = dict(zip(table["columns"], table["data"][0], strict=True))
    assert scores["psnr"] == pytest.approx(shown["test/mean/psnr"][0])
    artefact = last.artefacts[f"ytmt_pcs-{run_id}"]
    assert artefact["test/mean/psnr"] == pytest.approx(shown["test/mean/psnr"][0])
    assert artefact["started_from"] == {}
    other = train(
        *common, f"ckpt_path={first.folder}/checkpoints/last.ckpt", "trainer.max_epochs=3", "test=false", folder="other"
    )
    assert other.status == 0, other.err
    (found,) = (Offline.read(folder) for folder in other.folder.glob("wandb/offline-run-*"))
    assert found.id != run_id, "another folder is another run"
    assert found.artefacts[f"ytmt_pcs-{found.id}"]["started_from"] == {"ckpt_path": f"ytmt_pcs-{run_id}"}


def test_names_of_a_sweep_are_what_its_jobs_differ_in(tmp_path: Path) -> None:
    OmegaConf.save(
        {"hydra": {"overrides": {"task": ["model=a", "seed=1,2", "test=false"]}}}, tmp_path / "multirun.yaml"
    )
    assert _own_words(tmp_path, ["model=a", "seed=2", "test=false"]) == ["seed=2"]


def test_rows_of_the_evaluation() -> None:
    metrics = {"test/mean/psnr": 20.0, "test/sample/psnr": 20.0, "test/sample/ssim": 0.8, "val/mean/psnr": 3.0}
    assert _by_set(metrics) == {"mean": {"psnr": 20.0}, "sample": {"psnr": 20.0, "ssim": 0.8}}


def test_a_checkpoint_of_nobody_has_no_artefact(tmp_path: Path) -> None:
    assert _artefact_of(tmp_path / "checkpoints/best.ckpt") is None
    (tmp_path / "wandb_run_id").write_text("abc")
    (tmp_path / "config.yaml").write_text("model: {name: lite}\n")
    assert _artefact_of(tmp_path / "checkpoints/best.ckpt") == "lite-abc"


@pytest.mark.slow
def test_every_dashboard_shows_the_same_scalars(train: Train, tmp_path: Path) -> None:
    mlflow: Any = pytest.importorskip("mlflow")
    accumulator: Any = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    run = train("model=ytmt_pcs", "loss=pixel", *TINY, "logger=[csv,tensorboard,mlflow,wandb]")
    assert run.status == 0, run.err
    wanted = curves(run.folder)
    assert {"train/total", "val/mean/psnr", "test/mean/psnr", "lr/phase1", "speed/wait"} <= {*wanted}
    events = accumulator.EventAccumulator(str(run.folder / "tensorboard"))
    events.Reload()
    client = mlflow.tracking.MlflowClient(f"sqlite:///{tmp_path}/outputs/mlflow.db")
    mlflow_id = (run.folder / "mlflow_run_id").read_text()
    (offline,) = (Offline.read(folder) for folder in run.folder.glob("wandb/offline-run-*"))
    for key, values in wanted.items():
        assert [each.value for each in events.Scalars(key)] == pytest.approx(values, rel=1e-6), key
        history = client.get_metric_history(mlflow_id, key)
        assert sorted(each.value for each in history) == pytest.approx(sorted(values)), key
        assert offline.scalars[key] == pytest.approx(values), key
    own = ("epoch", "step", "hp_metric", "trainer/global_step")  # the dashboards' own axes
    assert {*events.Tags()["scalars"]} - {*own} == {*wanted}
    assert {key for key in offline.scalars if not key.startswith("_")} - {*own} == {*wanted}
    assert {*client.get_run(mlflow_id).data.metrics} - {*own} == {*wanted}
    assert client.get_run(mlflow_id).data.params["model/name"] == "ytmt_pcs"
