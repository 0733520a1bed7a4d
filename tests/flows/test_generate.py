"""Generated images through the whole gate: a recipe, its report, and what is learnt of a mix."""

import json
import re
import shutil
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from curation.generate.model import fingerprint
from flows.main import Options, Result, execute, explain, prepare
from flows.plan import plan
from flows.race.main import RaceOptions
from flows.race.main import execute as run_race
from flows.race.main import prepare as prepare_race
from flows.race.settings import load_entrants
from flows.race.table import share_of
from infra.dataset import Dataset, open_dataset
from infra.errors import SluiceError
from infra.progress import SilentDisplay
from tests.curation.generate import tiny
from tests.curation.sources.made import tar_bytes
from tests.flows.conftest import SMALL

ROWS = 24


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.diffusion(tmp_path_factory.mktemp("model"))


def small(model: Path) -> list[str]:
    """The recipe `generate` in small: an untrained pipeline's images are all alike, and kept."""
    others = ("synthesize.", "pretrain.", "evaluate.", "curate.")
    return [
        *(each for each in SMALL if not each.startswith(others)),
        "run.executor=inline",
        "run.workers=1",
        f"data.generate.model={model}",
        "data.generate.steps=2",
        f"data.generate.prompts.limit={ROWS}",
        "data.generate.rows_per_shard=16",
        "curate.rules.not_its_prompt.min=-9",
        "curate.rules.chequered.drop=coalesce(made.grid, 0) > 9",
        "curate.dedup.near=[]",
    ]


def run(store: Path, overrides: Sequence[str], target: str = "curate") -> Result:
    prepared = prepare(Options("generate", tuple(overrides), str(store)))
    return execute(prepared, target, SilentDisplay(), _step)


def _step(step: Any, session: Any) -> Any:
    return step.run(session)


def ran(result: Result) -> list[str]:
    return [timing.name for timing in result.timings if not timing.from_store]


def rows(dataset: Dataset) -> list[dict[str, Any]]:
    return [row for shard in dataset.shards for row in dataset.rows(shard).to_pylist()]


