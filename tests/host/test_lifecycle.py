"""The lifecycle with real processes: Init, freeze, crash, reset, memory, floods. Limits are injected short."""

from __future__ import annotations

import asyncio
import json
import os
from pathlib import Path
from typing import Any

import psutil
import pytest

from sandbox import FunctionFailure, Host, InvokeResult, Limits
from sandbox.core.limits import PAYLOAD_LIMIT
from sandbox.core.states import Phase
from sandbox.host.host import Function
from tests.conftest import (
    SLEEPER,
    MakeFolder,
    Played,
    Tier,
    every_tree,
    outside,
    python_of,
    seen_from_here,
    tmp_of,
)

COUNTER = """
import os
calls = 0
def handler(event, context):
    global calls
    calls += 1
    what = event.get("do")
    if what == "exit":
        os._exit(event["code"])
    if what == "hang":
        import time
        time.sleep(1000)
    if what == "write":
        open(os.environ.get("TMPDIR", "/tmp") + "/kept", "w").write("kept")
    return {"pid": os.getpid(), "calls": calls, "kept": os.path.exists(os.environ.get("TMPDIR", "/tmp") + "/kept")}
"""


pytestmark = pytest.mark.usefixtures("tier")


async def python(host: Host, code: Path, **settings: object) -> Function:
    return await host.deploy(code, runtime="python", handler="app.handler", **settings)


def error(result: InvokeResult) -> tuple[str, str]:
    document = result.json()
    return document["errorType"], document["errorMessage"].replace(result.request_id, "<id>")


def threads_of(pid: int) -> str:
    """The state letters of every thread of a process."""
    states = set()
    for task in Path(f"/proc/{pid}/task").iterdir():
        states.add((task / "stat").read_text().rpartition(")")[2].split()[0])
    return "".join(sorted(states))


async def until(condition: object) -> None:
    async with asyncio.timeout(20):
        while not condition():  # type: ignore[operator]
            await asyncio.sleep(0.002)


@pytest.mark.catalogue("LC-035", "LC-038", "LC-056", "EN-052", "LC-009")
async def test_one_process_serves_one_caller_again_and_again(host: Host, folder: MakeFolder) -> None:
    function = await python(host, folder(app_py=COUNTER))
    results = [await function.invoke() for _ in range(20)]
    assert {r.json()["pid"] for r in results} == {results[0].json()["pid"]}
    assert [r.json()["calls"] for r in results] == list(range(1, 21))
    assert len(function.environments) == 1


@pytest.mark.catalogue("LC-030")
async def test_two_at_once_get_an_environment_each(host: Host, folder: MakeFolder) -> None:
    code = folder(app_py="import os\nme = os.urandom(9).hex()\ndef handler(e, c):\n    return me\n")
    function = await python(host, code)
    one, two = await asyncio.gather(function.invoke(), function.invoke())
    assert one.json() != two.json()


async def test_two_callers_in_a_row_that_do_not_wait_for_the_report_meet_one_environment(
    host: Host, folder: MakeFolder
) -> None:
    function = await python(host, folder(app_py=COUNTER))
    for _ in range(50):
        await function.invoke(wait_for_report=False)
    assert len(function.environments) == 1


@pytest.mark.catalogue("LC-008", "LC-052", "LC-016")
async def test_init_ahead_of_any_invoke_ends_frozen(host: Host, folder: MakeFolder) -> None:
    function = await python(host, folder(app_py=COUNTER))
    await function.initialise()
    environment = function.environments[0]
    await until(lambda: environment.machine.phase is Phase.FROZEN)
    result = await function.invoke()
    assert result.report is not None
    assert result.report.init_duration_ms is not None
    assert len(function.environments) == 1


