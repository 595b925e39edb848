"""``python -m reflectzoo.data data=<name> [data.root=FOLDER ...]``: check and summarise a data set without training."""

from __future__ import annotations

import logging
from pathlib import Path

import hydra
from omegaconf import DictConfig

from reflectzoo.cli import run
from reflectzoo.cli.jobs import task
from reflectzoo.config import build, config_dir, register_resolvers

register_resolvers()
_log = logging.getLogger(__name__)


@hydra.main(version_base="1.3", config_path=config_dir(), config_name="data_check")
@task
def _main(config: DictConfig) -> None:
    # Imported late, to keep completion and --help fast.
    from reflectzoo.data.check import check, write_sheet

    module = build(config.data)
    summary, sheet = check(module)
    _log.info("%s", summary)
    if config.sheet:
        path = Path(str(config.sheet)).expanduser()
        write_sheet(sheet, path)
        _log.info("The contact sheet is in %s", path.resolve())


def main() -> None:
    """Run the command line; exits with 0, 1 (it failed), 2 (invalid arguments or data) or 130 (Ctrl-C)."""
    run(_main, "data_check")


if __name__ == "__main__":
    main()
