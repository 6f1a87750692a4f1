"""The managed Ruby runtime: errors of handlers, of Init, and processes that end."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from sandbox import Host
from sandbox.clock import ManualClock
from sandbox.core.limits import MIB, PAYLOAD_LIMIT
from tests.conftest import MakeFolder, no_task_is_left
from tests.runtimes.conftest import TRACE, Deploy, code_of, in_both_tiers, in_tier_process, platform_error, printed, put
from tests.runtimes.ruby import EVALUATE, PID, deploying, facing, frame, replaced, ruby

pytestmark = in_tier_process

ORDINARY, CRITICAL = "Error raised from handler method", "Critical exception from handler"
INIT = "Init error when loading handler app.handler"
OURS = ("_lambda_sandbox_runtime", "bootstrap.rb")


@pytest.fixture
def deploy_ruby(host: Host, folder: MakeFolder) -> Deploy:
    return deploying(host, folder)


def pretty(document: dict[str, Any]) -> str:
    """As Ruby's JSON.pretty_generate writes it; an empty list depends on its version."""
    return json.dumps(document, indent=2, ensure_ascii=False)


# ── errors of the handler ──


@in_both_tiers
@pytest.mark.catalogue("RT-090", "RT-094", "RT-095", "RT-096", "RT-098", "TL-072", "IN-021", "IN-027")
async def test_an_error_is_told_as_aws_tells_it(deploy_ruby: Deploy) -> None:
    app = """
    require "helper"
    module Deep
      class Boom < StandardError; end
    end
    def handler(event:, context:)
      return Process.pid if event == 1
      puts Process.pid
      fail_with Deep::Boom
    end
    """
    function = await deploy_ruby(app, {"helper.rb": "def fail_with(kind)\n  raise kind, 'ö: \"no\"\n'\nend\n"})
    failed = await function.invoke({})
    root = code_of(function)
    trace = [frame(f"{root}/helper.rb", 2, "fail_with"), frame(f"{root}/app.rb", 9)]
    told = {"errorMessage": 'ö: "no"\n', "errorType": "Function<Deep::Boom>", "stackTrace": trace}
    assert failed.payload.decode() == json.dumps(told, ensure_ascii=False, separators=(",", ":"))
    assert (failed.function_error, failed.status, failed.error_phase) == ("Unhandled", "error", None)
    assert failed.content_type == "application/json"
    assert failed.report is not None
    assert failed.report.status == "success"
    pid, *logged = printed(failed)
    assert logged == [ORDINARY, pretty(told)]
    labels = [("helper.rb", 2, "fail_with"), ("app.rb", 9, "handler")]
    labels = [(name, line, label if ruby().number < (3, 4) else f"Object#{label}") for name, line, label in labels]
    assert failed.error_cause == {
        "working_directory": root,
        "paths": [f"{root}/helper.rb", f"{root}/app.rb"],
        "exceptions": [
            {
                "message": 'ö: "no"\n',
                "type": "Function<Deep::Boom>",
                "stack": [{"path": f"{root}/{name}", "line": line, "label": label} for name, line, label in labels],
            }
        ],
    }
    assert (await function.invoke(1)).check().json() == int(pid)


