"""Load a network with its weights for inference, without the Trainer.

Everything specific to a method (layouts of the authors' weights, checks, phases) is delegated to its
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
from reflectzoo.core.content import describe_file
from reflectzoo.core.method import Method, Size, Tiling
from reflectzoo.core.registry import method_of, methods, share_layout
from reflectzoo.errors import UserError
from reflectzoo.inference.working_size import separate_resized
from reflectzoo.nets.shared_vgg import attach_vgg, needs_vgg
from reflectzoo.nets.vgg import load_vgg19
from reflectzoo.photo.files import quoted_path
from reflectzoo.weights.download import is_url
from reflectzoo.weights.layouts import fill, network_of, recognise_file, weights_for
from reflectzoo.weights.read import read_checkpoint
from reflectzoo.weights.records import WeightRecord, locate, records
from reflectzoo.weights.stored import NetworkRecord, build_stored, parse_metadata, parse_record, stored_network

FORMAT = "reflectzoo"
"""Value of ``format`` in the metadata of reflectzoo's safetensors files."""


class LoadedModel(nn.Module):
    """A network with its weights and its method, in evaluation mode and independent of training.

    Args:
        net: ``(B, 3, H, W) in [0, 1] -> Outputs``, for any size.
        stored: describes the network: its model, method, settings and phase.
        vgg_source: source of the VGG, if the network uses one (see :func:`reflectzoo.nets.vgg.load_vgg19`).

    Attributes:
        net: the network alone.
        stored: as given.
        vgg_used: ``{"source", "fingerprint"}`` of the attached VGG; None before :meth:`attach_vgg` or without one.
    """

    def __init__(self, net: nn.Module, stored: NetworkRecord, vgg_source: str = "auto") -> None:
        super().__init__()
        self.net = net
        self.stored = stored
        self.vgg_source = vgg_source
        self.vgg_used: dict[str, str] | None = None

    @property
    def name(self) -> str:
        """Name of the model, an option of ``model=``."""
        return self.stored.model

    @property
    def method(self) -> Method:
        """The method that provides the model."""
        return self.stored.method

    @property
    def size(self) -> Size:
        """Constraints on the sides of a photograph."""
        return self.method.size_of(self.name)

    @property
    def tiling(self) -> Tiling:
        """How to cut a large photograph into tiles."""
        return self.method.tiling_of(self.name)

    @property
    def mirrored(self) -> bool:
        """Whether results are the mean over a photograph and its mirror image."""
        return self.method.models[self.name].mirrored

    def forward(self, mixture: Tensor) -> Outputs:
        """Separate (B, 3, H, W) in [0, 1]; the outputs have the same size and are not clamped."""
        return cast(Outputs, self.net(mixture))

    def predict_batch(self, batch: Batch) -> Outputs:
        """Separate a batch as ``reflectzoo remove`` does: at the model's working size, mirrored if the model says so.

        Some methods use more of the batch than the mixture.
        """
        if self.method.predict or (self.size.working is None and not self.mirrored):
            return self.method.predict_batch(self.net, batch)
        return cast(Outputs, separate_resized(self, batch["mixture"], self.size, self.mirrored))

    def enter_last_phase(self) -> LoadedModel:
        """Enter the last training phase, so that untrained weights are measured in the form that is used in the end."""
        self.method.enter_phase(self.net, len(self.method.models[self.name].phases) - 1)
        return self

    def attach_vgg(self) -> LoadedModel:
        """Attach the VGG that the network takes features from; idempotent, and a no-op for a network without one.

        Raises:
            UserError: if it cannot be loaded, or is not the one that the network was trained with.
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
    """The location of weights.

    Attributes:
        path: the local file.
        record: its entry in the registry, if any.
    """

    path: Path
    record: WeightRecord | None = None


# -- choosing --------------------------------------------------------------------------------------------------------


def default_model() -> str:
    """The default model: that of the first available weights of the zoo that are marked as default.

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
    """Locate weights, downloading them if necessary.

    Args:
        model: name of the model, if known.
        weights: a file, the name of a record, a URL with a hash (``https://…/name-<sha256 digits>.safetensors``), or
            None for the model's default.

    Returns:
        None if no weights are given and the model has no default.

    Raises:
        UserError: if there is no such file or record.
        DownloadError: if the download fails.
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
        raise UserError(f"There is no weights file {quoted_path(path)}: check the path, or give an address{hint}.")
    return LocatedWeights(path)


def load(
    model: str | None = None,
    weights: str | Path | None = None,
    overrides: Sequence[str] = (),
    untrained: bool = False,
) -> LoadedModel:
    """Load a network with weights, in evaluation mode, on the CPU.

    Args:
        model: one of :func:`reflectzoo.list_models`; None takes the model recorded in the file or recognised from it.
        weights: see :func:`find_source`.
        overrides: overrides of the model's configuration, for files that do not record it.
        untrained: without ``weights``, initialise the network randomly; requires ``model``.

    Raises:
        UserError: if there is no such model or setting, there are no weights, or they do not fit.
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
    """Load a network from a file: a checkpoint or safetensors file of reflectzoo, or weights of the authors.

    Args:
        path: the file.
        model: the model that it must contain; None takes the one recorded in the file or recognised from it.
        overrides: overrides of the model's configuration, for files that do not record it.
        configured: the composed configuration of the model, in place of ``overrides``.

    Raises:
        UserError: if the file is damaged, would execute code, or contains no network of the zoo or not ``model``.
    """
    return open_file(path, model, overrides, configured).attach_vgg()


