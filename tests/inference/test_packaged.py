"""The weights in the package: small, whole, quick to load, better than doing nothing on photographs they never saw."""

from __future__ import annotations

import json
import shutil
import time
from pathlib import Path

import pytest
import torch
from PIL import Image
from torch import Tensor
from torchmetrics.functional.image import peak_signal_noise_ratio, structural_similarity_index_measure

import reflectzoo
from reflectzoo.__main__ import main
from reflectzoo.data.modules.sample import SamplePhotos
from reflectzoo.data.synthesis import CEILNetSynthesis
from reflectzoo.errors import UserError
from reflectzoo.inference.load import LoadedModel, load, read_safetensors
from reflectzoo.weights import records as records_module
from reflectzoo.weights.download import DownloadError
from reflectzoo.weights.records import records


def record() -> records_module.WeightRecord:
    return next(each for each in records() if each.default)


@pytest.fixture(scope="module")
def lite() -> LoadedModel:
    return reflectzoo.load_model("lite")


def mixtures() -> list[tuple[Tensor, Tensor]]:
    """Mixture and truth of the sample photographs that nothing is trained on."""
    data = SamplePhotos(CEILNetSynthesis(), num_workers=0)
    data.setup("test")
    found = []
    for loader in data.test_dataloader():
        for raw in loader:
            batch = data.complete_batch(data.on_before_batch_transfer(raw, 0))
            found.append((batch["mixture"], batch["transmission"]))
    return found


def test_what_is_said_is_in_the_package() -> None:
    packaged = record()
    path = records_module.locate(packaged)
    assert path.stat().st_size == packaged.size <= 25e6
    _, metadata = read_safetensors(path)
    assert json.loads(metadata["record"])["model"] == packaged.model == "lite"
    assert packaged.licence
    assert packaged.metrics


def test_it_loads_in_a_second() -> None:
    taken = []
    for _ in range(3):
        start = time.perf_counter()
        reflectzoo.load_model("lite")
        taken.append(time.perf_counter() - start)
    assert min(taken) < 1


def test_a_damaged_file_is_not_used(tmp_path: Path) -> None:
    for suffix in (".json", ".safetensors"):
        shutil.copy(records_module.RECORDS / f"lite{suffix}", tmp_path)
    (packaged,) = records(tmp_path)
    damaged = tmp_path / packaged.file
    data = bytearray(damaged.read_bytes())
    data[-1] ^= 1
    damaged.write_bytes(data)
    with pytest.raises(DownloadError, match="sha256"):
        records_module.locate(packaged)


def test_better_than_the_mixture(lite: LoadedModel) -> None:
    gains = []
    for mixture, truth in mixtures():
        with torch.no_grad():
            found = lite(mixture)["transmission"].clamp(0, 1)
        gains.append(
            [
                float(score(found, truth, data_range=1.0) - score(mixture, truth, data_range=1.0))
                for score in (peak_signal_noise_ratio, structural_similarity_index_measure)
            ]
        )
    psnr, ssim = torch.tensor(gains).mean(0).tolist()
    assert psnr > 1.5
    assert ssim > 0.01


def test_a_photograph_without_a_reflection_hardly_changes(lite: LoadedModel) -> None:
    scores = []
    for _, truth in mixtures():
        with torch.no_grad():
            found = lite(truth)["transmission"].clamp(0, 1)
        scores.append(float(peak_signal_noise_ratio(found, truth, data_range=1.0)))
    assert sum(scores) / len(scores) > 25


def test_the_shortest_command(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    photo = tmp_path / "window.png"
    mixture = mixtures()[0][0][0]
    Image.fromarray((mixture * 255).round().byte().permute(1, 2, 0).numpy()).save(photo)
    assert main(["remove", str(photo)]) == 0
    assert "untrained" not in capfd.readouterr().err
    with Image.open(tmp_path / "window.transmission.png") as result, Image.open(photo) as before:
        assert result.size == before.size
        assert result.tobytes() != before.tobytes()


def test_the_weights_that_shipped_before_are_there_by_name() -> None:
    """And a file of theirs that calls itself lite, as those of 2026 do, says that it is lite_1."""
    old = reflectzoo.load_model("lite_1")
    assert (old.name, type(old.net).__name__) == ("lite_1", "LiteNet")
    path = records_module.locate(next(each for each in records() if each.name == "lite_1"))
    _, metadata = read_safetensors(path)
    assert json.loads(metadata["record"])["model"] == "lite"
    assert load(None, path).name == "lite_1"
    with pytest.raises(UserError, match="lite_1"):
        reflectzoo.load_model("lite", path)
