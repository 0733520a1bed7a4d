"""Which backbone carries which objective: a step tells, a file keeps it, settings heed it."""

import json
from typing import Any

import pytest
from pydantic import ValidationError

from infra.errors import SluiceError
from pretrain import capabilities, options
from pretrain.probe import can
from pretrain.settings import TrainSettings

KEPT: dict[str, Any] = json.loads(capabilities.FILE.read_text())["families"]


def test_a_step_tells_what_a_network_can_carry() -> None:
    assert can("test_resnet", "rotnet", 64)
    refused = can("test_resnet", "mae", 64)
    assert not refused and refused.outcome == "no"
    assert "must be able to drop patches" in refused.reason
    small = can("test_vit", "dino", 70)
    assert small.outcome == "size" and "not divisible" in small.reason
    with pytest.raises(SluiceError, match="timm knows no model 'nothing'"):
        can("nothing", "mae")
    with pytest.raises(SluiceError, match="no objective 'nothing'"):
        can("test_vit", "nothing")


def test_every_family_was_asked_for_every_objective() -> None:
    assert len(KEPT) >= 30
    for family, told in KEPT.items():
        assert list(told["answers"]) == list(options.names()), family
        for objective, (outcome, reason) in told["answers"].items():
            assert outcome in ("yes", "no", "size"), (family, objective, reason)
            assert bool(reason) == (outcome != "yes")


@pytest.mark.parametrize("family", ["ConvNeXt", "ViT"])
def test_the_kept_answers_are_todays(family: str) -> None:
    """Of two quick families; tests/bench/backbones.py asks all again."""
    told = KEPT[family]
    for objective in ("barlow", "look", "mae", "rotnet", "sit", "spark", "supervised"):
        verdict = can(told["model"], objective, told["image_size"])
        assert [verdict.outcome, verdict.reason] == told["answers"][objective]


def test_settings_refuse_what_is_known_not_to_go_together() -> None:
    with pytest.raises(ValidationError, match="must be able to drop patches"):
        TrainSettings.model_validate({"objective": "mae", "model": KEPT["ConvNeXt"]["model"]})
