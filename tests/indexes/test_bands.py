import numpy as np
import pytest

from indexes import bands
from indexes.neighbours import pair_recall, range_pairs


def unit(vectors: np.ndarray) -> np.ndarray:
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float16)


def pairs_of_cosine(count: int, cosine: float, dimension: int, seed: int = 0) -> np.ndarray:
    """Unit vectors [2 count, dimension]: row i and row i + count have this cosine."""
    rng = np.random.default_rng(seed)
    first = rng.normal(size=(count, dimension))
    first /= np.linalg.norm(first, axis=1, keepdims=True)
    other = rng.normal(size=(count, dimension))
    other -= (other * first).sum(1, keepdims=True) * first
    other /= np.linalg.norm(other, axis=1, keepdims=True)
    second = cosine * first + np.sqrt(1 - cosine**2) * other
    return np.concatenate([first, second]).astype(np.float32)


def found(vectors: np.ndarray, plan: bands.Plan, known: int = 0) -> list[tuple[int, int]]:
    codes = bands.codes(vectors)
    batches = bands.candidates(codes, plan, known)
    return sorted(pair for a, b in batches for pair in zip(a.tolist(), b.tolist(), strict=True))


def by_definition(codes: np.ndarray, plan: bands.Plan) -> list[tuple[int, int]]:
    differ = codes[:, None] ^ codes[None]
    close = np.bitwise_count(differ).sum(-1) <= plan.limit
    agree = np.zeros_like(close)
    for mask in plan.masks:
        agree |= ~(differ & mask).any(-1)
    a, b = np.nonzero(np.triu(close & agree, 1))
    return list(zip(a.tolist(), b.tolist(), strict=True))


@pytest.mark.parametrize("cosine", [0.85, 0.97])
@pytest.mark.parametrize("part", [1 << 28, 32], ids=["whole", "parts"])
@pytest.mark.parametrize("room", [1 << 18, 1], ids=["one", "batches"])
def test_candidates_are_those_of_the_definition_each_once(
    cosine: float, part: int, room: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("indexes.bands.PART", part)
    monkeypatch.setattr("indexes.bands.ROOM", room)
    vectors = pairs_of_cosine(300, cosine, 24)
    vectors[40:60] = vectors[0]  # a group larger than most
    codes = bands.codes(vectors)
    plan = bands.plan(codes, cosine, 0.01)
    expected = by_definition(codes, plan)
    assert len(expected) > 300
    assert found(vectors, plan) == expected
    assert found(vectors, plan, known=310) == [pair for pair in expected if pair[1] >= 310]


def test_a_code_bit_differs_as_often_as_the_angle_says() -> None:
    for cosine in (0.5, 0.9, 0.97):
        codes = bands.codes(pairs_of_cosine(4000, cosine, 512))
        share = np.bitwise_count(codes[:4000] ^ codes[4000:]).sum() / 4000 / bands.BITS
        assert share == pytest.approx(np.arccos(cosine) / np.pi, rel=0.01)


@pytest.mark.parametrize("misses", [0.05, 0.002])
@pytest.mark.parametrize("cosine", [0.9, 0.97])
def test_pairs_at_the_threshold_are_lost_as_rarely_as_asked(cosine: float, misses: float) -> None:
    count = 20_000
    vectors = pairs_of_cosine(count, cosine, 96)
    plan = bands.plan(bands.codes(vectors), cosine, misses)
    pairs = found(vectors, plan)
    lost = 1 - sum(b == a + count for a, b in pairs) / count
    assert misses / 4 < lost < 1.5 * misses  # planes are shared by all pairs: some spread is due


def test_codes_depend_on_the_row_alone() -> None:
    vectors = unit(np.random.default_rng(2).normal(size=(500, 64)))
    codes = bands.codes(vectors)
    order = np.random.default_rng(3).permutation(500)
    assert (bands.codes(vectors[order]) == codes[order]).all()
    assert (bands.codes(vectors[7:8]) == codes[7:8]).all()
    assert (bands.codes(vectors.astype(np.float32)) == codes).all()


def test_products_by_torch_give_the_same_codes() -> None:
    torch = pytest.importorskip("torch")
    vectors = unit(np.random.default_rng(2).normal(size=(300, 512)))
    codes = bands.codes(vectors)
    for device in ["cpu:0", "cuda"] if torch.cuda.is_available() else ["cpu:0"]:
        assert (bands.codes(vectors, device) == codes).all()


@pytest.fixture
def by_codes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Codes are used even where comparing all pairs would be cheaper."""
    monkeypatch.setattr("indexes.neighbours.EXACT_COST", (1e6, 0.0))


def uneven() -> np.ndarray:
    """Half the rows in one tight cluster, a large group of equal rows, missing rows, a cone."""
    rng = np.random.default_rng(4)
    centre = rng.normal(size=64)
    rows = rng.normal(size=(1000, 64)) + centre
    rows[500:] = 2 * centre + 0.4 * rng.normal(size=(500, 64))
    rows[200:400] = rows[500]
    vectors = unit(rows)
    vectors[100:200] = 0
    return vectors


@pytest.mark.parametrize("threshold", [0.85, 0.9, 0.97])
def test_uneven_rows_equal_rows_and_missing_rows(by_codes: None, threshold: float) -> None:
    vectors = uneven()
    exact = range_pairs(vectors, threshold)
    a, b, similarity = range_pairs(vectors, threshold, exact_limit=10)
    pairs = set(zip(a.tolist(), b.tolist(), strict=True))
    assert pairs <= set(zip(exact[0].tolist(), exact[1].tolist(), strict=True))
    assert len(pairs) == len(a) >= 0.999 * len(exact[0]) > 19_000
    assert (similarity >= np.float32(threshold)).all()
    assert pair_recall(vectors, a, b, threshold) >= 0.999


def test_all_equal_and_all_missing(by_codes: None) -> None:
    same = np.full((300, 16), 0.25, np.float16)
    assert len(range_pairs(same, 0.99, exact_limit=10)[0]) == 300 * 299 // 2
    assert len(range_pairs(same * 0, 0.99, exact_limit=10)[0]) == 0
    same[1:] = 0
    assert len(range_pairs(same, 0.99, exact_limit=10)[0]) == 0