def open_file(
    path: Path,
    model: str | None = None,
    overrides: Sequence[str] = (),
    configured: Mapping[str, Any] | None = None,
) -> LoadedModel:
    """Same as :func:`load_file`, but without attaching a VGG."""
    name = quoted_path(path)
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
        return _ours(parse_record(record, name), state, model, name)
    content = read_checkpoint(path, "weights")
    record = content.get("reflectzoo")
    if not isinstance(record, Mapping) or not isinstance(content.get("state_dict"), Mapping):
        return _foreign(path, content, model, overrides, configured)
    return _ours(parse_record(record, name), network_of(content["state_dict"]), model, name)


def read_safetensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Read tensors and metadata from a safetensors file.

    Raises:
        UserError: if it is missing, damaged or not a safetensors file.
    """
    try:
        with safe_open(path, framework="pt") as file:
            return {key: file.get_tensor(key) for key in file.keys()}, dict(file.metadata() or {})  # noqa: SIM118
    except (SafetensorError, OSError, ValueError) as error:
        found = describe_file(path)
        told = f", it is {found}" if found else f" ({error}): download it again"
        raise UserError(f"{quoted_path(path)} cannot be read as a safetensors file{told}.") from error


def _ours(stored: NetworkRecord, state: Mapping[str, Tensor], model: str | None, name: str) -> LoadedModel:
    if model is not None and stored.model != model:
        raise UserError(f"{name} holds model={stored.model}, not model={model}: leave the model out.")
    net = build_stored(stored, name, state)
    fill(net, state, name, stored.model)
    # The recorded VGG may have been used by the loss only.
    loaded = LoadedModel(net, stored if needs_vgg(net) else replace(stored, vgg=None))
    return loaded.eval()


# -- files of other programs -----------------------------------------------------------------------------------------


def _foreign(
    path: Path,
    content: Mapping[str, Any],
    model: str | None,
    overrides: Sequence[str],
    configured: Mapping[str, Any] | None,
) -> LoadedModel:
    name = quoted_path(path)
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
        # The given model may be a sibling of the recognised one (same names and shapes), whose settings then fit.
        settings = next((layout.overrides for layout in layouts if share_layout(layout.model, model)), ())
        loaded = untrained_model(model, (*settings, *overrides))
    load_foreign_weights(loaded, content, name)
    return loaded


def untrained_model(model: str, overrides: Sequence[str] = ()) -> LoadedModel:
    """Build a model with random weights from its configuration, without a VGG.

    Raises:
        UserError: if there is no such model or setting.
    """
    from reflectzoo.cli import user_sentences
    from reflectzoo.config import compose_config, plain

    words = [f"model={model}", *overrides]
    with user_sentences(*words):
        return from_config(plain(compose_config(words).model))


def from_config(config: Mapping[str, Any]) -> LoadedModel:
    """Same as :func:`untrained_model`, from the ``model`` section of a composed configuration.

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
    stored = parse_record(record, f"model={name}")
    net = OmegaConf.create({"model": {"net": config["net"]}}).model.net  # with its path, for error messages
    return LoadedModel(instantiate(net), stored, str(config.get("vgg", "auto"))).eval()


def load_foreign_weights(loaded: LoadedModel, content: Mapping[str, Any], source: str) -> None:
    """Load another program's weights into a model, and enter the training phase that they belong to.

    Args:
        loaded: the freshly built model.
        content: content of the file.
        source: name of the file in error messages.

    Raises:
        UserError: if the weights do not fit.
    """
    method, name = loaded.method, loaded.name
    try:
        found = weights_for(content, method, name, loaded.net)
        method.explain(found.state, loaded.net, source)
    except UserError as error:
        raise UserError(f"{source} does not fit model={name}: {error}") from error
    fill(loaded.net, found.state, source, name)
    method.enter_phase(loaded.net, found.phase)
    # The authors trained them with an ImageNet VGG; with a random one the output would be noise.
    vgg = {"source": "imagenet", "fingerprint": None} if needs_vgg(loaded.net) else None
    loaded.stored = replace(loaded.stored, phase=found.phase, vgg=vgg if loaded.vgg_source == "auto" else None)
