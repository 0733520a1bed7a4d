"""What a remote store's failure means: may it pass by itself, and what is a user told?

s3fs (botocore), gcsfs, adlfs and what they stand on each have errors of their own. They are told
by HTTP status, by the store's own code, and by class name, so that none of them has to be there.
"""

from collections.abc import Iterator
from typing import Any

REMOTE = (
    "check the name, what your credentials allow, and the connection (for S3: AWS_PROFILE or "
    "AWS_ACCESS_KEY_ID, AWS_ENDPOINT_URL), then run the same command again: finished shards are "
    "kept"
)

STATUSES = frozenset({408, 425, 429, 500, 502, 503, 504, 509})
CODES = frozenset(
    {
        "SlowDown", "InternalError", "ServiceUnavailable", "ServerBusy", "OperationTimedOut",
        "RequestTimeout", "Throttling", "ThrottlingException", "RequestLimitExceeded",
        # the body came damaged or in half: the next may not
        "BadDigest", "IncompleteBody", "XAmzContentSHA256Mismatch",
        # another conditional put of the same name is under way: it ends, and then says who won
        "ConditionalRequestConflict", "OperationAborted",
    }
)  # fmt: skip
PASSING = frozenset(
    {
        "ConnectionError", "TimeoutError", "IncompleteRead", "FSTimeoutError", "Timeout",
        # botocore and aiobotocore
        "HTTPClientError", "IncompleteReadError", "ResponseStreamingError", "ResponseParserError",
        # aiohttp
        "ClientConnectionError", "ClientPayloadError", "ServerDisconnectedError",
        # requests and google-auth, below gcsfs
        "ChunkedEncodingError", "ContentDecodingError", "ProxyError", "TransportError",
        "ChecksumError",
        # azure-core, below adlfs
        "ServiceRequestError", "ServiceResponseError",
    }
)  # fmt: skip
LASTING = frozenset({"SSLError", "ClientSSLError", "ClientConnectorCertificateError"})


class TornError(ConnectionError):
    """A body that ended before its length."""


def _chain(error: BaseException) -> Iterator[BaseException]:
    """The error, then what the libraries say it came of."""
    seen: set[int] = set()
    each: BaseException | None = error
    while each is not None and id(each) not in seen:
        seen.add(id(each))
        yield each
        each = each.__cause__ or (None if each.__suppress_context__ else each.__context__)


def _names(error: BaseException) -> set[str]:
    return {base.__name__ for base in type(error).__mro__}


def answer(error: BaseException) -> tuple[int | None, str | None]:
    """The HTTP status and the store's own code of a failure; None where it gave no answer."""
    for each in _chain(error):
        if _names(each) & PASSING:  # aiohttp gives a torn body the status 400
            break
        response: Any = getattr(each, "response", None)
        if isinstance(response, dict):  # botocore
            code = str(response.get("Error", {}).get("Code", ""))
            status = response.get("ResponseMetadata", {}).get("HTTPStatusCode")
            return _number(status) or _number(code), code
        for name in ("status_code", "status", "code"):  # azure-core, aiohttp, gcsfs
            if status := _number(getattr(each, name, None)):
                return status, str(getattr(each, "error_code", None) or "") or None
    return None, None


def _number(value: Any) -> int | None:
    try:
        return int(value) if 100 <= int(value) < 600 else None
    except (TypeError, ValueError):
        return None


def is_transient(error: BaseException) -> bool:
    """Whether the same request may do what it did not do this time."""
    status, code = answer(error)
    if status is not None or code is not None:
        return code in CODES or status in STATUSES
    names = set[str]().union(*map(_names, _chain(error)))
    return bool(names & PASSING) and not names & LASTING


def why(error: BaseException) -> str:
    """What went wrong, in the words of the library."""
    if any(type(each).__name__ == "FileExpired" for each in _chain(error)):
        return "it changed while it was read"
    return getattr(error, "strerror", None) or str(error) or type(error).__name__


def kind(error: BaseException) -> str:
    """A failure as a metric names it: its status or code, else its class."""
    status, code = answer(error)
    return code or (str(status) if status else type(error).__name__)
