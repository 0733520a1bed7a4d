"""What can become of an input record: one word each, a class and not an error's text.

"ok", or the reason why the record is no sample. `TRANSIENT` reasons may go away by themselves:
they are tried again within a run, and again by `--retry-failed`.
"""

# The record itself
BAD_URL = "bad_url"
BAD_LINE = "bad_line"
MISSING_URL = "missing_url"
FAILED_BEFORE = "failed_before"  # at another tool, which does not say why

# The way to the server
DNS = "dns"
CONNECT = "connect"
TLS = "tls"
TIMEOUT = "timeout"
ADDRESS_REFUSED = "address_refused"  # private, loopback, link-local, multicast, metadata service

# What the server answered
NOT_FOUND = "http_404"
GONE = "http_410"
DENIED = "http_401_403"
TOO_MANY_REQUESTS = "http_429"
CLIENT_ERROR = "http_4xx"  # any other
SERVER_ERROR = "http_5xx"
BAD_RESPONSE = "bad_response"  # no HTTP, or a status that is no answer
REDIRECT_REFUSED = "redirect_refused"  # too many, in a circle, or to what is no http(s) URL
TOO_LARGE = "too_large"  # bytes
TRUNCATED = "truncated"

# The image
NOT_AN_IMAGE = "not_an_image"
UNSUPPORTED_FORMAT = "unsupported_format"
DECODE_FAILED = "decode_failed"
TOO_MANY_PIXELS = "too_many_pixels"
TOO_SMALL = "too_small"
EXTREME_ASPECT = "extreme_aspect"
BAD_BOXES = "bad_boxes"  # of faces to blur: a face might have stayed
HASH_MISMATCH = "hash_mismatch"  # not the bytes the table promised

# Consent
DISALLOWED_BY_ROBOTS = "disallowed_by_robots_txt"
DISALLOWED_BY_HEADER = "disallowed_by_header"  # X-Robots-Tag
BLOCKLISTED = "blocklisted"
TAKEN_DOWN = "taken_down"  # a sample until somebody asked for it to go

SILENT = frozenset({BLOCKLISTED, TAKEN_DOWN})  # such a row says nothing of what it was

TRANSIENT = frozenset(
    {
        DNS,
        CONNECT,
        TIMEOUT,
        TOO_MANY_REQUESTS,
        SERVER_ERROR,
        BAD_RESPONSE,
        TRUNCATED,
        FAILED_BEFORE,
    }
)


def of_status(status: int) -> str | None:
    """The outcome of an HTTP status (RFC 9110, section 15); None for 200, which has a body."""
    if status == 200:
        return None
    known = {404: NOT_FOUND, 410: GONE, 401: DENIED, 403: DENIED, 429: TOO_MANY_REQUESTS}
    if status in known:
        return known[status]
    if 400 <= status < 500:
        return CLIENT_ERROR
    return SERVER_ERROR if 500 <= status < 600 else BAD_RESPONSE
