"""What an index goes on from: a quantizer, and codes by it that need not be made again."""

from dataclasses import dataclass

from indexes import codes, quantizer
from indexes.files import LATEST
from indexes.removed import removals
from indexes.settings import IndexSettings
from infra import artifacts, filesystem
from infra.artifacts import Artifact
from infra.errors import SluiceError
from infra.filesystem import join
from infra.stage import Draft


@dataclass(frozen=True)
class Origin:
    """Where the quantizer is or will be, its digest, codes by it, and the rows to leave out."""

    quantizer_url: str
    quantizer_digest: str
    trained: Draft | None  # None: it is there, an older version's
    codes_urls: tuple[str, ...]
    removed: tuple[str, ...]


def origin_of(dataset_url: str, dataset_digest: str, settings: IndexSettings) -> Origin:
    """Of an index of a version: an older version's quantizer where `after` names one."""
    removed = tuple(removals(dataset_url))
    if settings.after is None:
        trained = quantizer.quantizer_draft(dataset_url, dataset_digest, settings)
        url, digest, older = trained.url, trained.spec.digest, ()
    else:
        url, digest, coded = _older(dataset_url.rsplit("/", 2)[0], settings.after)
        trained, older = None, (coded,)
    if removed:  # rows went since: of all other shards the codes are there
        whole = codes.codes_draft(dataset_url, dataset_digest, digest, settings)
        older = (whole.url, *older)
    return Origin(url, digest, trained, older, removed)


def _older(store: str, name: str) -> tuple[str, str, str]:
    """Quantizer URL, its digest, and codes URL of the index that a version published."""
    dataset_url = join(store, *name.split("@"))
    pointer = join(dataset_url, "index", LATEST)
    index = published(dataset_url)
    if index is None:
        raise SluiceError(
            f"index.after names {name}, for which there is no {pointer}",
            f"run `prefect run index --dataset {name}` first, or leave out index.after",
        )
    (part,) = index.parts
    quantizer_url = join(store, part.extra["quantizer"])
    if artifacts.load(quantizer_url) is None:  # its held-out queries may be what was asked to go
        raise SluiceError(
            f"index.after names {name}, whose quantizer went with an older version in a takedown",
            "leave out index.after, so that one is trained anew",
        )
    coded = join(dataset_url, "codes", part.extra["codes"])
    return quantizer_url, quantizer_url.rpartition("/")[2], coded


def published(dataset_url: str) -> Artifact | None:
    """The index that a version published last."""
    pointer = join(dataset_url, "index", LATEST)
    if not filesystem.exists(pointer):
        return None
    return artifacts.load(join(dataset_url, "index", str(filesystem.read_json(pointer)["digest"])))


def place_in_store(url: str) -> str:
    """A folder of a version by its place in the store, which can be moved."""
    return "/".join(url.split("/")[-4:])
