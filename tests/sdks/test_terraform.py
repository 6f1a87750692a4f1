"""Terraform with its AWS provider, stock: what it applies it finds again, changes and destroys."""

from __future__ import annotations

import asyncio
import json
import shutil
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import boto3
import pytest

from tests.control.conftest import zip_of
from tests.sdks import APP, ARN, Done, command, needs, run, serving

pytestmark = [
    pytest.mark.usefixtures("tier"),
    pytest.mark.tiers("process"),
    pytest.mark.soak,  # two minutes: the provider has 700 MB, and each command starts it anew
    pytest.mark.timeout(420),
]


class Terraform:
    """Terraform in a folder with our configuration: `await terraform("plan")`."""

    def __init__(self, program: str, folder: Path, endpoint: str) -> None:
        self._program, self.folder, self.endpoint = program, folder, endpoint
        self.word = "one"

    async def __call__(self, *words: str) -> Done:
        settings = {"CHECKPOINT_DISABLE": "1", "TF_IN_AUTOMATION": "1"}
        variables = {"TF_VAR_endpoint": self.endpoint, "TF_VAR_word": self.word}
        return await run(self._program, *words, folder=self.folder, **settings, **variables)

    async def did(self, *words: str) -> str:
        done = await self(*words)
        assert done.code == 0, done.out + done.err
        return done.out

    async def output(self, name: str) -> Any:
        return json.loads(await self.did("output", "-json", name))

    def code(self, app: str, word: bytes) -> None:
        (self.folder / "app.zip").write_bytes(zip_of(app_py=app))
        (self.folder / "layer.zip").write_bytes(zip_of(word=word))


@pytest.fixture
async def terraform(tmp_path: Path) -> AsyncIterator[Terraform]:
    plugins = needs("terraform-aws/providers")
    folder = tmp_path / "terraform"
    shutil.copytree(Path(__file__).parent / "terraform", folder)
    async with serving() as endpoint:
        made = Terraform(command("terraform"), folder, endpoint)
        await made.did("init", "-no-color", "-input=false", f"-plugin-dir={plugins}")
        yield made


@pytest.mark.catalogue(
    "CP-001", "CP-017", "CP-019", "CP-030", "CP-045", "CP-047", "CP-060", "CP-070", "CP-075", "CP-078", "CP-097"
)
async def test_apply_finds_nothing_to_change_updates_and_destroys(terraform: Terraform) -> None:
    apply = ("apply", "-no-color", "-input=false", "-auto-approve")
    terraform.code(APP, b"from the layer")
    assert "7 added, 0 changed, 0 destroyed" in await terraform.did(*apply)
    assert await terraform.output("version") == "1"
    assert await terraform.output("found") == f"{ARN}:f:1"
    answer = await terraform.output("answer")
    assert answer["event"] == {"called": "one"}
    assert (answer["version"], answer["arn"], answer["word"]) == ("1", f"{ARN}:f:live", "one")
    same = await terraform("plan", "-no-color", "-input=false", "-detailed-exitcode")
    assert same.code == 0, same.out + same.err  # 2: it would change something

    terraform.word = "two"
    terraform.code(APP + "# changed\n", b"another")
    await terraform.did(*apply)
    assert await terraform.output("version") == "2"
    answer = await terraform.output("answer")
    assert (answer["version"], answer["word"]) == ("2", "two")
    same = await terraform("plan", "-no-color", "-input=false", "-detailed-exitcode")
    assert same.code == 0, same.out + same.err

    client = boto3.client(
        "lambda", endpoint_url=terraform.endpoint, region_name="us-east-1", aws_access_key_id="x", aws_secret_access_key="y"
    )
    await terraform.did("destroy", "-no-color", "-input=false", "-auto-approve")
    assert (await asyncio.to_thread(client.list_functions))["Functions"] == []
    client.close()
