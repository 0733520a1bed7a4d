"""URLs as they will be requested: parsed and normalised as browsers do (WHATWG URL standard)."""

import re
from typing import NamedTuple
from urllib.parse import urljoin

from pydantic_core import Url

MAX_URL = 32_768  # characters; servers take far less
MAX_HOST = 253  # RFC 1035
PORTS = {"http": 80, "https": 443}
# Names that can be asked for, and addresses in brackets, which the parser has read.
_HOST = re.compile(r"(?:[a-z0-9_-]{1,63}\.)*[a-z0-9_-]{1,63}|\[[0-9a-f:]+\]")
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
_SPACE = "".join(map(chr, range(33)))  # around a URL it is no part of it


class Target(NamedTuple):
    """A URL to be requested. `path` has the query with it; `url` is all, normalised.

    `host` is lower case, in ASCII (IDNA), without a last dot; an IPv4 address is in its usual
    form, however it was written, and IPv6 in brackets.
    """

    scheme: str
    host: str
    port: int
    origin: str  # https://host:port
    path: str
    url: str


def parse(url: str) -> Target | None:
    """The target of an http(s) URL; None for what is none, or what nobody should request.

    Refused: other schemes, user and password, control characters, hosts that cannot be. What is
    not ASCII in path and query is percent-encoded, what is encoded stays; the fragment goes.
    """
    text = url.strip(_SPACE)
    if len(text) > MAX_URL or text[:8].lower().partition("://")[0] not in PORTS:
        return None
    if _CONTROL.search(text):  # a parser would drop or encode it: it is no URL that was meant
        return None
    try:
        parsed = Url(text)
    except ValueError:
        return None
    host, port = parsed.host or "", parsed.port
    if parsed.username is not None or parsed.password is not None or not port:
        return None
    if host.endswith("."):
        host = host[:-1]
    if len(host) > MAX_HOST or not _HOST.fullmatch(host):
        return None
    path = (parsed.path or "/") + ("" if parsed.query is None else f"?{parsed.query}")
    scheme = parsed.scheme
    place = host if port == PORTS[scheme] else f"{host}:{port}"
    return Target(
        scheme, host, port, f"{scheme}://{host}:{port}", path, f"{scheme}://{place}{path}"
    )


def join(base: Target, location: str) -> Target | None:
    """Where a redirect leads from `base` (RFC 3986, section 5); None as for `parse`."""
    text = location.strip(_SPACE)
    if _CONTROL.search(text):
        return None
    try:
        return parse(urljoin(base.url, text))
    except ValueError:
        return None


def domains(host: str) -> list[str]:
    """The host and the domains it lies under: a.b.c, b.c, c; an address lies under none."""
    if host.startswith("[") or host.rpartition(".")[2].isdigit():
        return [host]
    labels = host.split(".")
    return [".".join(labels[first:]) for first in range(len(labels))]
