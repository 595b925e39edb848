"""Large photographs are separated at the size that the network was trained for, and keep their own detail."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

import reflectzoo
from reflectzoo.__main__ import main
from reflectzoo.core.method import Size
from reflectzoo.data.synthesis import CEILNetSynthesis
from reflectzoo.inference.separator import Separator
from reflectzoo.inference.tiles import resampled, resampled_rows
from reflectzoo.inference.working_size import Change, separate_resized, working_size
from reflectzoo.photo.read import from_pil


def halved(mixture: Tensor) -> dict[str, Tensor]:
    """A network that takes away half of the light."""
    return {"transmission": mixture * 0.5, "reflection": mixture * 0.25}


def seen_sizes(sizes: list[tuple[int, ...]]) -> Any:
    def network(mixture: Tensor) -> dict[str, Tensor]:
        sizes.append(tuple(mixture.shape[-2:]))
        return halved(mixture)

    return network


def noise(*shape: int) -> Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(0))


def test_the_shorter_side_decides() -> None:
    size = Size(multiple=32, working=384)
    assert working_size(3000, 4000, size) == (384, 512)
    assert working_size(4000, 3000, size) == (512, 384)
    assert working_size(384, 512, size) is None
    # Rounded, not padded, unless that would distort a small picture.
    assert working_size(282, 450, size) == (288, 448)
    assert working_size(400, 9000, size) == (384, 8640)
    assert working_size(127, 450, size) is None
    assert working_size(3000, 9000, Size(multiple=128, working=32)) == (128, 128)
    assert working_size(3001, 4001, Size(multiple=32)) is None
    with pytest.raises(ValueError, match="at least the minimum"):
        Size(minimum=128, working=64)


def test_rows_are_resized_as_the_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    mixture = noise(3, 301, 227)
    monkeypatch.setattr("reflectzoo.inference.tiles._ROWS_PIXELS", 5000)
    found = resampled_rows(lambda first, last: mixture[:, first:last], 301, 227, (97, 64))
    assert torch.allclose(found, resampled(mixture[None], (97, 64)), atol=1e-6)


def test_enlarged_as_torch_would() -> None:
    small, layer = noise(1, 3, 20, 31), noise(2, 3, 20, 31)[1:]
    image = noise(1, 3, 111, 190)
    change = Change(small, {"transmission": layer, "reflection": layer}, (111, 190))
    found = change.applied(image, 0, 111)
    larger = F.interpolate(torch.cat((layer - small, layer)), (111, 190), mode="bicubic", align_corners=False)
    assert torch.allclose(found["transmission"], image + larger[:1], atol=1e-4)
    assert torch.allclose(found["reflection"], larger[1:], atol=1e-4)
    part = change.band(image[0, :, 40:60], 40, 60).layers["transmission"]
    assert torch.allclose(part, found["transmission"][0, :, 40:60], atol=1e-6)


def test_layers_in_mixed_precision() -> None:
    mixture = noise(1, 3, 300, 400)
    size = Size(multiple=32, working=128)
    exact = separate_resized(halved, mixture, size)
    rounded = separate_resized(lambda image: {k: v.bfloat16() for k, v in halved(image).items()}, mixture, size)
    for name, layer in exact.items():
        assert rounded[name].dtype == torch.float32
        assert (rounded[name] - layer).abs().max() < 0.01


def test_detail_stays_and_the_network_sees_the_small_picture() -> None:
    sizes: list[tuple[int, ...]] = []
    mixture = 0.5 + 0.4 * noise(3, 300, 200)
    separator = Separator(seen_sizes(sizes), "cpu", working=70)
    found = separator.layers(mixture)
    assert sizes == [(96, 64)]
    assert separator.last is not None
    assert separator.last.tile == (96, 64)
    change = (mixture - found["transmission"])[:, 4:-4, 4:-4]
    # What is taken away is smooth, although the photograph is noise.
    assert change.diff(dim=-1).abs().mean() < 0.05 * mixture.diff(dim=-1).abs().mean()
    sizes.clear()
    Separator(seen_sizes(sizes), "cpu", working=0).layers(mixture)
    assert sizes == [(300, 200)]


@pytest.mark.parametrize("mode", ["RGB", "L", "RGBA"])
def test_pictures_in_bands(mode: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("reflectzoo.inference.separator.BAND", 50)
    pixels = np.random.default_rng(0).integers(40, 200, (130, 170, len(mode)), dtype=np.uint8)
    picture = from_pil(Image.fromarray(pixels.squeeze()))
    separator = Separator(halved, "cpu", working=64)
    found = separator.picture(picture, strength=0.5)
    whole = separator.blended(picture.tensor(), strength=0.5)
    for name, layer in (("transmission", found.transmission), ("reflection", found.reflection)):
        expected = picture.with_values(whole[name])
        assert layer.values.shape == picture.values.shape
        assert np.abs(layer.values.astype(int) - expected.values.astype(int)).max() <= 1
    if mode == "RGBA":
        assert np.array_equal(found.transmission.alpha, picture.alpha)


def test_evaluation_and_validation_score_what_remove_writes() -> None:
    network = reflectzoo.load_model("lite", None, "model.net.width=8", "model.net.features=none", untrained=True)
    torch.nn.init.normal_(network.net.out_l.weight, std=0.02)  # type: ignore[union-attr, arg-type]
    mixture = noise(1, 3, 500, 640)
    with torch.no_grad():
        batch: Any = {"mixture": mixture}
        scored = network.predict_batch(batch)["transmission"].clamp(0, 1)
    written = Separator(network, "cpu").layers(mixture[0])["transmission"]
    assert (written - mixture[0]).abs().mean() > 1e-3
    assert torch.allclose(scored[0], written, atol=1e-5)
    trained = reflectzoo.create_model("lite", "model.net.width=8", "model.net.features=none")
    trained.net.load_state_dict(network.net.state_dict())
    with torch.no_grad():
        validated = trained.predict_in_use(batch)["transmission"]
        assert torch.allclose(validated.clamp(0, 1), scored, atol=1e-6)
        assert not torch.allclose(trained.predict_batch(batch)["transmission"], validated, atol=1e-3)
    small = noise(1, 3, 128, 160)
    assert torch.equal(separate_resized(network, small, network.size)["transmission"], network(small)["transmission"])


def psnr(one: Tensor, other: Tensor) -> float:
    return float(-10 * (one - other).square().mean().log10())


def test_packaged_weights_on_a_large_photograph() -> None:
    """Enlarged three times, a mixture that the packaged weights improve is still improved; at full size it is not."""
    from skimage import data

    def square(picture: np.ndarray[Any, Any]) -> Tensor:
        return torch.from_numpy(picture[:288, :384].copy()).permute(2, 0, 1)[None].float() / 255

    blend = CEILNetSynthesis()(square(data.coffee()), square(data.astronaut()), [0])
    mixture, truth = (
        F.interpolate(each, scale_factor=3, mode="bicubic", align_corners=False)[0].clamp(0, 1)
        for each in (blend.mixture, blend.transmission)
    )
    network = reflectzoo.load_model("lite")
    at_its_size = psnr(Separator(network, "cpu").layers(mixture)["transmission"], truth)
    at_full_size = psnr(Separator(network, "cpu", working=0).layers(mixture)["transmission"], truth)
    assert at_its_size > psnr(mixture, truth) + 2
    assert at_its_size > at_full_size + 1


def test_the_option(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    photo = tmp_path / "a.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (160, 192, 3), dtype=np.uint8)).save(photo)
    common = ["remove", str(photo), "--model", "lite_1", "--overwrite"]
    results = []
    for words in ([], ["--working-size", "full"], ["--working-size", "96"]):
        assert main([*common, *words]) == 0
        with Image.open(tmp_path / "a.transmission.png") as result:
            results.append(np.asarray(result).copy())
    assert np.array_equal(results[0], results[1])
    assert not np.array_equal(results[0], results[2])
    capsys.readouterr()
    with pytest.raises(SystemExit) as stopped:
        main([*common, "--working-size", "large"])
    assert stopped.value.code == 2
    assert "must be full, or a whole number of pixels from 32, got 'large'" in capsys.readouterr().err
