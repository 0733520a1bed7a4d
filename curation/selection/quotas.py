"""Quotas: at most so many rows of each value, those with the lowest draws."""

# pyarrow.compute makes its functions when it is imported; pyright cannot see them.
# pyright: reportAttributeAccessIssue=false

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from curation.selection.draws import Choice, Ints, draws, lowest, rates
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
    texts = [piece for part in rows.texts(settings.reason, settings.by) for piece in part.chunks]
    codes, names = encode(pa.chunked_array(texts, pa.string()))
    sizes = np.bincount(codes, minlength=len(names))
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


def encode(values: pa.ChunkedArray) -> tuple[Ints, pa.Array]:
    """Strings as positions [n] among their distinct values, sorted."""
    filled = pc.fill_null(values, NULL).combine_chunks()
    names = pc.unique(filled)
    names = names.take(pc.array_sort_indices(names))
    codes = pc.index_in(filled, names).to_numpy(zero_copy_only=False).astype(np.int64)
    return codes, names


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