ERRORS = {  # what a StandardError says: the process lives on
    "raise 'text'": ("RuntimeError", "text"),
    "raise ArgumentError": ("ArgumentError", "ArgumentError"),
    "raise StandardError, ''": ("StandardError", ""),
    "raise nil": ("TypeError", "exception class/object expected"),
    "1 / 0": ("ZeroDivisionError", "divided by 0"),
    "throw :nowhere": ("UncaughtThrowError", "uncaught throw :nowhere"),
    "require 'timeout'; Timeout.timeout(0.01) { sleep }": ("Timeout::Error", "execution expired"),
    "raise StopIteration, 'ends only the handler'": ("StopIteration", "ends only the handler"),
    "begin; 1 / 0; rescue; raise 'outer'; end": ("RuntimeError", "outer"),
    "raise Class.new(StandardError) { def self.to_s = 'Own' }, 'x'": ("Own", "x"),
    'raise "\\xff bad".b': ("RuntimeError", "\ufffd bad"),
    'raise "ü \\xff"': ("RuntimeError", "ü \ufffd"),
    'raise "caf\\xe9".dup.force_encoding("ISO-8859-1")': ("RuntimeError", "café"),
    "raise Class.new(StandardError) { def self.to_s = 'Mute'; def message = raise('no text') }": (
        "Mute",
        "Mute: its message cannot be made",
    ),
    "raise Class.new(StandardError) { def self.to_s = 'Odd'; def message = nil }": ("Odd", ""),
    "raise 'late' rescue raise RuntimeError.new('no trace').tap { |e| e.set_backtrace([]) }": ("RuntimeError", "no trace"),
    "Thread.new { Thread.current.report_on_exception = false; raise 'joined' }.join": ("RuntimeError", "joined"),
}


@pytest.mark.catalogue("RT-090", "RT-095", "IN-021")
async def test_ordinary_errors_leave_the_process_alive(deploy_ruby: Deploy) -> None:
    function = await deploy_ruby()
    pid = (await function.invoke("Process.pid")).check().json()
    found = {}
    for expression in ERRORS:
        result = await function.invoke(expression)
        told = result.json()
        found[expression] = (told["errorType"], told["errorMessage"])
        assert printed(result)[0] == ORDINARY, expression
        assert not [line for line in told["stackTrace"] if any(name in line for name in OURS)]
    assert found == {expression: (f"Function<{kind}>", message) for expression, (kind, message) in ERRORS.items()}
    assert (await function.invoke("Process.pid")).check().json() == pid


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("class Missing < KeyError; def message = 'mine'; end", "mine"),
        ("class Missing < NameError; def to_s = 'mine'; end", "mine"),
        ("class Missing < LoadError; def initialize(_ = nil) = super('given'); def message = 'mine'; end", "mine"),
        ("class Missing < StandardError; def original_message = 'inner'; def message = 'mine'; end", "mine"),
    ],
)
async def test_an_error_has_the_message_that_its_class_gives_it(deploy_ruby: Deploy, body: str, message: str) -> None:
    function = await deploy_ruby(f"{body}\ndef handler(event:, context:) = raise(Missing)\n")
    assert (await function.invoke()).json()["errorMessage"] == message


FATAL = {  # these end AWS's process, too: the next invoke is a cold start
    "undefined_thing": "NameError",
    "nil.upcase": "NoMethodError",
    "Nope": "NameError",
    "raise Exception, 'x'": "Exception",
    "raise NotImplementedError": "NotImplementedError",
    "require 'nowhere'": "LoadError",
    "eval('x = = 1')": "SyntaxError",
    "exit 7": "SystemExit",
    "exit": "SystemExit",
    "abort 'said'": "SystemExit",
    "def self.deeper = deeper; deeper": "SystemStackError",
    "raise Interrupt": "Interrupt",
    "Process.kill(:TERM, Process.pid); sleep 1": "SignalException",
}


@pytest.mark.catalogue("RT-090", "LC-012", "LC-071", "IN-021")
async def test_after_other_exceptions_the_process_is_replaced(deploy_ruby: Deploy) -> None:
    """The caller gets the error all the same; AWS's client exits with 255, whatever was asked for."""
    function = await deploy_ruby()
    found = {}
    for expression in FATAL:
        result = await function.invoke(expression)
        found[expression] = result.json()["errorType"]
        words = printed(result)
        assert words[expression.startswith("abort")] == CRITICAL, expression
        assert (result.function_error, result.error_phase) == ("Unhandled", None)
        assert result.report is not None
        assert (result.report.status, result.report.error_type) == ("error", "Runtime.ExitError")
    assert found == {expression: f"Function<{kind}>" for expression, kind in FATAL.items()}
    assert replaced(await function.invoke("1"))
    assert len(function.environments) == 1


