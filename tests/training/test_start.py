"""What a training begins with: ImageNet features, packaged weights, or a sentence."""

from __future__ import annotations

import pytest
import torch

import reflectzoo
from reflectzoo.config import build, compose_config
from reflectzoo.errors import UserError
from reflectzoo.nets.efficientnet import efficientnet_lite0
from reflectzoo.training.module import ReflectionModule
from reflectzoo.training.start import give_first_weights


def configured(*overrides: str) -> ReflectionModule:
    module: ReflectionModule = build(compose_config(overrides).model)
    return module


def test_a_new_lite_sees_through_imagenets_features() -> None:
    module = configured("model=lite", "model.net.width=8")
    give_first_weights(module, None)
    wanted = efficientnet_lite0().state_dict()
    found = module.net.features.state_dict()  # type: ignore[union-attr]
    assert all(torch.equal(found[name], wanted[name]) for name in wanted)


def test_fine_tuning_begins_with_what_is_packaged() -> None:
    module = configured("experiment=lite_finetune", "data.root=unused")
    give_first_weights(module, "packaged")
    wanted = reflectzoo.load_model("lite").net.state_dict()
    assert all(torch.equal(each, wanted[name]) for name, each in module.net.state_dict().items())


@pytest.mark.parametrize(
    ("overrides", "weights", "words"),
    [
        (
            ("model=lite", "model.net.width=8"),
            "packaged",
            "belong to a different network from the configured model=lite",
        ),
        (("model=ytmt_pcs", "model.net.width=4"), "packaged", "model=ytmt_pcs has no packaged weights to start from"),
        (("model=ytmt_pcs", "model.net.width=4"), "lite", "belong to a different network"),
        (("model=lite",), "nowhere.ckpt", "There is no weights file"),
    ],
)
def test_weights_that_do_not_fit(overrides: tuple[str, ...], weights: str, words: str) -> None:
    with pytest.raises(UserError, match=words):
        give_first_weights(configured(*overrides), weights)
