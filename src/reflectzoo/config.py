"""Where the configuration lies and how it becomes objects. The only module that instantiates from it."""

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
    """Absolute path of ``conf/``: inside the package when installed from a wheel, else at the top of the repository."""
    package = Path(__file__).resolve().parent
    repository = package.parents[1] / "conf"
    # An editable install leaves a copy in site-packages that goes stale; only what stands beside this file counts.
    return str(repository if (repository / "train.yaml").is_file() else package / "conf")


def register_resolvers() -> None:
    """Make our resolvers known to OmegaConf, and the configuration of plugins to Hydra; harmless when done twice."""
    # Remembered within a configuration, as Hydra's own "now" is: each makes a folder when it is asked.
    for name, resolver in (("run", _run_dir), ("evaluation", _evaluation_dir), ("sweep", _own_folder)):
        OmegaConf.register_new_resolver(f"reflectzoo.{name}_dir", resolver, replace=True, use_cache=True)
    Plugins.instance().register(MethodSearchPath)


def _own_folder(*parts: str) -> str:
    """A folder that no other run has, even if it starts in the same second."""
    from reflectzoo.core.disk import claim
    from reflectzoo.core.ranks import agreed

    check_value("paths.output_dir", parts[0], str)
    # Several processes started as one by torchrun or srun share theirs; each asks for itself.
    return agreed(lambda: str(claim(Path(*parts))), Path(parts[0]), parts)


class MethodSearchPath(SearchPathPlugin):
    """Hydra also looks for choices in the ``conf`` folders that methods of other packages bring."""

    def manipulate_search_path(self, search_path: ConfigSearchPath) -> None:
        """Add them behind the zoo's own, which they cannot hide."""
        for folder in _folders_of_plugins():
            search_path.append("reflectzoo.methods", f"file://{folder}")


def _folders_of_plugins() -> list[Path]:
    return [method.conf for method in methods().values() if method.conf is not None]


def _run_dir(output_dir: str, model: str, experiment: str | None, ckpt_path: str | None, now: str) -> str:
    """A new folder for a new run; the newest run's own folder when it is to be resumed."""
    from reflectzoo.weights.read import newest_run

    check_value("paths.output_dir", output_dir, str)
    choice = str(experiment or model)
    if ckpt_path == "last":
        earlier = newest_run(Path(output_dir), choice)
        if earlier is not None:
            return str(earlier)
    return _own_folder(output_dir, choice, now)


def _evaluation_dir(resume: str | None, output_dir: str, benchmark: str, now: str) -> str:
    """A new folder for a new evaluation; that of an interrupted one to go on with it."""
    return str(resume) if resume is not None else _own_folder(output_dir, "evaluate", benchmark, now)


def choices(group: str) -> list[str]:
    """The choices of a configuration group, also those of plugins; files that begin with "_" are parts of others."""
    folders = [Path(config_dir()), *_folders_of_plugins()]
    found = {file.stem for folder in folders for file in (folder / group).glob("*.yaml")}
    return sorted(name for name in found if not name.startswith("_"))


def compose_config(overrides: Sequence[str], config_name: str = "train", with_hydra: bool = False) -> DictConfig:
    """The configuration that these command-line overrides give, for use outside the command line.

    Args:
        overrides: as on the command line.
        config_name: a file of ``conf/``.
        with_hydra: keep Hydra's own part, ``hydra``.
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
    """Instantiate one part of the configuration, with further ready-made arguments.

    Raises:
        UserError: for a setting that is not what its target takes.
    """
    check_tree(config, extra)
    return instantiate(config, **extra)


def build_part(config: DictConfig, path: str, kind: type[_T], **extra: Any) -> _T:
    """:func:`build`, and see that it gave what was wanted.

    Args:
        config: the part.
        path: where it stands in the configuration.
        kind: what it must be.
        **extra: further arguments, ready-made.

    Raises:
        UserError: if it is something else, or for a setting that is not what its target takes.
    """
    if not isinstance(config, DictConfig) or not config.get("_target_"):
        raise UserError(f"{path} must be a section with a _target_, got {config!r}.")
    made = build(config, **extra)
    if not isinstance(made, kind):
        target: Any = config["_target_"]
        raise UserError(f"{path} must be a {kind.__name__}, which {path}._target_={target} does not make.")
    return made


def build_parts(config: DictConfig | None, path: str, kind: type[_T]) -> list[_T]:
    """:func:`build_part` of every entry of a dictionary (callbacks, loggers); null entries are left out."""
    if config is not None and not isinstance(config, DictConfig):
        raise UserError(f"{path} must be names, each with a section, got {config!r}.")
    return [build_part(part, f"{path}.{name!s}", kind) for name, part in (config or {}).items() if part]


def plain(config: DictConfig | ListConfig) -> dict[str, Any]:
    """The configuration as plain, resolved dictionaries and lists, fit for a checkpoint or a logger."""
    return cast(dict[str, Any], OmegaConf.to_container(config, resolve=True, throw_on_missing=False))
