import subprocess
import sys
from typing import Any, ClassVar

import pytest
from pydantic import ValidationError

from infra.digests import digest
from pretrain import options
from pretrain.declare import Options
from pretrain.options.clip import ClipOptions
from pretrain.options.mae import DECLARED, MaeOptions
from pretrain.settings import EXECUTION, TrainSettings

DIGESTS = {"clip": "5f4c3660330cc985", "dino": "24c93dbdc9d93238", "mae": "36d10ce4b51bfee8"}


def test_the_objective_fills_in_what_is_left_out() -> None:
    settings = TrainSettings.model_validate({"objective": "mae", "options": {"mask_ratio": 0.5}})
    assert settings.lr == DECLARED.defaults["lr"]
    assert settings.betas == (0.9, 0.95)
    assert isinstance(settings.options, MaeOptions)
    assert settings.options.mask_ratio == 0.5
    assert settings.options.normalize_pixels


def test_a_model_of_ones_own_gets_no_default_arguments() -> None:
    settings = TrainSettings.model_validate({"objective": "dino", "model": "resnet10t"})
    assert settings.model_kwargs == {}


def test_settings_survive_json() -> None:
    for objective in options.names():
        settings = TrainSettings.model_validate({"objective": objective})
        again = TrainSettings.model_validate_json(settings.model_dump_json())
        assert again == settings
        assert again.identity() == settings.identity()
    assert isinstance(TrainSettings.model_validate({"objective": "clip"}).options, ClipOptions)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"objective": "simclr"}, "objective is 'simclr'; use one of .*clip.*, dino.*, mae"),
        ({}, "objective is None; use one of .*clip.*, dino.*, mae"),
        ({"objective": "../x"}, "use one of "),
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
        ({"objective": "dino", "ema": 0.9}, "leaves an average of weights of its own"),
        ({"objective": "mae", "cooldown": 0.2}, "set schedule to constant"),
        ({"objective": "mae", "schedule": "constant", "cooldown": 0.95}, "exceed the run"),
        ({"objective": "mae", "schedule": "steps"}, "steps needs milestones"),
        ({"objective": "mae", "milestones": [0.5]}, "schedule is cosine and milestones are"),
        ({"objective": "mae", "schedule": "steps", "milestones": [0.5, 0.2]}, "rising shares"),
        ({"objective": "mae", "schedule": "steps", "milestones": [0.5, 1]}, "rising shares"),
        ({"objective": "mae", "nesterov": True}, "nesterov is of sgd and lars"),
        ({"objective": "mae", "optimizer": "adam"}, "'adamw', 'lamb', 'lars' or 'sgd'"),
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


def test_a_field_added_later_is_no_part_of_the_identity_until_it_is_used() -> None:
    """Or the runs made before it would all have to be made again."""
    plain = TrainSettings.model_validate({"objective": "mae"})
    assert not TrainSettings.LATER & plain.identity().keys()
    assert "ema" not in TrainSettings.model_validate({"objective": "mae", "ema": None}).identity()
    used = {"optimizer": "lamb", "ema": 0.9, "compile": True, "layer_decay": 0.7}
    stated = TrainSettings.model_validate({"objective": "mae", **used}).identity()
    assert stated.items() >= used.items()
    assert "momentum" not in stated
    assert TrainSettings.model_fields.keys() >= TrainSettings.LATER


def test_an_option_added_later_likewise() -> None:
    class Grown(Options):
        LATER: ClassVar[frozenset[str]] = frozenset({"new"})
        old: int = 1
        new: int = 2

    settings = TrainSettings.model_validate({"objective": "mae"})
    for new, expected in ((2, {"old": 1}), (3, {"old": 1, "new": 3})):
        grown = settings.model_copy(update={"options": Grown(new=new)})
        assert grown.identity()["options"] == expected


def test_digests_of_earlier_runs_stay() -> None:
    """Of all defaults, as they were when these objectives were the only ones."""
    found = {
        name: digest(TrainSettings.model_validate({"objective": name}).identity())
        for name in ("clip", "dino", "mae")
    }
    assert found == DIGESTS


def test_a_plan_needs_no_pytorch() -> None:
    code = (
        "import sys, pretrain.settings, pretrain.run, pretrain.data\n"
        "heavy = {'torch', 'timm', 'open_clip', 'ray', 'torchvision'} & set(sys.modules)\n"
        "sys.exit(', '.join(sorted(heavy)) or 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