@every_tree
@pytest.mark.catalogue("LC-051", "LC-036", "LC-054", "LC-055")
async def test_frozen_means_no_progress_of_threads_and_children(host: Host, folder: MakeFolder) -> None:
    code = folder(
        app_py="""
import os, subprocess, sys, threading
spun = 0
def spin():
    global spun
    while True:
        spun += 1
threading.Thread(target=spin, daemon=True).start()
child = subprocess.Popen([sys.executable, "-c", "while True: pass"])
def handler(event, context):
    while event.get("work") and spun < event["work"]:
        pass
    return {"pids": [os.getpid(), child.pid], "spun": spun, "left": context.get_remaining_time_in_millis()}
"""
    )
    function = await python(host, code)
    before = (await function.invoke()).json()
    pids = [outside(function.environments[0], pid) for pid in before["pids"]]
    await until(lambda: all(threads_of(pid) == "T" for pid in pids))
    stopped = [psutil.Process(pid).cpu_times() for pid in pids]
    busy = psutil.Process().cpu_times().user + 0.15
    while psutil.Process().cpu_times().user < busy:  # meanwhile they could have worked on the other processor
        pass
    assert [psutil.Process(pid).cpu_times() for pid in pids] == stopped
    after = (await function.invoke({"work": before["spun"] + 1_000_000})).json()
    assert after["pids"] == before["pids"]
    assert after["spun"] > before["spun"]
    assert [psutil.Process(pid).cpu_times().user for pid in pids] > [t.user for t in stopped]


@pytest.mark.catalogue("LC-054", "LC-056")
async def test_the_deadline_does_not_feel_the_frozen_time(played: Played) -> None:
    connection = await played.connect()
    for _ in range(2):
        job, event = await played.deliver(connection)
        left = int(event.headers["lambda-runtime-deadline-ms"]) / 1000 - played.clock.wall()
        assert 2.95 < left <= 3.0
        await connection.ask("POST", f"invocation/{job.request_id}/response", b"1")
        polling = asyncio.ensure_future(connection.ask("GET", "invocation/next"))
        await job.reported
        assert job.result.report is not None
        assert job.result.report.duration_ms == 0.0
        played.clock.advance(3600)
        polling.cancel()
        connection = await played.connect()


@pytest.mark.catalogue("LC-074", "LC-012", "LC-070", "LC-071", "TL-101")
@pytest.mark.parametrize(
    ("code", "message"),
    [(7, "Runtime exited with error: exit status 7"), (0, "Runtime exited without providing a reason")],
)
async def test_a_crash_resets_and_the_next_invoke_gets_new_processes_with_tmp_kept(
    host: Host, folder: MakeFolder, code: int, message: str
) -> None:
    function = await python(host, folder(app_py=COUNTER))
    first = (await function.invoke({"do": "write"})).json()
    crashed = await function.invoke({"do": "exit", "code": code})
    assert error(crashed) == ("Runtime.ExitError", f"RequestId: <id> Error: {message}")
    assert crashed.function_error == "Unhandled"
    assert "\tStatus: error\tError Type: Runtime.ExitError" in crashed.log[-1]
    after = await function.invoke()
    assert after.json()["pid"] != first["pid"]
    assert after.json()["calls"] == 1
    assert after.json()["kept"]
    assert after.report is not None
    assert after.report.init_duration_ms is None  # a suppressed Init
    assert len(function.environments) == 1


async def test_what_a_person_is_told_of_a_crash(host: Host, folder: MakeFolder) -> None:
    function = await python(host, folder(app_py="import os\ndef handler(e, c):\n    print('last words')\n    os._exit(9)\n"))
    log = "\n".join((await function.invoke()).log)
    assert "sandbox: Runtime.ExitError in Invoke: Runtime exited with error: exit status 9" in log
    assert "last API call: GET /2018-06-01/runtime/invocation/next (answered 200)" in log
    assert "    last words" in log
    assert log.index("last words") < log.index("END RequestId")


