"""Rules that keep a share: the threshold is DataComp's, over all shards and no copy of the rows."""

from collections.abc import Iterator

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from curation.dedup import ALL
from curation.rules_settings import RuleSettings
from curation.top import judged_rules, top_thresholds, value_at, with_thresholds
from curation.verdicts import VerdictsWork, verdicts_draft
from infra.dataset import read_table

TOP = RuleSettings(reason="poor", score="clip.similarity", top=0.3)


@settings(deadline=None, max_examples=60)
@given(
    st.lists(st.floats(allow_nan=False, allow_infinity=False), min_size=1, max_size=40),
    st.floats(0.01, 1),
    st.integers(1, 7),
)
def test_the_threshold_is_datacomps(values: list[float], fraction: float, pieces: int) -> None:
    array = np.array(values)

    def parts() -> Iterator[np.ndarray]:
        yield from np.array_split(array, pieces)

    place = min(int(len(array) * fraction), len(array) - 1)
    assert value_at(parts, fraction) == -np.sort(-array)[place]


def test_nothing_has_no_threshold() -> None:
    assert value_at(lambda: [np.empty(0)], 0.5) is None


def test_ties_are_kept_and_what_has_no_score_does_not_count(maker) -> None:
    made = maker.dataset("pool", [{} for _ in range(11)] + [{"rejected": "not_an_image"}])
    scores = [0.1, 0.5, 0.5, 0.5, 0.2, None, 0.3, float("nan"), 0.0, 0.4, 0.9, None]
    maker.score(made, "clip", {"similarity": scores})
    found = top_thresholds([TOP], made.url, made.folders, [0, 1, 2])
    assert found == {"poor": 0.5}  # nine scores: 0.9 0.5 [0.5] 0.5 ...
    draft = verdicts_draft(made.url, made.digest, made.folders, None, [TOP], None)
    work = VerdictsWork(draft.url, made.url, made.folders, None, [TOP], None)
    artifact = maker.run(draft, [ALL], work)
    kept = [
        flag
        for shard in range(3)
        for flag in read_table(artifact.path(f"{shard:05d}.parquet"))["kept"].to_pylist()
    ]
    assert [i for i, flag in enumerate(kept) if flag] == [1, 2, 3, 10]
    (rule,) = judged_rules(artifact)
    assert (rule.min, rule.top) == (0.5, 0.3)


def test_without_any_score_nothing_is_kept(maker) -> None:
    made = maker.dataset("pool", [{}])
    maker.score(made, "clip", {"similarity": np.array([np.nan])})
    assert top_thresholds([TOP], made.url, made.folders, [0]) == {"poor": 0.0}
    assert top_thresholds([TOP], made.url, made.folders, []) == {"poor": 0.0}
    assert with_thresholds([TOP], {"poor": 0.25})[0].min == 0.25


@pytest.mark.parametrize("more", [{"min": 0.1}, {"drop": "x"}, {"top": 0}, {"top": 1.5}])
def test_a_share_stands_alone(more: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        RuleSettings.model_validate({"reason": "odd", "score": "a", "top": 0.3, **more})
