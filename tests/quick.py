"""What one process would read and parse again for each test is remembered; the answers are the same as without.

A test that trains composes its configuration twice, from twenty files each time, decodes the photographs of the sample
anew, and draws the twenty million weights of a random VGG-19. Commands that tests start in processes of their own know
nothing of this.
"""

from __future__ import annotations

import functools
import os
import pickle
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import omegaconf._utils
import omegaconf.base
import pytest
from hydra._internal import defaults_list
from hydra._internal.hydra import Hydra
from hydra._internal.sources_registry import SourcesRegistry
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.plugins import Plugins
from hydra.plugins.config_source import ConfigSource
from omegaconf import grammar_parser

if TYPE_CHECKING:
    from torch import Tensor


def remember(patch: pytest.MonkeyPatch) -> None:
    """Put everything below in place, for as long as the patch holds."""
    patch.setattr(Hydra, "get_mode", _mode_without_composing(Hydra.get_mode))
    maps = _choices_where_wanted(defaults_list._create_interpolation_map)
    patch.setattr(defaults_list, "_create_interpolation_map", maps)
    Plugins.instance()  # executes their modules anew: these classes are not those that an import finds
    for scheme in ("file", "pkg"):
        source = SourcesRegistry.instance().resolve(scheme)
        patch.setattr(source, "load_config", _files_once(source.load_config))
    patch.setattr(OverridesParser, "parse_rule", _words_once(OverridesParser.parse_rule))
    trees = functools.lru_cache(grammar_parser.parse)
    for module in (omegaconf.base, omegaconf._utils):
        patch.setattr(module, "parse", trees)

    from reflectzoo.data import images  # late, for they import torch
    from reflectzoo.nets import vgg
    from reflectzoo.photo.read import read_picture

    patch.setattr(vgg, "random_state", _values_once(vgg.random_state))
    patch.setattr(images, "read_picture", _sample_once(read_picture))


def _mode_without_composing(ask: Any) -> Any:
    """Hydra composes everything once more only to see whether ``hydra.mode`` is set, which no file of ours does."""

    @functools.wraps(ask)
    def get_mode(hydra: Hydra, config_name: str | None, overrides: list[str]) -> Any:
        return ask(hydra, config_name, overrides) if any("hydra.mode" in word for word in overrides) else None

    return get_mode


def _files_once(load: Any) -> Any:
    """Hydra parses a YAML file again only if it has changed; its own never does."""
    kept: dict[tuple[object, ...], bytes] = {}

    @functools.wraps(load)
    def load_config(source: ConfigSource, config_path: str) -> Any:
        key: tuple[object, ...] = (source.provider, source.path, config_path)
        if source.scheme() == "file":
            path = os.path.realpath(os.path.join(source.path, source._normalize_file_name(config_path)))
            if not os.path.exists(path):
                return load(source, config_path)
            state = os.stat(path)
            key = (*key, path, state.st_ino, state.st_mtime_ns, state.st_size)
        if key not in kept:
            kept[key] = pickle.dumps(load(source, config_path))
        return pickle.loads(kept[key])  # Hydra changes what it has loaded

    return load_config


def _choices_where_wanted(make: Any) -> Any:
    """Hydra gathers all choices made so far for each file, but looks into them only for a default like ``${data}``."""

    @functools.wraps(make)
    def create_interpolation_map(overrides: Any, defaults: Any, self_added: bool) -> Any:
        return make(overrides, defaults, self_added) if any(each.is_interpolation() for each in defaults) else None

    return create_interpolation_map


def _words_once(parse: Any) -> Any:
    """An override is parsed once."""
    kept: dict[tuple[str, str], bytes] = {}

    @functools.wraps(parse)
    def parse_rule(parser: OverridesParser, word: str, rule: str) -> Any:
        if (word, rule) not in kept:
            kept[word, rule] = pickle.dumps(parse(parser, word, rule))
        return pickle.loads(kept[word, rule])

    return parse_rule


def _values_once(draw: Any) -> Any:
    """The weights of a random VGG-19 are drawn once; each network has a copy of its own, which it may change."""
    drawn = functools.cache(draw)

    @functools.wraps(draw)
    def random_state() -> dict[str, Tensor]:
        return {name: value.clone() for name, value in drawn().items()}

    return random_state


def _sample_once(read: Any) -> Any:
    """The photographs that scikit-image and scikit-learn bring along are decoded once."""
    homes = tuple(f"{Path(str(spec.origin)).parent}{os.sep}" for spec in map(find_spec, ("skimage", "sklearn")) if spec)

    @functools.lru_cache
    def decoded(path: str, shorter: int | None) -> Any:
        picture = read(path, shorter=shorter)
        picture.values.flags.writeable = False
        return picture

    @functools.wraps(read)
    def read_picture(path: Any, *arguments: Any, shorter: int | None = None, **more: Any) -> Any:
        if arguments or more or not os.fspath(path).startswith(homes):
            return read(path, *arguments, shorter=shorter, **more)
        return decoded(os.fspath(path), shorter)

    return read_picture
