"""The interface between a method and the rest of the zoo: one small ``Method`` object.

A method is a folder (or a third-party package) whose ``__init__.py`` defines ``METHOD = Method(...)``. This object
declares everything that is specific to the method: its networks, the models that ``conf/model`` configures from them,
the supported sizes and tiles, the weight files that it recognises. Generic code uses nothing else of a method.

Creating one imports neither torch nor Lightning: code is referred to by strings like ``".net:LiteNet"`` (module, colon,
name; a leading dot means "in this method's package"), which are resolved lazily.
"""

from __future__ import annotations

import importlib
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, cast

if TYPE_CHECKING:
    from torch import Tensor, nn

    from reflectzoo.core.batch import Batch, Outputs

_REFERENCE = re.compile(r"\.?[A-Za-z_][\w.]*:[A-Za-z_]\w*")
_NAME = re.compile(r"[a-z][a-z0-9_]*")


@dataclass(frozen=True)
class Size:
    """Constraints on the sides of a photograph.

    Attributes:
        minimum: shorter sides are padded to this many pixels before inference.
        multiple: tiles may begin only at multiples of this many pixels, so that the network downsamples and pads a tile
            in the same way as the whole picture. The network itself accepts any size, and pads and crops internally.
        working: photographs are resized before inference so that their shorter side has about this many pixels at most
            and their sides are multiples of ``multiple`` (:mod:`reflectzoo.inference.working_size`). None: they are
            separated at their own size.
    """

    minimum: int = 1
    multiple: int = 1
    working: int | None = None

    def __post_init__(self) -> None:
        if self.minimum < 1 or self.multiple < 1:
            raise ValueError(f"Size: minimum and multiple must be at least 1, got {self.minimum} and {self.multiple}")
        if self.working is not None and self.working < self.minimum:
            raise ValueError(f"Size: working must be at least the minimum, {self.minimum}, got {self.working}")


@dataclass(frozen=True)
class Tiling:
    """How to cut a large photograph into tiles.

    Attributes:
        halo: pixels by which each tile extends into its neighbours; about the radius of the receptive field.
    """

    halo: int = 96

    def __post_init__(self) -> None:
        if self.halo < 0:
            raise ValueError(f"Tiling: halo must not be negative, got {self.halo}")


@dataclass(frozen=True)
class Model:
    """One choice of ``model=``: describes a file in ``conf/model`` to generic code.

    Attributes:
        summary: one line for users.
        tiny: overrides that make the model small, for tests; the method's ``tiny`` if empty.
        phases: names of its training phases, in order.
        family: label shared by models of the method whose weight files are interchangeable; empty for none.
        starts_from: settings that name another checkpoint to start from -> description of the checkpoint required.
        size: defaults to the method's.
        tiling: defaults to the method's.
        mirrored: whether results are the mean over a photograph and its mirror image, in twice the time; for networks
            that gain from it. Training and the network itself are unaffected.
    """

    summary: str = ""
    tiny: tuple[str, ...] = ()
    phases: tuple[str, ...] = ("training",)
    family: str = ""
    starts_from: Mapping[str, str] = field(default_factory=dict)
    size: Size | None = None
    tiling: Tiling | None = None
    mirrored: bool = False


class Layout(NamedTuple):
    """Model and settings detected in a weight file.

    Attributes:
        model: a choice of ``model=``.
        overrides: overrides of its configuration with which the network fits the file.
    """

    model: str
    overrides: tuple[str, ...] = ()


class Weights(NamedTuple):
    """Weights from a file, renamed to reflectzoo's parameter names.

    Attributes:
        state: name -> tensor.
        phase: 0-based training phase in which they were saved.
    """

    state: Mapping[str, Tensor]
    phase: int = 0


