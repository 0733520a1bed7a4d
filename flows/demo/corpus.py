"""The demo's raw files: an artifact of kind "corpus" with three splits and the planted key.

pool/00000.tar ...      WebDataset tars, as img2dataset leaves them
pool/00000.parquet ...  columns jpg, caption, url, concept
pool/folder/            images with a caption file beside each, no URLs
trusted/, evaluation/   clean tars
canaries.parquet        uid, defect, twin_uid: for the report alone, never for a stage
"""

import functools
import io
import itertools
from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from curation.settings import SourceSettings
from flows.demo import captions, defects, digits, photos
from flows.demo.settings import CorpusSettings
from infra.artifacts import Part, Spec
from infra.dataset import make_uid, write_table
from infra.digests import canonical_json, generator
from infra.filesystem import FilePart, join, write_bytes, write_whole
from infra.shards import TarWriter
from infra.stage import Draft, Item

CODE = 2
HOSTS = ("photos.example.org", "img.example.com", "cdn.example.net", "archive.example.org")
CONCEPTS = (*captions.DIGITS, *photos.PHOTOS)
CANARIES = pa.schema([("uid", pa.string()), ("defect", pa.string()), ("twin_uid", pa.string())])
ROW_GROUP = 200
REPLACING = ("mismatched_caption", "corrupt", "blank", "too_small", "extreme_aspect")
ADDING = ("exact_duplicate", "near_duplicate", "evaluation_leak")
# A folder's samples have no URL, so two of equal bytes would be one sample, not two.
FOLDER_DEFECTS = (None, "mismatched_caption", "near_duplicate", "too_small")


@dataclass(frozen=True)
class Source:
    """One source image: a digit, or a crop of a photograph."""

    number: int
    concept: str
    digit: int | None = None
    box: photos.Box | None = None


@dataclass(frozen=True)
class Row:
    """One sample of the corpus. `twin` is the row it copies; `number` seeds its own changes."""

    number: int
    source: Source
    caption: str
    url: str | None
    defect: str | None = None
    twin: "Row | None" = None


@dataclass(frozen=True)
class Plan:
    """Which rows stand in which file, and the rows that are part of the planted key."""

    files: dict[str, list[Row]]
    planted: list[Row]


def corpus_draft(store: str, settings: CorpusSettings) -> Draft:
    spec = Spec("corpus", "flows.demo.corpus", settings.model_dump(mode="json"), (), CODE)
    return Draft(join(store, "corpus", spec.digest), spec)


def corpus_sources(url: str, settings: CorpusSettings, split: str) -> tuple[SourceSettings, ...]:
    """The sources of a split ("pool", "trusted", "evaluation") of the corpus at `url`."""
    sources = [SourceSettings.model_validate({"tars": join(url, split, "*.tar")})]
    if split == "pool":
        parquet = {"parquet": join(url, split, "*.parquet")}
        sources.append(SourceSettings.model_validate(parquet))
        if settings.folder:
            sources.append(SourceSettings.model_validate({"folder": join(url, split, "folder")}))
    return tuple(sources)


def corpus_items(settings: CorpusSettings) -> list[Item]:
    """One item for each file, and one for the key; known without opening a picture."""
    names = [f"pool/{number:05d}.tar" for number in range(settings.tars)]
    names += [f"pool/{number:05d}.parquet" for number in range(settings.parquets)]
    names += ["pool/folder"] * bool(settings.folder)
    names += ["trusted/00000.tar", "trusted/00001.tar", "evaluation/00000.tar", "canaries.parquet"]
    return [Item(name.replace("/", "-"), name) for name in names]


def row_counts(settings: CorpusSettings) -> dict[str, int]:
    """How many samples each file of the corpus holds, without drawing one."""
    return {name: len(rows) for name, rows in make_plan(settings).files.items()}


@dataclass(frozen=True)
class CorpusWork:
    """Writes the file (or folder) an item names."""

    url: str
    settings: CorpusSettings

    def __call__(self, value: str, todo: list[str]) -> dict[str, Part]:
        plan = make_plan(self.settings)
        rows = plan.files.get(value, plan.planted)
        seed = self.settings.seed
        if value == "canaries.parquet":
            files, rows = [write_table(self.url, value, _key(rows, seed))], []
        elif value.endswith(".tar"):
            files = [_write_tar(self.url, value, rows, seed)]
        elif value.endswith(".parquet"):
            files = [_write_parquet(self.url, value, rows, seed)]
        else:
            files = list(_write_folder(self.url, value, rows, seed))
        part = Part(value.replace("/", "-"), tuple(files), len(rows), len(rows))
        return dict.fromkeys(todo, part)


def _sources(settings: CorpusSettings) -> Iterator[Source]:
    labels = digits.load()[1]
    numbers = itertools.count()
    for digit, concept in enumerate(captions.DIGITS):
        for index in np.flatnonzero(labels == digit)[: settings.per_concept]:
            yield Source(next(numbers), concept, digit=int(index))
    for concept in photos.PHOTOS:
        for box in photos.crop_boxes(concept, settings.seed, settings.per_concept):
            yield Source(next(numbers), concept, box=box)


