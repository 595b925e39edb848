"""From a name and a file to a network that may see photographs, without the trainer.

Who made the weights, what layout they have, whether they fit: all that is special about a method is asked of its
:class:`~reflectzoo.core.method.Method`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple, cast

from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from reflectzoo.core.batch import Batch, Outputs
from reflectzoo.core.content import what_file_is
from reflectzoo.core.method import Method, Size, Tiling
from reflectzoo.core.registry import method_of, methods, siblings
from reflectzoo.errors import UserError
from reflectzoo.nets.shared_vgg import attach_vgg, needs_vgg
from reflectzoo.nets.vgg import load_vgg19
from reflectzoo.photo.files import shown
from reflectzoo.weights.download import is_url
from reflectzoo.weights.layouts import fill, network_of, recognise_file, weights_for
from reflectzoo.weights.read import read_checkpoint
from reflectzoo.weights.records import WeightRecord, locate, records
from reflectzoo.weights.stored import Stored, build_stored, parse_metadata, stored_network, understood

FORMAT = "reflectzoo"
"""What our safetensors files call themselves in their metadata."""


class LoadedModel(nn.Module):
    """A network with its weights, in evaluation mode, and the method it is of. Knows nothing of training.

    Args:
        net: ``(B, 3, H, W) in [0, 1] -> Outputs``, any size.
        stored: which network it is, of which model and method, with which settings.
        vgg_source: where its VGG comes from, if it looks through one (see :func:`reflectzoo.nets.vgg.load_vgg19`).

    Attributes:
        net: the network alone.
        stored: as given.
        vgg_used: ``{"source", "fingerprint"}`` of the attached VGG, or None.
    """

    def __init__(self, net: nn.Module, stored: Stored, vgg_source: str = "auto") -> None:
        super().__init__()
        self.net = net
        self.stored = stored
        self.vgg_source = vgg_source
        self.vgg_used: dict[str, str] | None = None

    @property
    def name(self) -> str:
        """The choice of ``model=``."""
        return self.stored.model

    @property
    def method(self) -> Method:
        """The method that it is of."""
        return self.stored.method

    @property
    def size(self) -> Size:
        """What sides it takes."""
        return self.method.size_of(self.name)

    @property
    def tiling(self) -> Tiling:
        """How large photographs may be cut."""
        return self.method.tiling_of(self.name)

    def forward(self, mixture: Tensor) -> Outputs:
        """Separate (B, 3, H, W) in [0, 1]; outputs have the same size."""
        return cast(Outputs, self.net(mixture))

    def predict_batch(self, batch: Batch) -> Outputs:
        """The outputs for a batch, of which some methods see more than the mixture."""
        return self.method.predict_batch(self.net, batch)

    def enter_last_phase(self) -> LoadedModel:
        """Make it run as a finished training leaves it, for fresh weights that are only measured."""
        self.method.enter_phase(self.net, len(self.method.models[self.name].phases) - 1)
        return self

    def attach_vgg(self) -> LoadedModel:
        """Give the network the VGG that it looks through, if it does and has none yet.

        Raises:
            UserError: if it cannot be had, or is another than the one it learnt to look through.
        """
        if self.vgg_used is not None or not needs_vgg(self.net):
            return self
        known = self.stored.vgg or {}
        source = known.get("source") or self.vgg_source
        vgg = load_vgg19(self.vgg_source if self.vgg_source != "auto" else source)
        wanted = known.get("fingerprint")
        if wanted is not None and vgg.fingerprint != wanted:
            raise UserError(
                f"The weights of model={self.name} were trained with VGG-19 weights '{source}', but the file found "
                "under that name is different: put the right one there."
            )
        attach_vgg(self.net, vgg)
        self.vgg_used = {"source": vgg.source, "fingerprint": vgg.fingerprint}
        return self


class LocatedWeights(NamedTuple):
    """Where weights come from.

    Attributes:
        path: the file, on this machine.
        record: what the registry says about it, if it is from there.
    """

    path: Path
    record: WeightRecord | None = None


# -- choosing --------------------------------------------------------------------------------------------------------


def default_model() -> str:
    """The method that is taken when none is named: that of the first weights of the zoo marked as default.

    Raises:
        UserError: if there are no such weights.
    """
    for record in records():
        if record.default and record.available and method_of(record.model).built_in:
            return record.model
    raise UserError(
        "This version has no packaged weights, so there is no default model: give weights=FILE (--weights FILE), the "
        "authors' or from your own training."
    )


def find_source(model: str | None, weights: str | Path | None) -> LocatedWeights | None:
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
                return LocatedWeights(locate(record), record)
        return None
    text = str(weights)
    by_name = {record.name: record for record in records()}
    if text in by_name and not Path(text).exists():
        return LocatedWeights(locate(by_name[text]), by_name[text])
    if is_url(text):
        return LocatedWeights(locate(text))
    path = Path(text).expanduser()
    if not path.is_file():
        known = ", ".join(name for name, record in by_name.items() if record.available)
        hint = f" or the name of weights that are listed ({known})" if known else ""
        raise UserError(f"There is no weights file {shown(path)}: check the path, or give an address{hint}.")
    return LocatedWeights(path)


def load(
    model: str | None = None,
    weights: str | Path | None = None,
    overrides: Sequence[str] = (),
    untrained: bool = False,
) -> LoadedModel:
    """A network with weights, in evaluation mode, on the CPU.

    Args:
        model: one of :func:`reflectzoo.list_models`; None for what the file says or is recognised as.
        weights: see :func:`find_source`.
        overrides: of the model's configuration, for files that do not say it.
        untrained: take fresh weights where there are no trained ones.

    Raises:
        UserError: if there are no weights, or they do not fit; one sentence.
    """
    if model is not None:
        method_of(model)
    for each in overrides:
        if not re.match(r"[+~]{0,2}[\w@/]+([.\w@/]+)*=", each) and not each.startswith("~"):
            raise UserError(f"'{each}' is not a setting of a model: write KEY=VALUE, e.g. model.net.width=32.")
    source = None if untrained and weights is None else find_source(model, weights)
    if source is not None:
        return load_file(source.path, model, (*(source.record.overrides if source.record else ()), *overrides))
    if not untrained or model is None:
        raise UserError(
            f"The model {model} is not trained, so its output would be noise: give --weights FILE (weights=FILE), "
            f"from the authors or from `reflectzoo train model={model}`; --untrained (untrained=True) runs it anyway."
        )
    return untrained_model(model, overrides).attach_vgg()


def load_file(
    path: Path,
    model: str | None = None,
    overrides: Sequence[str] = (),
    configured: Mapping[str, Any] | None = None,
) -> LoadedModel:
    """A network from a file: one of our checkpoints, our safetensors, or the authors'.

    Args:
        path: the file.
        model: what it must be; None for what it says or is recognised as.
        overrides: of the model's configuration, for files that do not say it.
        configured: that configuration itself, composed already, instead.

    Raises:
        UserError: if it is damaged, would run code, holds no network of the zoo, or another than ``model``.
    """
    return open_file(path, model, overrides, configured).attach_vgg()


def open_file(
    path: Path,
    model: str | None = None,
    overrides: Sequence[str] = (),
    configured: Mapping[str, Any] | None = None,
) -> LoadedModel:
    """As :func:`load_file`, without the VGG that the network may look through."""
    name = shown(path)
    if path.suffix == ".safetensors":
        state, metadata = read_safetensors(path)
        if metadata.get("format") != FORMAT:
            return _foreign(path, state, model, overrides, configured)
        try:
            record = parse_metadata(metadata["record"])
        except (KeyError, ValueError) as error:
            raise UserError(
                f"{name} does not say which model it holds and may be damaged: download it again."
            ) from error
        return _ours(understood(record, name), state, model, name)
    content = read_checkpoint(path, "weights")
    record = content.get("reflectzoo")
    if not isinstance(record, Mapping) or not isinstance(content.get("state_dict"), Mapping):
        return _foreign(path, content, model, overrides, configured)
    return _ours(understood(record, name), network_of(content["state_dict"]), model, name)


def read_safetensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Tensors and metadata.

    Raises:
        UserError: if the file is no safetensors file, or damaged.
    """
    try:
        with safe_open(path, framework="pt") as file:
            return {key: file.get_tensor(key) for key in file.keys()}, dict(file.metadata() or {})  # noqa: SIM118
    except (SafetensorError, OSError, ValueError) as error:
        found = what_file_is(path)
        told = f", it is {found}" if found else f" ({error}): download it again"
        raise UserError(f"{shown(path)} cannot be read as a safetensors file{told}.") from error


