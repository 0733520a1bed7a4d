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
        {"tasks": ("few_shot",)},
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
