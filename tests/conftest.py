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


HEAVY = ("ray", "prefect")
SHARED = ("curated_store",)  # fixtures


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Groups for `--dist loadgroup`: of ordinary tests each file is one.

    Those that start clusters and servers are one group together: they run one after the other,
    beside the ordinary ones. So are those that look at a store that takes long to make, so that
    one worker makes it.
    """
    for item in items:
        heavy = any(item.get_closest_marker(name) for name in HEAVY)
        shared = [name for name in SHARED if name in getattr(item, "fixturenames", ())]
        group = "heavy" if heavy else [*shared, item.nodeid.partition("::")[0]][0]
        item.add_marker(pytest.mark.xdist_group(group))
