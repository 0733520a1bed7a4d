"""The facts about each indexed row, as one table: what `where` asks and what hits show."""
# pyarrow has no type stubs:
# pyright: reportMissingTypeStubs=false, reportUnknownMemberType=false
# pyright: reportUnknownVariableType=false, reportUnknownArgumentType=false
# pyright: reportUnknownParameterType=false

import json
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from indexes.embeddings import Embedding, score_columns
from infra.artifacts import Artifact
from infra.dataset import ROW_BITS, Dataset, index_id, part_name, read_table
from infra.errors import SluiceError

ROW_COLUMNS = ["uid", "caption", "url", "width", "height", "format", "bytes", "sha256"]

Ids = npt.NDArray[np.int64]


def read_metadata(dataset: Dataset, embedding: Embedding, ids: Ids) -> pa.Table:
    """One row per id, in the order of `ids` (ascending).

    Columns: id, the facts of rows/, "concept" where the data is labelled, and every score of
    the version as SCORER_COLUMN, such as clip_similarity; those that rows/ already tells
    (width, height) are left out.
    """
    scores = score_columns(dataset) or {embedding.scorer: embedding.scores}
    shards = ids >> np.int64(ROW_BITS)
    tables: list[pa.Table] = []
    for shard in np.unique(shards).tolist():
        rows = pa.array(ids[shards == shard] - index_id(shard, 0))
        facts = dataset.rows(shard, [*ROW_COLUMNS, "meta"]).take(rows)
        columns: dict[str, Any] = {"id": pa.array(ids[shards == shard])}
        columns.update({name: facts.column(name) for name in ROW_COLUMNS})
        columns["concept"] = pa.array(_concepts(facts.column("meta").to_pylist()), pa.string())
        for name, artifact in scores.items():
            _add_scores(columns, name, artifact, shard, rows)
        tables.append(pa.table(columns))
    table = pa.concat_tables(tables).combine_chunks()
    if table.column("concept").null_count == len(table):
        table = table.drop_columns(["concept"])
    return table


def _concepts(meta: list[str | None]) -> list[str | None]:
    found: list[str | None] = []
    for text in meta:
        value: Any = json.loads(text) if text else None
        concept = value.get("concept") if isinstance(value, dict) else None
        found.append(concept if isinstance(concept, str) else None)
    return found


def _add_scores(
    columns: dict[str, Any], name: str, scores: Artifact, shard: int, rows: pa.Array
) -> None:
    table = read_table(scores.path("columns", f"{part_name(shard)}.parquet")).take(rows)
    for column in table.column_names:
        if column not in ROW_COLUMNS:
            columns[f"{name}_{column}"] = table.column(column)


def matching_ids(table: pa.Table, where: str) -> Ids:
    """The ids of the rows for which the SQL predicate `where` is true, ascending.

    DuckDB runs it: one expression, in memory, without access to files, network or settings.
    A score can also be written as rules write it: clip.similarity for clip_similarity.
    """
    import duckdb

    config: dict[str, str | bool | int | float | list[str]] = {
        "enable_external_access": "false",
        "python_enable_replacements": "false",
    }
    with duckdb.connect(":memory:", config=config) as connection:
        connection.execute("SET lock_configuration = true")
        try:
            predicate = duckdb.SQLExpression(where)
            rows = connection.from_arrow(_with_scorers(table)).filter(predicate)
            found = rows.project("id").to_arrow_table()
        except duckdb.Error as error:
            raise SluiceError(
                f"where={where!r}: {str(error).splitlines()[0]}",
                f"write a SQL condition over {', '.join(table.column_names)}",
            ) from error
    return np.sort(found.column("id").to_numpy())


def _with_scorers(table: pa.Table) -> pa.Table:
    """The table with a struct for each scorer, whose fields are its columns; nothing is copied."""
    fields: dict[str, list[tuple[str, str]]] = {}
    for name in table.column_names:
        scorer, _, column = name.partition("_")
        if column:
            fields.setdefault(scorer, []).append((column, name))
    for scorer, columns in fields.items():
        arrays = [table.column(name).combine_chunks() for _, name in columns]
        struct = pa.StructArray.from_arrays(arrays, [column for column, _ in columns])
        table = table.append_column(scorer, struct)
    return table
