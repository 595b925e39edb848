"""``reflectzoo.separate``: the layers are returned as the same kind of image as the input."""

from __future__ import annotations

import os
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch import Tensor, nn

from reflectzoo.errors import UserError
from reflectzoo.inference.load import default_model, load
from reflectzoo.inference.separator import Precision, Separation, Separator
from reflectzoo.photo.model import Picture
from reflectzoo.photo.read import from_pil, orientation_of, read_picture

_INTEGERS = {np.dtype(np.uint8): 255, np.dtype(np.uint16): 65535}


def separate(
    image: Any,
    model: str | nn.Module | Separator | None = None,
    weights: str | Path | None = None,
    *,
    strength: float = 1.0,
    device: str = "auto",
    precision: Precision = "32",
    memory: int | None = None,
    untrained: bool = False,
    max_pixels: int | None = None,
) -> Separation:
    """Separate a photograph taken through glass into the scene behind the glass and the reflection.

    Args:
        image: a path; a PIL image; a :class:`~reflectzoo.photo.model.Picture`; a numpy array (H, W), (H, W, 1),
            (H, W, 3) or (H, W, 4), uint8, uint16 or float in [0, 1]; or a tensor (3, H, W) or (B, 3, H, W) (or with one
            channel), uint8 or float in [0, 1]. Channels are in RGB order, sRGB-encoded; a fourth channel is alpha.
        model: name of a model, a module, or a :class:`~reflectzoo.inference.separator.Separator`, whose own device,
            precision and memory apply; None takes the default model of the zoo.
        weights: weights as for :func:`reflectzoo.load_model`; None takes the model's default weights.
        strength: how much of the reflection is removed, from 0 (exactly the input) to 1.
        device: see :class:`~reflectzoo.inference.separator.Separator`.
        precision: likewise.
        memory: likewise.
        untrained: without ``weights``, run the named model with random weights.
        max_pixels: files with more pixels are refused; None takes Pillow's limit, 179 million.

    Returns:
        ``(transmission, reflection)``, of the same kind, type, size and shape as the input; for a path, pictures, which
        have ``save(path)`` and ``to_pil()``.

    Raises:
        UserError: if the image is of another kind or range or cannot be read, if the model has no weights, or as in
            :func:`reflectzoo.load_model`.

    Example:
        >>> import numpy, reflectzoo
        >>> photo = numpy.full((20, 30, 3), 128, numpy.uint8)
        >>> small = reflectzoo.create_model("ytmt_pcs", "model.net.width=4", "loss=pixel")
        >>> transmission, reflection = reflectzoo.separate(photo, small)
        >>> transmission.shape, transmission.dtype
        ((20, 30, 3), dtype('uint8'))
    """
    separator = _separator(model, weights, device, precision, memory, untrained)
    if isinstance(image, str | os.PathLike):
        return separator.picture(read_picture(os.fspath(image), max_pixels), strength)
    if isinstance(image, Picture):
        return separator.picture(image, strength)
    if isinstance(image, Image.Image):
        return _pillow(separator, image, strength)
    if isinstance(image, np.ndarray):
        return _array(separator, image, strength)
    if isinstance(image, Tensor):
        return _tensor(separator, image, strength)
    raise UserError(
        f"An image must be a path, a PIL image, a numpy array or a tensor, got a {type(image).__name__}: convert it."
    )


def _separator(
    model: str | nn.Module | Separator | None,
    weights: str | Path | None,
    device: str,
    precision: Precision,
    memory: int | None,
    untrained: bool,
) -> Separator:
    if isinstance(model, Separator):
        return model
    if isinstance(model, nn.Module):
        # Not checked for trained weights: that is up to the caller.
        return Separator(model, device, precision, memory)
    name = model or (default_model() if weights is None else "")
    stamp = None
    if weights is not None and Path(weights).is_file():
        status = Path(weights).stat()
        stamp = (status.st_mtime_ns, status.st_size)
    separator = _cached(name, None if weights is None else str(weights), stamp, device, precision, untrained)
    separator.memory = memory
    return separator


