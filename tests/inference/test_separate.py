"""``reflectzoo.separate``: what comes in goes out, of the same kind."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import reflectzoo
from reflectzoo.errors import UserError
from reflectzoo.inference import load as load_module
from reflectzoo.inference.load import LoadedModel
from reflectzoo.inference.separator import Separator
from reflectzoo.photo.model import Picture

RNG = np.random.default_rng(0)


@pytest.fixture(scope="module")
def model() -> LoadedModel:
    torch.manual_seed(0)
    return reflectzoo.load_model("ytmt_pcs", None, "model.net.width=4", untrained=True)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32, np.float64])
@pytest.mark.parametrize("shape", [(9, 13), (9, 13, 1), (9, 13, 3), (9, 13, 4), (1, 1, 3)])
def test_arrays(model: LoadedModel, dtype: Any, shape: tuple[int, ...]) -> None:
    image = RNG.random(shape)
    image = image.astype(dtype) if dtype in (np.float32, np.float64) else (image * np.iinfo(dtype).max).astype(dtype)
    kept = image.copy()
    transmission, reflection = reflectzoo.separate(image, model)
    for layer in (transmission, reflection):
        assert layer.shape == shape
        assert layer.dtype == dtype
    if shape[-1] == 4:
        assert np.array_equal(transmission[..., 3], image[..., 3])
    assert not np.array_equal(transmission, image)
    assert np.array_equal(reflectzoo.separate(image, model, strength=0)[0], image)
    assert np.array_equal(image, kept)


def test_strength_goes_all_the_way(model: LoadedModel) -> None:
    image = torch.rand(3, 9, 13)
    whole, half = (reflectzoo.separate(image, model, strength=each).transmission for each in (1, 0.5))
    with torch.no_grad():
        expected = model(image[None])["transmission"][0].clamp(0, 1)
    assert torch.equal(whole, expected)
    assert torch.allclose(half, image + 0.5 * (expected - image))
    with pytest.raises(UserError, match="strength"):
        reflectzoo.separate(image, model, strength=1.5)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32, torch.float16])
@pytest.mark.parametrize("shape", [(3, 9, 13), (2, 3, 9, 13), (1, 9, 13)])
def test_tensors(model: LoadedModel, dtype: torch.dtype, shape: tuple[int, ...]) -> None:
    image = (torch.rand(shape) * (255 if dtype == torch.uint8 else 1)).to(dtype)
    transmission, reflection = reflectzoo.separate(image, model)
    assert transmission.shape == reflection.shape == shape
    assert transmission.dtype == reflection.dtype == dtype
    assert torch.equal(reflectzoo.separate(image, model, strength=0).transmission, image)


@pytest.mark.parametrize("mode", ["L", "LA", "RGB", "RGBA"])
def test_pillow(model: LoadedModel, mode: str) -> None:
    image = Image.fromarray(RNG.integers(0, 256, (9, 13, 4)).astype(np.uint8)).convert(mode)
    transmission, _ = reflectzoo.separate(image, model, strength=0)
    assert transmission.mode == mode
    assert np.array_equal(np.asarray(transmission), np.asarray(image))


@pytest.mark.parametrize("orientation", [1, 3, 6, 8])
def test_pillow_pictures_that_lie_on_their_side(model: LoadedModel, tmp_path: Path, orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(RNG.integers(0, 256, (9, 13, 3)).astype(np.uint8)).save(tmp_path / "a.png", exif=exif)
    image = Image.open(tmp_path / "a.png")
    transmission, _ = reflectzoo.separate(image, model, strength=0)
    assert transmission.size == image.size
    assert np.array_equal(np.asarray(transmission), np.asarray(image))
    assert image.getexif()[0x0112] == orientation


def test_paths_give_pictures(model: LoadedModel, tmp_path: Path) -> None:
    Image.fromarray(RNG.integers(0, 256, (9, 13, 3)).astype(np.uint8)).save(tmp_path / "a.png", dpi=(100, 100))
    transmission, reflection = reflectzoo.separate(tmp_path / "a.png", model)
    assert isinstance(transmission, Picture)
    transmission.save(tmp_path / "t.png")
    with Image.open(tmp_path / "t.png") as image:
        assert image.size == (13, 9)
        assert image.info["dpi"] == pytest.approx((100, 100), abs=0.1)
    assert reflection.to_pil().size == (13, 9)


@pytest.mark.parametrize(
    ("image", "sentence"),
    [
        (np.zeros((0, 0, 3), np.uint8), "must be"),
        (np.zeros((4, 4, 2), np.uint8), "must be"),
        (np.zeros((4, 4, 3), np.int64), "int64"),
        (np.full((4, 4, 3), 200.0), "scale it"),
        (np.full((4, 4, 3), np.nan), "NaN"),
        (torch.zeros(4, 4), "must be"),
        (torch.zeros(3, 4, 4, dtype=torch.int32), "int32"),
        (torch.zeros(3, 0, 4), "must be"),
        (3, "got a int"),
        ("none.jpg", "does not exist"),
    ],
)
def test_what_is_no_image(model: LoadedModel, image: Any, sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        reflectzoo.separate(image, model)


def test_an_untrained_model_says_so() -> None:
    with pytest.raises(UserError, match="not trained"):
        reflectzoo.separate(np.zeros((4, 4, 3), np.uint8), "ytmt_pcs")


def test_without_packaged_weights_nothing_is_chosen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(load_module, "records", list)
    with pytest.raises(UserError, match="no packaged weights"):
        reflectzoo.separate(np.zeros((4, 4, 3), np.uint8))


def test_any_function_will_do() -> None:
    separator = Separator(lambda x: {"transmission": x * 0.5}, "cpu")
    transmission, reflection = reflectzoo.separate(np.full((4, 5, 3), 200, np.uint8), separator)
    assert (transmission == 100).all()
    assert (reflection == 100).all()
