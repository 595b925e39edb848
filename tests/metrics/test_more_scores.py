"""MS-SSIM, GMSD, LPIPS, DISTS and their stand-ins, NIQE, NSD, change: by direct computations and known values."""

from __future__ import annotations

import json
import math
import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.ndimage import convolve1d
from scipy.signal import convolve2d
from skimage import data
from torch import Tensor, nn

from reflectzoo.errors import UserError
from reflectzoo.metrics import naturalness, perceptual
from reflectzoo.metrics.change import changed_share, smooth_share
from reflectzoo.metrics.images import ImageMetric
from reflectzoo.metrics.known import digits_of, known_metrics, metric_classes
from reflectzoo.metrics.structure import gmsd, ms_ssim
from reflectzoo.nets.efficientnet import EfficientNetLite0
from reflectzoo.ops.windows import windowed
from reflectzoo.weights.download import DownloadError


def photo(name: str = "chelsea", side: int = 192) -> Tensor:
    image = torch.from_numpy(getattr(data, name)()[:side, :side].copy())
    return image.permute(2, 0, 1)[None].double() / 255


def spoilt(image: Tensor) -> Tensor:
    noise = torch.from_numpy(np.random.default_rng(3).standard_normal(image.shape))
    return (0.8 * image + 0.1 + 0.05 * noise).clamp(0, 1)


# -- windows -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("padding", [0, 2])
def test_a_window_by_opencv_is_the_convolution(padding: int) -> None:
    images = torch.rand(2, 3, 17, 23, dtype=torch.float64)
    taps = torch.tensor([0.1, 0.2, 0.4, 0.2, 0.1], dtype=torch.float64)
    fast = windowed(images, taps, padding)
    wanted = windowed(images.clone().requires_grad_(), taps, padding)
    assert wanted.requires_grad
    assert torch.allclose(fast, wanted, rtol=0, atol=1e-14)
    single = windowed(images.float(), taps.float(), padding)
    assert torch.allclose(single.double(), wanted, atol=1e-6)


# -- structure ---------------------------------------------------------------------------------------------------------


