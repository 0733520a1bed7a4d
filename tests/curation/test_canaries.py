from typing import Any

import pyarrow as pa
import pytest

from curation.canaries import measure


def verdicts(*rows: tuple[str, list[str], str | None]) -> pa.Table:
    """uid, reasons and the twin's uid of each row."""
    uids, reasons, twins = zip(*rows, strict=True)
    return pa.table(
        {
            "uid": list(uids),
            "reasons": pa.array(reasons, pa.list_(pa.string())),
            "twin_uid": pa.array(twins, pa.string()),
        }
    )


def key(*rows: tuple[str, str, str | None]) -> pa.Table:
    uids, defects, twins = zip(*rows, strict=True)
    return pa.table({"uid": uids, "defect": defects, "twin_uid": pa.array(twins, pa.string())})


def only(table: pa.Table) -> dict[str, Any]:
    (row,) = table.to_pylist()
    return row


def test_recall_and_precision_of_a_rule() -> None:
    judged = verdicts(
        ("p1", ["too_small"], None),
        ("p2", ["other", "too_small"], None),  # a later reason counts as well
        ("p3", [], None),  # missed
        ("c1", ["too_small"], None),  # wrong
        ("c2", [], None),
    )
    found = only(measure(key(*((uid, "too_small", None) for uid in ("p1", "p2", "p3"))), judged))
    assert found["reason"] == "too_small"
    assert (found["planted"], found["caught"], found["flagged"]) == (3, 2, 3)
    assert found["recall"] == pytest.approx(2 / 3)
    assert found["precision"] == pytest.approx(2 / 3)


def test_a_defect_that_rightly_sets_a_filter_off_counts_neither_way() -> None:
    judged = verdicts(
        ("m", ["mismatched_caption"], None),
        ("b", ["blank", "mismatched_caption"], None),
        ("n", ["near_duplicate", "mismatched_caption"], "m"),
    )
    planted = key(
        ("m", "mismatched_caption", None), ("b", "blank", None), ("n", "near_duplicate", "x")
    )
    found = {row["defect"]: row for row in measure(planted, judged).to_pylist()}
    assert found["mismatched_caption"]["flagged"] == 2
    assert found["mismatched_caption"]["precision"] == 0.5
    assert found["blank"]["precision"] == 1


def test_a_pair_is_caught_by_either_member() -> None:
    judged = verdicts(
        ("copy", [], None),
        ("source", ["exact_duplicate"], "copy"),
        ("copy2", ["too_small", "exact_duplicate"], "source2"),
        ("source2", [], None),
        ("copy3", [], None),
        ("source3", [], None),
    )
    planted = key(*((f"copy{n}", "exact_duplicate", f"source{n}") for n in ("", "2", "3")))
    found = only(measure(planted, judged))
    assert (found["planted"], found["caught"], found["flagged"]) == (3, 2, 2)
    assert found["precision"] == 1


def test_a_flag_is_right_when_its_twin_has_the_same_source() -> None:
    planted = key(
        ("a1", "near_duplicate", "a"), ("a2", "near_duplicate", "a"), ("b1", "near_duplicate", "b")
    )
    judged = verdicts(
        ("a1", [], None),
        ("a2", ["near_duplicate"], "a1"),  # two copies of one source
        ("b1", ["near_duplicate"], "a1"),  # a pair that was not planted
        ("c", ["near_duplicate"], "d"),
    )
    found = only(measure(planted, judged))
    assert (found["caught"], found["flagged"]) == (2, 3)
    assert found["precision"] == pytest.approx(1 / 3)


def test_a_damaged_file_may_be_refused_at_ingest() -> None:
    judged = verdicts(("a", ["not_an_image"], None), ("b", ["corrupt"], None), ("c", [], None))
    found = only(measure(key(("a", "corrupt", None), ("b", "corrupt", None)), judged))
    assert (found["reason"], found["recall"], found["precision"]) == ("corrupt", 1, 1)


def test_nothing_flagged_and_nothing_planted() -> None:
    judged = verdicts(("a", [], None))
    found = only(measure(key(("a", "blank", None)), judged))
    assert (found["recall"], found["precision"]) == (0, None)
    empty = key(("a", "blank", None)).slice(0, 0)
    assert measure(empty, judged).num_rows == 0


def test_rules_of_other_names_can_be_measured() -> None:
    judged = verdicts(("a", ["tiny"], None))
    planted = key(("a", "too_small", None))
    assert only(measure(planted, judged, {"too_small": ("tiny",)}))["recall"] == 1
    assert only(measure(planted, judged))["recall"] == 0


def test_a_near_duplicate_may_be_found_on_another_rung() -> None:
    planted = key(("a1", "near_duplicate", "a"), ("b1", "near_duplicate", "b"))
    judged = verdicts(
        ("a", [], None),
        ("a1", ["perceptual_duplicate"], "a"),
        ("b", ["pixel_duplicate"], "b1"),
        ("b1", [], None),
    )
    found = only(measure(planted, judged))
    assert (found["reason"], found["recall"], found["precision"]) == ("near_duplicate", 1, 1)