@pytest.mark.catalogue("LC-072", "LC-078", "LC-079", "BL-018")
async def test_a_timeout_resets(host: Host, folder: MakeFolder) -> None:
    function = await python(host, folder(app_py=COUNTER), timeout=0.5)
    first = (await function.invoke()).json()
    late = await function.invoke({"do": "hang"})
    assert late.status == "timeout"
    assert error(late) == ("Sandbox.Timedout", "RequestId: <id> Error: Task timed out after 0.50 seconds")
    assert late.report is not None
    assert late.report.duration_ms >= 500
    assert late.log[-1].endswith("\tStatus: timeout")
    after = await function.invoke()
    assert after.json()["pid"] != first["pid"]


@pytest.mark.catalogue("LC-003", "LC-004", "LC-007", "TL-102")
async def test_an_init_that_never_ends(folder: MakeFolder) -> None:
    async with Host(limits=Limits(init=0.3)) as host:
        function = await host.deploy(folder(bootstrap=SLEEPER), timeout=0.4)
        result = await function.invoke()
    assert error(result) == ("Sandbox.Timedout", "RequestId: <id> Error: Task timed out after 0.40 seconds")
    assert (result.status, result.error_phase) == ("timeout", "init")
    reports = [line for line in result.log if line.startswith("INIT_REPORT")]
    assert [line.split("\t")[1:] for line in reports] == [
        ["Phase: init", "Status: timeout"],
        ["Phase: invoke", "Status: timeout"],
    ]
    assert "the runtime never called the Runtime API" in "\n".join(result.log)


@pytest.mark.catalogue("LC-004")
async def test_an_init_that_is_slow_once_works_inside_the_invoke(folder: MakeFolder) -> None:
    code = folder(
        app_py="""
import os, time
mark = os.environ.get("TMPDIR", "/tmp") + "/second"
if not os.path.exists(mark):
    open(mark, "w").close()
    time.sleep(1000)
def handler(event, context):
    return "ready"
"""
    )
    async with Host(limits=Limits(init=0.5)) as host:
        result = await (await python(host, code, timeout=10)).invoke()
    assert result.json() == "ready"


@pytest.mark.slow
@pytest.mark.timeout(60)
@pytest.mark.catalogue("LC-003")
async def test_the_real_init_limit(folder: MakeFolder) -> None:
    async with Host() as host:
        function = await host.deploy(folder(bootstrap=SLEEPER), timeout=1)
        result = await function.invoke()
    assert result.status == "timeout"
    assert float(result.log[1].partition("Init Duration: ")[2].partition(" ms")[0]) >= 10_000


@pytest.mark.catalogue("LC-012")
@pytest.mark.parametrize(
    ("bootstrap", "message"),
    [
        ("#!/bin/sh\nexit 0\n", "Runtime exited without providing a reason"),
        ("#!/bin/sh\nexit 7\n", "Runtime exited with error: exit status 7"),
        ("#!/bin/sh\nkill -9 $$\n", "Runtime exited with error: signal: killed"),
        ("#!/bin/sh\nkill -11 $$\n", "Runtime exited with error: signal: segmentation fault"),
    ],
)
async def test_a_runtime_that_ends_in_init(host: Host, folder: MakeFolder, bootstrap: str, message: str) -> None:
    function = await host.deploy(folder(bootstrap=bootstrap))
    for _ in range(2):
        result = await function.invoke()
        assert error(result) == ("Runtime.ExitError", f"RequestId: <id> Error: {message}")
        assert result.error_phase == "init"


