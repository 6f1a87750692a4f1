"""What a person is told when something fails: what happened, where, the last words, what to do. Never a traceback of ours."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import socket
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final, NamedTuple

from sandbox.core import errors
from sandbox.core.events import RUNTIME
from sandbox.core.function import FunctionConfig
from sandbox.core.limits import EXTENSIONS, MIB
from sandbox.core.states import Extension
from sandbox.host.runtimes import Source
from sandbox.wire.runtime_api import LastCall


class Party(NamedTuple):
    """Somebody that a failure happened to, or that was waited for: "runtime", or an extension's name.

    state: of the machine's tables. last_lines: the newest output of its process. source: what its program was copied from.
    reported: the error that it has posted itself. refusals: requests of its own, or of somebody unknown, that were refused.
    """

    name: str
    state: str
    last_call: LastCall | None
    last_lines: list[str]
    program: str | None = None
    source: Source | None = None
    command: str | None = None
    reported: str | None = None
    refusals: Sequence[str] = ()

    @property
    def is_runtime(self) -> bool:
        return self.name == RUNTIME

    @property
    def called(self) -> str:
        return RUNTIME if self.is_runtime else f"extension {self.name}"

    @property
    def never_called(self) -> str:
        if self.is_runtime:
            return "the runtime never called the Runtime API"
        return f"{self.called} never called the Extensions API"


class Scene(NamedTuple):
    """What is known about a failure.

    parties: those to look at, at least one. deliveries: how often the event was given to the runtime. memory: bytes in use at
    the end. strangers: names that have called the Extensions API and are no file in /opt/extensions.
    """

    error_type: str
    message: str
    phase: str
    function: FunctionConfig
    parties: list[Party]
    deliveries: int
    memory: int
    managed: bool  # the runtime is one of ours: what ends it is the function
    wrapper: str | None  # the file of AWS_LAMBDA_EXEC_WRAPPER, if there is one
    wrapper_source: Source | None
    strangers: list[str]
    isolated: bool = False  # in tier `namespace`: what is where on Lambda is there here, too

    @property
    def runtime(self) -> Party | None:
        return next((party for party in self.parties if party.is_runtime), None)


_PHASES: Final = {"init": "in Init", "invoke": "in Invoke", "frozen": "while frozen, between two invokes"}


def explain(scene: Scene) -> str:
    """Some lines of text, each beginning with "sandbox: "."""
    lines = [f"{scene.error_type} {_PHASES[scene.phase]}: {scene.message}"]
    for party in scene.parties:
        if party.command:
            lines.append(f"  process: {party.called}: {party.command}")
        if party.reported:
            lines.append(f"  it reported: {party.reported}")
        if scene.error_type == errors.EXTENSION_LAUNCH:
            continue  # it has done nothing yet
        if party.last_call is not None:
            status = party.last_call.status
            reply = f"answered {status}" if status is not None else "not answered: it is waiting"
            lines.append(f"  last API call: {party.last_call.method} {party.last_call.target} ({reply})")
        else:
            none = "none by its name, but see what was refused" if party.refusals else f"none: {party.never_called}"
            lines.append(f"  last API call: {none}")
        lines += [f"  refused: {refusal}" for refusal in party.refusals]
        if party.last_lines:
            lines.append("  last output:")
            lines += [f"    {line[:400]}" for line in party.last_lines]
    lines += [f"  what to do: {hint}" for hint in hints(scene)]
    return "\n".join(f"sandbox: {line}" for line in lines)


def hints(scene: Scene) -> list[str]:
    """What to try, as far as the scene allows a good guess."""
    found = [hint for party in scene.parties if not party.is_runtime for hint in extension_hints(scene, party)]
    party = scene.runtime
    if scene.error_type == errors.OUT_OF_MEMORY:
        used, limit = -(-scene.memory // MIB), scene.function.memory_mb
        seen = f"the processes used {used} MB" if used >= limit else "more was asked for in one go than could ever be had"
        found.append(f"{seen}, the limit is {limit} MB: raise it, or find what holds the memory")
    elif party is None:
        return found
    elif scene.error_type == errors.INVALID_ENTRYPOINT:
        found += entrypoint_hints(party.program, party.source, isolated=scene.isolated) or [_by_hand(party)]
    elif scene.error_type == errors.TIMED_OUT:
        found.append(_timeout_hint(scene, party))
    elif scene.error_type == errors.UNKNOWN:
        found.append("Init may take 10 seconds: see what the code outside the handler waits for")
    elif scene.error_type == errors.EXIT_ERROR:
        found += _exit_hints(scene, party)
    elif scene.error_type == errors.RESPONSE_TOO_LARGE:
        found.append("put large results elsewhere (S3) and answer where they are, or stream the response")
    elif scene.error_type == errors.BAD_RESPONSE_MODE:
        found.append("Lambda-Runtime-Function-Response-Mode takes one value: streaming; leave it out otherwise")
    elif scene.error_type == errors.TRUNCATED_RESPONSE:
        found.append("the runtime hung up, or sent fewer bytes than its Content-Length says: see what it printed")
    return found


def _timeout_hint(scene: Scene, party: Party) -> str:
    if party.last_call is None:
        return "the runtime never asked for an event (GET /2018-06-01/runtime/invocation/next): is it the right program?"
    if scene.deliveries > 1:
        return (
            f"it asked for an event {scene.deliveries} times and was given this one again each time, for it had not answered: "
            "what did it print when it could not post its answer?"
        )
    if party.last_call.target.endswith("/response") and party.last_call.status == 202:
        return "it had answered, but did not ask for the next event: what does it do after the response?"
    return "raise the timeout, or see what the function waits for (network, a lock, an event loop that does not end)"


def _exit_hints(scene: Scene, party: Party) -> list[str]:
    text = "\n".join(party.last_lines)
    if "Illegal option -o pipefail" in text or ("not found" in text and "[[" in text):
        return ["on Lambda /bin/sh is bash, here it is not: begin the bootstrap with #!/bin/bash"]
    if scene.wrapper is not None and scene.message.endswith(("exit status 126", "exit status 127")):
        found = entrypoint_hints(scene.wrapper, scene.wrapper_source, isolated=scene.isolated)
        return [f"AWS_LAMBDA_EXEC_WRAPPER: {hint}" for hint in found] or ["AWS_LAMBDA_EXEC_WRAPPER: what does it start?"]
    if scene.message.endswith("exit status 127"):
        return ["a program was not found: what does the runtime's script start?"]
    if scene.message.endswith("exit status 126"):
        return ["a program could not be run: has it its exec bit (chmod +x)?"]
    if "signal: " in scene.message:
        return ["something killed it: the function itself, a program that it starts, or a crash in native code"]
    if scene.managed:
        return ["the function, or something that it loads, ended the process (exit): return from the handler instead"]
    if scene.message.endswith("without providing a reason"):
        return ["the runtime ended by itself: it must ask for events in a loop, and never return"]
    return ["see its last output, and what in the function or the runtime calls exit"]


def extension_hints(scene: Scene, party: Party) -> list[str]:
    """What an extension's author may have missed (users.md rows 10, 17, 19, 20)."""
    if scene.message == "ErrTooManyExtensions":
        return [f"an environment takes {EXTENSIONS} extensions: leave some files out of the layers' extensions/ folders"]
    if scene.error_type == errors.EXTENSION_LAUNCH:
        found = entrypoint_hints(party.program, party.source, isolated=scene.isolated) or [_by_hand(party)]
        return [*found, f"if {party.name} is no extension: every file in extensions/ is started as one; put it elsewhere"]
    if party.reported is not None and scene.error_type in (errors.EXTENSION_INIT, errors.EXTENSION_EXIT):
        return [f"extension {party.name} gave up by itself, with this error: see its output above, and its settings"]
    text = "\n".join(party.last_lines)
    found = []
    if (
        ("sandbox.localdomain" in text or "sandbox" in text)
        and any(word in text for word in _UNRESOLVED)
        and not (scene.isolated or resolves())
    ):
        found.append(NAMES_HINT)
    if any(word in text for word in ("Address already in use", "EADDRINUSE", "address already in use")):
        where = "by the runtime or another extension" if scene.isolated else "in tier process all share this machine's ports"
        found.append(f"its port is taken: {where}")
    if scene.error_type in (errors.TIMED_OUT, errors.UNKNOWN):
        return found + _waiting_hints(scene, party)
    if scene.error_type != errors.EXTENSION_CRASH:
        return found
    if not scene.isolated and (named := _names_of_lambda(party.program)):
        found.append(f"it names {named}, which is only on Lambda: here the layers are in {_folder(party.program)}")
    if scene.message == "exit code 0":
        found.append("an extension must run until it is given SHUTDOWN: to end before that, even with 0, is a crash")
    return found or ["see its last output; on Lambda its end is the end of the environment, too"]


