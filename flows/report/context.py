"""What a report is told: where the artifacts of one run lie, and what the run was."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol


class Timing(Protocol):
    """How long a step took, in this run or in the one that left its result in the store."""

    @property
    def name(self) -> str: ...
    @property
    def seconds(self) -> float: ...
    @property
    def cpu_seconds(self) -> float: ...
    @property
    def rows(self) -> int: ...
    @property
    def from_store(self) -> bool: ...


@dataclass(frozen=True)
class ReportContext:
    """URLs of the artifacts of one run; whatever is None is told as "not part of this run".

    scores: by scorer name ("image", "clip", ...). runs: training runs by name.
    captions: score folders of generated captions, by name, row-aligned with `curated`.
    versions: what else runs learnt from, by the names in the recipe.
    canaries: Parquet of planted defects (uid, defect, twin_uid); no stage ever sees it.
    evaluation: an evaluation artifact. held_out: the dataset that evaluation leaks are copies of.
    compare: the comparison of the evaluation that answers "did curation help?"; None: its first.
    filter_model: one sentence on the embedding model that scored the pairs, never empty.
    """

    name: str = "curate-and-pretrain"
    pool: str | None = None
    curated: str | None = None
    verdicts: str | None = None
    selection: str | None = None
    edges: str | None = None
    scores: Mapping[str, str] = field(default_factory=dict)
    canaries: str | None = None
    runs: Mapping[str, str] = field(default_factory=dict)
    evaluation: str | None = None
    held_out: str | None = None
    index: str | None = None
    fractals: str | None = None
    captions: Mapping[str, str] = field(default_factory=dict)
    versions: Mapping[str, str] = field(default_factory=dict)
    filter_model: str = "unknown: this report was not told which embedding model was used"
    filter_trained: bool = False
    compare: str | None = None
    recipe: Mapping[str, Any] = field(default_factory=dict)
    steps: Sequence[Timing] = ()
