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


def is_heavy(item: pytest.Item) -> bool:
    return any(item.get_closest_marker(name) for name in HEAVY)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Groups for `--dist loadgroup`: of ordinary tests each file is one.

    Those that start clusters and servers are one group together: they run one after the other,
    beside the ordinary ones, and begin at once, since they take longest. So are those that look at
    a store that takes long to make, so that one worker makes it.
    """
    items.sort(key=lambda item: not is_heavy(item))
    for item in items:
        heavy = is_heavy(item)
        shared = [name for name in SHARED if name in getattr(item, "fixturenames", ())]
        group = "heavy" if heavy else [*shared, item.nodeid.partition("::")[0]][0]
        item.add_marker(pytest.mark.xdist_group(group))