def _by_hand(party: Party) -> str:
    return f"see whether it runs by hand: {party.source}"


_UNRESOLVED: Final = ("no such host", "Name or service not known", "nodename nor servname", "ENOTFOUND", "name resolution",
                      "failed to lookup address", "UnknownHostException", "EAI_AGAIN", "Could not resolve host")  # fmt: skip
NAMES_HINT: Final = (
    "this machine does not know the name sandbox.localdomain: add the line "
    "`127.0.0.1 sandbox sandbox.localdomain sandbox.local.domain` to /etc/hosts"
)


def resolves() -> bool:
    """Whether processes here can look up the name at which extensions listen for telemetry."""
    try:
        socket.getaddrinfo("sandbox.localdomain", None)
    except OSError:
        return False
    return True


def _waiting_hints(scene: Scene, party: Party) -> list[str]:
    """What it had to do, and has not done."""
    if party.state == Extension.STARTED.value:
        if scene.strangers:
            names = ", ".join(repr(name) for name in scene.strangers)
            return [f"{names} called the Extensions API: Lambda-Extension-Name must be the file's name, {party.name!r}"]
        return [f"extension {party.name} never registered: POST /2020-01-01/extension/register"]
    if party.state == Extension.REGISTERED.value:
        return [f"extension {party.name} registered, but never asked for an event: GET /2020-01-01/extension/event/next"]
    late = f"extension {party.name} has not asked for its next event since INVOKE"
    return [f"{late}: until it does, the environment runs on, and is billed"]


