"""Find an index: of a version by name, the one that was published last or a certain one."""

from indexes.files import LATEST
from indexes.search import Index
from infra import artifacts, filesystem
from infra.dataset import Dataset, open_dataset
from infra.errors import SluiceError
from infra.filesystem import join


def open_index(
    dataset: str,
    index: str | None = None,
    *,
    model: str | None = None,
    pretrained: str | None = None,
    device: str = "cpu",
) -> Index:
    """See `indexes.open`."""
    opened = open_named(dataset)
    artifact = artifacts.load(opened.artifact.path("index", _digest(opened, index)))
    if artifact is None:
        raise SluiceError(f"{opened.url} has no index {index}", "run `prefect run index` first")
    return Index(opened, artifact, model, pretrained, device)


def open_named(dataset: str) -> Dataset:
    """The dataset version `<store>/<name>`, its latest, or `<store>/<name>@<version>`."""
    store, _, name = dataset.rstrip("/").rpartition("/")
    return open_dataset(store or ".", name)


def _digest(dataset: Dataset, index: str | None) -> str:
    """The digest of the index that was asked for, or of the one that was published last."""
    folder = dataset.artifact.path("index")
    pointer = join(folder, LATEST)
    if index is None and filesystem.exists(pointer):
        return str(filesystem.read_json(pointer)["digest"])
    manifests = filesystem.list_files(join(folder, "*", artifacts.MANIFEST))
    found = [manifest.rsplit("/", 2)[1] for manifest in manifests]
    chosen = [digest for digest in found if digest.startswith(index or "")]
    if index is None and found:
        raise SluiceError(
            f"{dataset.url} has indexes, but none was published: their recall is below the target, "
            "or an older Sluice made them",
            f"run `prefect run index` again, or give index= one of {', '.join(found)}",
        )
    if not chosen:
        named = f" whose digest starts with {index!r}" if index and found else ""
        raise SluiceError(f"{dataset.url} has no index{named}", "run `prefect run index` first")
    if len(chosen) > 1:
        raise SluiceError(
            f"{dataset.url} has {len(chosen)} such indexes",
            f"give index= one of {', '.join(chosen)}",
        )
    return chosen[0]
