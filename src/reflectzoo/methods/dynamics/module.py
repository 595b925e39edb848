"""Training of a teacher, of a student with a finished teacher, or of both, one after the other, in one fit."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal, cast

import torch
from pytorch_lightning.callbacks import ModelCheckpoint
from pytorch_lightning.utilities import rank_zero_info
from torch import Tensor, nn

from reflectzoo.core.annotations import Count, NotNegative
from reflectzoo.core.batch import Batch, Outputs
from reflectzoo.core.settings import checked
from reflectzoo.errors import UserError
from reflectzoo.methods.dynamics.metrics import SequenceMetrics
from reflectzoo.methods.dynamics.pair import TeacherAndStudent, check_pair, frames_of, predict, set_phase
from reflectzoo.methods.dynamics.student import DynamicsStudent
from reflectzoo.methods.dynamics.teacher import DynamicsTeacher
from reflectzoo.methods.dynamics.transfer import RepresentationAdversarialLoss, TransferLoss
from reflectzoo.training.adversarial import AdversarialModule
from reflectzoo.training.module import SchedulerFactory
from reflectzoo.weights.read import read_checkpoint

Still = Literal["skip", "repeat"]


class Dynamics(AdversarialModule):
    """Distilling Reflection Dynamics (Zheng et al., ICCV 2021), section 3.

    The network determines what is trained. A :class:`~reflectzoo.methods.dynamics.teacher.DynamicsTeacher` learns from
    sequences. A :class:`~reflectzoo.methods.dynamics.student.DynamicsStudent` learns from ``teacher_ckpt``, a finished
    teacher that is frozen and not part of the student's checkpoints. With a
    :class:`~reflectzoo.methods.dynamics.pair.TeacherAndStudent` the teacher trains for ``teacher_epochs`` epochs (phase
    0) and is then frozen while the student trains (phase 1), in one ``fit``; loss terms may have a weight per phase.
    The network in training is validated; when the student starts, the best checkpoint is reset.

    Args:
        teacher_epochs: number of epochs of phase 0, for a network of both.
        teacher_ckpt: a finished teacher, a checkpoint of ``model=dynamics_teacher`` or ``model=dynamics``; only the
            student is trained.
        student_batch: batch size of the student, whose batches are split; None for whole batches. In the paper the
            teacher has batches of 10, the student of 1.
        student_scheduler: learning-rate schedule of the student, for a network of both; defaults to a new one like the
            teacher's.
        still: treatment of single photographs when training the student: ``skip`` leaves them out of the terms that
            need a teacher, ``repeat`` gives the teacher the same picture several times.
        **kwargs: as for :class:`~reflectzoo.training.adversarial.AdversarialModule`.

    Raises:
        UserError: for invalid or conflicting settings.
    """

    @checked("model")
    def __init__(
        self,
        *args: Any,
        teacher_epochs: NotNegative = 80,
        teacher_ckpt: str | None = None,
        student_batch: Count | None = None,
        student_scheduler: SchedulerFactory | None = None,
        still: Still = "skip",
        **kwargs: Any,
    ) -> None:
        super().__init__(*args, **kwargs)
        # Not a submodule, so that a student's checkpoint does not contain its teacher.
        self.__dict__["_teacher"] = None
        if student_batch is not None and self.accumulate > 1:
            raise UserError("model.student_batch makes batches smaller, model.accumulate larger: set only one of them.")
        self.save_hyperparameters("teacher_epochs", "teacher_ckpt", "student_batch", "still")
        self.teacher_epochs = teacher_epochs
        self.teacher_ckpt = teacher_ckpt
        self.student_batch = student_batch
        self.make_student_scheduler = student_scheduler
        self.still = still
        self._phase = 0
        term = self.adversarial_term
        if isinstance(term, RepresentationAdversarialLoss) and self.student is not None:
            term.make_discriminator(self.student.representation_channels)
        self.sequence_metrics = nn.ModuleList()

    # -- teacher and student ------------------------------------------------------------------------------------------

    @property
    def phase(self) -> int:
        """0 while the teacher trains and 1 while the student trains, for a network of both; otherwise 0."""
        return self._phase

    @property
    def teacher(self) -> DynamicsTeacher | None:
        """The teacher, or None."""
        if isinstance(self.net, DynamicsTeacher):
            return self.net
        if isinstance(self.net, TeacherAndStudent):
            teacher: DynamicsTeacher = self.net.teacher
            return teacher
        return cast(DynamicsTeacher | None, self.__dict__["_teacher"])

    @property
    def student(self) -> DynamicsStudent | None:
        """The student, or None."""
        if isinstance(self.net, TeacherAndStudent):
            return self.net.student
        return self.net if isinstance(self.net, DynamicsStudent) else None

    @property
    def student_learns(self) -> bool:
        """Whether the student is the network in training."""
        return self.student is not None and (self._phase == 1 or not isinstance(self.net, TeacherAndStudent))

    def phase_modules(self) -> list[nn.Module]:
        """Teacher and student, or the only network."""
        return [self.net.teacher, self.net.student] if isinstance(self.net, TeacherAndStudent) else [self.net]

    def phase_schedulers(self) -> list[SchedulerFactory | None]:
        """The schedules of teacher and student; the student's defaults to the factory of the teacher's."""
        if not isinstance(self.net, TeacherAndStudent):
            return [self.make_scheduler]
        return [self.make_scheduler, self.make_student_scheduler or self.make_scheduler]

    def _apply(self, fn: Callable[..., Any], recurse: bool = True) -> Dynamics:
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        hidden = self.__dict__.get("_teacher")
        if hidden is not None:
            hidden._apply(fn)
        return self

    # -- inference ----------------------------------------------------------------------------------------------------

    def predict_batch(self, batch: Batch) -> Outputs:
        """Run the teacher on the frames (a still picture is repeated), or the student on the mixture.

        While the student trains with a loss that needs the teacher, ``aux`` also has the teacher's representation of
        the frames: ``taught`` (B, R, h, w) and ``has_taught`` (B,) bool.
        """
        outputs = predict(self.net, batch)
        if self.student_learns and self.training and self.teacher is not None and self._is_taught:
            aux = outputs["aux"]
            aux["taught"], aux["has_taught"] = self._taught(batch, aux["representation"])
        return outputs

    @property
    def _is_taught(self) -> bool:
        """Whether a loss term that needs the teacher has a positive weight in the current phase and epoch."""
        terms = (term for term in self.loss.terms.values() if isinstance(term, _TEACHING))
        return any(term.weight_at(self.phase, self.current_epoch) > 0 for term in terms)

    @torch.no_grad()
    def _taught(self, batch: Batch, like: Tensor) -> tuple[Tensor, Tensor]:
        teacher = self.teacher
        assert teacher is not None
        still = torch.zeros(len(batch["mixture"]), dtype=torch.bool, device=like.device)
        valid = ~still if self.still == "repeat" else batch.get("has_frames", still)
        if not bool(valid.any()):
            return torch.zeros_like(like), valid
        return teacher.eval()(frames_of(batch))["aux"]["representation"], valid

    # -- training -----------------------------------------------------------------------------------------------------

    def training_step(self, batch: Batch, batch_idx: int) -> None:
        """Take one adversarial training step, or one per part if the student's batches are split."""
        small = self.student_batch if self.student_learns else None
        for part in split_batch(batch, small) if small else (batch,):
            super().training_step(part, batch_idx)

    def setup(self, stage: str) -> None:
        """Also load the teacher.

        Raises:
            UserError: if the teacher is missing, cannot be loaded, or does not fit.
        """
        super().setup(stage)
        self.sequence_metrics = nn.ModuleList(SequenceMetrics() for _ in self.eval_names).to(self.device)
        if stage != "fit":
            return
        if self.teacher_ckpt is not None:
            self._bring_in(Path(self.teacher_ckpt))
        elif isinstance(self.net, DynamicsStudent):
            needing = [name for name, term in self.loss.terms.items() if isinstance(term, _TEACHING)]
            if needing:
                raise UserError(
                    f"model={self.name} learns from a teacher: give model.teacher_ckpt=FILE, a checkpoint of "
                    "model=dynamics_teacher, or leave the teacher out with "
                    f"{' '.join(f'~loss.terms.{name}' for name in needing)}."
                )

    def _bring_in(self, path: Path) -> None:
        from reflectzoo.methods.dynamics.convert import teacher_of

        if isinstance(self.net, DynamicsTeacher):
            raise UserError(f"model.teacher_ckpt is for a student's training, but model={self.name} is the teacher.")
        teacher = teacher_of(read_checkpoint(path, "model.teacher_ckpt"), f"model.teacher_ckpt={path}")
        student = self.student
        assert student is not None
        check_pair(teacher, student)
        if isinstance(self.net, TeacherAndStudent):
            mine, theirs = self.net.teacher.state_dict(), teacher.state_dict()
            wrong = [
                key
                for key in mine | theirs
                if key not in mine or key not in theirs or mine[key].shape != theirs[key].shape
            ]
            if wrong:
                raise UserError(
                    f"model.teacher_ckpt={path} is a different teacher from the one configured for model={self.name} "
                    f"({len(wrong)} weights differ in name or shape, the first is '{wrong[0]}'): use the overrides of "
                    "the run that made it, or model=dynamics_student, which takes any."
                )
            self.net.teacher.load_state_dict(theirs)
            self._start_student()
        else:
            self.__dict__["_teacher"] = teacher.requires_grad_(False).to(self.device)

    def on_train_epoch_start(self) -> None:
        """Switch to the student after ``teacher_epochs`` epochs."""
        if isinstance(self.net, TeacherAndStudent) and self._phase == 0 and self.current_epoch >= self.teacher_epochs:
            self._start_student()
            self._forget_best()
            rank_zero_info(
                f"Reflection Dynamics: the teacher is frozen, the student trains from epoch {self.current_epoch}"
            )

    def _start_student(self) -> None:
        assert isinstance(self.net, TeacherAndStudent)
        self._phase = 1
        set_phase(self.net, 1)

    def _forget_best(self) -> None:
        """Reset the best checkpoint: the teacher has more input and scores better than the student ever will."""
        for callback in self.trainer.checkpoint_callbacks:
            if isinstance(callback, ModelCheckpoint) and callback.monitor:
                callback.best_model_path = callback.kth_best_model_path = ""
                callback.best_model_score = callback.current_score = None
                callback.best_k_models = {}
                callback.kth_value = torch.tensor(float("inf") if callback.mode == "min" else -float("inf"))

    # -- scoring ------------------------------------------------------------------------------------------------------

    def validation_step(self, batch: Batch, batch_idx: int, dataloader_idx: int = 0) -> Outputs:
        """Also score the teacher's motions and decoupled layers."""
        outputs = super().validation_step(batch, batch_idx, dataloader_idx)
        cast(SequenceMetrics, self.sequence_metrics[dataloader_idx]).update(outputs, batch)
        return outputs

    test_step = validation_step

    def on_validation_epoch_start(self) -> None:
        """Reset all metrics."""
        super().on_validation_epoch_start()
        for metrics in self.sequence_metrics:
            cast(SequenceMetrics, metrics).reset()

    on_test_epoch_start = on_validation_epoch_start

    def _log_metrics(self, stage: str) -> None:
        super()._log_metrics(stage)
        for name, metrics in zip(self.eval_names, self.sequence_metrics, strict=True):
            for key, value in cast(SequenceMetrics, metrics).compute().items():
                self.log(f"{stage}/{name}/{key}", value, rank_zero_only=False, sync_dist=False)

    # -- checkpoints --------------------------------------------------------------------------------------------------

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Also restore the phase of the checkpoint."""
        super().on_load_checkpoint(checkpoint)
        self._phase = int((checkpoint.get("reflectzoo") or {}).get("phase", 0))
        set_phase(self.net, self._phase)


_TEACHING = (TransferLoss, RepresentationAdversarialLoss)


def split_batch(batch: Batch, size: int) -> Iterator[Batch]:
    """Split a batch into parts of at most ``size`` samples."""
    count = len(batch["name"])
    for start in range(0, count, size):
        part = slice(start, start + size)
        yield cast(Batch, {key: _piece(value, part) for key, value in batch.items()})


def _piece(value: Any, part: slice) -> Any:
    if isinstance(value, dict):
        return {key: _piece(each, part) for key, each in value.items()}
    return value[part]
