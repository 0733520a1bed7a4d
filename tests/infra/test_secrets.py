"""Secrets in URLs: refused where settings are read, masked in what anybody is told."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from curation.settings import SourceSettings
from flows.main import store_url
from infra.errors import SluiceError
from infra.secrets import MASK, redacted, secret_in
from infra.telemetry.events import Event, Told

SECRET = "hunter2"
CARRIERS = [
    f"https://me:{SECRET}@host/shards/00000.tar",
    f"https://{SECRET}@host/shards/00000.tar",
    f"https://b.s3.amazonaws.com/x.tar?X-Amz-Algorithm=A&X-Amz-Signature={SECRET}",
    f"https://host/x.tar?sv=2024&sig={SECRET}&se=1",
    f"https://host/x.tar?access_token={SECRET}",
    f"s3://key:{SECRET}@bucket/store",
]


@pytest.mark.parametrize("url", CARRIERS)
def test_a_location_with_a_secret_is_refused_and_not_repeated(url: str) -> None:
    assert secret_in(url)
    with pytest.raises(ValidationError) as told:
        SourceSettings(tars=url)
    assert "environment" in str(told.value.errors()[0]["msg"])
    assert SECRET not in told.value.errors()[0]["msg"]
    with pytest.raises(SluiceError) as refused:
        store_url(url)
    assert SECRET not in str(refused.value)


@pytest.mark.parametrize("url", CARRIERS)
def test_errors_and_events_mask_it(url: str) -> None:
    error = SluiceError(f"cannot read {url}: refused", f"look at '{url}', then again")
    events: list[Event] = []
    Told("r", [events.append]).say(f"waiting for {url}")
    for text in (str(error), repr(error), str(error.args), events[0]["text"]):
        assert SECRET not in text and MASK in text


@pytest.mark.parametrize(
    "url",
    [
        "s3://bucket/store", "/data/me@home/store", "https://host/a?width=3&keyword=x",
        "abfss://container@account.dfs.core.windows.net/store", "https://host/p@th", "x@y", "",
    ],
)  # fmt: skip
def test_what_holds_no_secret_is_left_as_it_is(url: str) -> None:
    assert secret_in(url) is None
    assert redacted(f"cannot read {url}: no such file") == f"cannot read {url}: no such file"


@given(st.text())
def test_any_text_is_taken(text: str) -> None:
    assert redacted(redacted(text)) == redacted(text)
    secret_in(text)
