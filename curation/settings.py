"""Settings of ingest: where samples come from; light to import."""

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

SourceKind = Literal["tars", "parquet", "folder"]
KINDS: tuple[SourceKind, ...] = ("tars", "parquet", "folder")
COLUMNS = ("image", "caption", "url", "uid")


class SourceSettings(BaseModel):
    """One source: tars, Parquet files, or an image folder, on any fsspec URL."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    tars: str | None = Field(
        None, description="WebDataset tars: a file, a folder, or a pattern like shards/*.tar"
    )
    parquet: str | None = Field(
        None, description="Parquet files with image bytes: a file, a folder, or a pattern"
    )
    folder: str | None = Field(
        None, description="image folder: NAME.jpg|png|webp beside NAME.txt and, perhaps, NAME.json"
    )
    image: str | None = Field(None, description="Parquet column of image bytes (jpg)")
    caption: str | None = Field(None, description="Parquet column of captions (caption)")
    url: str | None = Field(None, description="Parquet column of URLs (url, where there is one)")
    uid: str | None = Field(None, description="Parquet column of uids (uid, where there is one)")
    fingerprint: str | None = Field(
        None, description="names the state of these files, where hashing them would take too long"
    )

    @model_validator(mode="after")
    def _one_kind(self) -> "SourceSettings":
        given = [kind for kind in KINDS if getattr(self, kind) is not None]
        if len(given) != 1:
            raise ValueError(
                f"give exactly one of tars, parquet and folder, not {' and '.join(given) or 'none'}"
            )
        if not self.location.strip():
            raise ValueError(f"{given[0]} is empty: give a file, a folder or a pattern")
        if self.kind != "parquet":
            columns = [name for name in COLUMNS if getattr(self, name) is not None]
            if columns:
                raise ValueError(f"{', '.join(columns)} name Parquet columns, {given[0]} have none")
        return self

    @property
    def kind(self) -> SourceKind:
        return next(kind for kind in KINDS if getattr(self, kind) is not None)

    @property
    def location(self) -> str:
        """The URL, folder or pattern."""
        return str(getattr(self, self.kind))