@every_tree
@pytest.mark.catalogue("LC-010", "LC-015")
@pytest.mark.parametrize(
    ("files", "message", "hint"),
    [
        ({"x": ""}, "Couldn't find valid bootstrap(s): [/var/task/bootstrap /opt/bootstrap]", "put an executable file"),
        ({"bootstrap": "#!/bin/bash\r\n"}, "fork/exec /var/task/bootstrap: no such file or directory", "CR LF"),
        ({"bootstrap": "#!/no/such\n"}, "fork/exec /var/task/bootstrap: no such file or directory", "'/no/such'"),
        ({"bootstrap": "echo\n"}, "fork/exec /var/task/bootstrap: exec format error", "does not begin with #!"),
    ],
)
async def test_a_bootstrap_that_cannot_be_run(
    host: Host, folder: MakeFolder, files: dict[str, str], message: str, hint: str
) -> None:
    result = await (await host.deploy(folder(**files), runtime="provided.al2023")).invoke()
    assert error(result) == ("Runtime.InvalidEntrypoint", f"RequestId: <id> Error: {message}")
    assert result.error_phase == "init"
    assert hint in "\n".join(result.log)


@pytest.mark.catalogue("LC-010")
async def test_a_bootstrap_without_its_exec_bit(host: Host, folder: MakeFolder) -> None:
    code = folder(bootstrap="#!/bin/sh\n")
    (code / "bootstrap").chmod(0o644)
    result = await (await host.deploy(code)).invoke()
    assert error(result)[0] == "Runtime.InvalidEntrypoint"
    assert "chmod +x" in "\n".join(result.log)


@pytest.mark.catalogue("LC-009")
async def test_the_bootstrap_of_the_code_comes_before_that_of_a_layer(host: Host, folder: MakeFolder) -> None:
    layer = folder(bootstrap="#!/bin/sh\necho layer\nexit 1\n")
    both = await host.deploy(folder(bootstrap="#!/bin/sh\necho code\nexit 1\n"), layers=(str(layer),))
    assert "code" in (await both.invoke()).log
    only = await host.deploy(folder(x=""), layers=(str(layer),))
    assert "layer" in (await only.invoke()).log


@every_tree
@pytest.mark.catalogue("LC-075", "EN-076", "EN-071")
async def test_out_of_memory_counts_the_whole_environment(host: Host, folder: MakeFolder, tier: Tier) -> None:
    code = folder(
        app_py="""
import os, subprocess, sys
def handler(event, context):
    if event.get("eat"):
        eater = "import time\\nx = bytearray(90 << 20)\\ntime.sleep(1000)"
        children = [subprocess.Popen([sys.executable, "-S", "-c", eater]) for _ in range(2)]
        [child.wait() for child in children]
    return os.getpid()
"""
    )
    function = await python(host, code, memory_mb=128, timeout=8)
    first = await function.invoke()
    result = await function.invoke({"eat": True})
    assert error(result) == ("Runtime.OutOfMemory", "RequestId: <id> Error: Runtime exited with error: signal: killed")
    assert result.report is not None
    assert result.report.error_type == "Runtime.OutOfMemory"
    assert result.report.max_memory_used_mb >= 128
    assert "the limit is 128 MB" in "\n".join(result.log)
    assert (await function.invoke()).json() != first.json()


@pytest.mark.catalogue("BL-016", "BL-017")
async def test_max_memory_used_is_a_measured_peak_since_the_start(host: Host, folder: MakeFolder) -> None:
    code = folder(app_py="def handler(event, context):\n    data = bytearray(event.get('mb', 0) << 20)\n    return len(data)\n")
    function = await python(host, code, memory_mb=512)
    small, big, small_again = [await function.invoke({"mb": mb}) for mb in (0, 100, 0)]
    used = [r.report.max_memory_used_mb for r in (small, big, small_again) if r.report]
    assert 5 < used[0] < 60
    assert used[1] >= used[0] + 90
    assert used[2] >= used[1]


@pytest.mark.catalogue("IN-023", "TL-039")
@pytest.mark.timeout(120)
async def test_a_line_written_just_before_the_answer_is_in_the_log_of_that_invoke(host: Host, folder: MakeFolder) -> None:
    code = folder(app_py="def handler(event, context):\n    print('line', event['n'])\n    return event['n']\n")
    function = await python(host, code)
    for number in range(1000):
        result = await function.invoke({"n": number})
        lines = [line for line in result.log if line.startswith("line")]
        assert lines == [f"line {number}"]


