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


def select(settings: QuotaSettings, rows: Rows, key: tuple[object, ...]) -> Choice:
    """Rows of every value up to its quota; NULL counts as a value."""
    texts = [piece for part in rows.texts(settings.reason, settings.by) for piece in part.chunks]
    codes, names = encode(pa.chunked_array(texts, pa.string()))
    sizes = np.bincount(codes, minlength=len(names))
    quotas = bounds(sizes, settings.most, settings.share)
    selected = lowest(codes, quotas, draws(rows.uids, *key))
    return Choice(rates(quotas, sizes, codes), selected, codes, names)


def encode(values: pa.ChunkedArray) -> tuple[Ints, pa.Array]:
    """Strings as positions [n] among their distinct values, sorted."""
    filled = pc.fill_null(values, NULL).combine_chunks()
    names = pc.unique(filled)
    names = names.take(pc.array_sort_indices(names))
    codes = pc.index_in(filled, names).to_numpy(zero_copy_only=False).astype(np.int64)
    return codes, names


def bounds(sizes: Ints, most: int | None, share: float | None) -> Ints:
    """How many rows of each value stay. sizes: [values] -> int64 [values]."""
    quotas = sizes.astype(np.int64)
    if most is not None:
        quotas = np.minimum(quotas, most)
    if share is not None:
        quotas = np.minimum(quotas, int(share * sizes.sum()))
    return quotas
