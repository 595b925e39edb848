"""The object that says what is special about a method, and where such objects are found."""

from __future__ import annotations

import subprocess
import sys
from importlib.metadata import EntryPoint

import pytest

from reflectzoo.config import choices
from reflectzoo.core import registry
from reflectzoo.core.method import Method, Model, Size
from reflectzoo.errors import UserError


def test_every_model_of_the_configuration_has_a_method_and_the_other_way_round() -> None:
    built_in = [each for each in registry.methods().values() if each.built_in]
    assert sorted(model for method in built_in for model in method.models) == choices("model")


@pytest.mark.parametrize("method", registry.methods().values(), ids=registry.methods())
def test_every_reference_leads_somewhere(method: Method) -> None:
    for name in method.network_targets():
        assert callable(method.network(name))
    for hook in (
        method.gather,
        method.detect,
        method.remap,
        method.fit_phases,
        method.check,
        method.set_phase,
        method.predict,
    ):
        assert not hook or callable(method._resolve(hook))
    assert method.page.is_file()
    assert all(method.tiny_of(model) for model in method.models)


def test_declaring_methods_takes_no_torch() -> None:
    code = "import sys; from reflectzoo.core.registry import methods; methods(); print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"name": "Toy"}, "lower-case"),
        ({"models": {}}, "at least one model"),
        ({"networks": ()}, "at least one model and one network"),
        ({"networks": ("net.ToyNet",)}, "no reference"),
        ({"remap": ".convert"}, "no reference"),
    ],
)
def test_an_object_that_makes_no_sense(changed: dict[str, object], message: str) -> None:
    given = {"name": "toy", "package": "toy", "title": "", "models": {"toy": Model()}, "networks": (".net:ToyNet",)}
    with pytest.raises(ValueError, match=message):
        Method(**{**given, **changed})  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="at least 1"):
        Size(multiple=0)


def test_a_model_may_differ_from_its_method() -> None:
    models = {"a": Model(tiny=("model.net.layers=1",), size=Size(multiple=4)), "b": Model()}
    method = Method("toy", "toy", "", models, (".net:ToyNet",), tiny=("model.net.width=2",))
    assert (method.tiny_of("a"), method.tiny_of("b")) == (("model.net.layers=1",), ("model.net.width=2",))
    assert (method.size_of("a").multiple, method.size_of("b").multiple) == (4, 1)
    assert method.main == "a"


def test_a_folder_that_declares_no_method_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "_folders", lambda: ["lite.net"])
    with pytest.raises(UserError, match=r"lite\.net declares no method: write METHOD"):
        registry.methods.__wrapped__()


def test_a_broken_plugin_is_left_out_with_a_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    points = [
        EntryPoint("gone", "no_such_package:METHOD", registry.GROUP),
        EntryPoint("other", "reflectzoo.core.registry:GROUP", registry.GROUP),
        EntryPoint("twice", "reflectzoo.methods.lite:METHOD", registry.GROUP),
    ]
    monkeypatch.setattr(registry, "entry_points", lambda group: points)
    with pytest.warns(UserWarning, match="is skipped") as told:
        found = registry.methods.__wrapped__()
    assert list(found) == sorted(found)
    assert [str(each.message).split(":")[0] for each in told] == [
        f"The plugin {name} is skipped" for name in ("gone", "other", "twice")
    ]
