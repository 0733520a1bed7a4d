import pytest
from pydantic import ValidationError

from curation.synthetic.settings import FractalSettings


@pytest.mark.parametrize(
    "wrong",
    [
        {"maps": (1, 4)},
        {"maps": (4, 2)},
        {"maps": (2, 9)},
        {"contraction": 0.5},
        {"contraction": 1.0},
        {"size": 8},
        {"points": 0},
        {"format": "gif"},
        {"colour_mode": "hue"},
        {"parametrisation": "random"},
        {"fill": "none"},
        {"blur": 1.5},
        {"objects": (0, 3)},
        {"objects": (4, 3)},
        {"objects": (1, 33)},
        {"object_size": (0.6, 0.2)},
        {"object_size": (0.1, 1.1)},
    ],
)
def test_settings_out_of_range_are_refused(wrong):
    with pytest.raises(ValidationError):
        FractalSettings(**wrong)


def test_fractaldb_needs_no_sigma_factor():
    assert FractalSettings(parametrisation="fractaldb", contraction=0.5).contraction == 0.5


def test_light_settings_and_drafts_import_nothing_heavy():
    import subprocess
    import sys

    code = (
        "import sys, curation.synthetic.settings, curation.synthetic.fractals, "
        "pretrain.evaluate_settings, pretrain.evaluate.stage\n"
        "print([name for name in ('numba', 'torch', 'sklearn', 'PIL') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
