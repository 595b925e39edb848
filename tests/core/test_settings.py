"""Settings are checked by annotations, with the path in the sentence."""

from __future__ import annotations

import functools
import pickle
from collections.abc import Callable, Mapping, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

import pytest
from annotated_types import Ge, Gt, Le, Lt
from omegaconf import OmegaConf
from tests.conftest import REPOSITORY

from reflectzoo.config import build, choices, compose_config
from reflectzoo.core.annotations import Count, EvenCount, Positive, Seed, Share, annotation_in_words
from reflectzoo.core.settings import SettingError, check_entries, check_tree, check_value, checked, parameters_of
from reflectzoo.errors import UserError


@pytest.mark.parametrize(
    ("annotation", "right", "wrong", "words"),
    [
        (Count, [1, 7], [0, -1, 2.5, 2.0, "3", True, None, [1]], "a whole number of at least 1"),
        (int | None, [None, 3], ["abc", 1.0, False], "null or a whole number"),
        (float, [1, 0.5, -2e3], ["1e-4", True, float("nan"), float("inf"), None], "a number"),
        (Positive, [1e-9, 3], [0, -1.0], "a number above 0"),
        (Share, [0, 1, 0.5], [1.01, -0.1], "a number from 0 to 1"),
        (Annotated[float, Ge(0), Lt(1)], [0, 0.9], [1], "a number of at least 0 and below 1"),
        (Annotated[float, Gt(0), Le(1)], [1], [0], "a number above 0 and up to 1"),
        (Seed, [0, 2**32 - 1], [2**32, -1], "a whole number from 0 to 4294967295"),
        (bool, [True], ["no", "yes", 1, 0], "true or false"),
        (Literal["skip", "raise"], ["skip"], ["Skip", None], "skip or raise"),
        (int | Literal["auto"], ["auto", 4], ["4"], "a whole number or auto"),
        (EvenCount, [2, 4], [3, 0, "4"], "an even number of at least 2"),
        (tuple[float, float], [(1, 2), [1.0, 2]], [[1], [1, "2"], "12"], "a list of 2, each a number"),
        (Sequence[str], [["a"], ("b",), []], ["abc", [1]], "a list, each a word"),
        (Mapping[str, float], [{}, {"a": 1}], [{"a": "x"}, []], "names, each with a number"),
        (str | Path | None, ["x", Path("x"), None], [3], "null or a word or a path"),
        (float | Sequence[float], [1, [1, 2.0]], ["1", ["1"]], "a number or a list, each a number"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_an_annotation_takes(annotation: Any, right: list[Any], wrong: list[Any], words: str) -> None:
    for value in right:
        check_value("a.b", value, annotation)
    for value in wrong:
        with pytest.raises(SettingError) as told:
            check_value("a.b", value, annotation)
        assert str(told.value) == f"a.b must be {words}, got {value!r}."
    assert annotation_in_words(annotation) == words


@pytest.mark.parametrize("annotation", [Any, object, Callable[[int], int], Path.__class__, list[Any]])
def test_what_is_not_plain_is_not_looked_at(annotation: Any) -> None:
    check_value("a", object(), annotation)


def test_numbers_and_lists_of_other_libraries() -> None:
    numpy = pytest.importorskip("numpy")
    check_value("a", numpy.int64(3), Count)
    check_value("a", OmegaConf.create([1, 2]), tuple[int, int])
    with pytest.raises(SettingError, match="of at least 1, got 0"):
        check_value("a", numpy.int64(0), Count)


def test_the_error_survives_a_worker_process_and_long_values_are_cut() -> None:
    error = SettingError("data.root", "a path", "x" * 300)
    assert str(pickle.loads(pickle.dumps(error))) == str(error)
    assert len(str(error)) < 150


class Base:
    """A base with a setting of its own."""

    @checked("model")
    def __init__(self, net: object, epochs: Count = 1, names: Sequence[str] = ()) -> None:
        self.net, self.epochs, self.names = net, epochs, names


class Derived(Base):
    """Hands on what it does not know."""

    @checked("model")
    def __init__(self, gain: Positive | None = None, still: Literal["skip", "repeat"] = "skip", **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.gain = gain


class Closed:
    """Takes one setting, and needs it."""

    def __init__(self, width: EvenCount) -> None:
        self.width = width


def sized(width: Count, closed: Closed | None = None) -> int:
    return width


def test_calls_are_held_to_the_annotations() -> None:
    assert Derived(net=3, epochs=2).epochs == 2
    with pytest.raises(SettingError, match=r"^model\.epochs must be a whole number of at least 1, got 0\.$"):
        Derived(net=3, epochs=0)
    with pytest.raises(SettingError, match=r"^model\.gain must be null or a number above 0, got 'x'\.$"):
        Derived("x")
    with pytest.raises(TypeError, match="unexpected"):
        Base(1, gian=3)


HERE = __name__


def config(**changes: Any) -> Any:
    whole = OmegaConf.create(
        {
            "part": {"_target_": f"{HERE}.Closed", "width": 4},
            "epochs": 3,
            "model": {
                "_target_": f"{HERE}.Derived",
                "net": {"_target_": f"{HERE}.sized", "width": 2, "closed": "${part}"},
                "epochs": "${epochs}",
                "names": ["a"],
            },
        }
    )
    for path, value in changes.items():
        OmegaConf.update(whole, path.replace("__", "."), value, force_add=True)
    return whole


def test_a_configuration_is_checked_as_a_whole_and_built() -> None:
    check_tree(config().model)
    assert build(config().model).epochs == 3


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"model__epochs": "abc"}, "model.epochs must be a whole number of at least 1, got 'abc'."),
        ({"epochs": 2.5}, "model.epochs must be a whole number of at least 1, got 2.5."),
        ({"model__net__width": 0}, "model.net.width must be a whole number of at least 1, got 0."),
        ({"part__width": 3}, "part.width must be an even number of at least 2, got 3."),
        ({"model__names": "ab"}, "model.names must be a list, each a word, got 'ab'."),
        ({"model__still": "jump"}, "model.still must be skip or repeat, got 'jump'."),
        ({"model__net__widht": 3}, "There is no setting 'model.net.widht'; did you mean model.net.width?"),
        ({"model__wings": 3}, "There is no setting 'model.wings'; Derived has none."),
    ],
    ids=str,
)
def test_what_is_wrong_is_named_by_its_path(changes: dict[str, Any], sentence: str) -> None:
    with pytest.raises(UserError) as told:
        build(config(**changes).model)
    assert str(told.value) == sentence