async def test_messages_of_exceptions_that_end_the_process(deploy_ruby: Deploy) -> None:
    function = await deploy_ruby()
    aborted = await function.invoke("abort 'last words'")
    assert aborted.json()["errorMessage"] == "last words"
    assert printed(aborted)[:2] == ["last words", CRITICAL]
    killed = await function.invoke("at_exit { puts 'at exit' }; Process.kill(:TERM, Process.pid); sleep 1")
    assert killed.json()["errorMessage"] == "SIGTERM"
    deep = await function.invoke("def self.deeper = deeper; deeper")
    assert deep.json()["errorMessage"] == "stack level too deep"
    assert len(deep.json()["stackTrace"]) == 100
    assert deep.error_cause is not None
    assert len(deep.error_cause["exceptions"][0]["stack"]) == 15


async def test_suggestions_and_snippets_are_no_part_of_a_message(deploy_ruby: Deploy) -> None:
    """Ruby 3.1 writes them into it; AWS's are newer."""
    result = await (await deploy_ruby("def handler(event:, context:) = evnt\n")).invoke()
    message = result.json()["errorMessage"]
    assert "\n" not in message
    assert message.startswith(
        ("undefined local variable or method `evnt' for ", "undefined local variable or method 'evnt' for ")
    )


@pytest.mark.catalogue("RT-090")
async def test_a_result_that_is_no_json(deploy_ruby: Deploy) -> None:
    function = await deploy_ruby()
    kinds = {
        "{ x: Float::NAN }": "JSON::GeneratorError",
        "[1e400]": "JSON::GeneratorError",
        '{ x: "\\xe9" }': "JSON::GeneratorError",
        "a = []; a << a": "JSON::NestingError",
        "200.times.inject([]) { |a, _| [a] }": "JSON::NestingError",
        "StringIO.new('x').tap(&:close)": "IOError",
    }
    found = {}
    for expression in kinds:
        result = await function.invoke(expression)
        found[expression] = result.json()["errorType"]
        assert result.json()["errorMessage"]
        assert not replaced(result) or expression == next(iter(kinds))
    assert found == {expression: f"Function<{kind}>" for expression, kind in kinds.items()}
    assert not replaced(await function.invoke("1"))


async def test_a_marshaller_that_answers_with_no_text_fails_that_invoke_alone(deploy_ruby: Deploy) -> None:
    """AWS's client posts Runtime<…> then. What must not happen is an end without a word to the caller."""
    app = """
    class AwsLambda::Marshaller
      def self.marshall_response(result)
        case result
        when "odd" then 5
        when "read me" then [StringIO.new(result), "application/unknown"]
        else result.to_json
        end
      end
    end
    def handler(event:, context:) = event
    """
    function = await deploy_ruby(app)
    odd = await function.invoke("odd")
    assert odd.json()["errorType"] != "Runtime.ExitError"
    assert (await function.invoke("text")).check().json() == "text"
    assert (await function.invoke("read me")).check().payload == b"read me"  # AWS's reads what is application/unknown


async def test_an_error_whose_backtrace_is_no_utf8(deploy_ruby: Deploy) -> None:
    function = await deploy_ruby()
    result = await function.invoke('eval("raise %q(x)", binding, "\\xff.rb", 1)')
    assert result.json()["errorMessage"] == "x"
    assert result.json()["stackTrace"][0].startswith("\ufffd.rb:1")
    assert not replaced(await function.invoke("1"))


async def test_an_error_whose_backtrace_cannot_be_made(deploy_ruby: Deploy) -> None:
    function = await deploy_ruby()
    result = await function.invoke("raise Class.new(StandardError) { def self.to_s = 'Odd'; def backtrace = raise('no') }, 'x'")
    assert (result.json()["errorType"], result.json()["errorMessage"]) == ("Function<Odd>", "x")
    assert not replaced(await function.invoke("1"))


