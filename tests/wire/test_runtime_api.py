"""The Runtime API as a runtime meets it: a raw connection, a real environment, a clock that stands still."""

from __future__ import annotations

import pytest

from tests.conftest import Played


@pytest.mark.catalogue("RT-020", "RT-021", "RT-022", "RT-050", "RT-007")
async def test_an_event_is_answered(played: Played) -> None:
    connection = await played.connect()
    job, event = await played.deliver(connection, b'{"a": "\xc3\xa9"}')
    assert event.status == 200
    assert event.body == b'{"a": "\xc3\xa9"}'
    request_id = event.headers["lambda-runtime-aws-request-id"]
    assert request_id == job.request_id
    accepted = await connection.ask("POST", f"invocation/{request_id}/response", b"SUCCESS")
    assert accepted.status == 202
    assert accepted.json() == {"status": "OK"}
    assert job.result.payload == b"SUCCESS"
