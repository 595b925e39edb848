"""Composition of the configuration and instantiation of its objects, which no other module does."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeVar, cast

from hydra import compose, initialize_config_dir
from hydra.core.config_search_path import ConfigSearchPath
from hydra.core.global_hydra import GlobalHydra
from hydra.core.plugins import Plugins
from hydra.plugins.search_path_plugin import SearchPathPlugin
from hydra.utils import instantiate
from omegaconf import DictConfig, ListConfig, OmegaConf

from reflectzoo.core.registry import methods
from reflectzoo.core.settings import check_tree, check_value
from reflectzoo.errors import UserError

_T = TypeVar("_T")


def config_dir() -> str:
    """Absolute path of ``conf/``: in the package if installed from a wheel, otherwise at the root of the repository."""
    package = Path(__file__).resolve().parent
    repository = package.parents[1] / "conf"
    # Relative to this file, since an editable install may leave an outdated copy in site-packages.
    return str(repository if (repository / "train.yaml").is_file() else package / "conf")


def register_resolvers() -> None:
    """Register our resolvers with OmegaConf, and the plugins' configuration with Hydra; idempotent."""
    # Cached within a configuration, like Hydra's own "now", because each resolution creates a folder.
    for name, resolver in (("run", _run_dir), ("evaluation", _evaluation_dir), ("sweep", _sweep_dir)):
        OmegaConf.register_new_resolver(f"reflectzoo.{name}_dir", resolver, replace=True, use_cache=True)
    Plugins.instance().register(MethodSearchPath)


def _own_folder(*parts: str, lasting: bool = False) -> str:
    """Create a folder that no other run uses, even if it starts in the same second.

    Args:
        *parts: parts of its path, the output folder first.
        lasting: whether a job that SLURM or torchrun starts again keeps it.
    """
    from reflectzoo.core.disk import make_unique_folder
    from reflectzoo.core.ranks import share_choice

    check_value("paths.output_dir", parts[0], str)
    # The ranks started by torchrun or srun must agree on one folder, although each resolves it separately.
    return share_choice(lambda: str(make_unique_folder(Path(*parts))), Path(parts[0]), parts, lasting)


class MethodSearchPath(SearchPathPlugin):
    """Makes Hydra search the ``conf`` folders of methods from other packages, too."""

    def manipulate_search_path(self, search_path: ConfigSearchPath) -> None:
        """Append the folders after the zoo's own, whose files they cannot override."""
        for folder in _folders_of_plugins():
            search_path.append("reflectzoo.methods", f"file://{folder}")


def _folders_of_plugins() -> list[Path]:
    return [method.conf for method in methods().values() if method.conf is not None]


def _run_dir(output_dir: str, model: str, experiment: str | None, ckpt_path: str | None, now: str) -> str:
    """The folder of a run: a new one, or with ``ckpt_path=last`` that of the latest run, if there is one."""
    from reflectzoo.weights.read import newest_run

    check_value("paths.output_dir", output_dir, str)
    choice = str(experiment or model)
    if ckpt_path == "last":
        earlier = newest_run(Path(output_dir), choice)
        if earlier is not None:
            return str(earlier)
    return _own_folder(output_dir, choice, now, lasting=True)


def _sweep_dir(*parts: str) -> str:
    """A new folder for a new sweep."""
    return _own_folder(*parts, lasting=True)


def _evaluation_dir(resume: str | None, output_dir: str, benchmark: str, now: str) -> str:
    """The folder of an evaluation: a new one, or that of the evaluation to resume."""
    return str(resume) if resume is not None else _own_folder(output_dir, "evaluate", benchmark, now)


def choices(group: str) -> list[str]:
    """The options of a configuration group, including those of plugins, sorted, without files that begin with "_"."""
    folders = [Path(config_dir()), *_folders_of_plugins()]
    found = {file.stem for folder in folders for file in (folder / group).glob("*.yaml")}
    return sorted(name for name in found if not name.startswith("_"))


def compose_config(overrides: Sequence[str], config_name: str = "train", with_hydra: bool = False) -> DictConfig:
    """Compose the configuration outside the command line.

    Args:
        overrides: overrides as on the command line.
        config_name: name of a file in ``conf/``, without suffix.
        with_hydra: keep Hydra's own section, ``hydra``.
    """
    register_resolvers()
    previous = GlobalHydra.instance()
    saved = previous.hydra
    previous.clear()
    try:
        with initialize_config_dir(config_dir(), version_base="1.3"):
            return compose(config_name, overrides=list(overrides), return_hydra_config=with_hydra)
    finally:
        previous.hydra = saved


def build(config: DictConfig, **extra: Any) -> Any:
    """Instantiate a section of the configuration.

    Args:
        config: the section, with a ``_target_``.
        **extra: further arguments of the target, as objects.

    Raises:
        UserError: if a setting is not valid for its target.
    """
    check_tree(config, extra)
    return instantiate(config, **extra)


def build_part(config: DictConfig, path: str, kind: type[_T], **extra: Any) -> _T:
    """Same as :func:`build`, but also checks the type of the result.

    Args:
        config: the section.
        path: its path in the configuration, for error messages.
        kind: required type.
        **extra: further arguments of the target, as objects.

    Raises:
        UserError: if there is no target, the result is of another type, or a setting is not valid for its target.
    """
    if not isinstance(config, DictConfig) or not config.get("_target_"):
        raise UserError(f"{path} must be a section with a _target_, got {config!r}.")
    made = build(config, **extra)
    if not isinstance(made, kind):
        target: Any = config["_target_"]
        raise UserError(f"{path} must be a {kind.__name__}, which {path}._target_={target} does not make.")
    return made


def build_parts(config: DictConfig | None, path: str, kind: type[_T]) -> list[_T]:
    """Apply :func:`build_part` to every entry of a section (callbacks, loggers); null entries are skipped.

    Raises:
        UserError: as in :func:`build_part`, or if ``config`` is not a section of named entries.
    """
    if config is not None and not isinstance(config, DictConfig):
        raise UserError(f"{path} must be names, each with a section, got {config!r}.")
    return [build_part(part, f"{path}.{name!s}", kind) for name, part in (config or {}).items() if part]


def plain(config: DictConfig | ListConfig) -> dict[str, Any]:
    """Convert a configuration to plain dictionaries and lists, with interpolations resolved, as for a checkpoint."""
    return cast(dict[str, Any], OmegaConf.to_container(config, resolve=True, throw_on_missing=False))
