"""Settings of block lists; light to import."""

from pydantic import BaseModel, ConfigDict, Field

_FORM = "file, folder or pattern: text, one {} a line, CSV or Parquet with a column `{}`"


class BlocklistSettings(BaseModel):
    """What is never written. Text and CSV may be gzipped (.gz); `#` starts a comment in text."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    uids: str | None = Field(None, description=_FORM.format("uid", "uid"))
    domains: str | None = Field(
        None, description=_FORM.format("domain", "domain") + "; with all that lies under them"
    )
    urls: str | None = Field(None, description=_FORM.format("URL", "url"))
    md5: str | None = Field(None, description=_FORM.format("MD5 of image files", "md5"))
    sha256: str | None = Field(None, description=_FORM.format("SHA-256 of image files", "sha256"))
    phash: str | None = Field(
        None, description=_FORM.format("perceptual hash (16 hex digits)", "phash")
    )
    phash_distance: int = Field(
        4, ge=0, le=10, description="bits of 64 in which a listed perceptual hash may differ"
    )
