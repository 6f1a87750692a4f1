"""Which files of code and layers are kept: what a row or a version that still serves needs, and nothing else."""

from __future__ import annotations

import asyncio

import pytest

from sandbox.control import live
from tests.control.conftest import Caller, zip_of
from tests.control.helpers import refused

pytestmark = [pytest.mark.usefixtures("tier"), pytest.mark.tiers("process")]


@pytest.fixture
def lean() -> bool:
    """One way in is enough here."""
    return True


def files(caller: Caller) -> set[str]:
    return {path.name for path in caller.service._store.blobs._root.iterdir()}


async def left(caller: Caller, count: int) -> set[str]:
    """The files, as soon as there are so many: tidying up comes after the answer, and after the new state."""
    while len(now := files(caller)) != count:
        await asyncio.sleep(0.002)
    return now


async def test_what_is_replaced_deleted_or_refused_is_not_kept(caller: Caller) -> None:
    await caller.create()
    first = files(caller)
    assert len(first) == 1
    await caller.update_function_code(FunctionName="f", ZipFile=zip_of(app_py="def handler(e, c): return 2\n"))
    await caller.active("f")
    assert await left(caller, 1) != first
    assert (await refused(caller.create_function(FunctionName="g", Code={"ZipFile": b"no zip"}))).status == 400
    assert len(files(caller)) == 1
    await caller.delete_function(FunctionName="f")
    await left(caller, 0)


async def test_the_old_code_is_kept_while_an_update_may_fail(caller: Caller, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is what serves after an update that fails, and after a restart, too."""
    await caller.create()
    await caller.create(name="other", app="def handler(e, c): return 1\n")
    before = await caller.get_function_configuration(FunctionName="f")

    async def fails(version: live.LiveVersion) -> tuple[str, str] | None:
        await caller.delete_function(FunctionName="other")
        await caller.service.live._tidy()
        return "InternalError", "as the test wants it"

    monkeypatch.setattr(live, "_open", fails)
    await caller.update_function_code(FunctionName="f", ZipFile=zip_of(app_py="def handler(e, c): return 3\n"))
    await caller.service.live.settled("f")
    after = await caller.get_function_configuration(FunctionName="f")
    assert (after["LastUpdateStatus"], after["CodeSha256"]) == ("Failed", before["CodeSha256"])
    row = caller.service.live._functions["f"].versions["$LATEST"].row
    assert row.code in files(caller)