@pytest.mark.catalogue("IN-023", "TL-039")
async def test_what_is_still_in_the_pipe_at_the_poll_belongs_to_that_invoke(host: Host, folder: MakeFolder, tier: Tier) -> None:
    """More than the event loop reads at once, then the answer and the next poll in one piece: the poll is heard first."""
    code = folder(
        **{
            "bootstrap": f"#!/bin/sh\nexec {python_of(tier)} -S runtime.py\n",
            "runtime.py": """
import os, socket
host, port = os.environ["AWS_LAMBDA_RUNTIME_API"].split(":")
api = socket.create_connection((host, int(port)))
poll = f"GET /2018-06-01/runtime/invocation/next HTTP/1.1\\r\\nHost: {host}\\r\\n\\r\\n".encode()
api.sendall(poll)
while True:
    event = b""
    while b"\\r\\n\\r\\n{}" not in event:
        event += api.recv(65536)
    id = event.lower().partition(b"lambda-runtime-aws-request-id: ")[2].partition(b"\\r")[0]
    os.write(1, (b"x" * 999 + b"\\n") * 60 + b"last of " + id + b"\\n")
    head = b"POST /2018-06-01/runtime/invocation/%b/response HTTP/1.1\\r\\nHost: 127.0.0.1\\r\\nContent-Length: 1\\r\\n\\r\\n1"
    api.sendall(head % id + poll)
""",
        }
    )
    function = await host.deploy(code)
    for _ in range(30):
        result = await function.invoke()
        assert f"last of {result.request_id}" in result.log


async def test_a_flood_of_output_does_not_stop_the_invoke(host: Host, folder: MakeFolder) -> None:
    code = folder(
        app_py="""
import os, threading
def flood():
    while True:
        os.write(1, b"x" * 1000 + b"\\n")
def handler(event, context):
    threading.Thread(target=flood, daemon=True).start()
    return "done"
"""
    )
    function = await python(host, code)
    for _ in range(3):
        assert (await function.invoke()).json() == "done"


@pytest.mark.catalogue("LC-110", "EN-052", "LC-109", "LC-114")
async def test_shutdown_leaves_no_process_and_no_folder(folder: MakeFolder) -> None:
    code = folder(
        app_py="""
import os, subprocess
def handler(event, context):
    daemon = subprocess.Popen(["sleep", "1000"], start_new_session=True)
    open(os.environ.get("TMPDIR", "/tmp") + "/made", "w").close()
    return daemon.pid
"""
    )
    async with Host() as host:
        function = await python(host, code)
        told = (await function.invoke()).json()
        (environment,) = function.environments
        daemon, place = outside(environment, told), environment._folder
        assert psutil.pid_exists(daemon)
        assert seen_from_here(environment, tmp_of(environment) + "/made").is_file()
        assert place is not None
        assert place.is_dir()
    assert not psutil.pid_exists(daemon)
    assert not place.exists()


@pytest.mark.catalogue("LC-110")
async def test_closing_the_host_answers_whoever_still_waits(folder: MakeFolder) -> None:
    host = Host()
    function = await python(host, folder(app_py=COUNTER), timeout=60)
    await function.invoke()
    waiting = asyncio.ensure_future(function.invoke({"do": "hang"}))
    await until(lambda: function.environments[0].machine.phase is Phase.INVOKE)
    await host.close()
    result = await waiting
    assert error(result)[0] == "Sandbox.Failure"
    with pytest.raises(FunctionFailure):
        result.check()


