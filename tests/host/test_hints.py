"""What a person is told to do: true, and about the files that they know."""

from __future__ import annotations

import stat
import zipfile
from pathlib import Path

import pytest

from sandbox import ConfigError, Host
from sandbox.core.function import FunctionConfig
from sandbox.host.result import InvokeResult
from tests.conftest import MakeFolder

pytestmark = pytest.mark.usefixtures("tier")


def advice(result: InvokeResult) -> str:
    """The last thing to do that the log names."""
    marked = [line.partition("what to do: ")[2] for line in result.log if "what to do: " in line]
    return marked[-1] if marked else ""


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ("sys.exit(0)", "ended the process (exit): return from the handler instead"),
        ("sys.exit(3)", "ended the process (exit): return from the handler instead"),
        ("os.kill(os.getpid(), 9)", "something killed it"),
    ],
)
async def test_a_function_that_ends_a_managed_runtime(folder: MakeFolder, body: str, said: str) -> None:
    async with Host() as host:
        code = folder(app_py=f"import os, sys\ndef handler(event, context):\n    {body}\n")
        result = await (await host.deploy(code, runtime="python", handler="app.handler", timeout=20)).invoke()
    assert said in advice(result)


@pytest.mark.parametrize(
    ("text", "mode", "said"),
    [
        ("#!/bin/sh\r\nexec \"$@\"\n", 0o755, "the first line of start (in a layer) ends in CR LF (Windows line ends): sed -i"),
        ("#!/bin/sh\nexec \"$@\"\n", 0o644, "not executable: chmod +x start, and pack the layer again"),
        (None, 0, "start (in a layer) is not there"),
    ],
)  # fmt: skip
async def test_a_wrapper_that_cannot_be_started(folder: MakeFolder, text: str | None, mode: int, said: str) -> None:
    layer = folder(**{"start": text} if text is not None else {"other": ""})
    if text is not None:
        (layer / "start").chmod(mode)
    async with Host() as host:
        code = folder(app_py="def handler(event, context): return 1\n")
        environment = {"AWS_LAMBDA_EXEC_WRAPPER": "/opt/start"}
        function = await host.deploy(
            code, runtime="python", handler="app.handler", timeout=20, layers=(str(layer),), environment=environment
        )
        result = await function.invoke()
    assert result.error_type == "Runtime.ExitError"
    assert said in advice(result)


async def test_a_handler_that_is_not_there(folder: MakeFolder) -> None:
    async with Host() as host:
        code = folder(**{"inner/app.py": ""})
        result = await (await host.deploy(code, runtime="python", handler="app.handler", timeout=20)).invoke()
    assert advice(result) == f"see what is in the package: sandbox doctor {code} --runtime python --handler app.handler"


async def test_a_bootstrap_in_a_zip(tmp_path: Path) -> None:
    path = tmp_path / "code.zip"
    info = zipfile.ZipInfo("bootstrap")
    info.external_attr = (stat.S_IFREG | 0o644) << 16
    with zipfile.ZipFile(path, "w") as file:
        file.writestr(info, "#!/bin/sh\n")
    async with Host() as host:
        result = await (await host.deploy(path)).invoke()
    said = f"bootstrap (in {path}) is there but not executable: chmod +x bootstrap, and pack {path} again"
    assert advice(result) == said


@pytest.mark.parametrize("region", ["", "bad region", "US-EAST-1", "a/b"])
def test_a_region_that_is_none(region: str) -> None:
    with pytest.raises(ConfigError, match="region"):
        FunctionConfig("code", region=region)


@pytest.mark.parametrize("settings", [{"code": ""}, {"layers": ("",)}])
async def test_an_empty_name_is_not_the_current_folder(folder: MakeFolder, settings: dict[str, object]) -> None:
    async with Host() as host:
        with pytest.raises(ConfigError, match="an empty name"):
            await host.deploy(FunctionConfig(**({"code": str(folder(bootstrap=""))} | settings)))  # type: ignore[arg-type]


@pytest.mark.parametrize("context", ["x", [1], 1, "[1]"])
async def test_a_client_context_is_an_object(folder: MakeFolder, context: object) -> None:
    async with Host() as host:
        function = await host.deploy(folder(bootstrap="#!/bin/sh\n"))
        with pytest.raises(ConfigError, match="client context"):
            await function.invoke(client_context=context)


async def test_a_file_is_no_package(folder: MakeFolder) -> None:
    code = folder(app_py="")
    async with Host() as host:
        with pytest.raises(ConfigError, match=f"neither a folder nor a .zip .*; its folder is {code}"):
            await host.deploy(code / "app.py", runtime="python")
