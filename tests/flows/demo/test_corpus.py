import collections
import hashlib
import io
import json
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from PIL import Image
from pydantic import ValidationError

from flows.demo import captions, photos
from flows.demo.corpus import (
    CONCEPTS,
    CorpusWork,
    Row,
    corpus_draft,
    corpus_items,
    corpus_sources,
    image_bytes,
    make_plan,
    row_counts,
)
from flows.demo.settings import CorpusSettings
from infra.artifacts import Artifact, verify
from infra.dataset import make_uid
from infra.progress import SilentDisplay
from infra.runner import InlineRunner
from infra.shards import read_tar
from infra.stage import run_stage

SMALL = CorpusSettings(per_concept=10, tars=2, parquets=1, folder=15)
DRAWN_FROM_CLEAN = ("exact_duplicate", "near_duplicate")


def make(store: Path, settings: CorpusSettings, backwards: bool = False) -> Artifact:
    draft = corpus_draft(str(store), settings)
    items = corpus_items(settings)
    made = run_stage(
        "corpus",
        {"": draft},
        items[::-1] if backwards else items,
        CorpusWork(draft.url, settings),
        InlineRunner(),
        SilentDisplay(),
    )
    return made[""]


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    return make(tmp_path_factory.mktemp("corpus"), SMALL)


@pytest.fixture(scope="module")
def records(corpus: Artifact) -> dict[str, list[tuple[str, bytes, str]]]:
    """(uid, image bytes, concept) of every sample as a reader finds it, by split."""
    found: dict[str, list[tuple[str, bytes, str]]] = collections.defaultdict(list)
    for path in sorted(Path(corpus.url).glob("*/*.tar")):
        with path.open("rb") as file:
            for sample in read_tar(file):
                assert sample.error is None
                data = sample.members.get("jpg") or sample.members["png"]
                facts = json.loads(sample.members["json"])
                assert facts["caption"] == sample.members["txt"].decode()
                uid = make_uid(facts["url"], facts["caption"], data)
                found[path.parent.name].append((uid, data, facts["concept"]))
    for path in Path(corpus.url).glob("pool/*.parquet"):
        for row in pq.read_table(path).to_pylist():
            uid = make_uid(row["url"], row["caption"], row["jpg"])
            found["pool"].append((uid, row["jpg"], row["concept"]))
    for path in Path(corpus.url).glob("pool/folder/*.txt"):
        image = next(p for p in path.parent.glob(f"{path.stem}.*") if p.suffix in (".jpg", ".png"))
        concept = json.loads(path.with_suffix(".json").read_text())["concept"]
        data = image.read_bytes()
        found["pool"].append((make_uid(None, path.read_text(), data), data, concept))
    return found


@pytest.fixture(scope="module")
def planted(corpus: Artifact) -> dict[str, tuple[str, str | None]]:
    table = pq.read_table(corpus.path("canaries.parquet"))
    return {row["uid"]: (row["defect"], row["twin_uid"]) for row in table.to_pylist()}


def test_the_whole_corpus_is_as_large_as_promised() -> None:
    settings = CorpusSettings()
    plan = make_plan(settings)
    rows = [row for file in plan.files.values() for row in file]
    sources = {row.source.number: row.source.concept for row in rows}
    counts = collections.Counter(sources.values())
    assert len(sources) >= 4000
    assert set(counts) == set(CONCEPTS) == {*captions.DIGITS, *photos.PHOTOS}
    assert len(counts) >= 25 and min(counts.values()) >= 40
    split = collections.Counter(name.split("/")[0] for name in plan.files for _ in plan.files[name])
    assert split["trusted"] / len(sources) == pytest.approx(0.2, abs=0.005)
    assert split["evaluation"] / len(sources) == pytest.approx(0.1, abs=0.005)
    shares = collections.Counter(row.defect for row in plan.planted)
    for defect, share in settings.defects.model_dump().items():
        assert shares[defect] / split["pool"] == pytest.approx(share, abs=0.002), defect
    assert row_counts(settings) == {name: len(file) for name, file in plan.files.items()}


def test_same_settings_same_bytes(tmp_path: Path, corpus: Artifact) -> None:
    again = make(tmp_path, SMALL, backwards=True)
    assert again.digest == corpus.digest and again.content == corpus.content
    assert verify(again) == []


