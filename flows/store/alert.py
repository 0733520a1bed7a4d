"""Whether the funnel of a new version differs from those of the last versions of its dataset."""

from collections.abc import Sequence

from flows.store.funnel import KEPT, Change, funnel_change
from infra import artifacts
from infra.artifacts import MANIFEST, Artifact
from infra.errors import SluiceError
from infra.filesystem import join
from infra.filesystem.entries import entries
from infra.telemetry.events import ALERT

LAST = 10  # versions


def earlier(artifact: Artifact) -> list[Artifact]:
    """The last versions of the dataset that the same stage made, the newest first."""
    dataset = artifact.url.rstrip("/").rpartition("/")[0]
    folders = [each.url for each in entries(dataset) if each.folder]
    others = [url for url in folders if url.rpartition("/")[2] != artifact.digest]
    put = {
        url: entry.changed
        for url in others
        for entry in entries(url)
        if entry.name == MANIFEST and not entry.folder
    }
    found = (artifacts.load(url) for url in sorted(put, key=lambda url: -put[url]))
    stage = artifact.manifest["spec"]["stage"]
    made = [each for each in found if each and each.manifest["spec"]["stage"] == stage]
    return made[:LAST]


def alerts(artifact: Artifact) -> list[str]:
    """What of a new version's funnel moved further than runs vary, in words; [] for nothing."""
    before = earlier(artifact)
    changes = funnel_change([each.totals for each in before], artifact.totals)
    name = artifact.url.rstrip("/").split("/")[-2]
    return [_words(name, change, before) for change in changes if change.far]


def _words(name: str, change: Change, before: Sequence[Artifact]) -> str:
    state = "is kept" if change.state == KEPT else f"goes as {change.state}"
    versions = "version" if len(before) == 1 else f"{len(before)} versions"
    now, expected = f"{100 * change.share:.1f} %", f"{100 * change.expected:.1f} %"
    return (
        f"{ALERT}{now} of {name} {state}, {expected} in the last {versions}: "
        f"`prefect run diff {name}~1 {name}` tells more"
    )


def tell_alerts(artifact: Artifact) -> list[str]:
    """`alerts`, or why they could not be told: a store that fails here fails no run."""
    try:
        return alerts(artifact)
    except (OSError, SluiceError) as error:
        return [f"{join(artifact.url, MANIFEST)}: no comparison with earlier versions: {error}"]
