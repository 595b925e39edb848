"""``python -m reflectzoo.predict input=photo.jpg weights=FILE [overrides]``: ``reflectzoo remove`` the Hydra way."""

from __future__ import annotations

import sys

import hydra
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from reflectzoo.cli import run
from reflectzoo.config import config_dir, register_resolvers
from reflectzoo.jobs import task

register_resolvers()


@hydra.main(version_base="1.3", config_path=config_dir(), config_name="predict")
@task
def _main(config: DictConfig) -> None:
    # Imported late, so that completion and --help answer at once.
    from omegaconf import OmegaConf

    from reflectzoo.errors import UserError
    from reflectzoo.inference.commands.remove import SETTINGS, predict

    if OmegaConf.is_missing(config, "input"):
        raise UserError("Say which photograph: input=photo.jpg, a folder, or input=[several].")

    chosen = HydraConfig.get()
    overrides = [word for word in chosen.overrides.task if word.lstrip("+~").startswith("model.")]
    settings = {key: config[key] for key in SETTINGS}
    status = predict({**settings, "model": chosen.runtime.choices.get("model"), "override": overrides})
    if status:
        sys.exit(status)


def main() -> None:
    """Run the command line; exits with 0, 1 (some photographs failed), 2 (a mistake in what was given) or 130."""
    run(_main)


if __name__ == "__main__":
    main()