@lru_cache(maxsize=2)
def _cached(
    model: str, weights: str | None, stamp: object, device: str, precision: Precision, untrained: bool
) -> Separator:
    return Separator(load(model or None, weights, untrained=untrained), device, precision)


def _pillow(separator: Separator, image: Image.Image, strength: float) -> Separation:
    image.load()  # for a TIFF, this applies the orientation and removes the tag
    orientation = orientation_of(image)
    found = separator.picture(from_pil(image), strength)

    def back(picture: Picture) -> Image.Image:
        # The network processed it upright; the caller gets the original orientation, and all of ``info``.
        result = picture.turned_back(orientation).to_pil()
        result.info = {key: each for key, each in image.info.items() if key != "transparency"}
        return result

    return Separation(*(back(picture) for picture in found))


def _array(separator: Separator, image: npt.NDArray[Any], strength: float) -> Separation:
    shape = image.shape
    if image.ndim == 2:
        image = image[..., None]
    if image.ndim != 3 or image.shape[2] not in (1, 3, 4) or 0 in image.shape:
        raise UserError(f"A numpy image must be (H, W), (H, W, 1), (H, W, 3) or (H, W, 4), got {shape}.")
    colour, alpha = (image[..., :3], image[..., 3:]) if image.shape[2] == 4 else (image, image[..., :0])
    top = _INTEGERS.get(image.dtype)
    if top is not None:
        values = torch.from_numpy(colour.astype(np.float32)) / top
    elif image.dtype.kind == "f":
        values = torch.from_numpy(colour.astype(np.float32))
        _check_range(values)
    else:
        raise UserError(f"A numpy image must be uint8, uint16 or float in [0, 1], got {image.dtype}: convert it.")
    layers = separator.blended(values.permute(2, 0, 1), strength)

    def back(layer: Tensor, same: bool) -> npt.NDArray[Any]:
        if same:
            result = colour.copy()
        else:
            numbers = layer.permute(1, 2, 0)
            result = (numbers if top is None else (numbers * top).round()).numpy().astype(image.dtype)
        return np.concatenate((result, alpha), axis=2).reshape(shape)

    return Separation(back(layers["transmission"], strength == 0), back(layers["reflection"], False))


def _tensor(separator: Separator, image: Tensor, strength: float) -> Separation:
    batch = image if image.ndim == 4 else image[None]
    if image.ndim not in (3, 4) or batch.shape[1] not in (1, 3) or 0 in batch.shape:
        raise UserError(f"A tensor must be (3, H, W) or (B, 3, H, W), or have one channel, got {tuple(image.shape)}.")
    whole = image.dtype == torch.uint8
    if not whole and not image.dtype.is_floating_point:
        raise UserError(f"A tensor must be uint8 or floating-point in [0, 1], got {image.dtype}: convert it.")
    values = batch.detach().to("cpu", torch.float32)
    if whole:
        values = values / 255
    else:
        _check_range(values)
    found = [separator.blended(each, strength) for each in values]

    def back(name: str) -> Tensor:
        layers = torch.stack([each[name] for each in found])
        layers = (layers * 255).round() if whole else layers
        return layers.to(image.device, image.dtype).reshape(image.shape)

    transmission = image.clone() if strength == 0 else back("transmission")
    return Separation(transmission, back("reflection"))


def _check_range(values: Tensor) -> None:
    if not bool(torch.isfinite(values).all()):
        raise UserError("The image contains non-finite values (NaN or infinity): repair it first.")
    low, high = (float(each) for each in torch.aminmax(values))
    if low < -1e-3 or high > 1 + 1e-3:
        raise UserError(f"A floating-point image must lie in [0, 1], this one in [{low:.4g}, {high:.4g}]: scale it.")