def _caption(source: Source, seed: int, number: int) -> str:
    """A caption of a source; another `number`, another wording."""
    rng = generator(seed, "demo-caption", source.number, number)
    if source.digit is not None:
        look = digits.choose_look(generator(seed, "demo-look", source.number))
        return captions.digit_caption(CONCEPTS.index(source.concept), look.ink, look.paper, rng)
    assert source.box is not None
    return captions.photo_caption(source.concept, photos.zoom(source.concept, source.box), rng)


def _url(seed: int, number: int) -> str:
    rng = generator(seed, "demo-url", number)
    return f"https://{HOSTS[rng.integers(len(HOSTS))]}/{rng.bytes(5).hex()}/{number:06d}.jpg"


def make_plan(settings: CorpusSettings) -> Plan:
    """Split the sources, plant the defects, and deal the pool out to its files."""
    return _plan(settings.model_dump_json())


@functools.lru_cache(maxsize=2)
def _plan(settings_json: str) -> Plan:
    settings = CorpusSettings.model_validate_json(settings_json)
    seed, sources = settings.seed, list(_sources(settings))
    rows = _split(sources, settings)
    pool = _plant(rows["pool"], rows["evaluation"], settings, len(sources))
    files = _deal(_shuffled(pool, seed, "dealt"), settings)
    half = (len(rows["trusted"]) + 1) // 2
    files["trusted/00000.tar"] = rows["trusted"][:half]
    files["trusted/00001.tar"] = rows["trusted"][half:]
    files["evaluation/00000.tar"] = rows["evaluation"]
    # A row dealt to the folder has lost its URL, and so has changed its uid: copies refer to it.
    in_pool = {row.number: row for name in files if name.startswith("pool") for row in files[name]}
    planted = [
        replace(row, twin=row.twin and in_pool.get(row.twin.number, row.twin))
        for row in in_pool.values()
        if row.defect
    ]
    return Plan(files, sorted(planted, key=lambda row: row.number))


def _split(sources: list[Source], settings: CorpusSettings) -> dict[str, list[Row]]:
    """The rows of the three splits, all still clean; each concept is divided alike."""
    seed = settings.seed
    splits: dict[str, list[Source]] = {"trusted": [], "evaluation": [], "pool": []}
    for concept, group in itertools.groupby(sources, key=lambda source: source.concept):
        members = list(group)
        order = generator(seed, "demo-split", concept).permutation(len(members))
        first = round(settings.trusted * len(members))
        second = first + max(1, round(settings.evaluation * len(members)))
        splits["trusted"] += [members[index] for index in order[:first]]
        splits["evaluation"] += [members[index] for index in order[first:second]]
        splits["pool"] += [members[index] for index in order[second:]]
    return {
        name: [
            Row(source.number, source, _caption(source, seed, 0), _url(seed, source.number))
            for source in _shuffled(members, seed, name)
        ]
        for name, members in splits.items()
    }


def _shuffled(values: list, seed: int, name: str) -> list:
    return [values[index] for index in generator(seed, "demo-order", name).permutation(len(values))]


def _plant(
    clean: list[Row], evaluation: list[Row], settings: CorpusSettings, first: int
) -> list[Row]:
    """The pool's rows with their defects; no source serves two of them."""
    shares = settings.defects.model_dump()
    total = len(clean) / (1 - sum(shares[name] for name in ADDING))
    count = {name: round(share * total) for name, share in shares.items()}
    numbers = itertools.count(first)
    free = iter(clean)
    pool: list[Row] = []
    for defect in REPLACING:
        for row in itertools.islice(free, count[defect]):
            caption = row.caption
            if defect == "mismatched_caption":
                caption = _foreign_caption(row, clean, settings.seed)
            pool.append(replace(row, defect=defect, caption=caption))
    for defect in ("exact_duplicate", "near_duplicate"):
        left = count[defect]
        while left > 0:
            row = next(free)
            rng = generator(settings.seed, "demo-copies", row.number)
            copies = min(left, 1 if rng.random() < 0.85 else int(rng.integers(2, 5)))
            left -= copies
            pool.append(row)
            pool += [_copy(row, next(numbers), defect, settings.seed) for _ in range(copies)]
    rng = generator(settings.seed, "demo-leaks")
    for index in rng.permutation(len(evaluation))[: count["evaluation_leak"]]:
        pool.append(_copy(evaluation[index], next(numbers), "evaluation_leak", settings.seed))
    return pool + list(free)


def _copy(row: Row, number: int, defect: str, seed: int) -> Row:
    """A second sample of the same source under a URL of its own, half the time reworded."""
    reworded = generator(seed, "demo-reword", number).random() < 0.5
    caption = _caption(row.source, seed, number) if reworded else row.caption
    return Row(number, row.source, caption, _url(seed, number), defect, row)


