"""Which kind of index "auto" stands for, and why."""

from dataclasses import dataclass

from indexes.kinds import KINDS
from indexes.settings import IndexSettings

FLAT_LIMIT = 20_000  # vectors that a full comparison answers in milliseconds
RABITQ_DIMENSIONS = 64  # below, one bit a dimension says too little
MOST_LISTS = 2**17


@dataclass(frozen=True)
class Choice:
    """A kind of index, its inverted lists (0 where it has none), and why, in a sentence."""

    kind: str
    lists: int
    why: str


def choose(settings: IndexSettings, count: int, dimension: int, local: bool) -> Choice:
    """The index of `count` vectors of so many dimensions.

    local: whether the stored vectors lie on this machine's disks, where to score a candidate
    again takes a microsecond; in a remote store it takes a request.
    """
    lists = min(settings.lists or int(4 * count**0.5), MOST_LISTS, count)
    sizes = {name: kind.size(count, dimension, lists) for name, kind in KINDS.items()}
    kind, why = settings.kind, "as the settings say"
    if kind == "auto":
        kind, why = _chosen(settings, sizes, count, dimension, local)
        why = f"{count:,} vectors of {dimension} dimensions: {why}"
    if not KINDS[kind].inverted:
        lists = 0
    return Choice(kind, lists, why)


def _chosen(
    settings: IndexSettings, sizes: dict[str, int], count: int, dimension: int, local: bool
) -> tuple[str, str]:
    memory = int(settings.memory)
    fits = f"fits into {memory / 2**20:,.0f} MiB"
    if settings.recall_target == 1:
        return "flat", "a recall of 1 is only certain where all are compared"
    if count <= FLAT_LIMIT:
        return "flat", "few enough to compare all in milliseconds"
    if not local and sizes["ivf_flat"] <= memory:
        return "ivf_flat", f"the stored vectors are remote, and a copy of all {fits}"
    if sizes["ivf_sq8"] <= memory:
        return "ivf_sq8", (
            f"a byte a dimension {fits}, and the best it finds are scored again by the stored "
            "vectors"
        )
    if dimension < RABITQ_DIMENSIONS:
        return "ivf_sq8", "too few dimensions for codes of one bit; its lists are read from disk"
    size = f"{sizes['ivf_rabitq'] / 2**20:,.0f} MiB"
    held = f"{size} fit" if sizes["ivf_rabitq"] <= memory else f"its {size} are read from disk"
    return "ivf_rabitq", (
        f"a byte a dimension would not go into {memory / 2**20:,.0f} MiB, one bit is the least "
        f"({held}), and what it finds is scored again by the stored vectors"
    )
