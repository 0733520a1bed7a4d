"""Outcomes of records in plain language; the words themselves are in curation/outcomes.py."""

from typing import NamedTuple

from curation import outcomes
from curation.sources import base, columnar, folder, tars


class Words(NamedTuple):
    """An outcome as people say it: a name, and what had happened."""

    title: str
    meaning: str


WORDS = {
    "ok": Words("downloaded", "an image came"),
    outcomes.BAD_URL: Words("bad URL", "no http or https address that can be asked for"),
    outcomes.BAD_LINE: Words("unreadable line", "the line of the table could not be read"),
    outcomes.MISSING_URL: Words("no URL", "the row of the table has none"),
    outcomes.DNS: Words("host not found", "the host's name could not be looked up (DNS)"),
    outcomes.CONNECT: Words("no connection", "the host did not answer, or hung up"),
    outcomes.TLS: Words("no secure connection", "TLS failed, most often a bad certificate"),
    outcomes.TIMEOUT: Words("timed out", "no answer, or not all of it, in the time allowed"),
    outcomes.ADDRESS_REFUSED: Words(
        "private address", "the host's name leads into a private network, where nobody is asked"
    ),
    outcomes.NOT_FOUND: Words("not found (404)", "the server has nothing at this URL any more"),
    outcomes.GONE: Words("gone (410)", "the server says that it was removed for good"),
    outcomes.DENIED: Words(
        "access denied (401, 403)", "the server wants a login, or turns programs away"
    ),
    outcomes.TOO_MANY_REQUESTS: Words(
        "too many requests (429)", "the server asked for a slower pace, at every attempt"
    ),
    outcomes.CLIENT_ERROR: Words("request refused (other 4xx)", "the server refused to answer"),
    outcomes.SERVER_ERROR: Words("server error (5xx)", "the server failed, at every attempt"),
    outcomes.BAD_RESPONSE: Words(
        "unusable answer", "what came was not HTTP, or had a status that is no answer"
    ),
    outcomes.REDIRECT_REFUSED: Words(
        "redirect refused", "too many redirects, a circle of them, or one that leads nowhere"
    ),
    outcomes.TOO_LARGE: Words("too many bytes", "the file is larger than the settings allow"),
    outcomes.FAILED_BEFORE: Words("failed before", "at another tool, which does not say why"),
    outcomes.TRUNCATED: Words("cut short", "the file ended before its end"),
    outcomes.NOT_AN_IMAGE: Words("not an image", "something else came, most often a web page"),
    outcomes.UNSUPPORTED_FORMAT: Words("other image format", "not JPEG, PNG or WebP"),
    outcomes.DECODE_FAILED: Words("damaged image", "the image could not be decoded"),
    outcomes.TOO_MANY_PIXELS: Words(
        "too many pixels", "the image is larger than the settings allow"
    ),
    outcomes.TOO_SMALL: Words("too small", "the image is smaller than the settings allow"),
    outcomes.EXTREME_ASPECT: Words(
        "extreme shape", "wider or higher, for its other side, than the settings allow"
    ),
    outcomes.BAD_BOXES: Words(
        "unreadable face boxes", "the boxes of faces to blur were no boxes, so that one might stay"
    ),
    outcomes.HASH_MISMATCH: Words("changed image", "not the bytes that the table promised"),
    outcomes.DISALLOWED_BY_ROBOTS: Words(
        "disallowed by robots.txt", "the host's robots.txt asks not to fetch it"
    ),
    outcomes.DISALLOWED_BY_HEADER: Words(
        "disallowed by X-Robots-Tag", "the server's answer asks not to use it"
    ),
    outcomes.BLOCKLISTED: Words("on a block list", "its domain, URL or content is listed"),
    outcomes.TAKEN_DOWN: Words("taken down", "somebody asked for it to go"),
    base.MISSING_IMAGE: Words("no image", "the record holds no image"),
    base.MISSING_CAPTION: Words("no caption", "the record holds no caption"),
    base.TWO_IMAGES: Words("two images", "the record holds more than one image"),
    base.TWO_CAPTIONS: Words("two captions", "the record holds more than one caption"),
    base.MEMBER_TOO_LARGE: Words("too large a file", "a file of the tar is too large to be read"),
    base.LINKED_MEMBER: Words("a link", "a file of the tar is a link, which is not followed"),
    base.CAPTION_NOT_UTF8: Words("unreadable caption", "the caption is not UTF-8"),
    base.BAD_JSON: Words("unreadable JSON", "what rides along could not be read"),
    columnar.DAMAGED: Words("damaged row group", "a part of the table could not be read"),
    folder.UNREADABLE: Words("unreadable file", "the file could not be read"),
    tars.EMPTY: Words("empty tar", "the tar holds no sample"),
    tars.CUT: Words("cut tar", "the tar ended before its end"),
}


def in_words(outcome: str) -> Words:
    """An outcome as people say it; a word nobody knows stays as it is."""
    return WORDS.get(outcome, Words(outcome.replace("_", " "), "refused when it was read"))