def direct_ms_ssim(x: np.ndarray, y: np.ndarray) -> float:
    """One channel, from the definition."""
    taps = np.exp(-(np.arange(-5, 6) ** 2) / (2 * 1.5**2))
    taps /= taps.sum()

    def mean(image: np.ndarray) -> np.ndarray:
        return convolve1d(convolve1d(image, taps, axis=0), taps, axis=1)[5:-5, 5:-5]

    value = 1.0
    for scale, weight in enumerate((0.0448, 0.2856, 0.3001, 0.2363, 0.1333)):
        mx, my = mean(x), mean(y)
        vx, vy, vxy = mean(x * x) - mx**2, mean(y * y) - my**2, mean(x * y) - mx * my
        structure = (2 * vxy + 0.03**2) / (vx + vy + 0.03**2)
        luminance = (2 * mx * my + 0.01**2) / (mx**2 + my**2 + 0.01**2)
        value *= (structure * luminance if scale == 4 else structure).mean() ** weight
        x, y = (
            image[: len(image) // 2 * 2, : image.shape[1] // 2 * 2]
            .reshape(len(image) // 2, 2, image.shape[1] // 2, 2)
            .mean(axis=(1, 3))
            for image in (x, y)
        )
    return float(value)


def test_ms_ssim_from_its_definition() -> None:
    truth = photo(side=185)[..., :190]
    found = spoilt(truth)
    wanted = [direct_ms_ssim(a.numpy(), b.numpy()) for a, b in zip(found[0], truth[0], strict=True)]
    assert ms_ssim(found, truth).item() == pytest.approx(np.mean(wanted), abs=1e-12)
    assert ms_ssim(truth, truth).item() == pytest.approx(1)
    assert ms_ssim(truth[..., :175], truth[..., :175]).isnan().all()


def test_gmsd_as_matlab_would_compute_it() -> None:
    truth = photo(side=61)[..., :54]
    found = spoilt(truth)

    def gradients(image: Tensor) -> np.ndarray:
        grey = 255 * np.einsum("chw,c", image[0].numpy(), [0.2989360213, 0.5870430745, 0.1140209043])
        # conv2(..., 'same') of an even kernel keeps the later half, which scipy does not.
        halved = convolve2d(grey, np.full((2, 2), 0.25), "full")[1:, 1:][::2, ::2]
        kernel = np.array([[1, 0, -1]] * 3) / 3
        along = [convolve2d(halved, each, "same") for each in (kernel, kernel.T)]
        return np.sqrt(along[0] ** 2 + along[1] ** 2)

    a, b = gradients(found), gradients(truth)
    wanted = ((2 * a * b + 170) / (a**2 + b**2 + 170)).std(ddof=1)
    assert gmsd(found, truth).item() == pytest.approx(wanted, abs=1e-9)
    assert gmsd(truth, truth).item() == pytest.approx(0, abs=1e-12)


# -- deep features -----------------------------------------------------------------------------------------------------


def random_state(net: nn.Module, seed: int = 0) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {
        key: torch.randn(value.shape, generator=generator) / math.sqrt(max(1, value[0].numel()))
        for key, value in net.state_dict().items()
        if key.startswith("features.")
    }


@pytest.fixture
def no_download(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The files of torchvision hold random numbers; which were asked for."""
    asked: list[str] = []

    def fetch(url: str) -> dict[str, Tensor]:
        asked.append(url)
        net = perceptual.AlexNet() if "alexnet" in url else perceptual.SmoothVGG16()
        return {**random_state(net), "classifier.6.weight": torch.zeros(2)}

    monkeypatch.setattr(perceptual, "fetch_state_dict", fetch)
    return asked


def test_lpips_step_by_step(no_download: list[str]) -> None:
    """By plain functions in the places of torchvision's file, and torchmetrics' heads."""
    from importlib.resources import files

    functional = torch.nn.functional
    metric = perceptual.LPIPS()
    truth, found = photo(side=80), spoilt(photo(side=80))
    state = random_state(perceptual.AlexNet())
    heads = torch.load(
        str(files("torchmetrics.functional.image") / "lpips_models" / "alex.pth"), weights_only=True, map_location="cpu"
    )

    def maps(image: Tensor) -> list[Tensor]:
        shift, scale = ([-0.030, -0.088, -0.188], [0.458, 0.448, 0.450])
        x = image.float() * 2 - 1
        x = torch.stack([(x[:, c] - shift[c]) / scale[c] for c in range(3)], dim=1)
        kept = []
        for place, stride, padding in ((0, 4, 2), (3, 1, 2), (6, 1, 1), (8, 1, 1), (10, 1, 1)):
            if place in (3, 6):
                x = functional.max_pool2d(x, 3, 2)
            weight, bias = state[f"features.{place}.weight"], state[f"features.{place}.bias"]
            x = functional.conv2d(x, weight, bias, stride, padding).relu()
            kept.append(x / x.norm(dim=1, keepdim=True).clamp(min=1e-10))
        return kept

    wanted = sum(
        functional.conv2d((a - b) ** 2, heads[f"lin{layer}.model.1.weight"]).mean().item()
        for layer, (a, b) in enumerate(zip(maps(found), maps(truth), strict=True))
    )
    assert metric.per_image(found, truth).item() == pytest.approx(wanted, rel=1e-5)
    assert metric.per_image(truth, truth).item() == 0
    assert metric.per_image(truth[..., :62], truth[..., :62]).isnan().all()
    assert no_download == [perceptual.ALEXNET_URL]


def test_dists_is_torchmetrics_without_torchvision(no_download: list[str]) -> None:
    """Their network needs torchvision only to be built: here the same blocks are put together by hand."""
    from torchmetrics.functional.image import dists as theirs

    metric = perceptual.DISTS()
    truth, found = photo(side=48), spoilt(photo(side=48))
    state = random_state(perceptual.SmoothVGG16())
    stages, inputs = [], 3
    for block, (outputs, places) in enumerate(((64, (0, 2)), (128, (5, 7)), (256, (10, 12, 14)), (512, (17, 19, 21)))):
        layers: list[nn.Module] = [theirs.L2pooling(channels=inputs)] if block else []
        for place in places:
            conv = nn.Conv2d(inputs, outputs, 3, padding=1)
            conv.load_state_dict({name: state[f"features.{place}.{name}"] for name in ("weight", "bias")})
            layers += [conv, nn.ReLU()]
            inputs = outputs
        stages.append(nn.Sequential(*layers))
    last = [theirs.L2pooling(channels=512)]
    for place in (24, 26, 28):
        conv = nn.Conv2d(512, 512, 3, padding=1)
        conv.load_state_dict({name: state[f"features.{place}.{name}"] for name in ("weight", "bias")})
        last += [conv, nn.ReLU()]
    net = theirs.DISTSNetwork.__new__(theirs.DISTSNetwork)
    nn.Module.__init__(net)
    for number, stage in enumerate([*stages, nn.Sequential(*last)], start=1):
        setattr(net, f"stage{number}", stage)
    net.register_buffer("mean", torch.tensor([0.485, 0.456, 0.406]).view(1, -1, 1, 1))
    net.register_buffer("std", torch.tensor([0.229, 0.224, 0.225]).view(1, -1, 1, 1))
    net.chns = [3, 64, 128, 256, 512, 512]
    weights = torch.load(theirs._PATH_WEIGHT_DISTS, weights_only=True, map_location="cpu")
    net.alpha, net.beta = nn.Parameter(weights["alpha"]), nn.Parameter(weights["beta"])
    wanted = net(found.float(), truth.float()).item()
    assert metric.per_image(found, truth).item() == pytest.approx(wanted, rel=1e-4)
    assert metric.per_image(truth, truth).item() == pytest.approx(0, abs=1e-6)


def test_weights_that_cannot_be_had_are_told_before_anything_is_scored(monkeypatch: pytest.MonkeyPatch) -> None:
    from reflectzoo.evaluation.protocol import Protocol

    def fail(_url: object) -> None:
        raise DownloadError("it is not cached and does not answer.")

    monkeypatch.setattr(perceptual, "fetch_state_dict", fail)
    with pytest.raises(UserError, match=r"LPIPS needs ImageNet weights: .* leave lpips out of protocol\.metrics"):
        Protocol("x", metrics=["lpips"]).scores()
    monkeypatch.setattr(naturalness, "locate", fail)
    naturalness._published.cache_clear()
    with pytest.raises(UserError, match=r"NIQE needs its authors' model .* nsd"):
        Protocol("x", metrics=["niqe"]).scores()


@pytest.mark.parametrize("metric", [perceptual.EFD, perceptual.EFST])
def test_the_stand_ins_rise_with_the_damage(metric: type[ImageMetric], monkeypatch: pytest.MonkeyPatch) -> None:
    def narrow() -> nn.Module:
        torch.manual_seed(0)
        return EfficientNetLite0(levels=2)

    monkeypatch.setattr(perceptual, "efficientnet_lite0", narrow)
    score = metric()
    truth = photo(side=64)
    once, twice = spoilt(truth), spoilt(spoilt(truth))
    values = [score.per_image(image, truth).item() for image in (truth, once, twice)]
    assert values[0] == pytest.approx(0, abs=1e-5)
    assert values[0] < values[1] < values[2]
    assert score.per_image(truth[..., :20], truth[..., :20]).isnan().all()


def test_distances_by_hand() -> None:
    one, other = torch.tensor([[[[3.0]], [[4.0]]]]), torch.tensor([[[[1.0]], [[0.0]]]])
    # Unit vectors (0.6, 0.8) and (1, 0).
    value = perceptual.unit_distance([one], [other], [torch.tensor([1.0, 0.5])]).item()
    assert value == pytest.approx(0.16 + 0.32)
    a, b = torch.tensor([[[[0.0, 2.0]]]]), torch.tensor([[[[2.0, 0.0]]]])
    half = torch.tensor([0.5])
    # The same mean, opposite structure: 1 - (0.5 * 1 + 0.5 * -1).
    assert perceptual.structure_and_texture([a], [b], [half], [half]).item() == pytest.approx(1, abs=1e-5)


# -- naturalness -------------------------------------------------------------------------------------------------------

NIQE_OF_BASICSR = {"astronaut": 3.067253637350312, "coffee": 4.058465425300524, "chelsea": 2.572084171566674}
"""What ``basicsr.metrics.niqe.niqe`` 1.4.2 says of MATLAB-grey values; its halving is in single precision."""


@pytest.mark.parametrize("name", list(NIQE_OF_BASICSR))
def test_niqe_as_recorded_from_another_program(name: str) -> None:
    try:
        metric = naturalness.NIQE()
        metric.prepare()
    except UserError as error:
        pytest.skip(str(error))
    image = torch.from_numpy(getattr(data, name)()).permute(2, 0, 1)[None].double() / 255
    assert metric.per_image(image, image).item() == pytest.approx(NIQE_OF_BASICSR[name], abs=1e-3)


def test_numbers_of_a_known_distribution() -> None:
    """Laplacian values have the shape 1, Gaussian ones 2; sides may differ in scale."""
    rng = np.random.default_rng(0)
    gaussian, laplacian = rng.standard_normal((1, 400, 400)), rng.laplace(size=(1, 400, 400))
    for values, shape in ((gaussian, 2), (laplacian, 1)):
        # The wider side has the more of the values, in proportion to its scale.
        lopsided = np.where(rng.random(values.shape) < 0.75, 3 * np.abs(values), -np.abs(values))
        found, left, right = naturalness._asymmetric(values)
        assert found[0] == pytest.approx(shape, rel=0.03)
        assert left[0] == pytest.approx(right[0], rel=0.03)
        found, left, right = naturalness._asymmetric(lopsided)
        assert found[0] == pytest.approx(shape, rel=0.05)
        assert right[0] == pytest.approx(3 * left[0], rel=0.05)


def test_nsd_prefers_the_photograph() -> None:
    metric = naturalness.NSD()
    clean = photo("astronaut", 384)
    noisy = (clean + 0.1 * torch.from_numpy(np.random.default_rng(0).standard_normal(clean.shape))).clamp(0, 1)
    smooth = windowed(clean, torch.full((9,), 1 / 9, dtype=torch.float64), padding=4)
    values = [metric.per_image(image, image).item() for image in (clean, noisy, smooth)]
    assert values[0] < min(values[1:])
    assert metric.per_image(clean[..., :190], clean[..., :190]).isnan().item() is False
    for none in (clean[..., :95], clean[..., :96, :96], torch.full_like(clean, 0.5)):
        assert metric.per_image(none, none).isnan().all()


def test_the_packages_model_is_made_by_its_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from PIL import Image

    noise = np.random.default_rng(0).integers(0, 256, (700, 700, 3)).astype(np.uint8)
    Image.fromarray(noise).save(tmp_path / "noise.png")
    assert naturalness.main([str(tmp_path), "-o", str(tmp_path / "model.json")]) == 0
    content = json.loads((tmp_path / "model.json").read_text())
    assert (content["photographs"], content["blocks"]) == (1, 49)
    assert np.array(content["covariance"]).shape == (36, 36)
    own = json.loads((Path(naturalness.__file__).with_name("naturalness.json")).read_text())
    assert own.keys() == content.keys()
    assert naturalness.main([str(tmp_path / "none"), "-o", str(tmp_path / "x")]) == 2
    assert "is not a folder" in capsys.readouterr().err
    with pytest.raises(UserError, match="too few for a model"):
        naturalness.fit([np.zeros((96, 96))])


def test_the_published_model_is_read_out_of_its_archive(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    inner = tmp_path / "niqe_pris_params.npz"
    np.savez(inner, mu_pris_param=np.zeros((1, 36)), cov_pris_param=np.eye(36))
    archive = tmp_path / "basicsr.tar.gz"
    with tarfile.open(archive, "w:gz") as file:
        file.add(inner, naturalness._MEMBER)
    monkeypatch.setattr(naturalness, "locate", lambda _record: archive)
    naturalness._published.cache_clear()
    assert naturalness.NIQE().model().mean.shape == (36,)
    naturalness._published.cache_clear()


# -- change ------------------------------------------------------------------------------------------------------------


def test_what_changed_and_how_smoothly() -> None:
    mixture = photo(side=120)
    assert changed_share(mixture, mixture).item() == 0
    assert smooth_share(mixture, mixture).isnan().all()
    # Rounding to 8 bits is no change; two steps are.
    assert changed_share((mixture + 1 / 255).float(), mixture.float()).item() == 0
    assert changed_share((mixture + 2 / 255).float(), mixture.float()).item() == 1
    half = mixture.clone()
    half[..., :60, :] -= 0.1
    assert changed_share(half, mixture).item() == pytest.approx(0.5)
    assert smooth_share(half, mixture).item() > 0.9
    noise = torch.from_numpy(np.random.default_rng(0).standard_normal(mixture.shape)) * 0.1
    assert smooth_share(mixture + noise, mixture).item() == pytest.approx(1 / 225, rel=0.2)


# -- one class and one line --------------------------------------------------------------------------------------------


class Brightness(ImageMetric):
    """Difference of the means: a score of somebody else's."""

    key, title, digits, higher_is_better = "brightness", "Brightness", 5, False

    def per_image(self, preds: Tensor, target: Tensor) -> Tensor:
        return (preds - target).mean(dim=(1, 2, 3)).abs()


def test_every_known_score_says_all_about_itself() -> None:
    known = known_metrics()
    assert {"psnr", "ssim", "lpips", "dists", "niqe", "nsd", "efd", "efst", "ms_ssim", "gmsd", "changed"} <= set(known)
    for key, classes in known.items():
        variants = [each.variant for each in classes]
        assert len(set(variants)) == len(variants), key
        for each in classes:
            assert each.describe()["title"]
            assert each.higher_is_better in (True, False, None)
    assert digits_of("psnr") == 2
    assert digits_of("of somebody else") == 3
    assert metric_classes(f"{__name__}.Brightness") == (Brightness,)
    for name, words in (
        ("psmr", "some of"),
        ("no.such.Score", "cannot be imported"),
        ("torch.nn.Module", "not an ImageMetric"),
    ):
        with pytest.raises(UserError, match=words):
            metric_classes(name)


def test_fast_forms_are_the_plain_ones(capsys: pytest.CaptureFixture[str]) -> None:
    """The command that shows how much faster they are computes both; values must not differ."""
    from reflectzoo.bench.scores import SCORES, main

    truth = photo(side=90)[..., :75]
    found = spoilt(truth)
    for name, (plain, ours) in SCORES.items():
        assert torch.allclose(plain(found, truth), ours(found, truth), rtol=0, atol=1e-12), name
    assert main(["--height", "60", "--width", "50", "--repeat", "1"]) == 0
    assert "lmse" in capsys.readouterr().out