@pytest.fixture(scope="module")
def drawn(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store with a pool of generated images, curated, and its report; treat it as read-only."""
    store = tmp_path_factory.mktemp("drawn") / "store"
    run(store, small(model), "curate-and-pretrain")
    return store


@pytest.fixture
def store(drawn: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(drawn, tmp_path / "store"))


def test_what_is_drawn_is_a_pool_like_any_other(drawn: Path, model: Path) -> None:
    pool, kept = (open_dataset(str(drawn), name) for name in ("pool", "generated"))
    assert not (drawn / "curated").exists()
    assert pool.artifact.totals["rows"] == ROWS
    for part in kept.artifact.parts:
        assert part.rows == part.kept + sum(part.dropped.values())
    trusted = {
        " ".join(row["caption"].split()): json.loads(row["meta"])["concept"]
        for row in rows(open_dataset(str(drawn), "trusted"))
    }
    found = rows(pool)
    assert len({row["caption"] for row in found}) == ROWS
    for row in found:
        meta = json.loads(row["meta"])
        assert meta["concept"] == trusted[row["caption"]]
        assert meta["fingerprint"] == fingerprint(model) and meta["guidance_scale"] == 2
    scores = {path.parent.name.partition("-")[0] for path in pool_scores(pool)}
    assert {"image", "text", "hash", "descriptor", "clip", "made", "contamination"} <= scores
    manifests = "".join(path.read_text() for path in drawn.rglob("manifest.json"))
    assert str(model) not in manifests


def pool_scores(pool: Dataset) -> Iterator[Path]:
    return Path(pool.url).glob("scores/*/manifest.json")


@pytest.mark.long
def test_a_second_run_draws_nothing(store: Path, model: Path) -> None:
    assert ran(run(store, small(model))) == []
    changed = ran(run(store, [*small(model), "curate.rules.blank.max=0.9"]))
    assert changed == ["verdicts", "curated version"]
    changed = ran(run(store, [*small(model), "data.generate.guidance_scale=4"]))
    assert "ingest pool" in changed and not {"prompts", "ingest trusted"} & set(changed)


def test_the_gate_drops_copies_of_real_images_with_a_reason(
    store: Path, model: Path, tmp_path: Path
) -> None:
    pool = open_dataset(str(store), "pool")
    sample = next(iter(pool.samples(0)))
    copied = rows(pool)[0]
    (tmp_path / "real.tar").write_bytes(
        tar_bytes([("0.png", sample.image), ("0.txt", b"a real image")])
    )
    rule = {"reason": "copy_of_real", "drop": "eval_set = 'real' AND eval_exact"}
    run(
        store,
        [
            *small(model),
            f"data.held_out={{real: [{{tars: {tmp_path}/real.tar}}]}}",
            f"curate.rules=[{json.dumps(rule)}]",
        ],
    )
    reasons = {row["uid"]: row["reason"] for row in rows(open_dataset(str(store), "generated"))}
    assert reasons[copied["uid"]] == "copy_of_real"
    assert Counter(reasons.values()) == {None: ROWS - 1, "copy_of_real": 1}


def test_a_detector_and_the_generated_score_judge_by_rules(
    store: Path, model: Path, tmp_path: Path
) -> None:
    concepts = sorted({json.loads(row["meta"])["concept"] for row in rows(Dataset(_pool(store)))})
    detector = tiny.detector(tmp_path, tuple(concepts[:-1]))  # one it does not know
    rules = [
        {"reason": "object_not_found", "drop": "coalesce(seen.confidence, 0) <= 0"},
        {"reason": "repeated_pattern", "score": "coalesce(made.grid, 0)", "max": -9},
    ]
    run(
        store,
        [
            *small(model),
            f"curate.scores.seen={{kind: detector, model: {detector}}}",
            f"curate.rules={json.dumps(rules)}",
        ],
    )
    [columns] = Path(_pool(store).url).glob("scores/seen-*/columns/00000.parquet")
    values = pq.read_table(columns)["confidence"].to_pylist()
    for row, value in zip(Dataset(_pool(store)).rows(0).to_pylist(), values, strict=True):
        known = json.loads(row["meta"])["concept"] != concepts[-1]
        assert (value is not None) == known
    states = Counter(row["reason"] for row in rows(open_dataset(str(store), "generated")))
    assert states["object_not_found"] > 0 and states.total() == ROWS


def _pool(store: Path) -> Any:
    return open_dataset(str(store), "pool").artifact


def test_the_report_tells_what_was_drawn_and_of_what(drawn: Path, model: Path) -> None:
    text = next(drawn.rglob("report/index.html")).read_text()
    shown = re.sub(r"<[^>]+>", " ", text)
    assert "Generated images" in shown
    for word in (model.name, fingerprint(model), "StableDiffusionPipeline", "DDIMScheduler"):
        assert word in shown
    assert "Canaries: not part of this run" in shown  # the demo's are in the demo's pool
    uid = rows(open_dataset(str(drawn), "pool"))[0]["uid"]
    assert "generated" in explain(Options(None, (), str(drawn)), uid, "generated")


def test_a_plan_draws_nothing(tmp_path: Path, drawn: Path, model: Path) -> None:
    fresh = plan(Options("generate", tuple(small(model)), str(tmp_path / "none")), "curate")
    assert "prompts" in fresh and not (tmp_path / "none").exists()
    changed = (*small(model), "data.generate.images_per_prompt=3")
    again = plan(Options("generate", changed, str(drawn)), "curate")
    (line,) = [line for line in again.splitlines() if line.startswith("ingest pool")]
    assert line.split()[2:5] == ["to", "do", str(3 * ROWS)]


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        (["data.pool=[{tars: x.tar}]"], "give one of"),
        (["curate.publish=pool"], "publish cannot be 'pool'"),
        (["curate.publish=../x"], "match pattern"),
        (["mix={curated: 0}"], "the mix sums to nothing"),
        (["data.generate.guidance_scale=-1"], "greater than or equal to 0"),
        (["data.generate.prompts.captions=real@latest"], "captions names real@latest: no dataset"),
        (["data.generate.model=/none"], "no folder of this machine at /none"),
        (["data.demo=null", "data.generate.prompts.captions=trusted"], "data.trusted"),
    ],
)
def test_a_recipe_that_cannot_be_drawn_is_refused_at_once(
    tmp_path: Path, model: Path, changes: list[str], why: str
) -> None:
    with pytest.raises(SluiceError, match=why):
        prepare(Options("generate", (*small(model), *changes), str(tmp_path)))


ENTRANTS = """
raw: false
entrants:
  real: {extends: curate-and-pretrain}
  alone: {extends: generate}
  guided: {extends: generate, data: {generate: {guidance_scale: 7.5}}}
  names:
    extends: generate
    data: {generate: {prompts: !replace {classes: [cat, dog]}}}
  half: {extends: generate, mix: {curated: 1, real: 1}}
"""


def sweep(folder: Path, model: Path, store: Path, *more: str) -> RaceOptions:
    file = folder / "sweep.yaml"
    file.write_text(ENTRANTS)
    of_real = [each for each in SMALL if each.startswith(("pretrain.", "synthesize."))]
    of_race = [
        "race.train.batch=16", "race.evaluate.resamples=100", "race.evaluate.tasks=[zero_shot]",
        "race.measures.cells=4", "evaluate.resamples=100",
    ]  # fmt: skip
    overrides = (*small(model), *of_real, *of_race, *more)
    return RaceOptions((), str(file), "32", 1, overrides, str(store))


def test_entrants_are_recipes_and_a_change_is_for_those_that_have_its_place(
    tmp_path: Path, model: Path
) -> None:
    race = prepare_race(sweep(tmp_path, model, tmp_path / "store"))
    assert list(race.recipes) == ["real", "alone", "guided", "names", "half"]
    assert race.recipes["real"].data.generate is None
    asked = {name: recipe.data.generate for name, recipe in race.recipes.items()}
    assert all(each and each.model == str(model) for name, each in asked.items() if name != "real")
    assert asked["guided"] and asked["guided"].guidance_scale == 7.5
    assert asked["names"] and asked["names"].prompts.captions is None
    drawing = [name for name in race.steps if name.startswith("ingest pool")]
    assert len(drawing) == 4  # `alone` and `half` draw once
    mixed = {part.url: part.weight for part in race.versions[-1].mix.values()}
    both = [version.draft.url for version in race.versions if version.label in ("real", "half")]
    assert mixed == dict.fromkeys(both, 1.0)
    packaged = load_entrants("synthetic", [f"data.generate.model={model}"])
    assert next(iter(packaged)) == "real" and len(packaged) >= 6
    with pytest.raises(SluiceError, match=r"no entrant of .* has that place"):
        prepare_race(sweep(tmp_path, model, tmp_path, "data.generat.steps=3"))
    with pytest.raises(SluiceError, match="mix of half names 'nobody'"):
        prepare_race(sweep(tmp_path, model, tmp_path, "mix.nobody=1"))


@pytest.mark.long
def test_a_sweep_of_guidance_prompts_and_share_is_one_race(tmp_path: Path, model: Path) -> None:
    race = prepare_race(sweep(tmp_path, model, tmp_path / "store"))
    result = run_race(race, SilentDisplay(), _step)
    table = json.loads(Path(race.table.url, "race.json").read_text())
    assert [each["label"] for each in table["entrants"]] == list(race.recipes)
    assert {each["samples_seen"] for each in table["entrants"]} == {32}
    assert [each["baseline"] for each in table["entrants"]] == [None, *["real"] * 4]
    for entrant in table["entrants"]:
        assert 0 <= entrant["evaluation"]["zero_shot"]["accuracy"]["value"] <= 1
        share = 0.5 if entrant["label"] == "half" else 1.0
        assert entrant["epochs"] == share * 32 / entrant["kept"]
    assert table["entrants"][-1]["mix"] == {"curated": 1, "real": 1}
    assert result.report and "50\u00a0% of these, 50\u00a0% real" in Path(result.report).read_text()


def test_the_share_of_a_mix_is_told_where_it_stays() -> None:
    assert share_of({"curated": 1, "real": 3}, "curated") == 0.25
    assert share_of({"real": 3}, "curated") == 0
    assert share_of({"curated": 1, "real": ((0, 1), (1, 0))}, "curated") is None
    assert share_of({"curated": [[0, 1], [1, 0]]}, "curated") is None  # as JSON has it
