"""The language of the caption."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from importlib.metadata import version
from typing import Any

import pyarrow as pa

from curation.score import Batch, Scores, filled
from curation.units import BETTER, column

PACKAGE = "py3langid"
LONGEST = 1000  # characters that are looked at


@dataclass(frozen=True)
class LanguageScorer:
    """Columns (null for rows rejected at ingest, and for captions without a letter):

    code          string, ISO 639-1; "zxx" where the model sees no language
    confidence    float32 0..1, the model's probability; low for captions of a few words even
                  where the code is right

    The model is that of the package py3langid (139 languages; naive Bayes over byte n-grams, Lui
    and Baldwin 2012, "langid.py: An Off-the-shelf Language Identification Tool"). It is part of
    the package: nothing is fetched.
    """

    name = "language"
    code = 1
    reads_images = False
    reads_vectors = ()
    vectors = ()
    columns = pa.schema(
        [
            pa.field("code", pa.string()),
            column("confidence", pa.float32(), "probability", BETTER),
        ]
    )

    def settings(self) -> Mapping[str, Any]:
        return {"model": f"{PACKAGE} {version(PACKAGE)}"}

    def score(self, batch: Batch) -> Scores:
        captions: list[str | None] = batch.rows["caption"].to_pylist()
        positions = [row for row in batch.valid if has_letters(captions[row])]
        found = [language(captions[row] or "") for row in positions]
        codes, confidences = zip(*found, strict=True) if found else ((), ())
        columns = {
            "code": filled(len(batch), positions, codes, pa.string()),
            "confidence": filled(len(batch), positions, confidences, pa.float32()),
        }
        return Scores(pa.table(columns))


def has_letters(caption: str | None) -> bool:
    return any(map(str.isalpha, caption or ""))


def language(caption: str) -> tuple[str, float]:
    """The code of the likeliest language, and its probability."""
    code, confidence = _model().classify(" ".join(caption[:LONGEST].split()))
    return str(code), float(confidence)


@lru_cache(maxsize=1)
def _model() -> Any:
    """Loaded once per process, some 100 MB."""
    from py3langid.langid import MODEL_FILE, LanguageIdentifier

    return LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)
