"""``python -m reflectzoo.train model=<name> [overrides]``: train a method."""

from __future__ import annotations

import hydra
from omegaconf import DictConfig

from reflectzoo.cli import run
from reflectzoo.cli.jobs import task
from reflectzoo.config import config_dir, register_resolvers

register_resolvers()


@hydra.main(version_base="1.3", config_path=config_dir(), config_name="train")
@task
def _main(config: DictConfig) -> None:
    # Imported late, to keep completion and --help fast.
    from reflectzoo.training.run import train

    train(config)


def main() -> None:
    """Run the command line; exits with 0, 1 (training failed), 2 (invalid arguments) or 130 (Ctrl-C)."""
    run(_main)


if __name__ == "__main__":
    main()
