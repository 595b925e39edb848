"""Unwrapping weight files: containers of training programs, and prefixes of parallel training."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from reflectzoo.core.method import Layout, Method, Weights
from reflectzoo.core.registry import methods
from reflectzoo.errors import UserError
from reflectzoo.weights.read import mismatched_keys, read_checkpoint

#: Entries under which programs store weights; averaged ones first, since they are better.
CONTAINERS = ("params_ema", "ema", "params", "model", "state_dict")
#: Prefixes that ``DataParallel`` and ``torch.compile`` add to every name.
PREFIXES = ("module.", "_orig_mod.")
#: Maximum depth of nested containers.
_DEEPEST = 3


def candidate_state_dicts(checkpoint: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """The possible state dicts in a file, the likeliest first.

    These are the file itself; its entries under ``net.``, as in reflectzoo's checkpoints; and the content of its
    containers (``params_ema``, ``ema``, ``params``, ``model``, ``state_dict``), which may be nested. The prefixes
    ``module.`` and ``_orig_mod.`` are removed, in any number and order, also from the keys of inner dictionaries.

    Args:
        checkpoint: the file's content. Nothing is modified; tensors are not copied.

    Example:
        >>> file = {"epoch": 3, "params_ema": {"module._orig_mod.conv.weight": 0}}
        >>> [sorted(each) for each in candidate_state_dicts(file)]
        [['epoch', 'params_ema'], ['conv.weight']]
    """
    yield from _candidates(checkpoint, _DEEPEST)


def _candidates(checkpoint: Mapping[str, Any], depth: int) -> Iterator[dict[str, Any]]:
    whole = {str(key): _bare(each) for key, each in _bare(checkpoint).items()}
    yield whole
    if under := _under(whole, "net."):
        yield _bare(under)
    for name in CONTAINERS:
        inner = checkpoint.get(name)
        if depth and isinstance(inner, Mapping):
            yield from _candidates(inner, depth - 1)


def _bare(entries: Any) -> Any:
    """Remove the prefixes from the keys of a dictionary; anything else is returned unchanged."""
    if not isinstance(entries, Mapping):
        return entries
    return {_without_prefixes(key) if isinstance(key, str) else key: each for key, each in entries.items()}


def _without_prefixes(key: str) -> str:
    while key.startswith(PREFIXES):
        key = key.partition(".")[2]
    return key


def recognise_file(checkpoint: Mapping[str, Any]) -> list[Layout]:
    """The models that another program's file may belong to, the likeliest first; empty if no method recognises it."""
    found: dict[Layout, None] = {}
    for candidate in candidate_state_dicts(checkpoint):
        for method in methods().values():
            layout = method.recognise(candidate)
            if layout is not None:
                found[layout] = None
    return list(found)


def weights_for(checkpoint: Mapping[str, Any], method: Method, model: str, net: nn.Module) -> Weights:
    """The weights in a file that fit a network best, under the network's names, and their training phase.

    Args:
        checkpoint: content of the file.
        method: method that converts the weights.
        model: the model that ``net`` belongs to.
        net: the receiving network; not changed.

    Raises:
        UserError: if the method rejects every candidate (see :func:`candidate_state_dicts`).
    """
    refused: UserError | None = None
    best: tuple[int, Weights] | None = None
    for candidate in candidate_state_dicts(checkpoint):
        try:
            found = method.weights_for(candidate, model)
        except UserError as error:
            refused = refused or error
            continue
        state = {key: each for key, each in found.state.items() if isinstance(each, Tensor)}
        faults = len(mismatched_keys(state, net))
        if best is None or faults < best[0]:
            best = faults, Weights(state, found.phase)
        if not faults:
            break
    if best is None:
        assert refused is not None
        raise refused
    return best[1]


def start_from(net: nn.Module, path: str, key: str, method: Method) -> dict[str, Any]:
    """Load the weights that training starts from into a network.

    Args:
        net: network of the method's main model; changed in place.
        path: a checkpoint of reflectzoo, or a file of the method's authors.
        key: configuration key, for messages.
        method: the network's method.

    Returns:
        The whole content of the file, which may hold more than the weights.

    Raises:
        UserError: if the file cannot be read or its weights do not fit.
    """
    content, source = read_checkpoint(Path(path).expanduser(), key), f"{key}={path}"
    try:
        found = weights_for(content, method, method.main, net)
    except UserError as error:
        raise UserError(f"{source} cannot be used: {error}") from error
    method.explain(found.state, net, source)
    fill(net, found.state, source, method.main)
    return content


def network_of(state: Mapping[str, Any]) -> dict[str, Tensor]:
    """The network's weights in a training checkpoint's ``state_dict``, which may also hold a discriminator's."""
    return {key: each for key, each in _under(state, "net.").items() if isinstance(each, Tensor)}


def _under(entries: Mapping[str, Any], prefix: str) -> dict[str, Any]:
    """The entries whose keys start with a prefix, which is removed."""
    return {key.removeprefix(prefix): each for key, each in entries.items() if str(key).startswith(prefix)}


def fill(net: nn.Module, state: Mapping[str, Tensor], source: str, model: str) -> None:
    """Load weights into a network; names and shapes must match, and values are converted to the network's dtypes.

    Args:
        net: changed in place.
        state: name -> tensor.
        source: the file, for the message.
        model: name of the network's model, for the message.

    Raises:
        UserError: with the number of missing, unexpected and misshapen weights, and the first of each.
    """
    wanted = net.state_dict()
    missing = [key for key in wanted if key not in state]
    left_over = [key for key in state if key not in wanted]
    misshapen = [key for key in wanted if key in state and state[key].shape != wanted[key].shape]
    faults = [
        f"{len(keys)} {what} (the first is '{keys[0]}')"
        for keys, what in ((missing, "missing"), (left_over, "left over"))
        if keys
    ]
    if misshapen:
        first = misshapen[0]
        shapes = f"{tuple(state[first].shape)} in the file, {tuple(wanted[first].shape)} in the model"
        faults.append(f"{len(misshapen)} of another shape (the first is '{first}', {shapes})")
    if faults:
        raise UserError(
            f"{source} does not fit model={model}: it holds {len(state)} weights where {len(wanted)} are needed: "
            f"{', '.join(faults)}."
        )
    net.load_state_dict(state)