async def test_a_very_long_message_is_told_whole(deploy_ruby: Deploy) -> None:
    """Its cause for X-Ray goes along in a header of nearly 1 MiB; a longer one is left out."""
    function = await deploy_ruby("def handler(event:, context:) = raise('v' * event)\n")
    for size, there in ((1000, True), (MIB - 2000, True), (2 * MIB, False)):
        result = await function.invoke(size)
        assert result.json()["errorMessage"] == "v" * size
        assert (result.error_cause is not None) is there
    assert not replaced(result)


@pytest.mark.catalogue("RT-104")
async def test_an_error_over_the_limit_fails_the_invoke_and_the_next_one_works(deploy_ruby: Deploy) -> None:
    function = await deploy_ruby("def handler(event:, context:) = raise('v' * event)\n")
    large = await function.invoke(PAYLOAD_LIMIT)
    assert large.function_error == "Unhandled"
    assert len(large.payload) < 1000
    small = await function.invoke(1)
    assert small.json()["errorMessage"] == "v"
    assert not replaced(small)


async def test_what_aws_calls_the_error_in_its_header(folder: MakeFolder) -> None:
    """Eight classes by their names, any other as a UserException; the body has the true one."""
    kinds = {
        "raise ArgumentError": "ArgumentError",
        "raise StandardError": "StandardError",
        "raise KeyError": "UserException",
        "raise Class.new(ArgumentError)": "UserException",
        "undefined_thing": "NameError",
    }
    events = [(json.dumps(expression).encode(), {}) for expression in kinds]
    ended = await facing(folder(**{"app.rb": EVALUATE}), events, sent=None)
    told = [post.fields["lambda-runtime-function-error-type"] for post in ended.posts]
    assert told == [f"Function<{kind}>" for kind in kinds.values()]
    assert {post.fields["content-type"] for post in ended.posts} == {"application/json"}
    assert ended.status == 255  # after the NameError


@pytest.mark.parametrize(
    ("app", "kind"), [("raise ArgumentError\n", "Init<ArgumentError>"), ("x = = 1\n", "Function<UserException>")]
)
async def test_what_aws_calls_an_error_of_init_in_its_header(folder: MakeFolder, app: str, kind: str) -> None:
    ended = await facing(folder(**{"app.rb": app}), sent=None)
    [post] = ended.posts
    assert (post.path, post.fields["lambda-runtime-function-error-type"]) == ("init/error", kind)
    assert (json.loads(post.body)["errorType"][:5], ended.status) == ("Init<", 252)


# ── events that are wrong ──


@pytest.mark.parametrize("payload", [b"{bad", b"", b"[NaN]", b"[" * 101 + b"]" * 101])
async def test_a_malformed_event_fails_only_its_invoke(folder: MakeFolder, payload: bytes) -> None:
    """AWS's client would report an error of Init, and end. Our host refuses such events."""
    ended = await facing(folder(**{"app.rb": EVALUATE}), [(payload, {}), (b'"1"', {})])
    failed, after = ended.posts
    assert failed.path == "invocation/one/error"
    told = json.loads(failed.body)
    assert told["errorType"] in ("Function<JSON::ParserError>", "Function<JSON::NestingError>")
    assert (after.path, after.body) == ("invocation/one/response", b"1")


async def test_a_malformed_context_fails_only_its_invoke(folder: MakeFolder) -> None:
    bad = [(b'"1"', {f"Lambda-Runtime-{name}": "{bad"}) for name in ("Client-Context", "Cognito-Identity")]
    *failed, after = (await facing(folder(**{"app.rb": EVALUATE}), [*bad, (b'"1"', {})])).posts
    assert [json.loads(post.body)["errorType"] for post in failed] == ["Function<JSON::ParserError>"] * 2
    assert after.body == b"1"


