import subprocess
import sys
from typing import Any

import pytest
from pydantic import ValidationError

from pretrain.settings import DEFAULTS, EXECUTION, ClipOptions, MaeOptions, TrainSettings


def test_the_objective_fills_in_what_is_left_out() -> None:
    settings = TrainSettings.model_validate({"objective": "mae", "options": {"mask_ratio": 0.5}})
    assert settings.lr == DEFAULTS["mae"]["lr"]
    assert settings.betas == (0.9, 0.95)
    assert isinstance(settings.options, MaeOptions)
    assert settings.options.mask_ratio == 0.5
    assert settings.options.normalize_pixels


def test_a_model_of_ones_own_gets_no_default_arguments() -> None:
    settings = TrainSettings.model_validate({"objective": "dino", "model": "resnet10t"})
    assert settings.model_kwargs == {}


def test_settings_survive_json() -> None:
    for objective in DEFAULTS:
        settings = TrainSettings.model_validate({"objective": objective})
        again = TrainSettings.model_validate_json(settings.model_dump_json())
        assert again == settings
    assert isinstance(TrainSettings.model_validate({"objective": "clip"}).options, ClipOptions)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"objective": "simclr"}, "use one of clip, dino, mae"),
        ({}, "use one of clip, dino, mae"),
        ({"objective": "clip", "batch": 1}, "at least 2"),
        ({"objective": "dino", "batch": 1}, "at least 2"),
        ({"objective": "clip", "model_kwargs": {"depth": 2}}, "model_kwargs are for timm"),
        ({"objective": "mae", "model": {"embed_dim": 8}}, "name of a timm model"),
        ({"objective": "mae", "image_size": 60}, "not divisible by the model's patch size 8"),
        ({"objective": "mae", "options": {"mask": 0.5}}, "options.mask: unknown; mae knows mask_r"),
        ({"objective": "mae", "options": {"mask_ratio": 2}}, "options.mask_ratio: "),
        ({"objective": "mae", "options": ClipOptions()}, "not those of objective mae"),
        ({"objective": "mae", "epochs": 3}, "Extra inputs"),
        ({"objective": "mae", "steps": 0}, "greater than 0"),
    ],
)
def test_a_mistake_is_named(given: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        TrainSettings.model_validate(given)


def test_a_batch_of_one_is_enough_where_samples_are_not_compared() -> None:
    assert TrainSettings.model_validate({"objective": "mae", "batch": 1}).batch == 1


def test_what_cannot_change_a_byte_is_no_part_of_the_identity() -> None:
    first = TrainSettings.model_validate({"objective": "clip"})
    second = first.model_copy(update={"max_failures": 9, "cache_mib": 1, "checkpoint_every": 3})
    assert first.identity() == second.identity()
    assert set(EXECUTION) <= set(TrainSettings.model_fields)
    assert first.model_copy(update={"seed": 1}).identity() != first.identity()


def test_a_plan_needs_no_pytorch() -> None:
    code = (
        "import sys, pretrain.settings, pretrain.run, pretrain.data\n"
        "heavy = {'torch', 'timm', 'open_clip', 'ray', 'torchvision'} & set(sys.modules)\n"
        "sys.exit(', '.join(sorted(heavy)) or 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
