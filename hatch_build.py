"""Build hook: compiles sandbox/process/init. Without a C compiler the package is built without it, and says so."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

FOLDER = Path(__file__).parent / "sandbox" / "process" / "init"


class CompileInit(BuildHookInterface):  # type: ignore[type-arg]
    """Linux only: the program uses the kernel's child subreaper."""

    PLUGIN_NAME = "custom"

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        if self.target_name != "wheel":
            return
        target = FOLDER / "sandbox-init"
        compiler = os.environ.get("CC") or shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
        if not sys.platform.startswith("linux") or compiler is None:
            self.app.display_warning("no C compiler: built without sandbox-init; `sandbox doctor` tells what that costs")
            target.unlink(missing_ok=True)
            return
        command = [compiler, "-O2", "-o", str(target), *map(str, sorted(FOLDER.glob("*.c")))]
        if subprocess.run([*command, "-static"], capture_output=True, check=False).returncode != 0:
            subprocess.run(command, check=True)  # a system without a static C library
        target.chmod(0o755)  # whatever the umask: where the host is root, another user runs it
        if version != "editable":
            build_data["pure_python"] = False
            build_data["tag"] = f"py3-none-{_platform()}"


def _platform() -> str:
    from packaging.tags import platform_tags

    return next(iter(platform_tags()))
