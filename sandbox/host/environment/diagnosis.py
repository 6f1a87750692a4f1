"""What a person is told when something fails: what happened, where, the last words, what to do. Never a traceback of ours."""

from __future__ import annotations

import os
import shlex
import shutil
import sys
from pathlib import Path
from typing import NamedTuple

from sandbox.core import errors
from sandbox.core.function import FunctionConfig
from sandbox.host.runtimes import Source
from sandbox.wire.runtime_api import LastCall


class Scene(NamedTuple):
    """What is known about a failure.

    deliveries: how often the event was given to the runtime. last_lines: the newest output of the process. memory: bytes in
    use at the end.
    """

    error_type: str
    message: str
    phase: str
    function: FunctionConfig
    last_call: LastCall | None
    deliveries: int
    last_lines: list[str]
    memory: int
    program: str | None
    source: Source | None  # what the program was copied from
    command: str | None
    managed: bool  # the runtime is one of ours: what ends it is the function
    wrapper: str | None  # the file of AWS_LAMBDA_EXEC_WRAPPER, if there is one
    wrapper_source: Source | None


def explain(scene: Scene) -> str:
    """Some lines of text, each beginning with "sandbox: "."""
    lines = [f"{scene.error_type} in {'Init' if scene.phase == 'init' else 'Invoke'}: {scene.message}"]
    if scene.command:
        lines.append(f"  process: runtime: {scene.command}")
    if scene.last_call is not None:
        status = scene.last_call.status
        reply = f"answered {status}" if status is not None else "not answered: it is waiting"
        lines.append(f"  last API call: {scene.last_call.method} {scene.last_call.target} ({reply})")
    else:
        lines.append("  last API call: none: the runtime never called the Runtime API")
    if scene.last_lines:
        lines.append("  last output:")
        lines += [f"    {line[:400]}" for line in scene.last_lines]
    lines += [f"  what to do: {hint}" for hint in hints(scene)]
    return "\n".join(f"sandbox: {line}" for line in lines)


def hints(scene: Scene) -> list[str]:
    """What to try, as far as the scene allows a good guess."""
    found: list[str] = []
    if scene.error_type == errors.INVALID_ENTRYPOINT:
        found += entrypoint_hints(scene.program, scene.source) or [f"see whether it runs by hand: {scene.source}"]
    elif scene.error_type == errors.OUT_OF_MEMORY:
        used = -(-scene.memory // (1024 * 1024))
        found.append(
            f"the processes used {used} MB, the limit is {scene.function.memory_mb} MB: raise it, or find what holds the memory"
        )
    elif scene.error_type == errors.TIMED_OUT:
        found.append(_timeout_hint(scene))
    elif scene.error_type == errors.UNKNOWN:
        found.append("Init may take 10 seconds: see what the code outside the handler waits for")
    elif scene.error_type == errors.EXIT_ERROR:
        found += _exit_hints(scene)
    elif scene.error_type == errors.RESPONSE_TOO_LARGE:
        found.append("put large results elsewhere (S3) and answer where they are, or stream the response")
    elif scene.error_type == errors.BAD_RESPONSE_MODE:
        found.append("Lambda-Runtime-Function-Response-Mode takes one value: streaming; leave it out otherwise")
    elif scene.error_type == errors.TRUNCATED_RESPONSE:
        found.append("the runtime hung up, or sent fewer bytes than its Content-Length says: see what it printed")
    return found


def _timeout_hint(scene: Scene) -> str:
    if scene.last_call is None:
        return "the runtime never asked for an event (GET /2018-06-01/runtime/invocation/next): is it the right program?"
    if scene.deliveries > 1:
        return (
            f"it asked for an event {scene.deliveries} times and was given this one again each time, for it had not answered: "
            "what did it print when it could not post its answer?"
        )
    if scene.last_call.target.endswith("/response") and scene.last_call.status == 202:
        return "it had answered, but did not ask for the next event: what does it do after the response?"
    return "raise the timeout, or see what the function waits for (network, a lock, an event loop that does not end)"


def _exit_hints(scene: Scene) -> list[str]:
    text = "\n".join(scene.last_lines)
    if "Illegal option -o pipefail" in text or ("not found" in text and "[[" in text):
        return ["on Lambda /bin/sh is bash, here it is not: begin the bootstrap with #!/bin/bash"]
    if scene.wrapper is not None and scene.message.endswith(("exit status 126", "exit status 127")):
        found = entrypoint_hints(scene.wrapper, scene.wrapper_source)
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


def init_hint(error_type: str | None, function: FunctionConfig) -> str | None:
    """What to do about an error of Init that the runtime itself has told; None if the error says all there is to say."""
    loading = ("Runtime.ImportModuleError", "Runtime.HandlerNotFound", "Runtime.MalformedHandlerName", "Init<LoadError>")
    if error_type not in loading or function.runtime is None:
        return None
    words = ["sandbox doctor", shlex.quote(function.code), "--runtime", function.runtime, "--handler", function.handler]
    return f"sandbox:   what to do: see what is in the package: {' '.join(words)}"


def entrypoint_hints(program: str | None, source: Source | None = None) -> list[str]:
    """Why this file cannot be run (users.md row 20: exec bit, CRLF, missing interpreter); nothing if it looks right.

    source: the file that the reader knows, of which this one is a copy.
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
        return _shebang_hints(source, head.partition(b"\n")[0])
    if head.startswith(b"\x7fELF"):
        hint = elf_hint(str(source), head)
        return [hint] if hint else []
    return [f"{source} does not begin with #! and is no binary of this machine: is its first line missing?"]


def _shebang_hints(source: Source, first: bytes) -> list[str]:
    if first.endswith(b"\r"):
        mend = source.after("sed -i 's/\\r$//'")
        return [f"the first line of {source} ends in CR LF (Windows line ends): {mend}"]
    words = [os.fsdecode(word) for word in first[2:].split()]
    interpreter = words[0] if words else ""
    if not (Path(interpreter).is_file() and os.access(interpreter, os.X_OK)):
        return [f"the interpreter {interpreter!r} in the first line of {source} is not on this machine"]
    if Path(interpreter).name == "env" and len(words) == 2 and shutil.which(words[1]) is None:
        return [f"the interpreter {words[1]!r} in the first line of {source} is not on this machine's PATH"]
    return []


def elf_hint(name: str, head: bytes) -> str | None:
    """Compares e_machine with that of the interpreter that runs us."""
    with open(sys.executable, "rb") as file:
        ours = file.read(20)
    if ours.startswith(b"\x7fELF") and head[18:20] != ours[18:20]:
        return f"{name} is a program for another machine: its processor is of another kind"
    return None
