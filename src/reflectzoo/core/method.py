"""What the rest of the zoo asks of a method: one small object each.

A method is a folder (or a package of somebody else's) whose ``__init__.py`` holds ``METHOD = Method(...)``. Everything
special about it is said there: its networks, the models that ``conf/model`` configures from them, what sizes and tiles
they take, which files of weights it recognises. Generic code asks this object and nothing else.

Making one imports neither torch nor Lightning: code is named by references like ``".net:LiteNet"`` (module, colon,
name; a leading dot means "in this method's package"), which are resolved when they are needed.
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
    """What sides a photograph may have.

    Attributes:
        minimum: sides below this many pixels are extended before the network sees them.
        multiple: where tiles may begin: the network halves and pads a picture that is cut at multiples of this as it
            does the whole. The network itself takes any size, and pads and crops by itself.
    """

    minimum: int = 1
    multiple: int = 1

    def __post_init__(self) -> None:
        if self.minimum < 1 or self.multiple < 1:
            raise ValueError(f"Size: minimum and multiple must be at least 1, got {self.minimum} and {self.multiple}")


@dataclass(frozen=True)
class Tiling:
    """How a large photograph may be cut.

    Attributes:
        halo: pixels by which neighbouring tiles reach into each other, each; about as far as the network sees.
    """

    halo: int = 96

    def __post_init__(self) -> None:
        if self.halo < 0:
            raise ValueError(f"Tiling: halo must not be negative, got {self.halo}")


@dataclass(frozen=True)
class Model:
    """One choice of ``model=``: a file in ``conf/model``, and what generic code must know about it.

    Attributes:
        summary: one line for people.
        tiny: overrides of its configuration that make it small, for tests; the method's own where empty.
        phases: what its training phases are called, in order.
        family: models of one method whose files fit each other, by name, share this word; alone where empty.
        starts_from: settings of the model that name another checkpoint to start from, with what that must be.
        size: None for the method's.
        tiling: None for the method's.
    """

    summary: str = ""
    tiny: tuple[str, ...] = ()
    phases: tuple[str, ...] = ("training",)
    family: str = ""
    starts_from: Mapping[str, str] = field(default_factory=dict)
    size: Size | None = None
    tiling: Tiling | None = None


class Layout(NamedTuple):
    """What a file of weights was recognised as.

    Attributes:
        model: a choice of ``model=``.
        overrides: of its configuration, that make it fit.
    """

    model: str
    overrides: tuple[str, ...] = ()


class Weights(NamedTuple):
    """The weights of a file under our names.

    Attributes:
        state: name -> tensor.
        phase: the training phase that they are of, 0-based.
    """

    state: Mapping[str, Tensor]
    phase: int = 0


@dataclass(frozen=True)
class Method:
    """One method.

    Attributes:
        name: of the method; lower case, unique in the zoo and all plugins.
        package: where its code lies: ``__name__`` in its ``__init__.py``.
        title: the paper's title, or one line.
        models: every choice of ``model=`` that it brings; the first is its main one.
        networks: references of every class (or function that makes one) that a file of weights may ask for. Only these
            are ever built from a file, with settings checked against their signature.
        former: (model, network) as older files say it -> the model that this is today.
        tiny: see :class:`Model`.
        size: of photographs.
        tiling: of large ones.
        gather: reference of ``(path, checkpoint) -> checkpoint`` for authors who keep a network in several files: with
            what lies beside this one, or as it is if it is not theirs.
        detect: reference of ``(checkpoint) -> (model, overrides) | None``, which recognises its authors' files and
            never raises; empty for methods that have none. Checkpoints come unpacked and without the prefixes of
            parallel training (:func:`reflectzoo.weights.layouts.candidates`).
        remap: reference of ``(checkpoint) -> {name: tensor}``, the network of such a file under our names; raises
            ``UserError`` if there is none in it. Empty: the names are ours.
        fit_phases: reference of ``(state, phases) -> (state, phase)`` for methods that train in phases: the weights for
            a network with that many, and the phase that they are of. Empty: as they are, phase 0.
        check: reference of ``(state, net, source) -> None``, which raises a ``UserError`` that says what the weights
            are and what was expected; ``source`` is the subject of the sentence. Empty: names and shapes are compared.
        set_phase: reference of ``(net, phase) -> None`` for networks that run differently in each phase.
        begin: reference of ``(net) -> None``, what a network needs before a training from the beginning, such as the
            weights of frozen features.
        predict: reference of ``(net, batch) -> Outputs`` for networks that look at more than ``batch["mixture"]``.
        onnx: whether its networks can be written as ONNX: not if what they pad inside depends on the size.
        published: what tables of papers call the method (``evaluation/published_results.json``), if they do.
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

    # -- where things are ----------------------------------------------------------------------------------------------

    @cached_property
    def folder(self) -> Path:
        """The folder of its package."""
        spec = find_spec(self.package)
        if spec is None or spec.origin is None:
            raise ValueError(f"Method {self.name}: there is no package {self.package!r}")
        return Path(spec.origin).parent

    @property
    def built_in(self) -> bool:
        """Whether it is one of the zoo's own."""
        return self.package.startswith("reflectzoo.methods.")

    @property
    def page(self) -> Path:
        """Its page, ``README.md`` in its folder."""
        return self.folder / "README.md"

    @property
    def conf(self) -> Path | None:
        """The folder of its own configuration (``conf``), if it has one; methods of the zoo share the zoo's."""
        return self.folder / "conf" if (self.folder / "conf").is_dir() else None

    @property
    def records(self) -> Path | None:
        """The folder of weight records that it brings itself (``weights``), if it does."""
        return self.folder / "weights" if (self.folder / "weights").is_dir() else None

    @property
    def parity(self) -> str | None:
        """The module that compares it with recorded outputs (``parity``), if there is one."""
        name = f"{self.package}.parity"
        return name if find_spec(name) is not None else None

    # -- what it is made of --------------------------------------------------------------------------------------------

    @property
    def main(self) -> str:
        """Its main model."""
        return next(iter(self.models))

    def tiny_of(self, model: str) -> tuple[str, ...]:
        """Overrides that make a model small."""
        return self.models[model].tiny or self.tiny

    def size_of(self, model: str) -> Size:
        """What sides a model takes."""
        return self.models[model].size or self.size

    def tiling_of(self, model: str) -> Tiling:
        """How a model's photographs are cut."""
        return self.models[model].tiling or self.tiling

    def alike(self, one: str, other: str) -> bool:
        """Whether two of its models are of one family."""
        family = self.models[one].family
        return bool(family) and family == self.models[other].family

    def network_targets(self) -> dict[str, str]:
        """Name of each network, as files of weights call it -> its dotted path, as ``_target_`` in YAML has it.

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
        """The class of a network, or the function that makes one.

        Raises:
            KeyError: for a name that is none of :attr:`networks`.
        """
        for reference in self.networks:
            if reference.partition(":")[2] == name:
                return cast("Callable[..., nn.Module]", self._resolve(reference))
        raise KeyError(name)

    # -- what it can be asked ------------------------------------------------------------------------------------------

    def gathered(self, path: Path, checkpoint: Mapping[str, Any]) -> Mapping[str, Any]:
        """A file's content with that of the other files that belong to it.

        Raises:
            UserError: if one of them is missing.
        """
        if not self.gather:
            return checkpoint
        return cast("Mapping[str, Any]", self._resolve(self.gather)(path, checkpoint))

    def recognise(self, checkpoint: Mapping[str, Any]) -> Layout | None:
        """Which model and settings an unpacked file of weights fits; None if it is not of this method."""
        if not self.detect:
            return None
        found = self._resolve(self.detect)(checkpoint)
        return None if found is None else Layout(found[0], tuple(found[1]))

    def weights_for(self, checkpoint: Mapping[str, Any], model: str) -> Weights:
        """The weights of an unpacked file for one of its models.

        Raises:
            UserError: if there is no network of this method in it.
        """
        state = self._resolve(self.remap)(checkpoint) if self.remap else checkpoint
        if not self.fit_phases:
            return Weights(state)
        return Weights(*self._resolve(self.fit_phases)(state, len(self.models[model].phases)))

    def explain(self, state: Mapping[str, Tensor], net: nn.Module, source: str) -> None:
        """Raise a ``UserError`` in the method's own words if weights do not fit a network; it may have none."""
        if self.check:
            self._resolve(self.check)(state, net, source)

    def enter_phase(self, net: nn.Module, phase: int) -> None:
        """Make a network run as it does in a training phase, 0-based."""
        if self.set_phase:
            self._resolve(self.set_phase)(net, phase)

    def begin_training(self, net: nn.Module) -> None:
        """Give a new network what it needs before it learns.

        Raises:
            UserError: if that is not installed.
        """
        if self.begin:
            self._resolve(self.begin)(net)

    def predict_batch(self, net: nn.Module, batch: Batch) -> Outputs:
        """What a network makes of a batch."""
        if self.predict:
            return cast("Outputs", self._resolve(self.predict)(net, batch))
        return cast("Outputs", net(batch["mixture"]))

    # ------------------------------------------------------------------------------------------------------------------

    def _absolute(self, reference: str) -> str:
        return f"{self.package}{reference}" if reference.startswith(".") else reference

    def _resolve(self, reference: str) -> Any:
        module, _, name = self._absolute(reference).partition(":")
        return getattr(importlib.import_module(module), name)
