"""Backbones that another package registers."""

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from timm.models import _registry

from indexes import outside
from indexes.encoder import ClipEncoder
from infra.errors import SluiceError
from pretrain import encoders
from pretrain.data import Source
from pretrain.declare import TINY_CLIP
from pretrain.job import Job
from pretrain.loop import run
from pretrain.probe import can
from tests.pretrain.test_loop import go

MODULE = """
from timm.models import build_model_with_cfg, register_model
from timm.models.vision_transformer import VisionTransformer

@register_model
def elsewhere_tiny(pretrained=False, **kwargs):
    made = {"img_size": 32, "patch_size": 8, "embed_dim": 24, "depth": 1, "num_heads": 2}
    made.update(kwargs)
    return build_model_with_cfg(VisionTransformer, "elsewhere_tiny", pretrained, **made)
"""


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], None]]:
    """Installs a package, elsewhere-nets, with such a module."""

    def install(code: str) -> None:
        (tmp_path / "elsewhere_nets.py").write_text(code)
        told = tmp_path / "elsewhere_nets-1.0.dist-info"
        told.mkdir()
        (told / "METADATA").write_text("Metadata-Version: 2.1\nName: elsewhere-nets\nVersion: 1\n")
        (told / "entry_points.txt").write_text(f"[{outside.GROUP}]\nall = elsewhere_nets\n")
        monkeypatch.syspath_prepend(tmp_path)
        outside._import.cache_clear()

    yield install
    forget()


def forget() -> None:
    """As in a new process, where nobody has asked for it."""
    outside._import.cache_clear()
    sys.modules.pop("elsewhere_nets", None)
    _registry._model_entrypoints.pop("elsewhere_tiny", None)


def test_a_model_of_another_package_goes_by_its_name(
    package: Callable[[str], None],
    pairs: str,
    small: Callable[..., Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with pytest.raises(SluiceError, match="timm knows no model 'elsewhere_tiny'") as caught:
        can("elsewhere_tiny", "rotnet", 32)
    assert outside.GROUP in caught.value.way_out
    package(MODULE)
    assert can("elsewhere_tiny", "mae", 32) and can("elsewhere_tiny", "clip", 32)
    images = [np.zeros((32, 32, 3), np.uint8)]
    tower = {"timm_model_name": "elsewhere_tiny", "timm_model_pretrained": False}
    models = {
        "mae": ("elsewhere_tiny", 24),
        "clip": ({**TINY_CLIP, "vision_cfg": tower}, TINY_CLIP["embed_dim"]),
    }
    for objective, (model, width) in models.items():
        given = {} if objective == "clip" else {"model_kwargs": {}}
        settings = small(objective, steps=1, model=model, **given)
        job = Job(str(tmp_path / objective), "d", settings, (Source(pairs),))
        run(job, go)
        for name in (job.url, f"random:{job.url}"):
            forget()
            assert encoders.load(name).encode_images(images).shape == (1, width)
    forget()
    clip = str(tmp_path / "clip")
    assert ClipEncoder.load(clip).encode_images(images).shape == (1, TINY_CLIP["embed_dim"])
    forget()
    monkeypatch.setattr(sys, "path", [each for each in sys.path if each != str(tmp_path)])
    with pytest.raises(SluiceError, match="timm knows no model 'elsewhere_tiny'"):
        ClipEncoder.load(clip)


def test_a_package_that_cannot_be_imported_is_named(package: Callable[[str], None]) -> None:
    package("import no_such_module")
    assert outside.is_model("resnet18")  # timm's own: nobody else is asked
    with pytest.raises(SluiceError, match=r"package elsewhere-nets .*no_such_module") as caught:
        can("elsewhere_tiny", "mae")
    assert "uninstall" in caught.value.way_out