def _ours(stored: Stored, state: Mapping[str, Tensor], model: str | None, name: str) -> LoadedModel:
    if model is not None and stored.model != model:
        raise UserError(f"{name} holds model={stored.model}, not model={model}: leave the model out.")
    net = build_stored(stored, name)
    fill(net, state, name, stored.model)
    # A record may be of the VGG that only the loss looked through.
    loaded = LoadedModel(net, stored if needs_vgg(net) else replace(stored, vgg=None))
    return loaded.eval()


# -- files of others -------------------------------------------------------------------------------------------------


def _foreign(
    path: Path,
    content: Mapping[str, Any],
    model: str | None,
    overrides: Sequence[str],
    configured: Mapping[str, Any] | None,
) -> LoadedModel:
    name = shown(path)
    for method in methods().values():
        content = method.gathered(path, content)
    layouts = recognise_file(content)
    if model is None:
        if not layouts:
            raise UserError(
                f"{name} was not written by reflectzoo.train and is not recognised as any method's weights: specify "
                "its model with model= (--model)."
            )
        model = layouts[0].model
    if configured is not None:
        loaded = from_config(configured)
    else:
        # A model that was named may be a sibling of the one recognised (the same names and shapes): its settings fit.
        settings = next((layout.overrides for layout in layouts if siblings(layout.model, model)), ())
        loaded = untrained_model(model, (*settings, *overrides))
    fill_foreign(loaded, content, name)
    return loaded


