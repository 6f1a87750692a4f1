"""Cases for extensions, against the extensions that we ship: good ones, so nothing may fail. tests/mutants has the others."""

from __future__ import annotations

from pathlib import Path

import pytest

from sandbox.conformance.runner import Runner, select
from sandbox.conformance.target import Target, load
from sandbox.conformance.verdict import Verdict
from sandbox.core.errors import ConfigError
from tests.conftest import ROOT

TARGETS = ROOT / "conformance" / "targets"


async def run(target: Target, *patterns: str) -> dict[Verdict, list[str]]:
    """The cases that came to each verdict."""
    found: dict[Verdict, list[str]] = {}
    for outcome in (await Runner(target, jobs=3).run(select("extension", patterns))).outcomes:
        found.setdefault(outcome.verdict, []).append(f"{outcome.case}: {outcome.message}")
    return found


@pytest.mark.parametrize("name", ["telemetry-ndjson", "telemetry-otlp", "fault-injector"])
@pytest.mark.soak
async def test_our_extensions_conform(name: str) -> None:
    found = await run(load(TARGETS / name, "extension"))
    assert set(found) <= {Verdict.PASS, Verdict.DISABLED, Verdict.SKIP}, found


async def test_a_good_extension_passes_a_case_of_each_kind() -> None:
    """The whole run is above: it takes half a minute. Here: each way in which a case reaches into an environment."""
    chosen = ("register.name", "invoke.more-keys", "telemetry.accepts", "freeze.in-poll", "shutdown.ends", "again.after-kill")
    found = await run(load(TARGETS / "telemetry-otlp", "extension"), *(f"extension.{one}" for one in chosen))
    assert set(found) == {Verdict.PASS}, found


async def test_what_is_not_offered_is_disabled() -> None:
    found = await run(load(TARGETS / "telemetry-ndjson", "extension"), "extension.next.lost")
    assert found.pop(Verdict.DISABLED) == ["extension.next.lost[later]: feature invoke is not offered"]
    assert set(found) == {Verdict.PASS}, found


async def test_a_folder_without_an_extension_is_told_before_any_case(tmp_path: Path) -> None:
    (tmp_path / "conformance.toml").write_text('[target]\nkind = "extension"\n')
    with pytest.raises(ConfigError, match="no file extensions/NAME in it: `code` is a layer"):
        await run(load(tmp_path, "extension"))
