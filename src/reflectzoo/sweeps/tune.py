"""``reflectzoo tune``: hyperparameter search for a method."""

from __future__ import annotations

import argparse
import shlex
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from reflectzoo.cli import user_sentences
from reflectzoo.config import compose_config
from reflectzoo.errors import UserError

EPILOG = """examples:
  reflectzoo tune model=ytmt_ucs data=voc data.root=PHOTOS --trials 30
  reflectzoo tune experiment=quickstart --trials 12 --space my_space.yaml
  reflectzoo tune model=corrn --minutes 600 --study /shared/corrn/study.log    on any number of machines

Every trial is a training run with settings drawn from the method's search space (conf/space/), or from a file:

  optimizer.lr: {low: 1.0e-5, high: 1.0e-3, log: true}
  model.net.width: {choices: [32, 48, 64]}

Trials that are worse than the others after the same number of epochs are stopped. Repeat the command to resume the
study, also after Ctrl-C or a power cut, until it has N trials in all; several processes can work on one study.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of the command."""
    parser.add_argument("override", nargs="+", help="as for training: model=NAME, data=..., trainer.max_epochs=20, ...")
    parser.add_argument(
        "--trials", type=int, default=20, metavar="N", help="total number of trials (default %(default)s)"
    )
    parser.add_argument("--minutes", type=float, metavar="M", help="start no trial after M minutes")
    parser.add_argument("--space", metavar="NAME|FILE", help="search space (default: that of the method)")
    parser.add_argument(
        "--study", metavar="FILE|URL", help="default: outputs/tune/MODEL/study.log; or the URL of a database"
    )
    parser.add_argument("--metric", help="default: the one that selects the best checkpoint")
    parser.add_argument("--minimize", action="store_true", help="smaller is better; needs --metric")
    parser.add_argument(
        "--pruner",
        choices=("median", "hyperband", "none"),
        default="median",
        help="early stopping (default %(default)s)",
    )
    parser.add_argument("--seed", type=int, default=0, help="random seed (default %(default)s)")


def run(arguments: argparse.Namespace) -> int:
    """Run or resume a study, print its summary and write its pages.

    Returns:
        Exit status: 0; 1 if no trial is complete.

    Raises:
        UserError: if Optuna is not installed, or for invalid settings.
        Interrupted: after Ctrl-C; the same command resumes the study.
    """
    try:
        import optuna  # noqa: F401
    except ModuleNotFoundError as error:
        raise UserError("reflectzoo tune needs Optuna: pip install 'reflectzoo[tune]'.") from error
    from reflectzoo.sweeps.page import print_summary, write_pages
    from reflectzoo.sweeps.space import find_space, read_space, split_space
    from reflectzoo.sweeps.study import Search, StudyPlan, described
    from reflectzoo.training.run import train

    if arguments.trials < 1:
        raise UserError(f"--trials must be at least 1, got {arguments.trials}.")
    if arguments.minutes is not None and not arguments.minutes > 0:
        raise UserError(f"--minutes must be more than 0, got {arguments.minutes:g}.")
    if arguments.minimize and not arguments.metric:
        raise UserError("--minimize needs --metric, the score to minimise, e.g. val/mean/lmse.")
    # The test set must not influence the choice.
    overrides = (*arguments.override, "test=false")
    with user_sentences(*arguments.override):
        config = compose_config(overrides)
    _check(config)
    model = str(config.model.name)
    file = find_space(arguments.space, model)
    space, absent = split_space(read_space(file), config)
    if absent and arguments.space is not None:
        raise UserError(f"This configuration has no {absent[0]}, which {file} varies: remove it there.")
    if not space:
        raise UserError(f"This configuration has none of the settings of {file}: give --space FILE.")
    metric, maximize = _judged_by(config, arguments.metric, arguments.minimize)
    chosen = next((word.partition("=")[2] for word in overrides if word.startswith("experiment=")), model)
    default = Path(config.paths.output_dir) / "tune" / chosen / "study.log"
    storage = arguments.study or str(default)
    folder = default.parent if "://" in storage else Path(storage).absolute().parent
    search = Search(folder, storage, StudyPlan(overrides, space, metric, maximize), arguments.pruner, arguments.seed)

    say(f"{metric}, {'larger' if maximize else 'smaller'} is better, study {storage}")
    for line in described(space):
        say(f"  {line}")
    for key in absent:
        say(f"  ({key} does not exist in this configuration and is ignored)")

    def told(trial: Any) -> None:
        value = search.value(trial)
        reached = "failed" if value is None else f"{value:.4g}"
        why = trial.user_attrs.get("why")
        say(f"trial {trial.user_attrs['folder']}: {trial.state.name.lower()}, {reached}{f' ({why})' if why else ''}")
        write_pages(summary_of(search, arguments.override), folder, "study")

    seconds = None if arguments.minutes is None else 60 * arguments.minutes
    with user_sentences(*arguments.override):
        search.run(arguments.trials, seconds, lambda drawn, reports: train(drawn, callbacks=reports), told)
    summary = summary_of(search, arguments.override)
    files = write_pages(summary, folder, "study")
    print_summary(summary)
    say(f"Tables and plots: {files[-1]}")
    return 0 if any(trial.state.name == "COMPLETE" for trial in search.ended()) else 1


