"""From a name and a file to a network that may look: who made the weights, what layout they have, whether they fit."""

from __future__ import annotations

import hashlib
import importlib
import inspect
import json
import pkgutil
import re
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple, cast

from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

import reflectzoo.methods
from reflectzoo.errors import UserError
from reflectzoo.nets.shared_vgg import needs_vgg
from reflectzoo.photo.files import shown
from reflectzoo.training.module import ReflectionModule
from reflectzoo.weights.download import is_url
from reflectzoo.weights.read import read_checkpoint
from reflectzoo.weights.records import WeightRecord, locate, records

FORMAT = "reflectzoo"
"""What our safetensors files call themselves in their metadata."""


class Layout(NamedTuple):
    """What a file of weights was recognised as.

    Attributes:
        model: one of :func:`reflectzoo.list_models`.
        overrides: of its configuration, that make it fit.
    """

    model: str
    overrides: tuple[str, ...] = ()


class Opened(NamedTuple):
    """A network with its weights, before it may look.

    Attributes:
        module: in evaluation mode; no VGG is attached yet.
        record: what its file says, or what was found out about it: ``model``, ``config``, ``phase``, ``vgg``.
    """

    module: ReflectionModule
    record: dict[str, Any]


class Source(NamedTuple):
    """Where weights come from.

    Attributes:
        path: the file, on this machine.
        record: what the registry says about it, if it is from there.
    """

    path: Path
    record: WeightRecord | None = None


# -- choosing --------------------------------------------------------------------------------------------------------


def default_model() -> str:
    """The method that is taken when none is named: that of the first weights marked as default.

    Raises:
        UserError: if there are no such weights.
    """
    for record in records():
        if record.default and record.available:
            return record.model
    raise UserError(
        "No weights come with this version, so no model can be chosen for you: give weights=FILE (--weights FILE), "
        "the authors' or from your own training."
    )


def find_source(model: str | None, weights: str | Path | None) -> Source | None:
    """The file that is meant, downloaded if need be; None if nothing is given and the method has no default.

    Args:
        model: name of the method, if known.
        weights: a file, the name of a record, an address with a hash (``https://…/name-<sha256 digits>.safetensors``),
            or None for the method's default.

    Raises:
        UserError: if there is no such file or record.
        DownloadError: if it cannot be had.
    """
    if weights is None:
        for record in records():
            if record.model == model and record.available and record.default:
                return Source(locate(record), record)
        return None
    text = str(weights)
    by_name = {record.name: record for record in records()}
    if text in by_name and not Path(text).exists():
        return Source(locate(by_name[text]), by_name[text])
    if is_url(text):
        return Source(locate(text))
    path = Path(text).expanduser()
    if not path.is_file():
        known = ", ".join(name for name, record in by_name.items() if record.available)
        hint = f" or the name of weights that are listed ({known})" if known else ""
        raise UserError(f"There is no weights file {shown(path)}: check the path, or give an address{hint}.")
    return Source(path)


def load_for_inference(
    model: str | None = None,
    weights: str | Path | None = None,
    overrides: tuple[str, ...] = (),
    untrained: bool = False,
) -> ReflectionModule:
    """A network with weights, in evaluation mode, on the CPU.

    Args:
        model: one of :func:`reflectzoo.list_models`; None for what the file says or is recognised as.
        weights: see :func:`find_source`.
        overrides: of the model's configuration, for files that do not say it.
        untrained: take fresh weights where there are no trained ones.

    Raises:
        UserError: if there are no weights, or they do not fit; one sentence.
    """
    if model is not None and model not in reflectzoo.list_models():
        raise UserError(f"There is no model '{model}': choose from {', '.join(reflectzoo.list_models())}.")
    for each in overrides:
        if not re.match(r"[+~]{0,2}[\w@/]+([.\w@/]+)*=", each) and not each.startswith("~"):
            raise UserError(f"'{each}' is no setting of a model: write KEY=VALUE, e.g. model.net.width=32.")
    source = None if untrained and weights is None else find_source(model, weights)
    if source is not None:
        return load_file(source.path, model, (*(source.record.overrides if source.record else ()), *overrides))
    if not untrained or model is None:
        raise UserError(
            f"The model {model} has not learnt anything yet, its output would be noise: give --weights FILE (weights="
            f"FILE), from the authors or from `python -m reflectzoo.train model={model}`; --untrained (untrained=True) "
            "tries it all the same."
        )
    return _fresh(model, overrides, attach=True)


