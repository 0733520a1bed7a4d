"""A teacher's outputs as score columns of a dataset version: what is to be made, and the work.

    <version>/scores/<name>-<digest>/columns/00000.parquet      one row per row of rows/
      classes         list[top] of uint16 for each view, the likeliest first
      probabilities   list[top] of float16 for each view, see `pretrain.outputs`
      box, flip, ...  each view's augmentation, see `pretrain.replay`

Of output map: classes and scores, [h, w, top] each. Of output vectors: vectors float16 [views,
width] in place of classes and probabilities. Rows without a sample that can be decoded are null.
manifest.extra: classes by number, image_size and canvas of what the teacher saw, bytes_per_output.
Light: heavy imports happen where a worker does the work.
"""

import hashlib
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from infra import artifacts, filesystem
from infra.artifacts import Artifact, Part, Spec
from infra.dataset import Dataset
from infra.errors import SluiceError
from infra.filesystem import join
from infra.stage import Draft, Item
from pretrain import meta
from pretrain.columns import SCORES
from pretrain.labels import check_same
from pretrain.reinforce_settings import TIMM, ReinforceSettings, TeacherSettings

CODE = 1  # raised when the same settings on the same samples give other columns
CLASSES = "classes.json"  # beside a run's weights
FILES = (
    "config.json",
    "model.safetensors",
    "classifier.safetensors",
    CLASSES,
    "open_clip_config.json",
    "open_clip_model.safetensors",
)


def reinforce_draft(
    dataset_url: str, dataset_digest: str, name: str, settings: ReinforceSettings
) -> Draft:
    """The score folder `<dataset_url>/scores/<name>-<digest>` to be.

    Raises SluiceError where a teacher is not there, or tells other classes than `classes`.
    """
    known_classes(settings)
    stated = settings.model_dump(mode="json", exclude={"device", "teachers", *settings.unsaid()})
    stated["teachers"] = [_identity(each) for each in settings.teachers]
    spec = Spec("scores", "pretrain.reinforce", {"scorer": name, **stated}, (dataset_digest,), CODE)
    return Draft(join(dataset_url, SCORES, f"{name}-{spec.digest}"), spec)


def reinforce_items(dataset_url: str, settings: ReinforceSettings) -> list[Item]:
    """One item a shard. SluiceError where a label of the samples is no class of the teacher."""
    artifact = artifacts.load(dataset_url)
    if artifact is None:
        raise SluiceError(f"there is no dataset version at {dataset_url}", "ingest it first")
    if settings.label is not None:
        _check_labels(Dataset(artifact), settings.label, settings)
    return [Item(part.name, int(part.name)) for part in artifact.parts]


@dataclass(frozen=True)
class ReinforceWork:
    """Asks the teachers about the samples of one shard, and writes its columns under `url`."""

    url: str
    dataset_url: str
    settings: ReinforceSettings

    def __call__(self, value: int, todo: list[str]) -> dict[str, Part]:
        from pretrain.reinforce_shard import reinforce_shard

        part = reinforce_shard(self.url, self.dataset_url, value, self.settings)
        return dict.fromkeys(todo, part)

    def figures(self, parts: Mapping[str, Sequence[Part]]) -> dict[str, dict[str, Any]]:
        """What the manifest says of the whole; goes to `run_stage` as `extra`."""
        return {draft: self._figures(found) for draft, found in parts.items()}

    def _figures(self, parts: Sequence[Part]) -> dict[str, Any]:
        told = next((dict(part.extra) for part in parts if part.extra), {})
        count = told.pop("class_count", 0)
        outputs = sum(part.kept for part in parts) * outputs_of(self.settings)
        size = sum(file.bytes for part in parts for file in part.files)
        return {
            **told,
            "classes": list(known_classes(self.settings) or map(str, range(count))),
            "outputs": outputs,
            "bytes_per_output": round(size / outputs, 2) if outputs else None,
        }


def outputs_of(settings: ReinforceSettings) -> int:
    """How many outputs are stored for each image."""
    return 1 if settings.output == "map" else settings.views


def words(made: Artifact) -> str:
    """What was made, its size and its time, for people."""
    extra, totals, spent = made.manifest["extra"], made.totals, made.timing()
    lost = sum(totals["dropped"].values())
    pace = 1000 * spent.get("seconds", 0.0) / max(totals["kept"], 1)
    return (
        f"{totals['kept']} images, {extra['outputs']} outputs"
        + (f", {lost} rows without" if lost else "")
        + f"; {extra['bytes_per_output']} bytes an output, {pace:.1f} ms an image"
    )


