"""What every model of every method keeps to; a new one is tested by being there."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import reflectzoo
from reflectzoo.core.registry import method_of
from reflectzoo.inference.convert import convert
from reflectzoo.inference.load import read_safetensors
from reflectzoo.inference.separator import Separator, difference
from reflectzoo.weights.stored import build_stored as build_stored
from reflectzoo.weights.stored import parse_record, stored_network
from tests.contract.conftest import MAINS, MODELS, Trained, built, fresh, make_batch

each_model = pytest.mark.parametrize("model", MODELS)
each_method = pytest.mark.parametrize("model", MAINS)


def tensors(outputs: Any) -> Iterator[Tensor]:
    if isinstance(outputs, Tensor):
        yield outputs
    elif isinstance(outputs, dict):
        for value in outputs.values():
            yield from tensors(value)
    elif isinstance(outputs, list | tuple):
        for value in outputs:
            yield from tensors(value)


def distance(one: Any, other: Any) -> float:
    return max(float((a - b).abs().max()) for a, b in zip(tensors(one), tensors(other), strict=True))


@each_model
def test_builds_from_its_settings_alone(model: str) -> None:
    module = built(model)
    assert module.name == model
    assert module.config is not None
    stored = parse_record(json.loads(json.dumps(stored_network(model, module.config["net"]))), "x")
    again = build_stored(stored, "x", module.net.state_dict())
    assert {key: value.shape for key, value in again.state_dict().items()} == {
        key: value.shape for key, value in module.net.state_dict().items()
    }


@each_model
def test_any_size(model: str) -> None:
    net, method = fresh(model).eval().net, method_of(model)
    method.enter_phase(net, len(method.models[model].phases) - 1)
    for size in ((33, 50), (1, 1)):
        with torch.no_grad():
            outputs = net(torch.rand(2, 3, *size))
        for name in {"transmission", "reflection"} & set(outputs):
            assert outputs[name].shape == (2, 3, *size)
            assert outputs[name].isfinite().all()


@each_model
def test_every_parameter_gets_a_gradient(model: str) -> None:
    module, method = fresh(model), method_of(model)
    learning: set[str] = set()
    reached: set[str] = set()
    # A rectifier of one or two units, as an attention of this width has, may be dead by chance, but not each time.
    for seed in range(6):
        torch.manual_seed(seed)
        for each in module.net.modules():
            # Layers that start at zero let nothing through to those before them.
            if isinstance(each, nn.Conv2d | nn.ConvTranspose2d | nn.Linear):
                nn.init.normal_(each.weight, std=0.1)
                if each.bias is not None:
                    nn.init.constant_(each.bias, 0.3)
        for parameter in module.net.parameters():
            if parameter.requires_grad and not parameter.any():
                nn.init.normal_(parameter, std=0.1)
        for phase in range(len(method.models[model].phases)):
            method.enter_phase(module.net, phase)
            module.zero_grad()
            outputs = tensors(method.predict_batch(module.net, make_batch()))
            torch.stack([each.square().mean() for each in outputs]).sum().backward()
            parameters = dict(module.net.named_parameters())
            learning |= {name for name, each in parameters.items() if each.requires_grad}
            reached |= {name for name, each in parameters.items() if each.grad is not None and each.grad.any()}
        if learning == reached & learning:
            break
    assert sorted(learning - reached) == []


@each_model
def test_trains_resumes_and_reloads(model: str, trained: Callable[[str], Trained]) -> None:
    run = trained(model)
    assert all(loss == loss and abs(loss) < 1e6 for loss in run.losses)
    last = run.module.state_dict()
    assert any(not torch.equal(run.before[key], run.first[key]) for key in run.first), "float32"
    assert any(not torch.equal(run.first[key], last[key]) for key in last), "bfloat16, resumed"
    assert all(value.isfinite().all() for value in last.values())

    found, batch = run.loaded, make_batch()
    assert (found.name, found.method) == (model, method_of(model))
    assert found.stored.phase == run.module.phase == len(found.method.models[model].phases) - 1
    with torch.no_grad():
        assert distance(found.predict_batch(batch), run.module.predict_in_use(batch)) == 0


@each_model
def test_a_safetensors_file_holds_the_same(model: str, trained: Callable[[str], Trained], tmp_path: Path) -> None:
    run = trained(model)
    done = convert(run.path, tmp_path / "a.safetensors")
    assert done.model == model
    record = json.loads(read_safetensors(tmp_path / "a.safetensors")[1]["record"])
    assert record["version"] == 2
    assert "_target_" not in json.dumps(record)
    with torch.no_grad():
        mixture = make_batch()["mixture"]
        found = reflectzoo.load_model(tmp_path / "a.safetensors")
        assert distance(found(mixture), run.loaded(mixture)) == 0


@each_method
def test_tiles_agree(model: str, trained: Callable[[str], Trained]) -> None:
    network = trained(model).loaded
    stride = network.size.multiple
    side = -(-3 * network.tiling.halo // stride) * stride + 2 * stride
    mixture = torch.rand(3, side, side, generator=torch.Generator().manual_seed(0))
    separator = Separator(network, "cpu", working=0)
    found = difference(separator, mixture, side - stride)
    assert separator.last is not None
    assert separator.last.tiles > 1
    assert max(found.values()) < 2e-3


@pytest.mark.slow
@each_method
def test_exports(model: str, trained: Callable[[str], Trained], tmp_path: Path) -> None:
    pytest.importorskip("onnxscript")
    from reflectzoo.inference.export import ExportError, export

    network = reflectzoo.load_model(trained(model).path)
    if not network.method.onnx:
        with pytest.raises(ExportError, match="cannot be exported"):
            export(network, tmp_path / "a.onnx")
        return
    done = export(network, tmp_path / "a.onnx")
    assert max(done.differences.values()) < 1e-3
