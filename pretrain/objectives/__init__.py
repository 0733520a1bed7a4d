"""Pretraining objectives, one file each: `build(settings)` of pretrain/objectives/<name>.py.

A new objective is one file here with a class `<Name>(Objective)` and `build`, and one of the same
name in pretrain/options that declares it.
"""

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pretrain.objectives.base import Objective
    from pretrain.settings import TrainSettings


def build(settings: "TrainSettings") -> "Objective":
    """The objective that `settings` name, with fresh weights drawn from `settings.seed`."""
    module = importlib.import_module(f"pretrain.objectives.{settings.objective}")
    return module.build(settings)