def untrained_model(model: str, overrides: Sequence[str] = ()) -> LoadedModel:
    """A model with fresh weights as its configuration has it, without a VGG.

    Raises:
        UserError: if there is no such model or setting.
    """
    from reflectzoo.cli import user_sentences
    from reflectzoo.config import compose_config, plain

    words = [f"model={model}", *overrides]
    with user_sentences(*words):
        return from_config(plain(compose_config(words).model))


def from_config(config: Mapping[str, Any]) -> LoadedModel:
    """As :func:`untrained_model`, from what ``model`` is in a composed configuration.

    Raises:
        UserError: if no method registers its network.
    """
    from omegaconf import OmegaConf

    from reflectzoo.config import build as instantiate

    name = str(config["name"])
    record = stored_network(name, config["net"])
    if "network" not in record:
        raise UserError(
            f"model={name} has the network {config['net'].get('_target_')}, which no installed method registers: add "
            "it to METHOD.networks."
        )
    stored = understood(record, f"model={name}")
    net = OmegaConf.create({"model": {"net": config["net"]}}).model.net  # with its path, for sentences
    return LoadedModel(instantiate(net), stored, str(config.get("vgg", "auto"))).eval()


def fill_foreign(loaded: LoadedModel, content: Mapping[str, Any], source: str) -> None:
    """Give a model the weights of somebody else's file, and put it into the training phase that they are of.

    Args:
        loaded: as it was built.
        content: of the file.
        source: for messages.

    Raises:
        UserError: if they do not fit.
    """
    method, name = loaded.method, loaded.name
    try:
        found = weights_for(content, method, name, loaded.net)
        method.explain(found.state, loaded.net, source)
    except UserError as error:
        raise UserError(f"{source} does not fit model={name}: {error}") from error
    fill(loaded.net, found.state, source, name)
    method.enter_phase(loaded.net, found.phase)
    # They have learnt to see through ImageNet's VGG; with random weights their output would be noise.
    vgg = {"source": "imagenet", "fingerprint": None} if needs_vgg(loaded.net) else None
    loaded.stored = replace(loaded.stored, phase=found.phase, vgg=vgg if loaded.vgg_source == "auto" else None)
