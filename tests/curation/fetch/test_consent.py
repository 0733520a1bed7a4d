import pytest
from hypothesis import given
from hypothesis import strategies as st

from curation.fetch.consent import DIRECTIVES, refused

AGENT = "sluice"


@pytest.mark.parametrize(
    ("headers", "directive"),
    [
        ([], None),
        ([""], None),
        (["all"], None),
        (["noai"], "noai"),
        (["NoImageAI"], "noimageai"),
        (["noindex, nofollow"], "noindex"),
        (["nofollow , noimageindex"], "noimageindex"),
        (["nofollow; noai"], "noai"),
        (["none"], "none"),
        (["all, noai"], "noai"),
        (["nofollow", "noarchive", "noai"], "noai"),
        (["nofollow, nosnippet, noarchive, notranslate"], None),
        (["noaix", "xnoai", "no ai", "no-ai", "noai=1"], None),
        # for agents
        (["sluice: noai"], "noai"),
        (["Sluice : NOAI"], "noai"),
        (["sluice/1.0: noai"], "noai"),
        (["*: noai"], "noai"),
        (["otherbot: noai"], None),
        (["otherbot: noindex, nofollow, noai"], None),
        (["sluicebot: noai", "mysluice: noai"], None),
        (["otherbot: noai", "noindex"], "noindex"),
        (["noai, otherbot: noindex"], "noai"),
        (["otherbot: noindex, sluice: noai"], "noai"),
        (["sluice: nofollow, otherbot: noai"], None),
        (["360spider: noai"], None),
        # directives with values
        (["unavailable_after: 25 Jun 2010 15:00:00 PST"], None),
        (["unavailable_after: 25 Jun 2010 15:00:00 PST, noai"], "noai"),
        (["unavailable_after: Friday, 25-Jun-10 15:00:00 GMT, noai"], "noai"),
        (["unavailable_after: 2010-06-25T15:00:00+00:00, noai"], "noai"),
        (["max-image-preview: large, noai"], "noai"),
        (["max-snippet:-1, max-image-preview:large, max-video-preview:-1"], None),
        (["max-snippet: 20; noimageindex"], "noimageindex"),
        (["otherbot: max-snippet: 20, noai"], None),
        (["sluice: unavailable_after: 25 Jun 2010 15:00:00 PST, noai"], "noai"),
        ([":", ": noai", "::::", ",,;,"], None),
    ],
)
def test_who_is_refused_and_by_what(headers: list[str], directive: str | None) -> None:
    assert refused(headers, AGENT) == directive


def test_the_directives_are_a_choice() -> None:
    assert refused(["noai, noindex, none"], AGENT, ()) is None
    assert refused(["noai, noindex"], AGENT, ("noindex",)) == "noindex"
    assert refused(["none"], AGENT, ("noai",)) is None
    assert refused(["noml"], AGENT, ("noml",)) == "noml"


@given(st.lists(st.text() | st.text("noaisluce:,*; -/"), max_size=4))
def test_any_headers_are_read(headers: list[str]) -> None:
    assert refused(headers, AGENT) in (None, "none", *DIRECTIVES)


@given(st.lists(st.sampled_from(["nofollow", "noarchive", "max-snippet: 3"]), max_size=4))
def test_a_refusal_holds_wherever_it_stands_in_a_list(others: list[str]) -> None:
    for place in range(len(others) + 1):
        header = ", ".join([*others[:place], "NOAI", *others[place:]])
        assert refused([header], AGENT) == "noai"
        assert refused([f"sluice: {header}"], AGENT) == "noai"
        assert refused([f"otherbot: {header}"], AGENT) is None
