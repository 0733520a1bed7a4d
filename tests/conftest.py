"""For every test: no tool phones home, Prefect keeps out of the user's home, and Hypothesis
does not take a busy machine for a slow function."""

import os
import shutil
import tempfile

import hypothesis
import pytest

from flows import environment

hypothesis.settings.register_profile(
    "sluice", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow]
)
hypothesis.settings.load_profile("sluice")


def pytest_configure(config: pytest.Config) -> None:
    os.environ.update(environment.missing(environment.PRIVATE))
    home = tempfile.mkdtemp(prefix="sluice-prefect-")
    os.environ["PREFECT_HOME"] = home
    config.add_cleanup(lambda: shutil.rmtree(home, ignore_errors=True))
