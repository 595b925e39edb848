"""ONNX: what comes out says the same as PyTorch at every size, or does not come out."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F

import reflectzoo
from reflectzoo.__main__ import main
from reflectzoo.core.method import Method, Model
from reflectzoo.errors import UserError
from reflectzoo.inference import export as exporting
from reflectzoo.inference.export import ExportError, export, mean_of_blocks
from reflectzoo.inference.load import LoadedModel
from reflectzoo.inference.onnx import OnnxSeparator, Session
from reflectzoo.inference.separator import Separator
from reflectzoo.weights.stored import NetworkRecord

pytest.importorskip("onnxscript", reason="the extra onnx is not installed")
pytest.importorskip("onnxruntime", reason="the extra onnx is not installed")

_SLOW = pytest.mark.skipif(not os.environ.get("REFLECTZOO_SLOW"), reason="half a minute each: REFLECTZOO_SLOW=1")


class _Small(nn.Module):
    """What makes exporting hard: padding that depends on the size, ragged pooling, a mean over the picture."""

    def __init__(self, divergent: bool = False) -> None:
        super().__init__()
        self.down = nn.Conv2d(3, 4, 3, stride=2, padding=1)
        self.up = nn.ConvTranspose2d(4, 3, 4, stride=2, padding=1)
        self.divergent = divergent

    def forward(self, mixture: Tensor) -> dict[str, Tensor]:
        height, width = mixture.shape[-2:]
        down, right = -height % 8, -width % 8
        image = F.pad(mixture, (0, right, 0, down), mode="reflect") if down or right else mixture
        x = self.down(image)
        blocks = F.avg_pool2d(x, 4, ceil_mode=True, count_include_pad=False)
        x = x + F.interpolate(blocks, scale_factor=4, mode="nearest")[..., : x.shape[-2], : x.shape[-1]]
        x = x * torch.mean(x, dim=(2, 3), keepdim=True)
        transmission = self.up(x)[..., :height, :width]
        if self.divergent:
            transmission = transmission + 0.01 * (not torch.compiler.is_exporting())
        return {"transmission": transmission, "reflection": mixture - transmission}


def _module(**settings: Any) -> LoadedModel:
    torch.manual_seed(0)
    method = Method("small", __name__, "A small network", {"small": Model()}, (".net:Small",))
    return LoadedModel(_Small(**settings), NetworkRecord("small", method, "Small", settings)).eval()


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> tuple[LoadedModel, Path]:
    module, path = _module(), tmp_path_factory.mktemp("onnx") / "small.onnx"
    done = export(module, path)
    assert done.layers == ("transmission", "reflection")
    assert any(height % 2 and width % 2 for height, width in done.differences)
    assert len(done.differences) == 3
    assert max(done.differences.values()) < 1e-5
    assert all(parameter.requires_grad for parameter in module.parameters())
    return module, path


@pytest.mark.parametrize("size", [(32, 32), (33, 47), (40, 64), (71, 35)])
def test_sizes_that_were_not_compared(small: tuple[LoadedModel, Path], size: tuple[int, int]) -> None:
    module, path = small
    image = torch.rand(1, 3, *size)
    with torch.no_grad():
        expected = module(image)
    found = Session(path)(image)
    for name in ("transmission", "reflection"):
        torch.testing.assert_close(found[name], expected[name], atol=1e-5, rtol=0)


def test_the_file_says_what_it_is(small: tuple[LoadedModel, Path]) -> None:
    import onnx

    facts = Session(small[1]).facts
    assert facts["model"] == "small"
    assert facts["opset"] == 20
    assert facts["statistics"] == 1
    assert facts["mirrored"] is False
    model = onnx.load(small[1])
    assert {each.version for each in model.opset_import if not each.domain} == {20}
    sides = [each.dim_param for each in model.graph.input[0].type.tensor_type.shape.dim]
    assert sides == ["", "", "height", "width"]


def test_removing_is_the_same_as_with_torch(small: tuple[LoadedModel, Path], tmp_path: Path) -> None:
    module, path = small
    values = np.random.default_rng(0).integers(0, 256, (45, 61, 3)).astype(np.uint8)
    Image.fromarray(values).save(tmp_path / "a.png")
    assert main(["remove", str(tmp_path / "a.png"), "--backend", "onnx", "--weights", str(path)]) == 0
    with Image.open(tmp_path / "a.transmission.png") as image:
        found = np.asarray(image).astype(int)
    expected = reflectzoo.separate(values, module)[0]
    assert np.abs(found - expected).max() <= 1


def test_tiny_pictures(small: tuple[LoadedModel, Path]) -> None:
    layers = OnnxSeparator(Session(small[1])).layers(torch.rand(3, 1, 5))
    assert layers["transmission"].shape == (3, 1, 5)


def test_tiles_that_would_not_agree_are_refused(small: tuple[LoadedModel, Path]) -> None:
    separator = OnnxSeparator(Session(small[1]))
    separator.tile = 256
    with pytest.raises(UserError, match="means over the whole picture"):
        separator.layers(torch.rand(3, 700, 300))
    separator.statistics = 0
    assert separator.layers(torch.rand(3, 700, 300))["transmission"].shape == (3, 700, 300)


def test_what_comes_out_wrong_is_not_written(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match=r"differs from PyTorch by 0\.01, .* nothing was written"):
        export(_module(divergent=True), tmp_path / "a.onnx")
    assert not list(tmp_path.iterdir())


def test_mistakes(small: tuple[LoadedModel, Path], tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    photo = tmp_path / "a.png"
    Image.new("RGB", (40, 40)).save(photo)
    (tmp_path / "broken.onnx").write_bytes(b"no graph")
    (tmp_path / "there.onnx").write_bytes(b"mine")
    tiny = ["--model", "ytmt_pcs", "--untrained", "--override", "model.net.width=4"]
    remove = ["remove", str(photo), "--backend", "onnx"]
    for words, told in (
        (["export", "--model", "corrn", str(tmp_path / "b.onnx")], "is not trained"),
        (["export", "--untrained", str(tmp_path / "b.onnx")], "--model NAME"),
        (["export", *tiny, str(tmp_path / "b.pt")], "must end in .onnx"),
        (["export", *tiny, str(tmp_path / "there.onnx")], "already exists"),
        (remove, "needs a file"),
        ([*remove, "--weights", str(tmp_path / "none.onnx")], "no ONNX file"),
        ([*remove, "--weights", str(tmp_path / "broken.onnx")], "damaged"),
        ([*remove, "--weights", str(small[1]), "--model", "corrn"], "holds model=small"),
        ([*remove, "--weights", str(small[1]), "--precision", "bf16"], "full precision"),
    ):
        assert main(words) == 2, words
        error = capfd.readouterr().err
        assert told in error, error
        assert "Traceback" not in error
    assert (tmp_path / "there.onnx").read_bytes() == b"mine"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.png", "broken.onnx", "there.onnx"]


def test_a_missing_package(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def missing(name: str) -> Any:
        raise ImportError(name)

    monkeypatch.setattr("reflectzoo.inference.onnx.importlib.import_module", missing)
    with pytest.raises(UserError, match=r"pip install 'reflectzoo\[onnx\]'"):
        export(_module(), tmp_path / "a.onnx")


@pytest.mark.parametrize("size", [(9, 17), (8, 16), (5, 3)])
@pytest.mark.parametrize("side", [2, 4, 8])
def test_mean_of_blocks(size: tuple[int, int], side: int) -> None:
    x = torch.rand(2, 3, *size)
    expected = F.avg_pool2d(x, side, ceil_mode=True, count_include_pad=False)
    torch.testing.assert_close(mean_of_blocks(x, side), expected)


@pytest.mark.parametrize(
    ("model", "stride"), [("ytmt_pcs", 1), ("corrn", 32), ("location_aware", 8), ("dynamics_student", 4)]
)
def test_what_networks_pad_to_is_found(model: str, stride: int) -> None:
    network = reflectzoo.create_model(model, "model.net.width=4", "model.vgg=random", "loss=pixel")
    assert exporting._look(network)[0] == stride


@_SLOW
@pytest.mark.slow
@pytest.mark.parametrize(
    ("model", "overrides"),
    [
        ("ytmt_ucs", ("model.net.hypercolumn=false",)),
        ("ytmt_ucs", ("model.net.hypercolumn=true",)),
        ("ytmt_uct", ("model.net.hypercolumn=false",)),
        ("corrn", ()),
        ("location_aware", ("model.net.iterations=2", "model.init_std=0.1")),
        ("dynamics_student", ()),
    ],
)
def test_every_method(model: str, overrides: tuple[str, ...], tmp_path: Path) -> None:
    torch.manual_seed(0)
    network = reflectzoo.create_model(model, "model.net.width=4", "model.vgg=random", "loss=pixel", *overrides)
    done = export(network, tmp_path / "a.onnx")
    assert max(done.differences.values()) <= 1e-3
    image = torch.rand(1, 3, 75, 109)
    expected = Separator(network).layers(image[0])
    found = OnnxSeparator(Session(tmp_path / "a.onnx")).layers(image[0])
    for name in expected:
        torch.testing.assert_close(found[name], expected[name], atol=1e-4, rtol=0)
    assert expected["transmission"].std() > 1e-4
