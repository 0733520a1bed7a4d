"""Quotas: at most so many rows of each value, those with the lowest draws."""

# pyarrow.compute makes its functions when it is imported; pyright cannot see them.
# pyright: reportAttributeAccessIssue=false

from collections.abc import Iterable

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from curation.draws import blocks, draws
from curation.selection.choice import Cells, Choice, Ints, lowest, rates, tally
from curation.selection.rows import Rows
from curation.selection.settings import QuotaSettings

NULL = "(null)"  # rows without a value share a quota, as those of any value do


def select(
    settings: QuotaSettings,
    rows: Rows,
    key: tuple[object, ...],
    before: pa.Table | None = None,
) -> Choice:
    """Rows of every value up to its quota; NULL counts as a value.

    before: the state of an older plan; what it took of a value counts towards `most`.
    """
    codes, names = encode(rows.texts(settings.reason, settings.by), len(rows))
    sizes = tally(codes, len(names))
    taken = older_taken(names, before) if before else np.zeros(len(names), np.int64)
    quotas = bounds(sizes, settings.most, settings.share, taken)
    selected = lowest(codes, quotas, draws(rows.uids, *key))
    state = pa.table({"value": names, "taken": quotas})
    if before:
        state = pa.concat_tables([before, state]).group_by("value").aggregate([("taken", "sum")])
        state = state.rename_columns(["value", "taken"]).sort_by("value")
    return Choice(rates(quotas, sizes, codes), selected, codes, names, state=state)


def older_taken(names: pa.Array, before: pa.Table) -> Ints:
    """The rows that an older plan took of each value."""
    places = pc.index_in(names, before["value"].combine_chunks())
    return before["taken"].take(places).fill_null(0).to_numpy().astype(np.int64)


def encode(pieces: Iterable[pa.ChunkedArray], count: int) -> tuple[Cells, pa.Array]:
    """`count` strings, piece by piece, as positions [count] among their distinct values, sorted."""
    codes, start = np.empty(count, np.int32), 0
    places: dict[str, int] = {}
    for piece in pieces:
        filled = pc.fill_null(piece, NULL).combine_chunks().dictionary_encode()
        found = [places.setdefault(value, len(places)) for value in filled.dictionary.to_pylist()]
        codes[start : start + len(piece)] = np.array(found, np.int32)[filled.indices.to_numpy()]
        start += len(piece)
    names = pa.array(list(places), pa.string())
    order = pc.array_sort_indices(names).to_numpy()
    rank = np.empty(len(order), np.int32)
    rank[order] = np.arange(len(order))
    for part in blocks(count):
        codes[part] = rank[codes[part]]
    return codes, names.take(pa.array(order))


def bounds(sizes: Ints, most: int | None, share: float | None, taken: Ints) -> Ints:
    """How many more rows of each value stay. sizes, taken: [values] -> int64 [values].

    taken: rows that count towards `most` already; `share` is of the rows that come in.
    """
    quotas = sizes.astype(np.int64)
    if most is not None:
        quotas = np.minimum(quotas, np.maximum(most - taken, 0))
    if share is not None:
        quotas = np.minimum(quotas, int(share * sizes.sum()))
    return quotas
