import pytest
from pydantic import ValidationError

from pretrain.evaluate_settings import EvaluateSettings


@pytest.mark.parametrize(
    "wrong",
    [
        {"templates": ("a photo",)},
        {"templates": ("{} and {}",)},
        {"templates": ("{0}",)},
        {"templates": ()},
        {"tasks": ("few_shots",)},
        {"tasks": ("zero_shot_descriptions",)},
        {"tasks": ("out_of_distribution",)},
        {"descriptions": {"cat": ()}},
        {"descriptions": {"cat": (" ",)}},
        {"corruptions": ("frost",)},
        {"severities": (6,)},
        {"shots": (0,)},
        {"draws": 1},
        {"strengths": (0.0, 1.0)},
        {"temperature": 0},
        {"compare": ({"name": "x", "pairs": ()},)},
        {"neighbors": 20},
    ],
)
def test_settings_out_of_range_are_refused(wrong):
    with pytest.raises(ValidationError):
        EvaluateSettings(**wrong)


def test_strengths_are_kept_in_order():
    assert EvaluateSettings(strengths=(1.0, 0.1)).strengths == (0.1, 1.0)


def test_later_settings_leave_the_identity_of_earlier_evaluations():
    plain = EvaluateSettings()
    assert set(plain.identity()) == {
        "tasks", "label", "templates", "neighbours", "temperature", "strengths", "pixels",
        "resamples", "confidence", "compare", "seed",
    }  # fmt: skip
    assert EvaluateSettings(bins=10).identity()["bins"] == 10
