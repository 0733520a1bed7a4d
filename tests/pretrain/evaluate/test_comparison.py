import xml.etree.ElementTree as ElementTree

import pytest

from infra.dataset import read_table
from infra.errors import SluiceError
from infra.progress import SilentDisplay
from infra.runner import InlineRunner
from infra.stage import run_stage
from pretrain.evaluate.comparison import compare
from pretrain.evaluate.stage import EvaluateWork, evaluate_draft, evaluate_items
from pretrain.evaluate_settings import EvaluateSettings

SETTINGS = {
    "tasks": ("knn", "few_shot", "calibration"),
    "shots": (2,),
    "draws": 3,
    "resamples": 100,
}
DIGESTS = {"train": "a" * 16, "test": "b" * 16}


def make(store, encoders, splits, datasets=DIGESTS, **changes):
    settings = EvaluateSettings(**{**SETTINGS, **changes})
    draft = evaluate_draft(str(store), encoders, datasets, settings)
    work = EvaluateWork(draft.url, encoders, *splits, settings)
    with InlineRunner() as runner:
        run_stage(
            "evaluate", {"": draft}, evaluate_items(encoders), work, runner, SilentDisplay(),
            extra=work.comparisons,
        )  # fmt: skip
    return draft.url


@pytest.fixture(scope="module")
def urls(tmp_path_factory, runs, colour_splits):
    store = tmp_path_factory.mktemp("comparison")
    return [
        make(store, {"ours": runs["dino"], "pixels": "pixels"}, colour_splits),
        make(store, {"ours": runs["mae"], "theirs": runs["dino"]}, colour_splits),
    ]


def test_one_table_of_all_encoders(urls):
    found = compare(urls)
    rows = found.table.to_pylist()
    first, second = (f"ours ({url[-16:][:6]})" for url in urls)
    assert {row["encoder"] for row in rows} == {first, second, "theirs", "pixels"}
    assert found.baselines == {"pixels"} and rows[-1]["encoder"] == "pixels"
    value = {(row["encoder"], row["task"], row["metric"]): row["value"] for row in rows}
    assert len(value) == len(rows)
    assert value[first, "knn", "accuracy"] == value["theirs", "knn", "accuracy"]  # the same run
    wide = found.wide().to_pylist()
    assert len(wide) == 4
    assert (
        wide[0]["few_shot: accuracy_2_shot"]
        == value[wide[0]["encoder"], "few_shot", "accuracy_2_shot"]
    )


def test_the_picture_is_an_svg_that_stands_alone(urls, tmp_path):
    found = compare(urls)
    found.save(str(tmp_path))
    picture = ElementTree.parse(tmp_path / "comparison.svg").getroot()
    assert picture.tag.endswith("svg") and float(picture.get("width")) > 600
    texts = {"".join(node.itertext()) for node in picture.iter() if node.tag.endswith("text")}
    assert {
        "K-nearest neighbours: accuracy",
        "Few shot: accuracy, 2 a class",
        "Calibration: linear probe ECE (15 bins)",
        "lower is better, temperature fitted",
        "pixels",
        "theirs",
        "lower is better",
    } <= texts
    assert not any("brier" in text for text in texts)
    assert read_table(str(tmp_path / "comparison.parquet")).equals(found.table)
    assert (tmp_path / "comparison.csv").read_text().startswith('"encoder","seed","knn: accuracy"')


def test_names_are_escaped(urls):
    picture = compare(urls[:1]).picture()
    assert "<script" not in picture and picture.count("<svg") == picture.count("</svg>")


def test_what_cannot_be_compared_is_named(urls, tmp_path, runs, colour_splits):
    other = make(tmp_path, {"ours": runs["mae"]}, colour_splits, {**DIGESTS, "test": "c" * 16})
    with pytest.raises(SluiceError, match="was made with another datasets than"):
        compare([urls[0], other])
    with pytest.raises(SluiceError, match="there is no evaluation at"):
        compare([str(tmp_path)])
    with pytest.raises(SluiceError, match="no evaluations to compare"):
        compare([])


def test_the_command_line_writes_it(urls, tmp_path, capsys):
    from pretrain.__main__ import app

    app(["compare", *urls, "--to", str(tmp_path / "all")], result_action="return_value")
    assert capsys.readouterr().out == f"4 encoders of 2 evaluations: {tmp_path}/all\n"
    assert (tmp_path / "all" / "comparison.svg").exists()
    assert read_table(str(tmp_path / "all" / "comparison.parquet")).equals(compare(urls).table)
    with pytest.raises(SluiceError, match="no evaluations to compare"):
        app(["compare", "--to", str(tmp_path / "none")], result_action="return_value")
