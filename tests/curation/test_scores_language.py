"""The language of captions, from a model that comes with a package."""

import pyarrow as pa
import pytest

from curation.score import Batch
from curation.scores.language import LanguageScorer


def score(captions: list[str | None], status: str = "ok") -> pa.Table:
    count = len(captions)
    rows = pa.table({"status": [status] * count, "caption": pa.array(captions, pa.string())})
    return LanguageScorer().score(Batch(rows, [None] * count, [None] * count)).columns


@pytest.mark.parametrize(
    ("caption", "code"),
    [
        ("Two dogs playing in the snow", "en"),
        ("Zwei Katzen spielen im Garten", "de"),
        ("Coucher de soleil sur le lac", "fr"),
        ("Собака играет в снегу", "ru"),
        ("壁に立てかけた赤い自転車", "ja"),
    ],
)
def test_languages(caption: str, code: str) -> None:
    table = score([caption])
    assert table["code"].to_pylist() == [code]
    assert 0 < table["confidence"][0].as_py() <= 1


def test_without_a_letter_there_is_no_language() -> None:
    table = score(["", " ", "12345", "!?", None, "a dog and a cat in a garden"])
    assert table["code"].to_pylist() == [None] * 5 + ["en"]
    assert table["confidence"].null_count == 5
    assert score(["a dog"], "rejected")["code"].to_pylist() == [None]
    assert score([]).num_rows == 0


def test_hostile_captions() -> None:
    table = score(["\x00a", "a" * 10**6, "\U0001f600a", "é" * 5000])
    assert table["code"].null_count == 0