def test_another_seed_is_another_corpus() -> None:
    other = SMALL.model_copy(update={"seed": 1})
    assert corpus_draft("s", other).spec.digest != corpus_draft("s", SMALL).spec.digest
    captioned = [
        [row.caption for row in make_plan(settings).files["pool/00000.tar"]]
        for settings in (SMALL, other)
    ]
    assert captioned[0] != captioned[1]


def test_every_planted_uid_is_in_the_pool_once(records: dict, planted: dict) -> None:
    uids = collections.Counter(uid for uid, _, _ in records["pool"])
    assert max(uids.values()) == 1
    assert set(planted) <= set(uids)
    for defect, twin in planted.values():
        if defect in DRAWN_FROM_CLEAN:
            assert twin in uids and twin not in planted
        elif defect == "evaluation_leak":
            assert twin in {uid for uid, _, _ in records["evaluation"]}
        else:
            assert twin is None


def test_defects_are_what_they_are_called(records: dict, planted: dict) -> None:
    data = {uid: image for split in records.values() for uid, image, _ in split}
    sha256 = {uid: hashlib.sha256(image).hexdigest() for uid, image in data.items()}
    for uid, (defect, twin) in planted.items():
        if defect == "exact_duplicate":
            assert sha256[uid] == sha256[twin]
        elif defect == "near_duplicate":
            assert sha256[uid] != sha256[twin]
        elif defect == "corrupt":
            with pytest.raises((OSError, SyntaxError)):
                Image.open(io.BytesIO(data[uid])).load()
        elif defect == "too_small":
            assert min(Image.open(io.BytesIO(data[uid])).size) <= 30
        elif defect == "extreme_aspect":
            size = Image.open(io.BytesIO(data[uid])).size
            assert max(size) > 4 * min(size)


def test_what_is_not_planted_is_clean(records: dict, planted: dict) -> None:
    """Every other sample decodes, is of usual size, and repeats no other's bytes."""
    seen: dict[str, str] = {}
    for split, rows in records.items():
        for uid, data, _ in rows:
            if uid in planted:
                continue
            size = Image.open(io.BytesIO(data)).size
            Image.open(io.BytesIO(data)).load()
            assert min(size) >= 64 and max(size) < 3 * min(size)
            assert seen.setdefault(hashlib.sha256(data).hexdigest(), uid) == uid, split


def test_captions_name_the_concept_unless_mismatched() -> None:
    plan = make_plan(SMALL)
    for row in (row for file in plan.files.values() for row in file):
        assert named(row) == (row.defect != "mismatched_caption"), row.caption


def named(row: Row) -> bool:
    concept = row.source.concept
    if concept in captions.DIGITS:
        words = row.caption.replace(":", "").replace(",", "").split()
        return concept in words or str(captions.DIGITS.index(concept)) in words
    return any(noun in row.caption for noun in captions.NOUNS[concept])


def test_splits_share_no_source() -> None:
    numbers: dict[str, set[int]] = collections.defaultdict(set)
    for name, file in make_plan(SMALL).files.items():
        own = {row.source.number for row in file if row.defect != "evaluation_leak"}
        numbers[name.split("/")[0]] |= own
    assert not numbers["trusted"] & numbers["pool"]
    assert not numbers["trusted"] & numbers["evaluation"]
    assert not numbers["evaluation"] & numbers["pool"]


def test_an_image_is_a_function_of_its_row() -> None:
    for row in make_plan(SMALL).planted[::25]:
        assert image_bytes(row, 0) == image_bytes(row, 0)


def test_sources_name_every_form_the_pool_comes_in() -> None:
    pool = corpus_sources("store/corpus/x", SMALL, "pool")
    given = [source.model_dump(exclude_none=True) for source in pool]
    assert [next(iter({"tars", "parquet", "folder"} & set(entry))) for entry in given] == [
        "tars",
        "parquet",
        "folder",
    ]
    no_folder = SMALL.model_copy(update={"folder": 0})
    assert len(corpus_sources("store/corpus/x", no_folder, "pool")) == 2
    assert len(corpus_sources("store/corpus/x", SMALL, "trusted")) == 1
    assert "pool-folder" not in {item.name for item in corpus_items(no_folder)}


def test_splits_that_leave_no_pool_are_refused() -> None:
    with pytest.raises(ValidationError, match="pool"):
        CorpusSettings(trusted=0.45, evaluation=0.4)