async def test_six_mebibytes_and_a_hundred_bytes_pass_and_one_more_does_not(host: Host, folder: MakeFolder) -> None:
    code = folder(app_py="def handler(event, context):\n    return b'x' * event['n']\n")
    function = await python(host, code, memory_mb=256, timeout=10)
    whole = await function.invoke({"n": PAYLOAD_LIMIT})
    assert len(whole.payload) == PAYLOAD_LIMIT
    over = await function.invoke({"n": PAYLOAD_LIMIT + 1})
    assert error(over)[0] == "Function.ResponseSizeTooLarge"
    assert (await function.invoke({"n": 1})).payload == b"x"
    assert len(function.environments) == 1


@pytest.mark.catalogue("IN-029")
async def test_a_caller_who_leaves_does_not_stop_the_function(host: Host, folder: MakeFolder) -> None:
    function = await python(host, folder(app_py=COUNTER))
    await function.invoke()
    leaving = asyncio.ensure_future(function.invoke())
    await asyncio.sleep(0)
    leaving.cancel()
    with pytest.raises(asyncio.CancelledError):
        await leaving
    await until(lambda: function.environments[0].machine.phase is Phase.FROZEN)
    result = await function.invoke()
    assert result.json()["calls"] == 3


@pytest.mark.catalogue("TL-060", "TL-062", "TL-063", "TL-065", "TL-066", "TL-067", "TL-068", "TL-069", "TL-073", "TL-086")
async def test_records_have_the_fields_of_the_telemetry_api(host: Host, folder: MakeFolder) -> None:
    records: dict[str, dict[str, Any]] = {}
    host.journal.subscribe(lambda record: records.__setitem__(record.type, record.document()["record"]))
    code = folder(app_py="import time\ndef handler(event, context):\n    time.sleep(0.01)\n    return 'four'\n")
    await (await python(host, code)).invoke()
    start, done, report = (records[f"platform.{name}"] for name in ("initStart", "runtimeDone", "report"))
    assert set(start) >= {"initializationType", "phase", "functionName", "functionVersion", "instanceId", "runtimeVersion"}
    assert (start["initializationType"], start["phase"]) == ("on-demand", "init")
    assert set(records["platform.initRuntimeDone"]) == {"initializationType", "phase", "status"}
    assert set(records["platform.initReport"]) == {"initializationType", "phase", "status", "metrics"}
    assert set(records["platform.start"]) == {"requestId", "version", "tracing"}
    assert set(records["platform.start"]["tracing"]) == {"type", "value"}
    assert set(done) == {"requestId", "status", "metrics", "spans", "tracing"}
    assert [span["name"] for span in done["spans"]] == ["responseLatency", "responseDuration", "runtimeOverhead"]
    assert done["metrics"]["producedBytes"] == len('"four"')
    assert done["metrics"]["durationMs"] >= 10
    assert set(report) == {"requestId", "status", "metrics", "tracing"}
    metrics = {"durationMs", "billedDurationMs", "memorySizeMB", "maxMemoryUsedMB", "initDurationMs"}
    assert set(report["metrics"]) == metrics
    assert isinstance(report["metrics"]["durationMs"], float)
    assert isinstance(report["metrics"]["billedDurationMs"], int)


async def test_a_result_as_json_lines_is_stable(host: Host, folder: MakeFolder) -> None:
    function = await python(host, folder(app_py=COUNTER))
    result = await function.invoke()
    names = [phase.name for phase in result.phases]
    assert names == ["init", "runtime-init", "function-init", "invoke"]
    assert all(phase.duration_ms is not None for phase in result.phases)
    assert json.dumps([phase.document() for phase in result.phases])
    assert os.path.isabs(function.config.code)


async def test_a_runtime_that_polls_instead_of_answering_is_told_so(played: Played) -> None:
    """AWS's Node.js client does that with an error that is too large for a header."""
    runtime = await played.connect()
    job, first = await played.deliver(runtime)
    again = await runtime.ask("GET", "invocation/next")
    assert again.headers == first.headers
    played.clock.advance(3)
    await job.reported
    assert any("asked for an event 2 times" in line for line in job.result.log)
