"""Which column of a table holds what: as the recipe says, else by the names the field uses."""

import difflib
from collections.abc import Iterable, Mapping, Sequence

from curation.settings import SourceSettings
from infra.errors import SluiceError

# LAION writes URL and TEXT, DataComp url, text and uid, img2dataset url and caption. A column
# `hash` (LAION) is made of URL and text, and `sha256` is what somebody once fetched: neither is
# a promise about the bytes of today unless the recipe says so (`expected`).
KNOWN: Mapping[str, tuple[str, ...]] = {
    "url": ("url", "image_url", "link"),
    "caption": ("caption", "text", "alt", "alt_text"),
    "uid": ("uid",),
    "expected": (),
}
NONE = ""  # how a recipe says that a table has no such column


def find_roles(
    file: str,
    names: Sequence[str],
    settings: SourceSettings,
    texts: Iterable[str] | None = None,
) -> dict[str, str]:
    """role (url, caption, uid, expected) -> column, for a table of URLs with columns `names`.

    texts: those of the columns that hold text (all). A table in which nothing beside the URL
    and the uid could be a caption has none, and then no role "caption". Raises SluiceError for
    a column that the recipe names and the file does not have, for a URL or caption that is not
    found, and for two columns of one name.
    """
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise SluiceError(
            f"{file} has two columns named {twice[0]!r}", "give each column a name of its own"
        )
    texts = set(names if texts is None else texts)
    found: dict[str, str] = {}
    for role, known in KNOWN.items():
        given: str | None = getattr(settings, role)
        if given is not None and given != NONE:
            if given not in names:
                raise _missing(file, role, given, names)
            found[role] = given
        elif given is None:
            name = _known(known, names)
            if name is not None:
                found[role] = name
    if "url" not in found:
        raise _missing(file, "url", KNOWN["url"][0], names)
    left = [name for name in names if name in texts and name not in found.values()]
    if "caption" not in found and settings.caption is None and left:
        raise _missing(file, "caption", KNOWN["caption"][0], names)
    if settings.subset and "uid" not in found:
        raise _missing(file, "uid", KNOWN["uid"][0], names)
    return found


def usual_roles(settings: SourceSettings) -> dict[str, str]:
    """The roles in a table that does not show its columns: a JSON table that begins badly."""
    usual = {role: known[0] for role, known in KNOWN.items() if known}
    given = {role: getattr(settings, role) for role in KNOWN}
    named = usual | {role: name for role, name in given.items() if name is not None}
    return {role: name for role, name in named.items() if name != NONE}


def _known(known: Sequence[str], names: Sequence[str]) -> str | None:
    """The column of the first known name, as it is written before in other cases."""
    for name in known:
        found = [column for column in names if column.lower() == name]
        if found:
            return name if name in found else found[0]
    return None


def _missing(file: str, role: str, name: str, names: Sequence[str]) -> SluiceError:
    shown = ", ".join(name[:60] for name in names[:30]) + (", ..." if len(names) > 30 else "")
    lower = {name.lower(): name for name in reversed(names)}
    wanted = [name.lower(), *KNOWN[role]]
    near = [lower[match] for word in wanted for match in difflib.get_close_matches(word, lower)]
    hint = f"; near: {', '.join(dict.fromkeys(near))}" if near else ""
    way_out = f"name the right one in the source: `{role}: COLUMN`"
    if role == "caption":
        way_out += ", or `caption: ''` where there are no captions"
    elif not any(candidate.isidentifier() for candidate in names):
        way_out += "; if this is no header but a row, put a header line before it"
    what = f"{file} has no column {name!r} for the {role}; it has {shown}{hint}"
    return SluiceError(what, way_out)
