"""What is noted about requests: counts for the metrics, ids and tracebacks for the log."""

import contextvars
import json
import logging

import httpx
import pytest
from http_clients import open_client
from prometheus_client import REGISTRY, Histogram

from chatlab import metrics
from chatlab.run.json_log import JsonFormatter
from chatlab.settings import load_settings
from chatlab.web.app import create_app
from chatlab.web.request_log import REQUEST_ID, RequestLog

DURATIONS = (0.0, 0.0005, 0.000_51, 0.003, 0.03, 0.3, 2.5, 2.6, 100.0)


def values_of(name: str, **labels: str) -> dict[str, float]:
    """Return the samples of a histogram: each bucket, the count and the sum."""
    samples = [sample for family in REGISTRY.collect() for sample in family.samples]
    return {
        sample.name.removeprefix(name) + sample.labels.get("le", ""): sample.value
        for sample in samples
        if sample.name.startswith(f"{name}_") and labels.items() <= sample.labels.items()
        if not sample.name.endswith("_created")
    }


def test_request_times_are_counted_as_the_library_counts() -> None:
    """Every bucket, the count and the sum are those of the library's own histogram."""
    expected = Histogram("expected_seconds", "For comparison", buckets=metrics._SECONDS)
    for seconds in DURATIONS:
        expected.observe(seconds)
        metrics.HTTP_SECONDS.observe(seconds, "GET", "/counted", "200")
    metrics.flush()
    metrics.flush()  # adds nothing
    found = values_of("chatlab_http_request_seconds", route="/counted")
    assert found == values_of("expected_seconds")
    assert found["_count"] == len(DURATIONS)
    REGISTRY.unregister(expected)


def test_a_client_cannot_create_labels() -> None:
    """Methods and paths that the service does not have share one label."""
    requests = RequestLog(load_settings())
    for number in range(3):
        scope = {"method": f"BREW{number}", "raw_path": b"/", "client": None}
        requests.end_request(scope, "unmatched", 404, requests.begin())
    metrics.flush()
    assert values_of("chatlab_http_request_seconds", method="other")["_count"] == 3


async def test_an_unexpected_error_is_counted() -> None:
    """Without its lifespan, the application has no MongoDB to ask."""
    transport = httpx.ASGITransport(create_app(load_settings()), raise_app_exceptions=False)
    async with open_client("http://localhost", transport=transport) as http:
        assert (await http.get("/readyz")).status_code == 500
    metrics.flush()
    found = values_of("chatlab_http_request_seconds", route="/readyz", status="500")
    assert found["_count"] == 1


def test_a_traceback_is_one_line_of_json() -> None:
    """An error within a request has the id of the request."""
    error = ValueError("two\nlines")
    record = logging.LogRecord(
        "chatlab.web",
        logging.ERROR,
        "x.py",
        1,
        'It "broke": %s',
        ("über",),
        (ValueError, error, None),
    )

    def format_within_a_request() -> str:
        REQUEST_ID.set("abc")
        return JsonFormatter().format(record)

    line = contextvars.copy_context().run(format_within_a_request)
    assert "\n" not in line
    fields = json.loads(line)
    assert (fields["message"], fields["level"], fields["requestId"]) == (
        'It "broke": über',
        "ERROR",
        "abc",
    )
    assert fields["exception"] == "ValueError: two\nlines"


@pytest.mark.parametrize("log_format", ["text", "json"])
def test_ids_are_given_only_for_the_json_log(log_format: str) -> None:
    """The lines for a terminal have no ids, so requests do not pay for them."""

    def begin() -> str:
        RequestLog(load_settings(log_format=log_format)).begin({b"x-request-id": b"abc"})
        return REQUEST_ID.get()

    assert contextvars.copy_context().run(begin) == {"text": "", "json": "abc"}[log_format]
