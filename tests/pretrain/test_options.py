"""Every objective of the registry keeps to its rules; one that is added is checked here, too."""

import json
import pkgutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from pretrain import objectives, options
from pretrain.declare import Options
from pretrain.settings import TrainSettings


def test_each_objective_has_its_code() -> None:
    code = {module.name for module in pkgutil.iter_modules(objectives.__path__)}
    assert set(options.names()) == code - {"base"}


@pytest.mark.parametrize("name", options.names())
def test_a_declaration_is_whole(name: str) -> None:
    declared = options.declared(name)
    assert issubclass(declared.options, Options)
    assert declared.options.model_fields.keys() >= declared.options.LATER
    assert "arXiv" in declared.paper or "doi" in declared.paper
    settings = TrainSettings.model_validate({"objective": name})
    assert settings.declared is declared
    assert type(settings.options) is declared.options
    dumped = json.loads(settings.model_dump_json())["options"]
    assert dumped.keys() == declared.options.model_fields.keys()


@pytest.mark.parametrize("name", options.names())
def test_its_code_does_as_declared(name: str, small: Callable[..., Any]) -> None:
    settings = small(name)
    objective = objectives.build(settings)
    assert objective.settings == settings
    assert objective.trained()
    paths = {path for path, _ in objective.eval().files()}
    if settings.declared.needs.model == "timm":
        assert {"config.json", "model.safetensors"} <= paths
    else:
        assert {"open_clip_config.json", "open_clip_model.safetensors"} <= paths
    assert all(torch.isfinite(parameter).all() for parameter in objective.parameters())


def test_an_unknown_name_is_answered_with_all() -> None:
    for name in ("simclr", "base", "__init__", "", None, 3):
        with pytest.raises(ValueError, match=f"use one of {', '.join(options.names())}"):
            options.declared(name)


def test_every_mistake_in_options_is_named() -> None:
    with pytest.raises(ValueError, match=r"options\.flip: Input .*; options\.mask: unknown"):
        options.read("mae", {"flip": 3, "mask": 1})


def test_one_more_is_one_more_file(tmp_path: Path) -> None:
    """A name appears by its file alone, and its options are discriminated by it."""
    (tmp_path / "foo.py").write_text(
        "from pretrain.declare import Declared, Options\n"
        "class FooOptions(Options):\n    bar: int = 3\n"
        "base = {'model': 'resnet18', 'lr': 1, 'weight_decay': 0, 'betas': (0, 0), 'eps': 1}\n"
        "DECLARED = Declared(FooOptions, base, 'nowhere')\n"
    )
    code = (
        f"import pretrain.options as o; o.__path__.append({str(tmp_path)!r})\n"
        "from pretrain.settings import TrainSettings as T\n"
        "assert 'foo' in o.names()\n"
        "print(T.model_validate({'objective': 'foo', 'options': {'bar': 4}}).options.bar)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.strip() == "4", done.stderr


def test_all_declarations_need_no_pytorch() -> None:
    code = (
        "import sys\nfrom pretrain import options\n"
        "for name in options.names(): options.declared(name)\n"
        "sys.exit(', '.join({'torch', 'timm', 'open_clip', 'numpy'} & set(sys.modules)) or 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
