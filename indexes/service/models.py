"""What requests and answers hold, for validation and for /openapi.json."""

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

UIDS = 100_000  # in one request


def _whole(text: str) -> str:
    """JSON can hold half a surrogate pair and NUL, which the libraries behind do not take."""
    try:
        text.encode()
    except UnicodeEncodeError:
        raise ValueError("holds half a character") from None
    if "\0" in text:
        raise ValueError("holds NUL")
    return text


Words = Annotated[str, AfterValidator(_whole)]


class Question(BaseModel):
    """One of vector, uid, and text or a picture or both."""

    model_config = ConfigDict(extra="forbid")

    text: Words | None = Field(default=None, max_length=20_000)
    image: str | None = Field(default=None, description="base64 of a JPEG, PNG or WebP file")
    image_url: Words | None = Field(default=None, max_length=8192)
    uid: Words | None = Field(
        default=None, max_length=256, description="a row; its hits are the others"
    )
    vector: list[float] | None = Field(default=None, max_length=65_536)
    weight: float = Field(
        default=0.5, ge=0, le=1, description="of the text, where there is a picture too"
    )
    where: Words | None = Field(default=None, description="SQL condition over the columns")
    min_similarity: float | None = None

    @property
    def asks(self) -> bool:
        """Whether there is a question at all, and not only a condition."""
        kinds = (self.text, self.image, self.image_url, self.uid, self.vector)
        return any(kind is not None for kind in kinds)


class Search(Question):
    """A question and how many hits are wanted."""

    k: int = Field(default=50, ge=1)
    dedup: float | None = Field(
        None, gt=0, le=1, description="leave out hits as similar to a better one as this cosine"
    )


class Subset(Question):
    """Rows by uid; or all that meet a condition, a similarity to a question, or both."""

    name: Words = Field(max_length=200, description="of the dataset that is made")
    uids: list[Words] | None = Field(default=None, max_length=UIDS)


class Uids(BaseModel):
    """Rows to look for."""

    model_config = ConfigDict(extra="forbid")

    uids: list[Words] = Field(max_length=UIDS)


class Column(BaseModel):
    """A column of an index by name and Arrow type."""

    name: str
    type: str


class IndexInfo(BaseModel):
    """An index that is served. follows: the dataset whose newest version it is, if it follows."""

    name: str
    follows: str | None
    vectors: int
    dimension: int
    kind: str
    recall: dict[str, Any]
    columns: list[Column]
    text: bool = Field(description="whether a text or a picture can be asked")


class Hits(BaseModel):
    """Hits with rank (from 1), similarity (null in a sample), uid, and every column."""

    hits: list[dict[str, Any]]
    how: str
    took_ms: float


class Verdict(BaseModel):
    """Why a row was kept or dropped; the columns of verdicts/."""

    kept: bool
    reason: str | None
    reasons: list[str]
    score: float | None
    threshold: float | None
    twin_uid: str | None
    twin_similarity: float | None


class Duplicate(BaseModel):
    """A row joined to this one by a stored pair."""

    uid: str
    similarity: float
    kind: str


class Row(BaseModel):
    """All that is known of a row."""

    columns: dict[str, Any]
    verdict: Verdict | None
    duplicates: list[Duplicate]


class Histogram(BaseModel):
    """edges and counts of a column of numbers, values and their counts of another."""

    edges: list[float] | None = None
    counts: list[int] | None = None
    values: list[tuple[Any, int]] | None = None
    nulls: int


class Contained(BaseModel):
    """For each uid whether the index holds it."""

    contained: list[bool]


class Saved(BaseModel):
    """A subset that was made."""

    dataset: str
    version: str
    rows: int


class Health(BaseModel):
    """What is served; waiting and failed: newer versions that are not, and why."""

    status: Literal["ok"]
    indexes: list[str]
    waiting: dict[str, str]
    failed: dict[str, str]


class Failure(BaseModel):
    """Every answer of 400 and above."""

    error: str
    way_out: str