def known_classes(settings: ReinforceSettings) -> tuple[str, ...]:
    """The names of the teacher's classes, as far as they are known before it is loaded.

    Raises SluiceError where they are not those of `classes`, or those of two teachers differ.
    """
    known, whose = settings.classes, "`classes`"
    if settings.output == "vectors":
        return ()
    for teacher in settings.teachers:
        found = () if teacher.network.startswith(TIMM) else run_classes(teacher.network)
        if found and known:
            check_same(known, whose, found, teacher.network)
        if found:
            known, whose = found, teacher.network
    return known


def run_classes(url: str) -> tuple[str, ...]:
    """The classes that a run's classifier tells apart, in order; none where it has none."""
    if not filesystem.exists(join(url, CLASSES)):
        return ()
    way_out = "take a run of supervised as the teacher, or output: vectors"
    try:
        config = json.loads(filesystem.read_bytes(join(url, "config.json")))
        classes = tuple(map(str, json.loads(filesystem.read_bytes(join(url, CLASSES)))))
    except (ValueError, TypeError, FileNotFoundError) as error:
        raise SluiceError(f"{join(url, CLASSES)} names no classes: {error}", way_out) from error
    if config.get("objective") == "multi_instance":
        raise SluiceError(
            f"{url} was trained by multi_instance: its classes do not exclude each other, and have "
            "no probabilities that sum to 1",
            way_out,
        )
    return classes


def _check_labels(dataset: Dataset, label: str, settings: ReinforceSettings) -> None:
    known = known_classes(settings)
    if not known:
        raise SluiceError(
            f"the teacher is to know the labels in {label!r}, and has no names for its classes",
            "name them in `classes`, in the order of its outputs",
        )
    strange: Counter[str] = Counter()
    for shard in dataset.shards:
        rows = dataset.rows(shard, ["status", "meta"])
        for status, text in zip(rows["status"].to_pylist(), rows["meta"].to_pylist(), strict=True):
            named = meta.label(meta.parse(text), label) if status == "ok" else ""
            if named and named not in known:
                strange[named] += 1
    if strange:
        shown = ", ".join(repr(name) for name, _ in strange.most_common(5))
        more = f" and {len(strange) - 5} more" if len(strange) > 5 else ""
        raise SluiceError(
            f"{sum(strange.values())} samples have a {label} that the teacher does not know: "
            f"{shown}{more}; its {len(known)} classes are {', '.join(known[:10])}"
            + (", ..." if len(known) > 10 else ""),
            "take a teacher of these classes, or leave `label` out to use its own on these samples",
        )


def _identity(teacher: TeacherSettings) -> Any:
    """What a teacher is, wherever it lies: its files' bytes, or a name of timm."""
    if not teacher.network.startswith(TIMM):
        found = _files(teacher.network)
        if not found:
            raise SluiceError(
                f"there is no teacher at {teacher.network}: no file of {', '.join(FILES)}",
                "name a finished run's folder, or timm:<name>",
            )
        return found
    stated = teacher.model_dump(mode="json")
    if teacher.weights is not None:
        stated["weights"] = _files(teacher.weights) or _hash(teacher.weights)
    return stated


def _files(folder: str) -> dict[str, str]:
    """SHA-256 of the files of a network's folder; of a finished run its manifest has them."""
    made = artifacts.load(folder)
    if made is not None and made.kind == "run":
        files = [file for part in made.parts for file in part.files if file.path in FILES]
        if files:
            return {file.path: file.sha256 for file in files}
    return {name: _hash(join(folder, name)) for name in FILES if _there(join(folder, name))}


def _there(url: str) -> bool:
    try:
        return filesystem.exists(url)
    except NotADirectoryError:
        return False


@lru_cache(maxsize=64)
def _hash(url: str) -> str:
    sha256 = hashlib.sha256()
    try:
        with filesystem.open_read(url) as file:
            while block := file.read(2**20):
                sha256.update(block)
    except (FileNotFoundError, IsADirectoryError) as error:
        raise SluiceError(f"there is no teacher at {url}", "check the path") from error
    return sha256.hexdigest()