async def test_a_lone_surrogate_in_an_event(deploy_ruby: Deploy) -> None:
    """It passes or fails by the version of json; the process lives in any case."""
    function = await deploy_ruby(PID)
    first = await function.invoke(payload=b'{"s":"\\ud800"}')
    assert first.function_error is None or first.json()["errorType"] == "Function<JSON::ParserError>"
    assert not replaced(await function.invoke())


# ── errors of Init ──


@pytest.mark.catalogue("RT-102", "RT-103", "LC-013", "TL-064", "TL-101", "IN-027")
@pytest.mark.parametrize(
    ("app", "error_type", "message", "lines"),
    [
        ("x = 1\nrequire 'no_such_gem'\n", "LoadError", "cannot load such file -- no_such_gem", [2]),
        ("def load!\n  raise KeyError, 'of mine'\nend\nload!\n", "KeyError", "of mine", [2, 4]),
        ("class Own < Exception; end\nraise Own\n", "Own", "Own", [2]),
        ("exit 3\n", "SystemExit", "exit", [1, 1]),
        ("abort 'gone'\n", "SystemExit", "gone", [1, 1]),
        ('raise "\\xff"\n', "RuntimeError", "\ufffd", [1]),
    ],
    ids=["gem", "raise", "exception", "exit", "abort", "binary"],
)
async def test_what_cannot_be_loaded(deploy_ruby: Deploy, app: str, error_type: str, message: str, lines: list[int]) -> None:
    """Init fails ahead of the invoke, is tried again inside it, and that attempt's error is the answer."""
    function = await deploy_ruby(app)
    result = await function.invoke()
    told = result.json()
    assert list(told) == ["errorMessage", "errorType", "stackTrace"]
    assert (told["errorType"], told["errorMessage"]) == (f"Init<{error_type}>", message)
    own = [line for line in told["stackTrace"] if line.startswith(code_of(function))]
    assert [int(line.split(":")[1]) for line in own] == lines
    assert not [line for line in told["stackTrace"] if any(name in line for name in OURS)]
    assert (result.function_error, result.error_phase) == ("Unhandled", "init")
    reports = [line.split("\t")[1:] for line in result.log if line.startswith("INIT_REPORT")]
    rest = ["Status: error", "Error Type: Runtime.Unknown"]  # RT-093: the type in the header has another form
    assert reports == [["Phase: init", *rest], ["Phase: invoke", *rest]]
    words = [line for line in printed(result) if line != "gone"]
    assert [json.loads(line)["errorType"] if line[0] == "{" else line for line in words] == [INIT, told["errorType"]] * 2


@pytest.mark.parametrize(
    ("app", "handler", "error_type", "message"),
    [
        ("", "other.handler", "LoadError", "cannot load such file -- other"),
        (
            "",
            "app",
            "ArgumentError",
            'Invalid handler ["app"], must be of form FILENAME.METHOD or FILENAME.CLASS.METHOD where ',
        ),
        ("", "app.", "ArgumentError", 'Invalid handler ["app"], must be of form '),
        ("", "a.b.c.d", "ArgumentError", 'Invalid handler ["a", "b", "c", "d"], must be of form '),
        ("", "../app.handler", "ArgumentError", 'Invalid handler ["", "", "/app", "handler"], must be of form '),
        ("def handler(event:, context:)\n  x = = 1\nend\n", "app.handler", "SyntaxError", "{root}/app.rb:2: syntax error"),
    ],
    ids=["file", "one part", "no method", "four parts", "outside", "syntax"],
)
async def test_names_and_files_that_are_wrong(
    deploy_ruby: Deploy, app: str, handler: str, error_type: str, message: str
) -> None:
    function = await deploy_ruby(app, handler=handler)
    result = await function.invoke()
    assert result.json()["errorType"] == f"Init<{error_type}>"
    assert result.json()["errorMessage"].startswith(message.format(root=code_of(function)))
    assert result.error_phase == "init"