def load_file(path: Path, model: str | None = None, overrides: tuple[str, ...] = ()) -> ReflectionModule:
    """A network from a file: one of our checkpoints, our safetensors, or the authors'.

    Raises:
        UserError: if it is damaged, would run code, holds no network of the zoo, or another than ``model``.
    """
    module, record = open_file(path, model, overrides)
    used = record.get("vgg")
    if used and used.get("fingerprint"):
        module.on_load_checkpoint({"reflectzoo": record})
    elif used:
        module.expect_vgg(used["source"])
    _attach(module)
    return module


def open_file(path: Path, model: str | None = None, overrides: tuple[str, ...] = ()) -> Opened:
    """As :func:`load_file`, without the VGG that the network may look through."""
    if path.suffix == ".safetensors":
        return _load_safetensors(path, model, overrides)
    content = read_checkpoint(path, "weights")
    record = content.get("reflectzoo")
    if isinstance(record, Mapping) and record.get("config") and "state_dict" in content:
        _check_model(str(record.get("model")), model, path)
        return _load_ours(path, content["state_dict"], dict(record))
    return _load_foreign(path, content, model, overrides)


# -- our own files ---------------------------------------------------------------------------------------------------


def _load_ours(path: Path, state: Mapping[str, Tensor], record: dict[str, Any]) -> Opened:
    from reflectzoo.config import build_from_record

    config = dict(record["config"])
    for key in ("stage1_ckpt", "teacher_ckpt"):
        if key in config:
            config[key] = None
    try:
        module: ReflectionModule = build_from_record(config)
    except ValueError as error:
        raise UserError(f"{shown(path)} is not opened: {error}.") from error
    module.config = config
    if not needs_vgg(module.net):
        record = {**record, "vgg": None}  # that of the loss, which nobody asks here
    module.on_load_checkpoint({"reflectzoo": {**record, "vgg": None}})
    net = {key.removeprefix("net."): each for key, each in state.items() if key.startswith("net.")}
    _fill(module.net, net, shown(path), module.name)
    others = {key: each for key, each in state.items() if not key.startswith("net.")}
    if others:  # a discriminator, say; our safetensors leave it out
        module.load_state_dict(others, strict=False)
    return Opened(module.eval(), {**record, "config": config})


def _load_safetensors(path: Path, model: str | None, overrides: tuple[str, ...]) -> Opened:
    state, metadata = read_safetensors(path)
    if metadata.get("format") != FORMAT:
        return _load_foreign(path, state, model, overrides)
    try:
        record = json.loads(metadata["record"])
        _check_model(str(record["model"]), model, path)
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"{shown(path)} does not say which model it holds, it may be damaged: get it again.") from error
    return _load_ours(path, {f"net.{key}": each for key, each in state.items()}, record)


def read_safetensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Tensors and metadata.

    Raises:
        UserError: if the file is no safetensors file, or damaged.
    """
    try:
        with safe_open(path, framework="pt") as file:
            return {key: file.get_tensor(key) for key in file.keys()}, dict(file.metadata() or {})  # noqa: SIM118
    except (SafetensorError, OSError, ValueError) as error:
        raise UserError(f"{shown(path)} cannot be read as a safetensors file ({error}): get it again.") from error


def _check_model(found: str, wanted: str | None, path: Path) -> None:
    if wanted is not None and found != wanted:
        raise UserError(f"{shown(path)} holds model={found}, not model={wanted}: leave the model out, the file knows.")


# -- files of others -------------------------------------------------------------------------------------------------


@lru_cache
def converters() -> dict[str, Any]:
    """The ``convert`` module of each method that has one, by the method's folder."""
    found = {}
    for folder in sorted(each.name for each in pkgutil.iter_modules(reflectzoo.methods.__path__) if each.ispkg):
        name = f"reflectzoo.methods.{folder}.convert"
        if importlib.util.find_spec(name) is not None:
            found[folder] = importlib.import_module(name)
    return found


