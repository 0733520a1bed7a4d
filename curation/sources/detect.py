"""What `ingest --source LOCATION` means: the kind of source, told by names and one schema."""

from collections import Counter

import pyarrow as pa

from curation.settings import SourceKind, SourceSettings
from curation.sources import columnar, parquet, tables, tars
from curation.sources.base import CAPTION, IMAGES, SIDECAR, list_source
from curation.sources.parquet import OPEN
from curation.sources.roles import KNOWN
from infra.errors import SluiceError

# Names under which image bytes stand in Parquet and Arrow: img2dataset's formats, Hugging Face's
# `image`, and what people call it.
IMAGE_COLUMNS = (*IMAGES, "image", "img", "image_bytes", "img_bytes", "bytes", "picture", "photo")
TEXTS = tuple(end for name, ends in tables.FORMATS.items() if name != "parquet" for end in ends)
ENDS: dict[SourceKind, tuple[str, ...]] = {
    "tars": tars.SUFFIXES,
    "parquet": parquet.SUFFIXES["parquet"],
    "arrow": parquet.SUFFIXES["arrow"],
    "folder": tuple(f".{name}" for name in IMAGES),
    "urls": TEXTS,
}
ANY = tuple(end for ends in ENDS.values() for end in ends)
WAY_OUT = "say in a recipe which it is: `tars:`, `parquet:`, `arrow:`, `folder:` or `urls:`"


def detect(location: str) -> SourceSettings:
    """The source that a file, folder or pattern is meant to be.

    Parquet with a column of image bytes is `parquet`, without one a table of URLs; a folder is
    what it holds, img2dataset's output (tars, each with its .parquet and _stats.json) being
    tars. Raises SluiceError where there is no file, or where it cannot be told.
    """
    files = list_source(location, ANY, "source")
    kind = _kind(location, files)
    if kind in ("parquet", "arrow"):
        first = next(file for file in files if file.lower().endswith(ENDS[kind]))
        return _columnar(location, kind, first)
    return SourceSettings.model_validate({kind: location})


def _kind(location: str, files: list[str]) -> SourceKind:
    kinds: set[SourceKind | None] = {_kind_of(file) for file in files}
    stems = {_stem(file) for file in files if _kind_of(file) == "tars"}
    held: Counter[SourceKind] = Counter()
    for file in files:
        kind = _kind_of(file)
        if kind is not None and not _is_beside(file, kinds, stems):
            held[kind] += 1
    if len(held) == 1:
        return next(iter(held))
    counts = ", ".join(f"{count} of {kind}" for kind, count in held.items())
    found = f"it holds files {counts}" if held else "no file there has a suffix that is known"
    raise SluiceError(
        f"cannot tell what {location} is: {found}",
        f"name the files of one kind with a pattern like FOLDER/*.tar, or {WAY_OUT}",
    )


def _is_beside(file: str, kinds: set[SourceKind | None], stems: set[str]) -> bool:
    """Whether a file only goes with others: a caption, a sidecar, img2dataset's statistics."""
    if "tars" in kinds:
        stem = file.removesuffix(tables.STATS) if file.endswith(tables.STATS) else _stem(file)
        return stem in stems and _kind_of(file) in ("parquet", "urls")
    if "folder" in kinds:
        return file.lower().endswith((f".{CAPTION}", f".{SIDECAR}"))
    return "parquet" in kinds and file.endswith(tables.STATS)


def _kind_of(file: str) -> SourceKind | None:
    return next((kind for kind, ends in ENDS.items() if file.lower().endswith(ends)), None)


def _stem(file: str) -> str:
    folder, slash, name = file.rpartition("/")
    return folder + slash + name.partition(".")[0]


def _columnar(location: str, kind: SourceKind, first: str) -> SourceSettings:
    """Parquet or Arrow: images or URLs, by the first file's columns."""
    with columnar.open_raw(first) as raw:
        schema = OPEN[kind](raw, first).schema
    images = [field.name for field in schema if _is_image(field)]
    lower = {name.lower(): name for name in schema.names}
    if len(images) > 1 and parquet.DEFAULTS["image"] not in images:
        raise SluiceError(
            f"{first} has several columns of image bytes: {', '.join(images)}",
            f"name one in a recipe: `{kind}: {location}` with `image: COLUMN`",
        )
    if images:
        columns: dict[str, str] = {}
        if parquet.DEFAULTS["image"] not in images:
            columns["image"] = images[0]
        caption = next((lower[name] for name in KNOWN["caption"] if name in lower), None)
        if caption not in (None, parquet.DEFAULTS["caption"]):
            columns["caption"] = caption
        return SourceSettings.model_validate({kind: location, **columns})
    if kind == "parquet" and any(name in lower for name in KNOWN["url"]):
        return SourceSettings.model_validate({"urls": location})
    wanted = "image bytes" if kind == "arrow" else "image bytes or of URLs"
    raise SluiceError(
        f"{first} shows no column of {wanted}; it has {', '.join(schema.names)}",
        f"{WAY_OUT}, and its columns: `image:`, `url:`, `caption:`",
    )


def _is_image(field: pa.Field) -> bool:
    kind = field.type
    if pa.types.is_struct(kind):
        place = kind.get_field_index("bytes")
        return place >= 0 and columnar.is_binary(kind.field(place).type)
    return columnar.is_binary(kind) and field.name.lower() in IMAGE_COLUMNS
