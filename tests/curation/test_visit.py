"""The walk of few rows by Python and of many by machine code: the same choice."""

import numpy as np
import pytest
from numpy.typing import NDArray

from curation.dedup import visit
from curation.dedup.choice import Pairs, greedy

ROWS = 400


def some_pairs(seed: int) -> tuple[Pairs, NDArray[np.int64], NDArray[np.int64]]:
    """Pairs on two rungs with ties in similarity, ranks, and who has equal hashes."""
    rng = np.random.default_rng(seed)
    hashes_of = np.minimum(rng.integers(0, ROWS, ROWS), np.arange(ROWS))
    hashes_of = hashes_of[hashes_of]  # whoever stands for others stands for itself
    hashes_of = np.where(hashes_of[hashes_of] == hashes_of, hashes_of, np.arange(ROWS))
    a, b = rng.integers(0, ROWS, (2, 2 * ROWS))
    rung = rng.integers(2, 5, len(a))
    a, b = (np.where(rung == 2, hashes_of[end], end) for end in (a, b))
    apart = a != b
    similarity = rng.choice([0.9, 0.95, 0.99, 1.0], len(a)).astype(np.float32)
    return (
        Pairs(a[apart], b[apart], similarity[apart], rung[apart]),
        rng.permutation(ROWS),
        hashes_of,
    )


@pytest.mark.parametrize("seed", range(20))
def test_machine_code_chooses_as_python_does(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    given = some_pairs(seed)
    python = greedy(*given)
    monkeypatch.setattr(visit, "FEW", 0)
    for plain, compiled in zip(python, greedy(*given), strict=True):
        np.testing.assert_array_equal(plain, compiled)
        assert plain.dtype == compiled.dtype
    assert 0 < (python[0] >= 0).sum() < ROWS


def test_few_rows_are_walked_through_by_python() -> None:
    assert visit.walk(visit.FEW) is visit.visit
    assert visit.walk(visit.FEW + 1) is not visit.visit
