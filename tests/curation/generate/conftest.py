"""Tiny pipelines, made once; tests that change a folder take a copy."""

from pathlib import Path

import pytest

from tests.curation.generate import tiny


@pytest.fixture(scope="session")
def diffusion(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Stable Diffusion with a safety checker that lets everything pass."""
    return tiny.diffusion(tmp_path_factory.mktemp("diffusion"))
