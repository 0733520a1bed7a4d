"""X-Robots-Tag: what a server says in its headers about the use of an image.

The grammar is Google's ("Robots meta tag and X-Robots-Tag specifications"): `[agent:] directive,
directive, ...`, in one or several headers; `noai` and `noimageai` are DeviantArt's.
"""

import re
from collections.abc import Collection, Iterator, Sequence

DIRECTIVES = ("noai", "noimageai", "noindex", "noimageindex")
NONE = "none"  # stands for noindex and nofollow
_VALUED = frozenset({"unavailable_after", "max-snippet", "max-image-preview", "max-video-preview"})
_SEPARATOR = re.compile(r"[,;]")  # the comma; the semicolon is a common slip
_AGENT = re.compile(r"([0-9]*[a-z_*][^\s/]*)(?:/\S*)?")  # no hour of a date


def refused(
    headers: Sequence[str], agent: str, directives: Collection[str] = DIRECTIVES
) -> str | None:
    """The first directive that refuses this agent, as it was written but in lower case; or None.

    headers: the values of all X-Robots-Tag headers. Directives before any agent's name concern
    everyone, those after one only that agent (`*`: everyone).
    """
    ours = ("*", agent.lower())
    for header in headers:
        for name, directive in _directives(header.lower()):
            if name is not None and name not in ours:
                continue
            if directive in directives or (directive == NONE and "noindex" in directives):
                return directive
    return None


def _directives(header: str) -> Iterator[tuple[str | None, str]]:
    """Pairs of agent (None: everyone) and directive of a header in lower case.

    An agent's name holds until the next one: headers folded into one read the same.
    """
    agent = None
    for piece in _SEPARATOR.split(header):
        while ":" in piece:
            name, _, rest = piece.partition(":")
            found = _AGENT.fullmatch(name.strip())
            if found is None or found[1] in _VALUED:
                break  # a directive with a value, or the rest of its date
            agent, piece = found[1], rest
        yield agent, piece.strip()