@pytest.mark.parametrize(
    ("handler", "error_type", "names"),
    [
        ("app.nope", "NoMethodError", ["nope", "LambdaHandler"]),
        ("app.Tools.nope", "NoMethodError", ["nope", "Tools"]),
        ("app.Nope.handler", "NameError", ["uninitialized constant", "Nope"]),
    ],
)
async def test_a_missing_method_is_found_out_by_the_first_event(
    deploy_ruby: Deploy, handler: str, error_type: str, names: list[str]
) -> None:
    function = await deploy_ruby("module Tools; end\n", handler=handler)
    result = await function.invoke()
    assert (result.json()["errorType"], result.error_phase) == (f"Function<{error_type}>", None)
    assert all(name in result.json()["errorMessage"] for name in names)
    assert result.json()["stackTrace"] == []
    assert result.phases[0].name == "init"  # which went well
    assert replaced(await function.invoke())


@pytest.mark.catalogue("RT-103", "LC-071", "TL-075")
async def test_after_a_failed_init_the_next_invoke_begins_anew(deploy_ruby: Deploy) -> None:
    function = await deploy_ruby("require 'late'\n")
    assert (await function.invoke()).json()["errorType"] == "Init<LoadError>"
    put(function, "late.rb", "def handler(event:, context:) = 'here'\n")
    assert (await function.invoke()).check().json() == "here"


@pytest.mark.catalogue("LC-012", "TL-101")
@pytest.mark.parametrize(
    ("app", "message"),
    [
        ("exit! 4\n", "Runtime exited with error: exit status 4"),
        ("exit! 0\n", "Runtime exited without providing a reason"),
        ("Process.kill(:KILL, Process.pid); sleep\n", "Runtime exited with error: signal: killed"),
    ],
)
async def test_an_end_of_the_process_in_init(deploy_ruby: Deploy, app: str, message: str) -> None:
    result = await (await deploy_ruby(app)).invoke()
    assert result.json() == platform_error(result, "Runtime.ExitError", message)
    assert result.error_phase == "init"


async def test_after_an_error_of_init_at_exit_blocks_run_and_nothing_printed_is_lost(folder: MakeFolder) -> None:
    app = "$stdout.sync = false\nprint 'buffered'\nat_exit { warn 'at exit' }\nraise 'x'\n"
    ended = await facing(folder(**{"app.rb": app}), sent=None)
    assert ended.status == 252
    assert "buffered" in ended.out
    assert ended.err == "at exit\n"


# ── the process ends, or is late ──


@pytest.mark.catalogue("LC-012", "LC-070", "LC-071", "LC-074", "TL-039")
async def test_an_end_of_the_process_in_the_handler(deploy_ruby: Deploy) -> None:
    function = await deploy_ruby()
    kept = "require 'tmpdir'; File.write(Dir.tmpdir + '/kept', '!'); Process.pid"
    before = (await function.invoke(kept)).check().json()
    for expression, message in {
        "exit! 3": "Runtime exited with error: exit status 3",
        "exit! 0": "Runtime exited without providing a reason",
        "Process.kill(:KILL, Process.pid); sleep": "Runtime exited with error: signal: killed",
        "exec('exit 9')": "Runtime exited with error: exit status 9",
    }.items():
        ended = await function.invoke(f"print 'last words'; {expression}")
        assert ended.json() == platform_error(ended, "Runtime.ExitError", message), expression
        assert (ended.function_error, ended.error_phase) == ("Unhandled", "invoke")
        assert printed(ended) == ["last words"]
    after = (await function.invoke("require 'tmpdir'; [File.read(Dir.tmpdir + '/kept'), Process.pid]")).check().json()
    assert after[0] == "!"
    assert after[1] != before


