"""Contextual loss: similarity of features regardless of their position."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from reflectzoo.ops.checks import check_same_shape, full_precision
from reflectzoo.ops.distributed import masked_mean

_EPSILON = 1e-5  # added to the smallest distance


def contextual_loss(prediction: Tensor, target: Tensor, valid: Tensor | None = None) -> Tensor:
    """Dissimilarity of two sets of features, regardless of their position.

    Mechrez et al., The Contextual Loss, ECCV 2018, as in ERRNet's program, with bandwidth 1. The mean of the target's
    features is subtracted from all features, which are then normalised to unit length. With d half the cosine distance
    between a position of the prediction and one of the target, and d' = d / (smallest d of that position of the
    prediction + 1e-5), a softmax of -d' over the target's positions gives the similarities of a position of the
    prediction. For each position of the target, the largest similarity counts; the loss is the negative logarithm of
    the mean of these.

    The program subtracts the mean over the whole batch and uses only the first sample; here, each sample has its own
    mean, and the loss is the mean over samples. For batches of one sample, which the program uses, both are the same.

    Args:
        prediction: features, (B, C, h, w).
        target: same shape; no gradient flows to it.
        valid: (B,) bool, samples to include; None for all. The others are not computed.

    Returns:
        Scalar >= 0; zero if no sample is valid.

    Raises:
        ValueError: if the shapes differ.

    Example:
        >>> columns = torch.eye(4).view(1, 4, 2, 2)
        >>> contextual_loss(columns.flip(3), columns) < 1e-3  # the same features, elsewhere
        tensor(True)
    """
    check_same_shape(prediction=prediction, target=target)
    found, wanted = full_precision(prediction), full_precision(target.detach())
    if valid is None:
        valid = torch.ones(len(found), dtype=torch.bool, device=found.device)
    values = [
        _of_sample(a, b) if counts else a.new_zeros(())
        for a, b, counts in zip(found, wanted, valid.tolist(), strict=True)
    ]
    return masked_mean(torch.stack(values)[:, None], valid)


def _of_sample(prediction: Tensor, target: Tensor) -> Tensor:
    """Contextual loss of one sample, (C, h, w)."""
    mean = target.mean(dim=(1, 2), keepdim=True)
    found, wanted = (F.normalize((each - mean).flatten(1), dim=0) for each in (prediction, target))
    distance = (1 - wanted.T @ found) / 2  # (positions of the target, positions of the prediction)
    relative = distance / (distance.amin(dim=0, keepdim=True) + _EPSILON)
    return -torch.softmax(-relative, dim=0).amax(dim=1).mean().log()