def say(line: str) -> None:
    """Print a line to stdout and flush it."""
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def _check(config: DictConfig) -> None:
    devices = config.trainer.get("devices", 1)
    if devices not in (1, "1", "auto") or int(config.trainer.get("num_nodes", 1)) > 1:
        raise UserError(
            f"A trial trains on one device, got trainer.devices={devices}: start the command once for each device with "
            "the same --study (CUDA_VISIBLE_DEVICES=0 reflectzoo tune ... & CUDA_VISIBLE_DEVICES=1 ...)."
        )


def _judged_by(config: DictConfig, metric: str | None, minimize: bool) -> tuple[str, bool]:
    if metric is not None:
        return metric, not minimize
    best = OmegaConf.select(config, "callbacks.best")
    if best is None:
        return "val/mean/psnr", True
    return str(best.monitor), str(best.get("mode", "min")) == "max"


def summary_of(search: Any, words: Sequence[str]) -> Any:
    """Summarise a study in tables and plots.

    Args:
        search: a :class:`~reflectzoo.sweeps.study.Search`.
        words: the user's overrides, for the command to copy.

    Returns:
        A :class:`~reflectzoo.sweeps.page.SweepSummary`.
    """
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    from reflectzoo.sweeps.page import SweepSummary, text_table
    from reflectzoo.sweeps.plots import cloud, curves
    from reflectzoo.sweeps.space import as_overrides
    from reflectzoo.sweeps.study import values_in_words

    plan, trials = search.plan, search.ended()
    keys = list(plan.space)
    rows, lines, reached = [], {}, []
    for trial in trials:
        value = search.value(trial)
        name = str(trial.user_attrs.get("folder", trial.number))
        seconds = trial.duration.total_seconds() if trial.duration else 0.0
        drawn = values_in_words(trial.params, plan.space)
        epochs = 1 + max(trial.intermediate_values, default=-1)
        text = "" if value is None else f"{value:.4f}"
        rows.append([name, trial.state.name.lower(), text, str(epochs), f"{seconds:.0f}", *drawn.values()])
        if trial.intermediate_values:
            label = f"{name}: " + ", ".join(f"{key.rsplit('.', 1)[-1]}={each}" for key, each in drawn.items())
            lines[label] = sorted((float(step), each) for step, each in trial.intermediate_values.items())
        if value is not None:
            reached.append((trial.number, value, trial.params))
    title = f"{len(trials)} trials, {plan.metric}"
    sheets = [text_table(title, ["trial", "state", plan.metric, "epochs", "seconds", *keys], rows)]
    plots = []
    if reached:
        plots.append(curves(_progress(reached, plan.maximize), f"{plan.metric}, trial by trial", "trial"))
        plots.append(curves(lines, plan.metric, "epoch"))
    for key, each in plan.space.items():
        if isinstance(each, FloatDistribution | IntDistribution) and reached:
            points = [(float(params[key]), value) for _, value, params in reached if key in params]
            plots.append(cloud(points, plan.metric, key, each.log))
        elif isinstance(each, CategoricalDistribution) and reached:
            sheets.append(_by_choice(key, reached, plan.metric))
    best = next((trial for trial in trials if trial.state.name == "COMPLETE"), None)
    command = ""
    if best is not None:
        command = shlex.join(["reflectzoo", "train", *words, *as_overrides(best.params)])
    notes = [f"The best, trial {best.user_attrs.get('folder', best.number)}, by hand:"] if best is not None else []
    return SweepSummary(f"Study of {' '.join(words)}", sheets, plots, notes, command)


def _progress(reached: Sequence[tuple[int, float, Mapping[str, Any]]], maximize: bool) -> dict[str, Any]:
    """Curves of each trial's value and of the best so far, over the trials' numbers."""
    ordered = sorted((number, value) for number, value, _ in reached)
    best: list[float] = []
    steps: list[int] = []
    for number, value in ordered:
        best.append(value if not best else (max if maximize else min)(best[-1], value))
        steps.append(number)
    points = list(zip(steps, best, strict=True))
    return {"best so far": points, "each trial": ordered}


def _by_choice(key: str, reached: Sequence[tuple[int, float, Mapping[str, Any]]], metric: str) -> Any:
    from reflectzoo.sweeps.page import text_table

    groups: dict[str, list[float]] = {}
    for _, value, params in reached:
        if key in params:
            groups.setdefault(str(params[key]), []).append(value)
    rows = [
        [name, str(len(each)), f"{sum(each) / len(each):.4f}", f"{min(each):.4f}", f"{max(each):.4f}"]
        for name, each in sorted(groups.items())
    ]
    return text_table(key, [key, "trials", f"mean {metric}", "least", "most"], rows)
