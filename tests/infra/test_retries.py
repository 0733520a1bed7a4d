"""What is tried again, how often, after which waits, and what is said and counted of it."""

from collections.abc import Callable
from typing import Any

import pytest
from aiohttp import ClientPayloadError, ServerDisconnectedError
from botocore import exceptions as botocore
from s3fs.errors import translate_boto_error

from infra import filesystem
from infra.errors import SluiceError
from infra.filesystem import retries
from infra.filesystem.failures import is_transient, kind
from infra.filesystem.retries import TALLY, ask

URL = "memory://bucket/store/file"


def s3_error(code: str, status: int) -> Exception:
    response = {
        "Error": {"Code": code, "Message": "told by the store"},
        "ResponseMetadata": {"HTTPStatusCode": status},
    }
    return translate_boto_error(botocore.ClientError(response, "GetObject"))  # type: ignore[arg-type]


def named(name: str, base: type[Exception] = Exception, **facts: Any) -> Exception:
    """An error of a library that is not installed here, as it looks from outside."""
    error = type(name, (base,), {})("told by the library")
    for fact, value in facts.items():
        setattr(error, fact, value)
    return error


def caused(error: Exception, cause: Exception) -> Exception:
    error.__cause__ = cause
    return error


@pytest.mark.parametrize(
    ("error", "passes"),
    [
        (s3_error("SlowDown", 503), True),
        (s3_error("InternalError", 500), True),
        (s3_error("503", 503), True),  # an answer to HEAD has no body
        (s3_error("TooManyRequests", 429), True),
        (s3_error("RequestTimeout", 400), True),
        (s3_error("IncompleteBody", 400), True),
        (s3_error("ConditionalRequestConflict", 409), True),
        (s3_error("AccessDenied", 403), False),
        (s3_error("InvalidAccessKeyId", 403), False),
        (s3_error("ExpiredToken", 400), False),
        (s3_error("NoSuchBucket", 404), False),
        (s3_error("NoSuchKey", 404), False),
        (botocore.EndpointConnectionError(endpoint_url="http://here"), True),
        (botocore.ReadTimeoutError(endpoint_url="http://here"), True),
        (botocore.NoCredentialsError(), False),
        (botocore.SSLError(endpoint_url="https://here", error="self-signed"), False),
        (ClientPayloadError("half"), True),
        (caused(OSError("half"), caused(ClientPayloadError("half"), named("X", status=400))), True),
        (ServerDisconnectedError(), True),
        (ConnectionResetError(), True),
        (TimeoutError(), True),
        (named("HttpError", code=503), True),  # gcsfs
        (named("HttpError", code="429"), True),
        (named("HttpError", code=401), False),
        (OSError("Forbidden: b/o"), False),
        (named("ChecksumError"), True),
        (named("HttpResponseError", status_code=500), True),  # azure-core
        (named("ResourceExistsError", status_code=409, error_code="BlobAlreadyExists"), False),
        (named("ClientAuthenticationError", status_code=403), False),
        (named("ServiceRequestError"), True),
        (caused(RuntimeError("Failed to upload block"), named("ServiceResponseError")), True),
        (ValueError("a defect of ours"), False),
        (KeyError("another"), False),
    ],
    ids=lambda value: kind(value) if isinstance(value, Exception) else "",
)
def test_what_may_pass_is_told_from_what_does_not(error: Exception, passes: bool) -> None:
    assert is_transient(error) is passes


@pytest.fixture
def waits(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The bounds that waits were drawn below; none is waited for."""
    bounds: list[float] = []
    monkeypatch.setattr(retries.JITTER, "uniform", lambda low, high: bounds.append(high) or high)
    monkeypatch.setattr(retries.time, "sleep", lambda seconds: None)
    return bounds


def failing(times: int, error: Exception) -> Callable[[Any, str], str]:
    left = [error] * times

    def call(fs: Any, path: str) -> str:
        if left:
            raise left.pop()
        return path

    return call


def test_waits_double_up_to_a_bound_and_tries_are_counted(waits: list[float]) -> None:
    ask(URL, "warm", failing(0, ValueError()))
    calls, again = TALLY.calls, TALLY.retries
    assert ask(URL, "test", failing(9, s3_error("SlowDown", 503))) == "/bucket/store/file"
    assert waits == [min(0.2 * 2**n, 20) for n in range(9)]
    assert TALLY.calls - calls == {("test", "done"): 1}
    assert TALLY.retries - again == {("test", "SlowDown"): 9}


def test_the_last_failure_names_url_tries_and_time(waits: list[float]) -> None:
    calls = TALLY.calls
    with pytest.raises(SluiceError) as caught:
        ask(URL, "test", failing(99, s3_error("SlowDown", 503)), verb="write")
    assert len(waits) == retries.TRIES
    assert caught.value.what == f"cannot write {URL}: told by the store (12 tries in 0 s)"
    assert "AWS_ENDPOINT_URL" in caught.value.way_out
    assert TALLY.calls - calls == {("test", "given up"): 1}


def test_what_does_not_pass_is_tried_once(waits: list[float]) -> None:
    calls = TALLY.calls
    with pytest.raises(SluiceError, match=rf"cannot read {URL}: told by the store\n"):
        ask(URL, "test", failing(1, s3_error("AccessDenied", 403)))
    with pytest.raises(FileNotFoundError):
        ask(URL, "test", failing(1, s3_error("NoSuchKey", 404)))
    assert waits == []
    assert TALLY.calls - calls == {("test", "refused"): 1, ("test", "absent"): 1}


@pytest.mark.parametrize(("seconds", "tries"), [("0", 1), ("1", 3), ("1000", 12)])
def test_the_time_is_bounded_by_a_setting(
    seconds: str, tries: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    now, count = [0.0], [0]
    monkeypatch.setenv(retries.VARIABLE, seconds)
    monkeypatch.setattr(retries.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(retries.time, "sleep", lambda wait: now.append(now.pop() + wait))
    monkeypatch.setattr(retries.JITTER, "uniform", lambda low, high: high)

    def call(fs: Any, path: str) -> None:
        count[0] += 1
        raise s3_error("SlowDown", 503)

    with pytest.raises(SluiceError):
        ask(URL, "test", call)
    assert count[0] == tries
    assert now[0] <= float(seconds)


def test_a_store_that_never_answered_is_given_up_sooner(
    waits: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [0.0]
    monkeypatch.setattr(retries.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(retries.time, "sleep", lambda wait: now.append(now.pop() + wait))
    url = "memory://mistyped/store"
    with pytest.raises(SluiceError):
        ask(url, "test", failing(99, ConnectionRefusedError()))
    assert now[0] < retries.STRANGER
    ask(url, "test", failing(0, ValueError()))
    start = now[0]
    with pytest.raises(SluiceError):
        ask(url, "test", failing(99, ConnectionRefusedError()))
    assert now[0] - start > retries.STRANGER


def test_a_setting_that_is_no_number_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(retries.VARIABLE, "soon")
    with pytest.raises(SluiceError, match="SLUICE_RETRY_SECONDS is 'soon'"):
        ask(URL, "test", failing(1, ConnectionResetError()))


def test_a_disk_is_asked_once_and_its_errors_pass(tmp_path: Any) -> None:
    calls = TALLY.calls
    with pytest.raises(FileNotFoundError):
        filesystem.read_bytes(str(tmp_path / "gone"))
    with pytest.raises(ConnectionResetError):
        ask(str(tmp_path), "test", failing(1, ConnectionResetError()))
    assert calls == TALLY.calls
