"""Score columns of a dataset version, as training reads them beside its samples.

    <version>/scores/<name>-<digest>/columns/00000.parquet     one row per row of rows/

A curated version keeps the row numbers of the version it was cut from, so columns of either serve.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from infra import artifacts, filesystem
from infra.artifacts import Artifact
from infra.dataset import part_name, read_kept_table, read_table
from infra.errors import SluiceError
from infra.filesystem import join

SCORES = "scores"


def find_folder(artifact: Artifact, folder: str) -> str | None:
    """The URL of the score folder NAME-DIGEST of a version, or of one it was cut from."""
    seen: Artifact | None = artifact
    while seen is not None:
        url = seen.path(SCORES, folder)
        if artifacts.load(url) is not None:
            return url
        source = seen.settings.get("source")
        if not isinstance(source, dict) or not {"dataset", "version"} <= source.keys():
            return None
        store = seen.url.rstrip("/").rsplit("/", 2)[0]
        seen = artifacts.load(join(store, source["dataset"], source["version"]))
    return None


def check_given(asked: Collection[str], columns: Mapping[str, str]) -> None:
    """SluiceError where the options read columns of which nobody says where they are."""
    if missing := sorted(set(asked) - columns.keys()):
        raise SluiceError(
            f"the options read the score columns {missing[0]!r}, and `columns` does not say where "
            "these are",
            f"add columns: {{{missing[0]}: NAME-DIGEST}}, a folder of `{SCORES}/` in the version",
        )


def check_found(asked: Mapping[str, str], found: Sequence[Collection[str]]) -> None:
    """SluiceError where columns that were asked for (folder by name) are those of no source."""
    for name, folder in asked.items():
        if not any(name in names for names in found):
            raise SluiceError(
                f"no source has the score columns {name}: there is no folder {SCORES}/{folder} in "
                "their versions, nor in those they were cut from",
                "make them first, or name the folder that is there",
            )


def check_text(url: str, column: str) -> None:
    """SluiceError where the score columns at `url` have none of text by this name."""
    parts = filesystem.list_files(join(url, "columns", "*.parquet"))
    if not parts:
        return
    kinds = {field.name: field.type for field in read_table(parts[0]).schema}
    if not pa.types.is_string(kinds.get(column, pa.null())):
        raise SluiceError(
            f"{url} has no column {column!r} of text, but {', '.join(sorted(kinds))}",
            "name columns of captions, such as those of the score kind `caption`",
        )


@dataclass(frozen=True)
class ColumnsFile:
    """The columns of one shard; a row is a mapping of their names to its values.

    Lists of one length without nulls are NumPy arrays, all other values plain Python; a row that
    has none is None.
    """

    columns: Mapping[str, Sequence[Any]]

    @staticmethod
    def read(url: str, shard: int) -> "ColumnsFile":
        """Of the score folder at `url`. SluiceError where the shard is not there."""
        path = f"columns/{part_name(shard)}.parquet"
        try:
            table = read_kept_table(url, path)
        except FileNotFoundError as error:
            raise SluiceError(
                f"there is no {join(url, path)}", "remove that folder and make the columns again"
            ) from error
        return ColumnsFile({name: _values(table[name]) for name in table.column_names})

    def __getitem__(self, row: int) -> dict[str, Any]:
        return {name: values[row] for name, values in self.columns.items()}


def _values(column: pa.ChunkedArray) -> Sequence[Any]:
    """The values of a column; of lists of one length an array a row, None where there is none."""
    array = column.combine_chunks()
    missing = np.asarray(array.is_null()) if array.null_count else None
    array = array.drop_null()
    shape: list[int] = []
    while pa.types.is_fixed_size_list(array.type) and not array.null_count:
        shape.append(array.type.list_size)
        array = array.flatten()
    kind = array.type
    plain = pa.types.is_floating(kind) or pa.types.is_integer(kind)
    if not shape or array.null_count or not plain:
        return column.to_pylist()
    given = array.to_numpy(zero_copy_only=False).reshape(-1, *shape)
    if missing is None:
        return given  # type: ignore[return-value]
    rows = iter(given)
    return [None if gone else next(rows) for gone in missing]