@dataclass(frozen=True)
class Method:
    """Declaration of one method.

    Attributes:
        name: name of the method; lower case, unique among the zoo and all plugins.
        package: import path of its package: ``__name__`` in its ``__init__.py``.
        title: the paper's title, or one line.
        models: every choice of ``model=`` that it provides; the first is its main model.
        networks: references to every class (or factory function) that a weight file may name. Only these are ever
            built from a file, with settings checked against their signature.
        former: (model, network) as named in older files -> today's name of the model.
        tiny: see :class:`Model`.
        size: constraints on the sides of photographs.
        tiling: how to cut large photographs into tiles.
        gather: reference to ``(path, checkpoint) -> checkpoint``, for authors who split a network over several files:
            adds the content of the files beside ``path``; returns the checkpoint unchanged if it is not the authors'.
        detect: reference to ``(checkpoint) -> (model, overrides) | None``, which recognises the authors' files and
            never raises; empty if there are none. Checkpoints are unpacked beforehand and stripped of the prefixes of
            parallel training (:func:`reflectzoo.weights.layouts.candidate_state_dicts`).
        remap: reference to ``(checkpoint) -> {name: tensor}``, which converts such a file to reflectzoo's parameter
            names and raises ``UserError`` if it contains no network of the method. Empty: no renaming is necessary.
        fit_phases: reference to ``(state, phases) -> (state, phase)`` for methods that train in phases: fits the
            weights to a network with that many phases and returns the phase that they come from. Empty: the weights
            are used as they are, as phase 0.
        check: reference to ``(state, net, source) -> None``, which raises a ``UserError`` that names the weights found
            and those expected; ``source`` is the subject of the sentence. Empty: only names and shapes are compared.
        set_phase: reference to ``(net, phase) -> None`` for networks that run differently in each phase.
        begin: reference to ``(net) -> None``, which prepares a network for training from scratch, for instance loads
            the weights of frozen features.
        predict: reference to ``(net, batch) -> Outputs`` for networks whose input is more than ``batch["mixture"]``.
        onnx: whether its networks can be exported to ONNX; false if their internal padding depends on the input size.
        published: name of the method in published tables (``evaluation/published_results.json``); empty if absent.
    """

    name: str
    package: str
    title: str
    models: Mapping[str, Model]
    networks: tuple[str, ...]
    former: Mapping[tuple[str, str], str] = field(default_factory=dict)
    tiny: tuple[str, ...] = ()
    size: Size = Size()
    tiling: Tiling = Tiling()
    gather: str = ""
    detect: str = ""
    remap: str = ""
    fit_phases: str = ""
    check: str = ""
    set_phase: str = ""
    begin: str = ""
    predict: str = ""
    onnx: bool = True
    published: str = ""

    def __post_init__(self) -> None:
        if not _NAME.fullmatch(self.name):
            raise ValueError(f"Method: a name is lower-case letters, digits and _, got {self.name!r}")
        if not self.models or not self.networks:
            raise ValueError(f"Method {self.name}: it needs at least one model and one network")
        hooks = (
            self.gather,
            self.detect,
            self.remap,
            self.fit_phases,
            self.check,
            self.set_phase,
            self.begin,
            self.predict,
        )
        for reference in (*self.networks, *filter(None, hooks)):
            if not _REFERENCE.fullmatch(reference):
                raise ValueError(f"Method {self.name}: {reference!r} is no reference, write '.module:name'")

    # -- location ------------------------------------------------------------------------------------------------------

    @cached_property
    def folder(self) -> Path:
        """Folder of the package.

        Raises:
            ValueError: if the package does not exist.
        """
        spec = find_spec(self.package)
        if spec is None or spec.origin is None:
            raise ValueError(f"Method {self.name}: there is no package {self.package!r}")
        return Path(spec.origin).parent

    @property
    def built_in(self) -> bool:
        """Whether the method belongs to reflectzoo itself, rather than to a plugin."""
        return self.package.startswith("reflectzoo.methods.")

    @property
    def page(self) -> Path:
        """The method's page, ``README.md`` in its folder."""
        return self.folder / "README.md"

    @property
    def conf(self) -> Path | None:
        """The ``conf`` folder of a plugin, None if it is missing; built-in methods use the zoo's configuration."""
        return self.folder / "conf" if (self.folder / "conf").is_dir() else None

    @property
    def records(self) -> Path | None:
        """The method's own folder of weight records (``weights``); None if it is missing."""
        return self.folder / "weights" if (self.folder / "weights").is_dir() else None

    @property
    def parity(self) -> str | None:
        """Import path of the module that compares the method with recorded outputs (``parity``); None if missing."""
        name = f"{self.package}.parity"
        return name if find_spec(name) is not None else None

    # -- models and networks -------------------------------------------------------------------------------------------

    @property
    def main(self) -> str:
        """Name of the main model, the first of :attr:`models`."""
        return next(iter(self.models))

    def tiny_of(self, model: str) -> tuple[str, ...]:
        """Overrides that make a model small, for tests."""
        return self.models[model].tiny or self.tiny

    def size_of(self, model: str) -> Size:
        """Constraints of a model on the sides of photographs."""
        return self.models[model].size or self.size

    def tiling_of(self, model: str) -> Tiling:
        """Tiling of large photographs for a model."""
        return self.models[model].tiling or self.tiling

    def alike(self, one: str, other: str) -> bool:
        """Whether two models of this method belong to the same family."""
        family = self.models[one].family
        return bool(family) and family == self.models[other].family

    def network_targets(self) -> dict[str, str]:
        """Map each network's name, as in weight files, to its dotted path, as in ``_target_`` in YAML.

        Example:
            >>> from reflectzoo.methods.lite import METHOD
            >>> METHOD.network_targets()["LiteNet"]
            'reflectzoo.methods.lite.net.LiteNet'
        """
        found = {}
        for reference in self.networks:
            module, _, name = self._absolute(reference).partition(":")
            found[name] = f"{module}.{name}"
        return found

    def network(self, name: str) -> Callable[..., nn.Module]:
        """Import the class of a network, or its factory function.

        Raises:
            KeyError: if the name is not in :attr:`networks`.
        """
        for reference in self.networks:
            if reference.partition(":")[2] == name:
                return cast("Callable[..., nn.Module]", self._resolve(reference))
        raise KeyError(name)

    # -- hooks ---------------------------------------------------------------------------------------------------------

    def gathered(self, path: Path, checkpoint: Mapping[str, Any]) -> Mapping[str, Any]:
        """Merge the content of a file with that of the other files of the same network.

        Raises:
            UserError: if one of these files is missing.
        """
        if not self.gather:
            return checkpoint
        return cast("Mapping[str, Any]", self._resolve(self.gather)(path, checkpoint))

    def recognise(self, checkpoint: Mapping[str, Any]) -> Layout | None:
        """Detect the model and settings of an unpacked weight file; None if it does not belong to this method."""
        if not self.detect:
            return None
        found = self._resolve(self.detect)(checkpoint)
        return None if found is None else Layout(found[0], tuple(found[1]))

    def weights_for(self, checkpoint: Mapping[str, Any], model: str) -> Weights:
        """Convert an unpacked file to the weights of one of the method's models.

        Raises:
            UserError: if the file contains no network of this method.
        """
        state = self._resolve(self.remap)(checkpoint) if self.remap else checkpoint
        if not self.fit_phases:
            return Weights(state)
        return Weights(*self._resolve(self.fit_phases)(state, len(self.models[model].phases)))

    def explain(self, state: Mapping[str, Tensor], net: nn.Module, source: str) -> None:
        """Run the method's own check that weights fit a network, if it has one.

        Raises:
            UserError: if they do not fit.
        """
        if self.check:
            self._resolve(self.check)(state, net, source)

    def enter_phase(self, net: nn.Module, phase: int) -> None:
        """Switch a network to a training phase, 0-based."""
        if self.set_phase:
            self._resolve(self.set_phase)(net, phase)

    def begin_training(self, net: nn.Module) -> None:
        """Prepare a new network for training from scratch.

        Raises:
            UserError: if something that it needs is not installed.
        """
        if self.begin:
            self._resolve(self.begin)(net)

    def predict_batch(self, net: nn.Module, batch: Batch) -> Outputs:
        """Run inference with a network on a batch."""
        if self.predict:
            return cast("Outputs", self._resolve(self.predict)(net, batch))
        return cast("Outputs", net(batch["mixture"]))

    # ------------------------------------------------------------------------------------------------------------------

    def _absolute(self, reference: str) -> str:
        return f"{self.package}{reference}" if reference.startswith(".") else reference

    def _resolve(self, reference: str) -> Any:
        module, _, name = self._absolute(reference).partition(":")
        return getattr(importlib.import_module(module), name)