def test_what_is_needed_and_not_there() -> None:
    lonely = OmegaConf.create({"x": {"_target_": f"{HERE}.Closed"}})
    with pytest.raises(UserError, match=r"The setting 'x\.width' is missing"):
        check_tree(lonely.x)
    check_tree(lonely.x, given=("width",))
    lonely.x["_partial_"] = True
    assert isinstance(build(lonely.x), functools.partial)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ("optimizer.lr=", "optimizer.lr must be"),
        ("optimizer.lr=-1", "optimizer.lr must be a number from 0 to 1000, got -1."),
        ("optimizer.lr=abc", "optimizer.lr must be a number from 0 to 1000, got 'abc'."),
        ("optimizer.betas=[2,3]", "optimizer.betas must be a list of 2, each a number of at least 0 and below 1"),
        ("trainer.max_epochs=2.5", "trainer.max_epochs must be null or a whole number of at least -1, got 2.5."),
        ("trainer.devices=abc", "trainer.devices must be a number of devices, a list of their numbers, or auto"),
        ("trainer.check_val_every_n_epoch=0", "must be null or a whole number of at least 1, got 0."),
        ("+trainer.limit_val_batches=1.5", "a share from 0.0 to 1.0, got 1.5."),
    ],
)
def test_classes_of_other_people(changes: str, words: str) -> None:
    composed = compose_config(["model=lite", changes])
    with pytest.raises(UserError) as told:
        check_tree(composed.get(changes.lstrip("+").split(".")[0]), given=("params",))
    assert words in str(told.value)


def test_classes_without_a_constructor_in_python() -> None:
    """A longer timeout for processes that wait for each other: trainer.strategy.timeout."""
    waits = OmegaConf.create({"timeout": {"_target_": "datetime.timedelta", "seconds": 7}})
    check_tree(waits)
    assert build(waits.timeout) == timedelta(seconds=7)
    names, is_open = parameters_of(Pair)
    assert ([*names], is_open) == (["first", "second"], False)


def test_what_a_strategy_passes_on() -> None:
    ddp = {"_target_": "pytorch_lightning.strategies.DDPStrategy", "find_unused_parameters": True}
    strategy = build(OmegaConf.create(ddp))
    assert strategy._ddp_kwargs == {"find_unused_parameters": True}
    with pytest.raises(UserError, match=r"'find_unused'; did you mean find_unused_parameters\?"):
        check_tree(OmegaConf.create({**ddp, "find_unused": True}))
    fsdp = {"_target_": "pytorch_lightning.strategies.FSDPStrategy", "limit_all_gathers": False}
    check_tree(OmegaConf.create(fsdp))


class Pair(NamedTuple):
    """Is made by ``__new__``."""

    first: int
    second: int


def test_entries_that_belong_to_no_constructor() -> None:
    whole = OmegaConf.create({"seed": 3, "test": "maybe", "other": "${nowhere}"})
    check_entries(whole, {"seed": Seed, "other": bool, "missing.too": int})
    with pytest.raises(SettingError, match=r"^test must be true or false, got 'maybe'\.$"):
        check_entries(whole, {"test": bool})


def test_every_model_of_the_zoo_is_configured_right() -> None:
    """Other groups are checked where they are built: tests/test_config.py, tests/evaluation/test_runs.py."""
    assert (REPOSITORY / "conf").is_dir()
    for name in choices("model"):
        check_tree(compose_config([f"model={name}", "run_dir=x"]).model)