def recognise(checkpoint: Mapping[str, Any]) -> list[Layout]:
    """Which methods a checkpoint of somebody's program may belong to.

    Each method's ``convert.py`` may have ``recognise(checkpoint) -> (model, overrides) | None``, that never raises.
    """
    found = []
    for convert in converters().values():
        if hasattr(convert, "recognise"):
            layout = convert.recognise(checkpoint)
            if layout is not None:
                found.append(Layout(layout[0], tuple(layout[1])))
    return found


def _load_foreign(path: Path, content: Mapping[str, Any], model: str | None, overrides: tuple[str, ...]) -> Opened:
    name = shown(path)
    layouts = recognise(content)
    if model is None:
        if not layouts:
            raise UserError(
                f"{name} was not written by reflectzoo.train and is not recognised as any method's weights: name the "
                "model that it is of, with model= (--model)."
            )
        model = layouts[0].model
    # A model that was named may be a sibling of the one recognised (the same names and shapes): then its settings fit.
    settings = next((layout.overrides for layout in layouts if _related(layout.model, model)), ())
    module = _fresh(model, (*settings, *overrides), attach=False)
    phase = fill_foreign(module, content, name)
    # They have learnt to see through ImageNet's VGG; with random weights their output would be noise.
    source = "imagenet" if module.vgg_source == "auto" else module.vgg_source
    vgg = {"source": source, "fingerprint": None} if needs_vgg(module.net) else None
    return Opened(module.eval(), {"model": module.name, "config": module.config, "phase": phase, "vgg": vgg})


def fill_foreign(module: ReflectionModule, content: Mapping[str, Any], source: str) -> int:
    """Give a module the weights of somebody else's file.

    Args:
        module: as it was built.
        content: of the file.
        source: for messages.

    Returns:
        The training phase that the weights are of, which the module now is in.

    Raises:
        UserError: if they do not fit.
    """
    state, phase = _remapped(module.net, content, source, module.name)
    module.on_load_checkpoint({"reflectzoo": {"phase": phase}})
    _fill(module.net, state, source, module.name)
    return phase


def _related(one: str, other: str) -> bool:
    return one == other or one.split("_")[0] == other.split("_")[0]


def _remapped(net: nn.Module, content: Mapping[str, Any], source: str, model: str) -> tuple[Mapping[str, Tensor], int]:
    """The weights under our names, and the training phase they are of."""
    convert = converters().get(type(net).__module__.split(".")[2]) if type(net).__module__.count(".") > 2 else None
    if convert is None or not hasattr(convert, "remap"):
        entries = cast(Mapping[str, Any], content.get("state_dict", content))
        return {str(key).removeprefix("net."): each for key, each in entries.items() if isinstance(each, Tensor)}, 0
    try:
        if "stages" not in inspect.signature(convert.remap).parameters:
            state, phase = convert.remap(content), 0
        elif hasattr(net, "set_active_stage"):
            # A file of one stage fills both, as the authors' program does; what was trained then is the first.
            phase = int(any(key.startswith("icnn2.") for key in convert.remap(content)))
            state = convert.remap(content, stages=2)
        else:
            state, phase = convert.remap(content, stages=1), 0
        if hasattr(convert, "check_layout"):
            convert.check_layout(state, net, source)
    except UserError as error:
        raise UserError(f"{source} does not fit model={model}: {error}") from error
    return state, phase


def _fresh(model: str, overrides: tuple[str, ...], attach: bool) -> ReflectionModule:
    from reflectzoo.cli import user_sentences
    from reflectzoo.config import build, compose_config, plain

    words = [f"model={model}", *overrides]
    with user_sentences(*words):
        config = compose_config(words)
        module: ReflectionModule = build(config.model)
    module.config = plain(config.model)
    if attach:
        module.on_load_checkpoint({})  # nothing is to be fetched for an encoder that nobody trained
        _attach(module)
    return module.eval()


def _attach(module: ReflectionModule) -> None:
    # Not for the loss alone: looking needs none.
    if needs_vgg(module.net):
        module.attach_vgg()


def _fill(net: nn.Module, state: Mapping[str, Tensor], source: str, model: str) -> None:
    try:
        net.load_state_dict(state)
    except RuntimeError as error:
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        first = (lines[1:] or ["other weights are expected"])[0]
        raise UserError(f"{source} does not fit model={model}: {first.rstrip('.')[:200]}.") from error


def sha256_of(path: Path) -> str:
    """Of a file, in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
