"""The rows with the largest score, or rows at random: exactly as many as were asked for."""

import numpy as np
import pyarrow as pa

from curation.draws import draws
from curation.selection.choice import Choice
from curation.selection.rows import Rows
from curation.selection.settings import NO_VALUE, TopSettings


def select(settings: TopSettings, rows: Rows, key: tuple[object, ...]) -> Choice:
    """The best rows by score, ties by the lowest draw; NULL, NaN and infinite scores never."""
    count = len(rows)
    score = np.zeros(count)
    if settings.score is not None:
        score = rows.numbers(settings.reason, settings.score)
    unknown = ~np.isfinite(score)
    score[unknown] = -np.inf
    order = np.lexsort((draws(rows.uids, *key), np.negative(score, out=score)))
    size = min(settings.size(count), count - int(unknown.sum()))
    selected = np.zeros(count, bool)
    selected[order[:size]] = True
    if settings.score is None:
        probability = np.full(count, size / max(count, 1))
    else:
        probability = selected.astype(np.float64)
    figures = {"threshold": -float(score[order[size - 1]])} if settings.score and size else {}
    none = np.full(count, -1, np.int32)
    return Choice(
        probability, selected, none, pa.array([], pa.string()), unknown, NO_VALUE, figures=figures
    )