def _names_of_lambda(program: str | None) -> str | None:
    """A path that a script names and that is not here."""
    try:
        text = Path(program or "").read_bytes()[:65536]
    except OSError:
        return None
    if not text.startswith(b"#!"):
        return None
    named = next(
        (name for name in re.findall(rb"/opt/[\w./-]+|/var/task[\w./-]*", text) if not Path(os.fsdecode(name)).exists()), None
    )
    return os.fsdecode(named) if named else None


def _folder(program: str | None) -> str:
    return str(Path(program or "").parent.parent)


def init_hint(error_type: str | None, function: FunctionConfig) -> str | None:
    """What to do about an error of Init that the runtime itself has told; None if the error says all there is to say."""
    loading = ("Runtime.ImportModuleError", "Runtime.HandlerNotFound", "Runtime.MalformedHandlerName", "Init<LoadError>")
    if error_type not in loading or function.runtime is None:
        return None
    words = ["sandbox doctor", shlex.quote(function.code), "--runtime", function.runtime, "--handler", function.handler]
    return f"sandbox:   what to do: see what is in the package: {' '.join(words)}"


def entrypoint_hints(program: str | None, source: Source | None = None, *, isolated: bool = False) -> list[str]:
    """Why this file cannot be run (users.md row 20: exec bit, CRLF, missing interpreter); nothing if it looks right.

    source: the file that the reader knows, of which this one is a copy. isolated: it was run in tier `namespace`.
    """
    if program is None:
        return ["put an executable file named bootstrap in the code folder, or name a managed runtime with --runtime"]
    path = Path(program)
    source = source or Source(program)
    if not path.is_file():
        return [f"{source} is not a file" if path.exists() else f"{source} is not there"]
    if not path.stat().st_mode & 0o111:
        return [f"{source} is there but not executable: {source.after('chmod +x')}"]
    with path.open("rb") as file:
        head = file.read(1024)
    if head.startswith(b"#!"):
        return _shebang_hints(source, head.partition(b"\n")[0], isolated)
    if head.startswith(b"\x7fELF"):
        hint = elf_hint(str(source), head)
        return [hint] if hint else []
    return [f"{source} does not begin with #! and is no binary of this machine: is its first line missing?"]


def _shebang_hints(source: Source, first: bytes, isolated: bool) -> list[str]:
    if first.endswith(b"\r"):
        mend = source.after("sed -i 's/\\r$//'")
        return [f"the first line of {source} ends in CR LF (Windows line ends): {mend}"]
    words = [os.fsdecode(word) for word in first[2:].split()]
    interpreter = words[0] if words else ""
    if isolated and interpreter.startswith(_OWN):
        return []
    if isolated and not interpreter.startswith(_SHOWN) and Path(interpreter).exists():
        shown = ", ".join(place.rstrip("/") for place in _SHOWN)
        return [f"the interpreter {interpreter!r} in the first line of {source} is not in an environment: it has {shown}"]
    if not (Path(interpreter).is_file() and os.access(interpreter, os.X_OK)):
        return [f"the interpreter {interpreter!r} in the first line of {source} is not on this machine"]
    if Path(interpreter).name == "env" and len(words) == 2 and shutil.which(words[1]) is None:
        return [f"the interpreter {words[1]!r} in the first line of {source} is not on this machine's PATH"]
    return []


_OWN: Final = ("/opt/", "/var/task/", "/var/lang/")  # … of an environment
_SHOWN: Final = ("/usr/", "/bin/", *_OWN)  # where there can be an interpreter in tier `namespace`


def elf_hint(name: str, head: bytes) -> str | None:
    """Compares e_machine with that of the interpreter that runs us."""
    with open(sys.executable, "rb") as file:
        ours = file.read(20)
    if ours.startswith(b"\x7fELF") and head[18:20] != ours[18:20]:
        return f"{name} is a program for another machine: its processor is of another kind"
    return None
