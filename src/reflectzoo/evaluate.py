"""``python -m reflectzoo.evaluate benchmark=<name> data.root=FOLDER ckpt=FILE [overrides]``: measure methods."""

from __future__ import annotations

import sys

import hydra
from omegaconf import DictConfig

from reflectzoo.cli import run
from reflectzoo.cli.jobs import task
from reflectzoo.config import config_dir, register_resolvers

register_resolvers()


@hydra.main(version_base="1.3", config_path=config_dir(), config_name="evaluate")
@task
def _main(config: DictConfig) -> None:
    # Imported late, to keep completion and --help fast.
    from reflectzoo.evaluation.command import evaluate

    evaluate(config)


def main() -> None:
    """Run the command line.

    Exits with 0, 1 (a network could not be run), 2 (invalid arguments, or missing predictions) or 130 (Ctrl-C).
    """
    words = sys.argv[1:]
    if {"-h", "--help"} & set(words) and not any(word.startswith("benchmark=") for word in words):
        sys.argv.append("benchmark=sample")  # Hydra's help shows a whole configuration
    run(_main, "evaluate")


if __name__ == "__main__":
    main()
