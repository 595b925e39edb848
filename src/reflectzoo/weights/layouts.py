"""What a file of weights may be wrapped in: containers of training programs, and prefixes of parallel training."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from reflectzoo.core.method import Layout, Method, Weights
from reflectzoo.core.registry import methods
from reflectzoo.errors import UserError
from reflectzoo.weights.read import misfits, read_checkpoint

#: Entries under which programs keep the weights; averaged ones, which are the better, first.
CONTAINERS = ("params_ema", "ema", "params", "model", "state_dict")
#: What ``DataParallel`` and ``torch.compile`` put before every name.
PREFIXES = ("module.", "_orig_mod.")
#: Containers in containers, at most.
_DEEPEST = 3


def candidates(checkpoint: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """What a file may mean by the weights, the likeliest first.

    The file itself, then what lies under ``net.``, as our trainings write it, then what lies in its containers
    (``params_ema``, ``ema``, ``params``, ``model``, ``state_dict``), also one in the other; each without the prefixes
    ``module.`` and ``_orig_mod.``, however often and in whatever order, also in inner dictionaries.

    Args:
        checkpoint: what was read. Nothing is modified; tensors are not copied.

    Example:
        >>> file = {"epoch": 3, "params_ema": {"module._orig_mod.conv.weight": 0}}
        >>> [sorted(each) for each in candidates(file)]
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
    """Without prefixes, if it is a dictionary of names."""
    if not isinstance(entries, Mapping):
        return entries
    return {_without_prefixes(key) if isinstance(key, str) else key: each for key, each in entries.items()}


def _without_prefixes(key: str) -> str:
    while key.startswith(PREFIXES):
        key = key.partition(".")[2]
    return key


def recognise_file(checkpoint: Mapping[str, Any]) -> list[Layout]:
    """Which models a file of somebody's program may be of, the likeliest first; none if no method knows it."""
    found: dict[Layout, None] = {}
    for candidate in candidates(checkpoint):
        for method in methods().values():
            layout = method.recognise(candidate)
            if layout is not None:
                found[layout] = None
    return list(found)


def weights_for(checkpoint: Mapping[str, Any], method: Method, model: str, net: nn.Module) -> Weights:
    """The weights of a file for a network, under its names, and the training phase they are of.

    Raises:
        UserError: if the method knows its files, and this is none of them.
    """
    refused: UserError | None = None
    best: tuple[int, Weights] | None = None
    for candidate in candidates(checkpoint):
        try:
            found = method.weights_for(candidate, model)
        except UserError as error:
            refused = refused or error
            continue
        state = {key: each for key, each in found.state.items() if isinstance(each, Tensor)}
        faults = len(misfits(state, net))
        if best is None or faults < best[0]:
            best = faults, Weights(state, found.phase)
        if not faults:
            break
    if best is None:
        assert refused is not None
        raise refused
    return best[1]


def start_from(net: nn.Module, path: str, key: str, method: Method) -> dict[str, Any]:
    """Give a network the weights of a file that its training is to start from.

    Args:
        net: of the method's main model; is filled in place.
        path: of a checkpoint of this zoo or a file of the method's authors.
        key: of the configuration, for messages.
        method: that the network is of.

    Returns:
        The file's content, in which there may be more.

    Raises:
        UserError: if it cannot be read, or the weights do not fit.
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
    """The network's weights in a checkpoint of the training, which may also have those of a discriminator."""
    return {key: each for key, each in _under(state, "net.").items() if isinstance(each, Tensor)}


def _under(entries: Mapping[str, Any], prefix: str) -> dict[str, Any]:
    """The network of a checkpoint of the training, which stands under ``net.``."""
    return {key.removeprefix(prefix): each for key, each in entries.items() if str(key).startswith(prefix)}


def fill(net: nn.Module, state: Mapping[str, Tensor], source: str, model: str) -> None:
    """Give a network weights that must fit by name and shape; floating-point ones become 32-bit.

    Args:
        net: is filled in place.
        state: name -> tensor.
        source: the file, for the message.
        model: that the network is of, likewise.

    Raises:
        UserError: how many names are missing, left over and of another shape, and the first of each.
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
