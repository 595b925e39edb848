"""Search over settings that can be interrupted, resumed, and shared by processes and machines."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import optuna
import yaml
from filelock import FileLock, Timeout
from omegaconf import DictConfig, open_dict
from optuna.distributions import BaseDistribution
from optuna.storages import BaseStorage, JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, Trial, TrialState

from reflectzoo.config import compose_config
from reflectzoo.core.disk import write_text
from reflectzoo.errors import Interrupted, TrainingError, UserError
from reflectzoo.sweeps.pruning import TrialReport
from reflectzoo.sweeps.space import Space, as_overrides

PRUNERS = ("median", "hyperband", "none")
_DONE = (TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL)
_NAME = "reflectzoo"


@dataclass(frozen=True)
class StudyPlan:
    """Definition of a study. To reopen a study, all parts except the space must be the same.

    Attributes:
        overrides: overrides shared by all trials.
        space: distributions of the settings drawn for each trial.
        metric: objective, e.g. ``val/mean/psnr``.
        maximize: whether larger is better.
    """

    overrides: tuple[str, ...]
    space: Space
    metric: str
    maximize: bool


class Search:
    """Access of one process to a study.

    The training of each trial is in ``trials/<number>/`` below ``folder``. Each process holds a lock on its trial; if
    the lock is free, the process has died or was interrupted, and the next process resumes the trial from its last
    checkpoint. Thus several processes, also on several machines with a common file system, can be started and killed
    at any time.

    Args:
        folder: for the training runs.
        storage: file of the study, or URL of a database.
        plan: definition of the study.
        pruner: one of :data:`PRUNERS`.
        seed: random seed of the sampler.

    Raises:
        UserError: if the study has another plan, or cannot be opened.
    """

    def __init__(self, folder: Path, storage: str, plan: StudyPlan, pruner: str = "median", seed: int = 0) -> None:
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self.folder = folder
        self.plan = plan
        folder.mkdir(parents=True, exist_ok=True)
        self._lock = FileLock(folder / "study.lock")
        with self._lock:
            self.study = _open(storage, plan.maximize, _pruner(pruner))
            self._agree(storage)
            number = len(self.study.get_trials(deepcopy=False))
            # Running trials of other processes count as bad ones, so that not all processes sample the same region.
            self.study.sampler = optuna.samplers.TPESampler(seed=seed + number, constant_liar=True)

    def _agree(self, storage: str) -> None:
        plan = {"overrides": list(self.plan.overrides), "metric": self.plan.metric, "maximize": self.plan.maximize}
        known = self.study.user_attrs.get("plan")
        if known is None:
            self.study.set_user_attr("plan", plan)
        elif known != plan:
            differs = next(key for key in plan if known.get(key) != plan[key])
            raise UserError(
                f"The study {storage} differs in {differs} ({known.get(differs)}, now "
                f"{plan[differs]}): use the same, or another --study."
            )

    # -- running trials -----------------------------------------------------------------------------------------------

    def run(
        self,
        trials: int,
        seconds: float | None,
        train: Callable[[DictConfig, list[TrialReport]], Mapping[str, float]],
        told: Callable[[FrozenTrial], None],
    ) -> None:
        """Run trials until the study has the given number of them, including those of other processes.

        Args:
            trials: total number of complete, pruned, failed and running trials.
            seconds: start no trial after this time; None for no limit.
            train: trains a configuration with additional callbacks.
            told: called with each trial that this process has ended.

        Raises:
            Interrupted: after Ctrl-C; the next process resumes the trial.
            UserError: if a trial's settings are invalid before any trial is complete, or a run never validates.
        """
        start = time.monotonic()
        while seconds is None or time.monotonic() - start < seconds:
            trial = self._next(trials)
            if trial is None:
                return
            lock = self._claim(trial)
            try:
                self._train(trial, train)
            finally:
                lock.release()
            told(self._frozen(trial.number))

    def _next(self, trials: int) -> Trial | None:
        """The next trial; None if there are enough, including those that are running."""
        with self._lock:
            self._revive()
            counted = [each for each in self.study.get_trials(deepcopy=False) if each.number not in self._left()]
            if sum(each.state in (*_DONE, TrialState.RUNNING) for each in counted) >= trials:
                return None
            trial = self.study.ask(self.plan.space)
            if "folder" not in trial.user_attrs:
                trial.set_user_attr("folder", str(trial.number))
            return trial

    def _revive(self) -> None:
        """Enqueue abandoned trials again."""
        for each in self.study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
            folder = each.user_attrs.get("folder")
            if folder is None or not self._is_free(folder):
                continue
            self._leave(each.number, each.params, folder)

    def _left(self) -> list[int]:
        """Numbers of the abandoned trials, which later trials resume."""
        return list(self.study.user_attrs.get("left", []))

    def _leave(self, number: int, params: Mapping[str, Any], folder: str) -> None:
        with self._lock:
            self.study.enqueue_trial(dict(params), user_attrs={"folder": folder})
            self.study.set_user_attr("left", [*self._left(), number])
            self.study.tell(number, state=TrialState.FAIL)

    def _lock_of(self, folder: str) -> FileLock:
        path = self.folder / "trials" / folder / "working.lock"
        path.parent.mkdir(parents=True, exist_ok=True)
        return FileLock(path)

    def _is_free(self, folder: str) -> bool:
        lock = self._lock_of(folder)
        try:
            lock.acquire(timeout=0)
        except Timeout:
            return False
        lock.release()
        return True

    def _claim(self, trial: Trial) -> FileLock:
        lock = self._lock_of(trial.user_attrs["folder"])
        lock.acquire()
        return lock

    def _train(self, trial: Trial, train: Callable[[DictConfig, list[TrialReport]], Mapping[str, float]]) -> None:
        folder = self.folder / "trials" / trial.user_attrs["folder"]
        drawn = as_overrides(trial.params)
        config = compose_config([*self.plan.overrides, *drawn])
        last = folder / "checkpoints" / "last.ckpt"
        with open_dict(config):
            config.run_dir = str(folder)
            config.ckpt_path = str(last) if last.is_file() else None
            if config.get("logger") and "wandb" in config.logger:
                config.logger.wandb.group = config.logger.wandb.group or self.folder.name
                config.logger.wandb.name = config.logger.wandb.name or f"trial {folder.name}"
        write_text(folder / "overrides.yaml", yaml.safe_dump(drawn))
        report = TrialReport(trial, self.plan.metric, self.plan.maximize)
        try:
            train(config, [report])
        except TrainingError as error:
            trial.set_user_attr("why", str(error))
            self.study.tell(trial, state=TrialState.FAIL)
        except (Interrupted, KeyboardInterrupt) as error:
            self._leave(trial.number, trial.params, trial.user_attrs["folder"])
            raise Interrupted(
                f"Interrupted; trial {folder.name} and the study are in {self.folder}; the same command resumes them."
            ) from error
        except UserError as error:
            trial.set_user_attr("why", str(error))
            self.study.tell(trial, state=TrialState.FAIL)
            if not any(each.state == TrialState.COMPLETE for each in self.study.get_trials(deepcopy=False)):
                raise
        except BaseException:
            with suppress(Exception):
                self._leave(trial.number, trial.params, trial.user_attrs["folder"])
            raise
        else:
            if report.pruned:
                self.study.tell(trial, state=TrialState.PRUNED)
            elif report.best is None:
                raise UserError(f"The run never validated, so it has no {self.plan.metric}.")
            else:
                self.study.tell(trial, report.best)

    def _frozen(self, number: int) -> FrozenTrial:
        return next(each for each in self.study.get_trials(deepcopy=False) if each.number == number)

    # -- results ------------------------------------------------------------------------------------------------------

    def ended(self) -> list[FrozenTrial]:
        """The trials that have ended: complete, then pruned, then failed, each best first; without abandoned ones."""
        trials = self.study.get_trials(deepcopy=False, states=_DONE)
        left = self._left()
        return sorted((each for each in trials if each.number not in left), key=self._rank)

    def value(self, trial: FrozenTrial) -> float | None:
        """The value of a complete trial, otherwise the best intermediate value; None if there is none."""
        if trial.state == TrialState.COMPLETE:
            return trial.value
        seen = trial.intermediate_values.values()
        return (max if self.plan.maximize else min)(seen, default=None)

    def _rank(self, trial: FrozenTrial) -> tuple[int, float]:
        value = self.value(trial)
        worth = 0.0 if value is None else -value if self.plan.maximize else value
        return _DONE.index(trial.state), worth


def values_in_words(values: Mapping[str, Any], space: Mapping[str, BaseDistribution]) -> dict[str, str]:
    """Format drawn values for a table, in the order of the space; empty for a setting that the space had not yet."""
    drawn = {key: values.get(key, "") for key in space}
    return {key: f"{each:.4g}" if isinstance(each, float) else str(each) for key, each in drawn.items()}


def _open(place: str, maximize: bool, pruner: optuna.pruners.BasePruner) -> optuna.Study:
    logging.getLogger("alembic").setLevel(logging.WARNING)
    try:
        storage: BaseStorage | str = place
        if "://" not in place:
            if Path(place).is_dir():
                raise UserError(f"--study {place} is a folder: give a file, e.g. {Path(place) / 'study.log'}.")
            Path(place).parent.mkdir(parents=True, exist_ok=True)
            storage = JournalStorage(JournalFileBackend(place))
        direction = StudyDirection.MAXIMIZE if maximize else StudyDirection.MINIMIZE
        return optuna.create_study(
            storage=storage, study_name=_NAME, direction=direction, load_if_exists=True, pruner=pruner
        )
    except UserError:
        raise
    except Exception as error:  # a file or database driver may raise anything
        said = next(iter(str(error).splitlines()), "") or type(error).__name__
        raise UserError(f"--study {place} cannot be opened as a study ({said}): give a new file.") from error


def _pruner(name: str) -> optuna.pruners.BasePruner:
    if name == "median":
        return optuna.pruners.MedianPruner(n_startup_trials=4, n_warmup_steps=1)
    if name == "hyperband":
        return optuna.pruners.HyperbandPruner()
    return optuna.pruners.NopPruner()


def described(space: Space) -> list[str]:
    """Describe a search space for the user, one line per setting."""
    return [f"{key}: {_range(each)}" for key, each in space.items()]


def _range(each: BaseDistribution) -> str:
    if isinstance(each, optuna.distributions.CategoricalDistribution):
        return " or ".join(map(str, each.choices))
    assert isinstance(each, optuna.distributions.FloatDistribution | optuna.distributions.IntDistribution)
    return f"{each.low:g} to {each.high:g}{' (log scale)' if each.log else ''}"
