import string
from urllib.parse import urljoin, urlsplit

import pytest
from hypothesis import given
from hypothesis import strategies as st

from curation.fetch import urls
from curation.fetch.urls import Target, domains, join, parse

HOST = "example.com"


def url_of(text: str) -> str | None:
    target = parse(text)
    return None if target is None else target.url


def test_a_target_has_the_parts_that_a_request_needs() -> None:
    assert parse("HTTPS://Example.COM:8443/a/../b c?q=1#f") == Target(
        "https",
        HOST,
        8443,
        "https://example.com:8443",
        "/b%20c?q=1",
        "https://example.com:8443/b%20c?q=1",
    )
    assert parse("http://example.com") == Target(
        "http", HOST, 80, "http://example.com:80", "/", "http://example.com/"
    )


@pytest.mark.parametrize(
    ("text", "url"),
    [
        (" http://example.com/a \n", "http://example.com/a"),
        ("http://example.com:80/", "http://example.com/"),
        ("https://example.com:80/", "https://example.com:80/"),
        ("http://example.com.", "http://example.com/"),
        ("http://bücher.example/ü?ü=ß", "http://xn--bcher-kva.example/%C3%BC?%C3%BC=%C3%9F"),
        ("http://faß.de", "http://xn--fa-hia.de/"),
        ("http://example.com/%C3%BC%20%zz%", "http://example.com/%C3%BC%20%zz%"),
        ("http://example.com?x", "http://example.com/?x"),
        ("http://example.com/?", "http://example.com/?"),
        ("http://example.com/a\\b", "http://example.com/a/b"),
        ("http://ex%61mple.com/", "http://example.com/"),
        ("http://１２７.0.0.1/", "http://127.0.0.1/"),
        ("http://2130706433/", "http://127.0.0.1/"),
        ("http://[::FFFF:1.2.3.4]:81/", "http://[::ffff:102:304]:81/"),
        ("http://a_b.example/", "http://a_b.example/"),
        ("http://localhost:8000/x", "http://localhost:8000/x"),
    ],
)
def test_a_url_is_normalised_as_browsers_do(text: str, url: str) -> None:
    assert url_of(text) == url


@pytest.mark.parametrize(
    "text",
    [
        "",
        "example.com/a.jpg",
        "//example.com/a.jpg",
        "/a.jpg",
        "ftp://example.com/a",
        "file:///etc/passwd",
        "data:image/png;base64,AAAA",
        "javascript:alert(1)",
        "gopher://example.com/",
        "http:example.com",
        "http://",
        "http:///",
        "http://user@example.com/",
        "http://user:word@example.com/",
        "http://:word@example.com/",
        "http://a b.example/",
        "http://a%20b.example/",
        "http://a%00b.example/",
        "http://a..example/",
        "http://.example/",
        "http://example.com../",
        "http://exa\tmple.com/",
        "http://example.com/\r\nHost: other",
        "http://example.com/a\x00b",
        "http://example.com/a\x7fb",
        "http://example.com:0/",
        "http://example.com:65536/",
        "http://example.com:x/",
        "http://1.2.3.4.5/",
        "http://256.1.1.1/",
        "http://[::1/",
        "http://[::1%25eth0]/",
        "http://[fe80::1%eth0]/",
        "http://*.example.com/",
        "http://\ud800.example/",
        "http://example.com/\ud800",
        "http://" + "a" * 64 + ".example/",
        "http://" + "a." * 127 + "example/",
        "http://example.com/" + "a" * urls.MAX_URL,
    ],
)
def test_what_nobody_should_request_is_no_target(text: str) -> None:
    assert parse(text) is None


ANY_URL = st.builds(
    "{}{}{}{}".format,
    st.sampled_from(["http://", "https://", "HTTP://", " http://", "http:/"]),
    st.sampled_from([HOST, "bücher.example", "127.1", "[::1]", "a.b.", "u@h"])
    | st.text(max_size=9),
    st.sampled_from(["", ":80", ":8080", ":", ":99999"]),
    st.text(max_size=30) | st.text(string.printable + "ü€%", max_size=30).map("/{}".format),
)


@given(st.text() | ANY_URL)
def test_any_text_gives_a_target_that_is_its_own_normal_form_or_none(text: str) -> None:
    target = parse(text)
    if target is None:
        return
    assert parse(target.url) == target
    assert target.url.isascii() and target.url.isprintable() and " " not in target.url
    assert 0 < target.port < 65536 and "#" not in target.url
    seen = urlsplit(target.url)  # another parser sees the same parts
    assert (seen.scheme, seen.port or urls.PORTS[seen.scheme]) == (target.scheme, target.port)
    assert (seen.hostname, seen.username) == (target.host.strip("[]"), None)
    assert target.origin == f"{target.scheme}://{target.host}:{target.port}"
    assert target.url.endswith(target.path) and target.path.startswith("/")


BASE = parse("https://example.com/a/b?c")


@pytest.mark.parametrize(
    ("location", "url"),
    [
        ("../x", "https://example.com/x"),
        ("x", "https://example.com/a/x"),
        ("/x y", "https://example.com/x%20y"),
        ("?z", "https://example.com/a/b?z"),
        ("#f", "https://example.com/a/b?c"),
        ("//other.example/y", "https://other.example/y"),
        (" HTTP://Other.example ", "http://other.example/"),
        ("http://127.1/", "http://127.0.0.1/"),
        ("ftp://example.com/", None),
        ("file:///etc/passwd", None),
        ("http://[", None),
        ("//u:p@other.example/", None),
        ("/a\r\nX: y", None),
    ],
)
def test_redirects(location: str, url: str | None) -> None:
    assert BASE is not None
    target = join(BASE, location)
    assert (target and target.url) == url


@given(st.text())
def test_a_redirect_to_any_text_never_raises(location: str) -> None:
    assert BASE is not None
    target = join(BASE, location)
    assert target is None or parse(target.url) == target


@given(st.from_regex(r"(\.\./|\./|[a-c]{1,2}/){0,5}[a-c]{0,2}(\?[a-c]{0,3})?", fullmatch=True))
def test_relative_redirects_follow_rfc_3986(location: str) -> None:
    assert BASE is not None
    target = join(BASE, location)
    assert target is not None and target.url == urljoin(BASE.url, location)


def test_the_domains_a_host_lies_under() -> None:
    assert domains("a.b.example.com") == ["a.b.example.com", "b.example.com", "example.com", "com"]
    assert domains("127.0.0.1") == ["127.0.0.1"]
    assert domains("[::1]") == ["[::1]"]