def _foreign_caption(row: Row, rows: list[Row], seed: int) -> str:
    """The caption of a random sample of another concept."""
    rng = generator(seed, "demo-mismatch", row.number)
    while True:
        other = rows[rng.integers(len(rows))]
        if other.source.concept != row.source.concept:
            return other.caption


def _deal(rows: list[Row], settings: CorpusSettings) -> dict[str, list[Row]]:
    """Rows to the pool's folder, Parquet files and tars."""
    twins = {row.twin.number for row in rows if row.defect == "exact_duplicate" and row.twin}
    fit = [row for row in rows if row.defect in FOLDER_DEFECTS and row.number not in twins]
    taken = {row.number for row in fit[: settings.folder]}
    rest = [row for row in rows if row.number not in taken]
    names = [f"pool/{number:05d}.tar" for number in range(settings.tars)]
    names += [f"pool/{number:05d}.parquet" for number in range(settings.parquets)]
    bounds = np.linspace(0, len(rest), len(names) + 1).round().astype(int)
    files = {name: rest[bounds[index] : bounds[index + 1]] for index, name in enumerate(names)}
    files["pool/folder"] = [replace(row, url=None) for row in rows if row.number in taken]
    return files


def image_bytes(row: Row, seed: int) -> bytes:
    """The file of a row; a pure function of the row and the seed."""
    if row.defect == "exact_duplicate" and row.twin:
        return image_bytes(row.twin, seed)
    rng = generator(seed, "demo-defect", row.number)
    if row.defect == "evaluation_leak" and row.twin and rng.random() < 0.5:
        return image_bytes(row.twin, seed)
    if row.defect == "blank":
        return defects.encode(defects.blank(rng), defects.JPEG, int(rng.integers(85, 96)))
    source = row.source
    picture = generator(seed, "demo-picture", source.number)
    extension = defects.PNG if picture.random() < 0.15 else defects.JPEG
    quality = int(picture.integers(85, 96))
    if source.digit is not None:
        look = digits.choose_look(generator(seed, "demo-look", source.number))
        image = digits.render(source.digit, look, picture)
    else:
        assert source.box is not None
        image = photos.render(source.concept, source.box, picture)
    if row.defect == "near_duplicate":
        return defects.near_duplicate(image, rng)
    if row.defect == "evaluation_leak":
        return defects.copy(image, rng)
    if row.defect == "too_small":
        image = defects.too_small(image, rng)
    elif row.defect == "extreme_aspect":
        image = defects.extreme_aspect(image, rng)
    data = defects.encode(image, extension, quality)
    if row.defect == "corrupt":
        whole = data
        while defects.decodes(data):
            data = defects.corrupt(whole, rng)
    return data


def _extension(data: bytes) -> str:
    return defects.PNG if data.startswith(b"\x89PNG") else defects.JPEG


def _uid(row: Row, seed: int) -> str:
    return make_uid(row.url, row.caption, None if row.url else image_bytes(row, seed))


def _key(rows: list[Row], seed: int) -> pa.Table:
    table = [
        {
            "uid": _uid(row, seed),
            "defect": row.defect,
            "twin_uid": _uid(row.twin, seed) if row.twin else None,
        }
        for row in rows
    ]
    return pa.Table.from_pylist(sorted(table, key=lambda entry: entry["uid"]), schema=CANARIES)


def _write_tar(folder: str, path: str, rows: list[Row], seed: int) -> FilePart:
    with write_whole(folder, path) as file:
        tar = TarWriter(file)  # type: ignore[arg-type]
        for position, row in enumerate(rows):
            data = image_bytes(row, seed)
            key = f"{path.rpartition('/')[2].partition('.')[0]}{position:04d}"
            facts = {"key": key, "url": row.url, "caption": row.caption, "status": "success"}
            tar.add(f"{key}.{_extension(data)}", data)
            tar.add(f"{key}.txt", row.caption.encode())
            tar.add(f"{key}.json", canonical_json({**facts, "concept": row.source.concept}))
        tar.close()
    return file.part(path)


def _write_parquet(folder: str, path: str, rows: list[Row], seed: int) -> FilePart:
    table = pa.table(
        {
            "jpg": pa.array([image_bytes(row, seed) for row in rows], pa.binary()),
            "caption": [row.caption for row in rows],
            "url": [row.url for row in rows],
            "concept": [row.source.concept for row in rows],
        }
    )
    buffer = io.BytesIO()
    pq.write_table(table, buffer, compression="zstd", row_group_size=ROW_GROUP)
    return write_bytes(folder, path, buffer.getvalue())


def _write_folder(folder: str, path: str, rows: list[Row], seed: int) -> Iterator[FilePart]:
    for position, row in enumerate(rows):
        data = image_bytes(row, seed)
        name = f"{path}/picture-{position:04d}"
        yield write_bytes(folder, f"{name}.{_extension(data)}", data)
        yield write_bytes(folder, f"{name}.txt", row.caption.encode())
        yield write_bytes(folder, f"{name}.json", canonical_json({"concept": row.source.concept}))
