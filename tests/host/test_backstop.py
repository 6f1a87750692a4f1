"""Where a watchdog holds the memory limit, an allocation far beyond it is refused at once: that is out of memory, too."""

from __future__ import annotations

import pytest

from sandbox import Host, Unsupported
from sandbox.process.isolation import PROCESS, Isolation
from tests.conftest import SHORT, MakeFolder

HUGE = {
    "python": ("app.py", "def handler(event, context):\n    return len(bytearray(3 << 30)) if event else 'small'\n"),
    "nodejs": (
        "app.js",
        "exports.handler = async (event) => event.huge ? new ArrayBuffer(3 * 2 ** 30).byteLength : 'small';\n",
    ),
    "ruby": ("app.rb", "def handler(event:, context:)\n  event['huge'] ? ('x' * (3 << 30)).size : 'small'\nend\n"),
}


@pytest.mark.catalogue("LC-075", "EN-076")
@pytest.mark.parametrize("language", HUGE)
async def test_what_is_refused_by_the_backstop_is_out_of_memory(
    folder: MakeFolder, language: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def watched(*_: str) -> Isolation:
        return PROCESS

    monkeypatch.setattr("sandbox.host.host.choose", watched)
    name, text = HUGE[language]
    async with Host(limits=SHORT) as host:
        try:
            function = await host.deploy(
                folder(**{name: text}), runtime=language, handler=f"{name.partition('.')[0]}.handler", memory_mb=256, timeout=20
            )
        except Unsupported as error:
            pytest.skip(str(error))
        assert (await function.invoke()).json() == "small"
        result = await function.invoke({"huge": True})
        assert result.json() == {
            "errorType": "Runtime.OutOfMemory",
            "errorMessage": f"RequestId: {result.request_id} Error: Runtime exited with error: signal: killed",
        }
        log = "\n".join(result.log)
        assert "more was asked for in one go than could ever be had, the limit is 256 MB" in log
        assert "refused" not in log
        assert (await function.invoke()).json() == "small"
