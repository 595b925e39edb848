"""The record in a weight file: names and plain settings, of which nothing is ever executed.

A checkpoint stores it under ``reflectzoo``, a safetensors file as JSON in its metadata (``record``)::

    {"version": 2, "model": "ytmt_ucs", "network": "YTMTUNet", "settings": {"pattern": "C", "width": 64, ...},
     "phase": 0, "vgg": {"source": "imagenet", "fingerprint": "9a1b..."}}

``network`` is looked up among those registered by methods (:class:`reflectzoo.core.method.Method`), and ``settings``
are the arguments of its constructor, each checked against its signature. Strings are taken literally, and never
interpreted as interpolations, resolvers or class names.

Files of version 1, written until November 2026, hold the model's whole configuration instead, as composed by Hydra.
Only ``config.net`` is read: its ``_target_`` must be exactly the current or a former path of a registered network, and
its other entries are the settings, which undergo the same check. Entries that control Hydra (``_args_``, ``_partial_``,
a list of targets) are not arguments of any network and are rejected like any other unknown setting.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn
from torch.nn.modules.module import register_module_parameter_registration_hook

from reflectzoo.core.method import Method
from reflectzoo.core.registry import find_method, find_network
from reflectzoo.core.settings import check_value, parameters_of
from reflectzoo.errors import UserError
from reflectzoo.weights.moved import MOVED

VERSION = 2
"""Version of the records that are written."""

#: Maximum nesting depth of lists and dictionaries.
_DEEPEST = 8
#: Parameters, and numbers in them, that a network may have beyond those in its file: a frozen VGG-19 (32 parameters
#: with 20 million numbers) is not stored.
_NOT_STORED = (1000, 50_000_000)


@dataclass(frozen=True)
class NetworkRecord:
    """The checked record of a weight file.

    Attributes:
        model: an option of ``model=``.
        method: the method that provides the model.
        network: name of one of the method's networks.
        settings: arguments of the network's constructor.
        phase: training phase of the weights, 0-based.
        vgg: ``source`` and ``fingerprint`` of the VGG that the network was trained with; None if it uses none.
    """

    model: str
    method: Method
    network: str
    settings: Mapping[str, Any] = field(default_factory=dict)
    phase: int = 0
    vgg: Mapping[str, str | None] | None = None

    def as_record(self) -> dict[str, Any]:
        """The record in the form in which files store it."""
        return {
            "version": VERSION,
            "model": self.model,
            "network": self.network,
            "settings": dict(self.settings),
            "phase": self.phase,
            "vgg": None if self.vgg is None else dict(self.vgg),
        }


def stored_network(model: str, net: Mapping[str, Any] | None) -> dict[str, Any]:
    """The part of a training checkpoint's record that describes its network.

    Args:
        model: the option of ``model=``.
        net: ``model.net`` as configured; None if the module was not built from a configuration.

    Returns:
        ``version`` and ``model``, and also ``network`` and ``settings`` if a method registers the network. Without
        those, training can be resumed from the checkpoint, but inference cannot open it.
    """
    record: dict[str, Any] = {"version": VERSION, "model": model}
    if net is not None and (registered := find_network(str(net.get("_target_")))) is not None:
        settings = {key: each for key, each in net.items() if key != "_target_"}
        record |= {"network": registered[1], "settings": settings}
    return record


def parse_metadata(text: str) -> Any:
    """Parse the JSON metadata of a file.

    Raises:
        ValueError: if it is not valid JSON, or nested too deeply.
    """
    try:
        return json.loads(text)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def parse_record(record: Any, source: str) -> NetworkRecord:
    """Check the record of a weight file.

    Args:
        record: the raw record, of any version.
        source: the file, for messages.

    Raises:
        UserError: if it is damaged, names a network that no method registers, or has settings other than plain values.
    """
    if not isinstance(record, Mapping) or not isinstance(record.get("model"), str):
        raise UserError(f"{source} does not say which model it holds and may be damaged: download it again.")
    model = str(record["model"])
    try:
        method, network, settings = _version_1(record) if "config" in record else _version_2(record)
        model = method.former.get((model, network), model)
        _check_plain(settings)
        return NetworkRecord(model, method, network, settings, _phase(record, method, model), _vgg(record))
    except InvalidRecord as error:
        raise UserError(f"{source} is not opened: {error}.") from error


def build_stored(stored: NetworkRecord, source: str, state: Mapping[str, Any]) -> nn.Module:
    """Build the network that a record describes, without its weights, and set its training phase.

    The record of an untrusted file may ask for a network of any size. Construction therefore stops, before memory is
    written, once there are more parameters than the file could fill.

    Args:
        stored: the checked record.
        source: the file, for messages.
        state: the weights in the file, of which only the sizes are used.

    Raises:
        UserError: if the settings do not match its constructor, or describe a network too large for these weights.
    """
    maker = stored.method.network(stored.network)
    sizes = [each.numel() for each in state.values() if isinstance(each, Tensor)]
    try:
        check_stored_settings(maker, stored.settings)
        with _at_most(len(sizes) + _NOT_STORED[0], sum(sizes) + _NOT_STORED[1]):
            net = maker(**stored.settings)
    except (UserError, TypeError, ValueError, RuntimeError, MemoryError) as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise UserError(f"{source} is not opened: {reason.rstrip('.')}.") from error
    stored.method.enter_phase(net, stored.phase)
    return net


@contextmanager
def _at_most(parameters: int, numbers: int) -> Iterator[None]:
    """Raise :class:`InvalidRecord` as soon as modules built inside the context, by this thread, have more than this."""
    thread = threading.get_ident()

    def count(module: nn.Module, name: str, parameter: nn.Parameter | None) -> None:
        nonlocal parameters, numbers
        if parameter is None or threading.get_ident() != thread:
            return
        parameters, numbers = parameters - 1, numbers - parameter.numel()
        if parameters < 0 or numbers < 0:
            raise InvalidRecord("its settings describe a network with far more parameters than the file holds")

    handle = register_module_parameter_registration_hook(count)
    try:
        yield
    except RuntimeError as error:
        # Mostly the allocator's, which is asked before any parameter is counted.
        raise InvalidRecord(f"its settings describe a network that cannot be built ({error})") from error
    finally:
        handle.remove()


class InvalidRecord(ValueError):
    """A fault in the record of a weight file; the message is a clause, without a full stop."""


def _version_2(record: Mapping[str, Any]) -> tuple[Method, str, Mapping[str, Any]]:
    if record.get("version") != VERSION:
        raise InvalidRecord(
            f"its record is of version {shortened(record.get('version'))}, which this program does not know"
        )
    model = record["model"]
    method = find_method(model)
    if method is None:
        raise InvalidRecord(
            f"it holds model={shortened(model)}, which no installed method provides: install its package"
        )
    network = record.get("network")
    if network is None:
        raise InvalidRecord(
            f"it holds model={shortened(model)} with a network that was not declared in METHOD.networks"
        )
    if not isinstance(network, str) or network not in method.network_targets():
        raise InvalidRecord(f"it asks for the network {shortened(network)}, which {method.name} does not have")
    return method, network, _settings(record.get("settings"))


def _version_1(record: Mapping[str, Any]) -> tuple[Method, str, Mapping[str, Any]]:
    config = record["config"]
    net = config.get("net") if isinstance(config, Mapping) else None
    target = net.get("_target_") if isinstance(net, Mapping) else None
    registered = find_network(MOVED.get(target, target)) if isinstance(target, str) else None
    if registered is None:
        raise InvalidRecord(f"it asks for {shortened(target)}, which is not a network of an installed method")
    method, network = registered
    if record["model"] not in method.models:
        raise InvalidRecord(f"it calls itself model={shortened(record['model'])}, but holds a network of {method.name}")
    assert isinstance(net, Mapping)
    return method, network, _settings({key: each for key, each in net.items() if key != "_target_"})


def _settings(value: Any) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise InvalidRecord("its settings are not a dictionary")
    return value


def _phase(record: Mapping[str, Any], method: Method, model: str) -> int:
    phase = record.get("phase", 0)
    count = len(method.models[model].phases)
    if type(phase) is not int or not 0 <= phase < count:
        raise InvalidRecord(f"it is of training phase {shortened(phase)}, and model={model} has {count}")
    return phase


def _vgg(record: Mapping[str, Any]) -> Mapping[str, str | None] | None:
    vgg = record.get("vgg")
    if vgg is None:
        return None
    if isinstance(vgg, Mapping):
        source, fingerprint = vgg.get("source"), vgg.get("fingerprint")
        if isinstance(source, str) and (fingerprint is None or isinstance(fingerprint, str)):
            return {"source": source, "fingerprint": fingerprint}
    raise InvalidRecord("what it says about its VGG is damaged")


# -- settings ----------------------------------------------------------------------------------------------------------


def check_stored_settings(maker: Callable[..., Any], settings: Mapping[str, Any]) -> None:
    """Check that settings are arguments of a constructor, each of the annotated type and range.

    Values are not converted: neither strings to numbers nor fractions to integers. A parameter without an annotation
    accepts any plain value.

    Args:
        maker: a class or a function.
        settings: name -> value.

    Raises:
        InvalidRecord: for the first name that is not an argument.
        SettingError: for a value of another type or out of range.
    """
    parameters, _ = parameters_of(maker)
    for name, value in settings.items():
        if name not in parameters:
            raise InvalidRecord(f"its network has no setting {shortened(name)}")
        check_value(name, value, parameters[name].annotation)


def _check_plain(value: Any, depth: int = 0) -> None:
    """Raise :class:`InvalidRecord` unless a value consists of numbers, strings, booleans, None, lists and dicts."""
    if depth > _DEEPEST:
        raise InvalidRecord("its settings are nested too deeply")
    if isinstance(value, Mapping):
        for key, each in value.items():
            if not isinstance(key, str):
                raise InvalidRecord(f"a setting is called {shortened(key)}, which is not a name")
            _check_plain(each, depth + 1)
    elif isinstance(value, list | tuple):
        for each in value:
            _check_plain(each, depth + 1)
    elif value is not None and type(value) not in (bool, int, float, str):
        raise InvalidRecord(f"a setting is a {type(value).__name__}, which is not a plain value")


def shortened(value: Any) -> str:
    """The representation of a value from an untrusted file, at most 80 characters long, for a message."""
    text = repr(value) if isinstance(value, str | int | float | bool) or value is None else f"a {type(value).__name__}"
    return text if len(text) <= 80 else f"{text[:76]}…{text[-1]}"
