"""Units and polarity: declared by scorers, kept in their files, told of expressions and rules."""

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from curation import contamination, frequency
from curation.rules import against_polarity, meaning
from curation.rules_settings import RuleSettings
from curation.scores.image import ImageScorer
from curation.scores.registry import REGISTRY, with_meanings
from curation.units import BETTER, WORSE, Meaning, column, meanings
from flows.rules_plan import meaning_of_scores
from infra.dataset import ROWS, read_table, write_table

SCHEMAS = {
    "beauty": pa.schema([column("score", pa.float32(), "aesthetic 1..10", BETTER)]),
    "odd": pa.schema([column("percentile", pa.float32(), "percentile", WORSE)]),
    "image": pa.schema([column("entropy", pa.float32(), "bits"), ("flat", pa.bool_())]),
    "rows": ROWS,
}


def rule(reason: str, **settings: object) -> RuleSettings:
    return RuleSettings.model_validate({"reason": reason, **settings})


@pytest.mark.parametrize(
    ("expression", "told"),
    [
        ("beauty.score", "aesthetic 1..10, higher is better"),
        ("(entropy)", "bits"),
        ("rows.bytes", "bytes"),
        ("length(caption)", ""),
        ("entropy / width", "image.entropy: bits; rows.width: pixels"),
        ("2", ""),
    ],
)
def test_what_an_expression_s_numbers_mean(expression: str, told: str) -> None:
    assert meaning(expression, SCHEMAS) == told


def test_columns_of_before_units_were_told_say_what_they_would_now() -> None:
    plain = pa.schema([pa.field(each.name, each.type) for each in ImageScorer.columns])
    other = pa.schema([pa.field("entropy", pa.int8()), pa.field("unheard_of", pa.float32())])
    found = with_meanings({"image": plain, "mine": plain, "rows": ROWS})
    assert meanings(found) == meanings({"image": ImageScorer.columns})
    assert with_meanings({"image": other}) == {"image": other}
    assert with_meanings(SCHEMAS)["beauty"].equals(SCHEMAS["beauty"], check_metadata=True)


def test_a_rule_that_keeps_the_worse_end_is_warned_of_and_no_other() -> None:
    wrong = [
        rule("pretty", score="beauty.score", max=4),
        rule("plain", score="odd.percentile", min=99),
        rule("rare", score="odd.percentile", top=0.1),
    ]
    right = [
        rule("ugly", score="beauty.score", min=4),
        rule("outlier", score="odd.percentile", max=99),
        rule("band", score="beauty.score", min=4, max=6),
        rule("turned", score="-beauty.score", max=-4),
        rule("empty", score="entropy", max=7),
        rule("said", drop="beauty.score < 4"),
    ]
    found = against_polarity([*right, *wrong], SCHEMAS)
    assert [each.partition(" ")[0] for each in found] == [each.reason for each in wrong]
    assert found[0] == "pretty keeps the lowest values of beauty.score, of which higher is better"
    text = meaning_of_scores([*right, *wrong], SCHEMAS)
    assert "beauty.score    aesthetic 1..10, higher is better" in text
    assert "image.entropy   bits" in text and text.count("warning: ") == len(wrong)
    assert meaning_of_scores([], SCHEMAS) == ""


def test_units_survive_the_store(tmp_path) -> None:
    table = pa.table([pa.array([1.0], pa.float32())], schema=SCHEMAS["beauty"])
    write_table(str(tmp_path), "a.parquet", table)
    assert meanings({"x": pq.read_schema(tmp_path / "a.parquet")})["x.score"] == (
        Meaning("aesthetic 1..10", "higher is better")
    )
    assert read_table(str(tmp_path / "a.parquet")).schema.field("score").metadata


@pytest.mark.parametrize("name", sorted(REGISTRY))
def test_every_number_of_a_scorer_says_its_units(name: str) -> None:
    """But hashes and codes, which are numbers only in how they are stored."""
    schema = REGISTRY[name].columns  # type: ignore[attr-defined]
    said = {full.partition(".")[2] for full in meanings({"x": schema}) if full.startswith("x.")}
    numbers = {f.name for f in schema if pa.types.is_floating(f.type) or f.type == pa.int32()}
    assert numbers <= said


def test_scores_of_the_whole_version_say_their_units() -> None:
    told = meanings({"contamination": contamination.COLUMNS, "frequency": frequency.COLUMNS})
    assert told["contamination.eval_similarity"] == Meaning("cosine", "higher is worse")
    assert told["frequency.captions"] == Meaning("samples")