@in_both_tiers
@pytest.mark.catalogue("LC-070", "LC-072", "LC-071", "TL-071")
async def test_a_timeout_ends_the_process_and_what_it_started(folder: MakeFolder) -> None:
    """On a clock that only the test moves. The suite looks for processes that were left: a child that lived would fail it."""
    clock = ManualClock()
    async with Host(clock=clock) as host:
        function = await deploying(host, folder)(timeout=3)
        before = (await function.invoke("Process.pid")).check().json()
        asleep = asyncio.Event()
        host.journal.subscribe(lambda record: asleep.set() if "asleep" in str(record.record) else None)
        invoke = asyncio.ensure_future(function.invoke("spawn('sleep 1000'); puts 'asleep'; sleep"))
        await asleep.wait()
        clock.advance(3)
        late = await invoke
        assert late.json() == platform_error(late, "Sandbox.Timedout", "Task timed out after 3.00 seconds")
        assert (await function.invoke("Process.pid")).check().json() != before
    no_task_is_left()


async def test_an_exception_in_a_thread_is_only_printed(deploy_ruby: Deploy) -> None:
    function = await deploy_ruby()
    result = await function.invoke("Thread.new { raise 'aside' }.join rescue nil; 'ok'")
    assert result.check().json() == "ok"
    words = printed(result)
    assert "terminated with exception (report_on_exception is true)" in words[0]
    assert any("aside (RuntimeError)" in line for line in words)


async def test_an_exception_that_a_thread_raises_in_the_main_one_is_the_handlers(deploy_ruby: Deploy) -> None:
    function = await deploy_ruby()
    result = await function.invoke("Thread.new { Thread.main.raise(KeyError, 'from a thread') }; sleep 10")
    assert (result.json()["errorType"], result.json()["errorMessage"]) == ("Function<KeyError>", "from a thread")
    assert not replaced(await function.invoke("1"))


async def test_an_exception_while_the_runtime_waits_ends_it_with_words(folder: MakeFolder) -> None:
    code = folder(**{"app.rb": EVALUATE})
    expression = b'"Thread.new { sleep 0.05; Thread.main.raise(%q(late)) }; 1"'
    ended = await facing(code, [(expression, {})], sent=None)
    assert ended.posts[0].body == b"1"
    assert ended.status > 0
    assert "late" in ended.err + ended.out


@pytest.mark.parametrize(("app", "status"), [("", 128 + 15), ("trap('TERM') { exit 0 }\n", 0)], ids=["plain", "trap"])
async def test_sigterm_between_two_events_ends_it_quietly(folder: MakeFolder, app: str, status: int) -> None:
    """As a shutdown with extensions sends it. AWS's client would report an error of Init then."""
    ended = await facing(folder(**{"app.rb": EVALUATE + app}), [(b'"1"', {})])
    assert [post.path for post in ended.posts] == ["invocation/one/response"]
    assert (ended.status, ended.out, ended.err) == (status, "", "")


@pytest.mark.parametrize(
    "expression",
    [
        "$stdout.close; $stderr.close",
        "STDOUT.reopen(File::NULL); STDERR.reopen(File::NULL)",
        "$stdout = $stderr = StringIO.new",
        "$stdout = Object.new.tap { |o| def o.write(*) = raise('no') }",
    ],
)
async def test_a_handler_may_take_stdout_away(deploy_ruby: Deploy, expression: str) -> None:
    function = await deploy_ruby()
    assert (await function.invoke(f"{expression}; 1")).check().json() == 1
    failed = await function.invoke("raise 'told all the same'")
    assert failed.json()["errorMessage"] == "told all the same"
    again = await function.invoke("2")
    assert again.check().json() == 2
    assert not replaced(again)


async def test_the_trace_id_of_an_error_is_that_of_its_event(deploy_ruby: Deploy) -> None:
    function = await deploy_ruby()
    result = await function.invoke("raise ENV['_X_AMZN_TRACE_ID']", trace_id=TRACE)
    assert result.json()["errorMessage"] == TRACE
