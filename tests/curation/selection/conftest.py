"""Datasets with verdicts on which a sampling plan can be run."""

from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from curation.contamination import shard_items
from curation.curate import CurateWork, curate_draft
from curation.dedup import ALL
from curation.rules_settings import RuleSettings
from curation.selection.select import SelectionWork, older_url, selection_draft
from curation.selection.settings import SelectionSettings
from curation.verdicts import VerdictsWork, verdicts_draft
from infra.artifacts import Artifact
from infra.dataset import part_name, publish, read_table

RULES = (RuleSettings(reason="small", score="rows.width", min=32),)


class Selecting:
    """Verdicts, a selection and the curated version of a dataset."""

    def __init__(self, maker: Any) -> None:
        self.maker = maker

    def verdicts(self, made: Any) -> Any:
        draft = verdicts_draft(made.url, made.digest, made.folders, None, RULES, None)
        work = VerdictsWork(draft.url, made.url, made.folders, None, RULES, None)
        self.maker.run(draft, [ALL], work)
        return draft

    def select(
        self, made: Any, *plan: dict[str, Any], seed: int = 0, after: str | None = None
    ) -> Artifact:
        settings = SelectionSettings.model_validate({"plan": plan, "seed": seed, "after": after})
        decided = self.verdicts(made)
        digest = decided.spec.digest
        draft = selection_draft(made.url, made.digest, made.folders, digest, settings)
        older = older_url(made.store, settings)
        work = SelectionWork(draft.url, made.url, made.folders, decided.url, settings, older)
        return self.maker.run(draft, [ALL], work)

    def curate(self, made: Any, selection: Artifact | None) -> Artifact:
        decided = self.verdicts(made)
        draft = curate_draft(
            made.store, "curated", made.url, made.digest, decided.spec.digest, made.folders, None,
            selection and selection.digest,
        )  # fmt: skip
        work = CurateWork(draft.url, made.url, decided.url, selection and selection.url)
        shards = len(self.table(decided.url, made).column("shard").unique())
        artifact = self.maker.run(draft, shard_items(range(shards)), work)
        publish(made.store, "curated", artifact)
        return artifact

    def table(self, url: str, made: Any) -> pa.Table:
        """The row-aligned files of an artifact, one after the other."""
        shards = range(len(list(Path(made.url).glob("rows/*.parquet"))))
        return pa.concat_tables(read_table(f"{url}/{part_name(shard)}.parquet") for shard in shards)


@pytest.fixture
def selecting(maker: Any) -> Selecting:
    return Selecting(maker)
