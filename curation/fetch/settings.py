"""Settings of fetching; light to import."""

from typing import Any

from pydantic import BaseModel, ConfigDict, Field, field_validator

AGENT_TOKEN = "sluice"
POLICY = {
    "agent", "snapshot", "robots_txt", "disallow", "max_bytes", "max_redirects", "allow_networks",
}  # fmt: skip


class FetchSettings(BaseModel):
    """How images are asked for. What is POLICY, not tuning, is part of a version's digest."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    contact: str | None = Field(
        None, description="e-mail or page of whoever runs this, for the user agent; be reachable"
    )
    agent: str = Field(
        AGENT_TOKEN, pattern="^[A-Za-z_-]+$", description="name in the user agent and in robots.txt"
    )
    snapshot: str | None = Field(
        None, description="any word, such as 2026-11; another one fetches the same table anew"
    )
    robots_txt: bool = Field(True, description="ask each host's robots.txt first (RFC 9309)")
    disallow: tuple[str, ...] = Field(
        ("noai", "noimageai", "noindex", "noimageindex"),
        description="X-Robots-Tag directives that refuse an image before its body is read",
    )
    connections: int = Field(128, gt=0, le=4096, description="open at once, in each worker")
    per_host: int = Field(8, gt=0, description="connections to one host at once, in each worker")
    rate: float = Field(0, ge=0, description="requests a second to one host, in each worker; 0: no"
                        " limit but `per_host`")  # fmt: skip
    connect_timeout: float = Field(10, gt=0, description="seconds to reach a server, TLS included")
    first_byte_timeout: float = Field(15, gt=0, description="seconds to the first byte of a header")
    timeout: float = Field(60, gt=0, description="seconds for one request with all of its body")
    max_bytes: int = Field(32 * 2**20, gt=0, description="an image beyond is too_large")
    max_redirects: int = Field(5, ge=0, description="of one image; more are redirect_refused")
    retries: int = Field(2, ge=0, le=10, description="of a transient failure, within the run")
    backoff: float = Field(1.0, gt=0, description="seconds before the first retry, then doubled")
    max_wait: float = Field(60, gt=0, description="longest wait before a retry, also where "
                            "Retry-After asks for more: then it stays a failure")  # fmt: skip
    resolvers: tuple[str, ...] = Field(
        (), description="DNS servers to ask in turn, ADDRESS or ADDRESS:PORT; none: the system's"
    )
    allow_networks: tuple[str, ...] = Field(
        (), description="CIDR ranges that may be fetched from although they are not public"
    )
    ca_file: str | None = Field(None, description="PEM file of certificate authorities to trust")
    proxy: str | None = Field(
        None, description="http://host:port; it then resolves, and addresses are its affair"
    )
    breaker: bool = Field(
        True, description="pause when failures say that the network here is broken, not the web"
    )

    @field_validator("disallow")
    @classmethod
    def _lower(cls, words: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(word.strip().lower() for word in words)

    def policy(self) -> dict[str, Any]:
        """What may decide about a sample, whatever the network does; the rest is only tuning."""
        return self.model_dump(mode="json", include=POLICY, exclude_none=True)

    @property
    def user_agent(self) -> str:
        contact = f"; +{self.contact}" if self.contact else ""
        return f"{self.agent}/1.0 (image-text dataset builder{contact})"
