"""Rows that were taken out of a version: no index of it shows them from then on.

<version>/removed/<digest>.parquet    one file for each removal; all of them together count

The files of a version never change. What was removed is left out when an index is opened, and
an index built later does not hold it at all. Samples lie where they were.
"""
# pyarrow has no type stubs:
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from infra import filesystem
from infra.dataset import read_table, write_table
from infra.digests import digest
from infra.filesystem import join

FOLDER = "removed"
REMOVED = pa.schema([("id", pa.int64()), ("uid", pa.string()), ("reason", pa.string())])

Ids = npt.NDArray[np.int64]


def remove(version_url: str, rows: pa.Table) -> str:
    """Take rows (REMOVED) out of the version at `version_url`; once more changes nothing.

    Returns the name of the file that says so.
    """
    rows = rows.select(REMOVED.names).cast(REMOVED).sort_by("id")
    name = f"{digest(rows.to_pydict())}.parquet"
    write_table(version_url, f"{FOLDER}/{name}", rows, ())
    return name


def removals(version_url: str) -> list[str]:
    """The files of removals: another list, other rows."""
    return sorted(filesystem.list_files(join(version_url, FOLDER, "*.parquet")))


def removed_ids(files: Sequence[str]) -> Ids:
    """The ids that `removals` name, ascending."""
    found = [read_table(file, ["id"]).column("id").to_numpy() for file in files]
    return np.unique(np.concatenate([np.empty(0, np.int64), *found]))
