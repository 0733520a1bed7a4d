"""Settings of ingest: where samples come from; light to import."""

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from infra.secrets import redacted, secret_in

SourceKind = Literal["tars", "parquet", "arrow", "folder", "urls"]
KINDS: tuple[SourceKind, ...] = ("tars", "parquet", "arrow", "folder", "urls")
COLUMNS = ("image", "caption", "url", "uid", "expected")
TAKES = {  # which columns the files of a kind may be told to have
    "tars": (),
    "parquet": ("image", "caption", "url", "uid"),
    "arrow": ("image", "caption", "url", "uid"),
    "folder": (),
    "urls": ("caption", "url", "uid", "expected"),
}


class SourceSettings(BaseModel):
    """One source: tables of URLs, tars, Parquet or Arrow files, or an image folder.

    Each by file, folder or pattern (*, {00..12}, {a,b}), on any fsspec URL.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    tars: str | None = Field(
        None, description="WebDataset tars: a file, a folder, or a pattern like shards/*.tar"
    )
    parquet: str | None = Field(
        None, description="Parquet files with image bytes: a file, a folder, or a pattern"
    )
    arrow: str | None = Field(
        None, description="Arrow IPC files with image bytes: a file, a folder, or a pattern"
    )
    folder: str | None = Field(
        None, description="image folder: NAME.jpg|png|webp beside NAME.txt and, perhaps, NAME.json"
    )
    urls: str | None = Field(
        None,
        description="tables of URLs to fetch, all of one format: .parquet, .csv, .tsv, .jsonl or "
        ".txt, the text ones also .gz or .zst",
    )
    image: str | None = Field(None, description="column of image bytes (jpg)")
    caption: str | None = Field(
        None, description="column of captions (caption, text, alt); '' where there is none"
    )
    url: str | None = Field(None, description="column of URLs (url, image_url, link)")
    uid: str | None = Field(None, description="column of uids (uid, where there is one)")
    expected: str | None = Field(
        None, description="column of MD5 or SHA-256 that the fetched bytes must have"
    )
    subset: str | None = Field(
        None, description="DataComp subset file (.npy): only rows with a uid in it, as often as it"
    )
    copy_samples: bool = Field(
        False, description="copy the samples into the store instead of naming the tars they are in"
    )
    fingerprint: str | None = Field(
        None, description="names the state of these files, where hashing them would take too long"
    )

    @model_validator(mode="after")
    def _one_kind(self) -> "SourceSettings":
        given = [kind for kind in KINDS if getattr(self, kind) is not None]
        if len(given) != 1:
            raise ValueError(
                f"give exactly one of {', '.join(KINDS)}, not {' and '.join(given) or 'none'}"
            )
        if not self.location.strip():
            raise ValueError(f"{given[0]} is empty: give a file, a folder or a pattern")
        if secret := secret_in(self.location):
            raise ValueError(
                f"{redacted(self.location)} holds {secret}, which would stand in the store: put "
                "credentials into the environment (AWS_PROFILE, AWS_ACCESS_KEY_ID and the like)"
            )
        columns = [name for name in COLUMNS if getattr(self, name) is not None]
        wrong = [name for name in columns if name not in TAKES[self.kind]]
        if wrong:
            raise ValueError(f"{', '.join(wrong)} name columns that {given[0]} do not have")
        return self

    @property
    def kind(self) -> SourceKind:
        return next(kind for kind in KINDS if getattr(self, kind) is not None)

    @property
    def location(self) -> str:
        """The URL, folder or pattern."""
        return str(getattr(self, self.kind))
