"""The managed Ruby runtime: how a handler is found, called and answered."""

from __future__ import annotations

import json
import re
import textwrap

import pytest

from sandbox import Host
from sandbox.core.limits import MIB, PAYLOAD_LIMIT
from tests.conftest import MakeFolder
from tests.runtimes.conftest import TRACE, Deploy, code_of, in_both_tiers, in_tier_process, printed
from tests.runtimes.ruby import EVALUATE, deadline, deploying, facing, replaced, ruby

pytestmark = in_tier_process


@pytest.fixture
def deploy_ruby(host: Host, folder: MakeFolder) -> Deploy:
    return deploying(host, folder)


# ── loading ──


@in_both_tiers
@pytest.mark.catalogue("EN-003", "EN-012", "LC-009")
@pytest.mark.parametrize(
    ("handler", "file"),
    [
        ("app.handler", "app.rb"),
        ("src/app.handler", "src/app.rb"),
        ("bootstrap.handler", "bootstrap.rb"),  # names that our own files have, too
        ("runtime.handler", "runtime.rb"),
        ("client.handler", "client.rb"),
        ("set.handler", "set.rb"),  # a name of the standard library
    ],
)
async def test_a_handler_is_found_and_runs_in_the_code_folder(host: Host, folder: MakeFolder, handler: str, file: str) -> None:
    app = """
    def handler(event:, context:)
      [Dir.pwd, ENV["LAMBDA_TASK_ROOT"], ENV["_HANDLER"], __FILE__, File.read("data.txt"), $LOAD_PATH.include?(Dir.pwd)]
    end
    """
    code = folder(**{file: textwrap.dedent(app), "data.txt": "beside it"})
    function = await host.deploy(code, runtime=ruby().runtime, handler=handler, timeout=20)
    result = await function.invoke()
    root = code_of(function)
    assert result.check().json() == [root, root, handler, f"{root}/{file}", "beside it", True]


async def test_without_a_name_it_is_the_handler_that_the_console_makes(host: Host, folder: MakeFolder) -> None:
    code = folder(**{"lambda_function.rb": "def lambda_handler(event:, context:) = 'found'\n"})
    function = await host.deploy(code, runtime=ruby().runtime, timeout=20)
    assert (await function.invoke()).check().json() == "found"


@pytest.mark.catalogue("EN-003")
@pytest.mark.parametrize(
    ("handler", "expected"),
    [
        ("app.Orders.take", ["class", "Class"]),
        ("app.Orders.hidden", ["private", "Class"]),
        ("app.Shop::Inner::Orders.take", ["nested", "Class"]),
        ("app.Tools.take", ["module", "Module"]),
        ("app.handler", ["top", "LambdaHandler"]),
    ],
)
async def test_methods_of_classes_and_modules_are_handlers_too(deploy_ruby: Deploy, handler: str, expected: list[str]) -> None:
    app = """
    class Orders
      def self.take(event:, context:) = ["class", self.class]
      def self.hidden(event:, context:) = ["private", self.class]
      private_class_method :hidden
    end
    module Shop
      module Inner
        class Orders
          def self.take(event:, context:) = ["nested", self.class]
        end
      end
    end
    module Tools
      module_function

      def take(event:, context:) = ["module", self.class]
    end
    def handler(event:, context:) = ["top", self.class]
    """
    assert (await (await deploy_ruby(app, handler=handler)).invoke()).check().json() == expected


@pytest.mark.parametrize("name", ["json", "logger", "socket", "stringio"])
async def test_the_functions_files_never_replace_what_the_runtime_itself_needs(deploy_ruby: Deploy, name: str) -> None:
    function = await deploy_ruby("def handler(event:, context:) = event\n", {f"{name}.rb": "MINE = 1\n"})
    assert (await function.invoke({"a": 1})).check().json() == {"a": 1}


async def test_a_name_that_the_runtime_has_loaded_already_is_not_loaded_again(deploy_ruby: Deploy) -> None:
    """AWS's client has json loaded, too: the method is missing when the first event is there."""
    function = await deploy_ruby("", {"json.rb": "def handler(event:, context:) = 1\n"}, handler="json.handler")
    result = await function.invoke()
    assert result.json()["errorType"] == "Function<NoMethodError>"
    assert result.error_phase is None


@pytest.mark.catalogue("EN-003")
@pytest.mark.parametrize(
    ("parameters", "expected"),
    [
        ("**all", [["event", "context"], "given"]),
        ("all", [["event", "context"], "given"]),  # one positional parameter takes the keywords as a hash
        ("event:, context:, extra: 'optional'", "optional"),
        ("event, context", "wrong number of arguments (given 1, expected 2)"),
        ("event:", "unknown keyword: :context"),
        ("", "wrong number of arguments (given 1, expected 0)"),
    ],
)
async def test_event_and_context_are_keywords(deploy_ruby: Deploy, parameters: str, expected: object) -> None:
    body = {"extra": "extra"}.get(parameters.rpartition(", ")[2].partition(":")[0], "[all.keys, all[:event]]")
    function = await deploy_ruby(f"def handler({parameters})\n  {body}\nend\n")
    result = await function.invoke("given")
    if result.function_error is None:
        assert result.json() == expected
    else:
        assert (result.json()["errorType"], result.json()["errorMessage"]) == ("Function<ArgumentError>", expected)
        assert not replaced(await function.invoke("given"))


@pytest.mark.catalogue("LC-035")
async def test_what_is_outside_the_handler_runs_once_and_is_kept(deploy_ruby: Deploy) -> None:
    app = """
    puts "loading"
    $seen = []
    def handler(event:, context:)
      $seen << event
      [Process.pid, $seen]
    end
    """
    function = await deploy_ruby(app)
    first, second = await function.invoke(1), await function.invoke(2)
    pid = first.check().json()[0]
    assert [first.json(), second.check().json()] == [[pid, [1]], [pid, [1, 2]]]
    assert [printed(first), printed(second)] == [["loading"], []]


@in_both_tiers
@pytest.mark.catalogue("LC-036")
async def test_a_thread_that_was_frozen_goes_on_in_the_next_invoke(deploy_ruby: Deploy) -> None:
    app = """
    def handler(event:, context:)
      if event == "start"
        $thread = Thread.new { sleep 0.2; puts "late" }
      else
        $thread.join(10)
      end
      $thread.alive?
    end
    """
    function = await deploy_ruby(app)
    started = await function.invoke("start")
    assert started.check().json() is True
    joined = await function.invoke("join")
    assert joined.check().json() is False
    assert printed(started) + printed(joined) == ["late"]


# ── the context ──

READERS = "aws_request_id invoked_function_arn log_group_name function_name memory_limit_in_mb function_version"


@in_both_tiers
@pytest.mark.catalogue("RT-022", "RT-024", "EN-006", "EN-007", "EN-009", "EN-080")
async def test_every_documented_field_of_the_context(deploy_ruby: Deploy) -> None:
    function = await deploy_ruby(name="orders", memory_mb=256, region="eu-central-1", version="7")
    expression = (
        f"[%w[{READERS} identity client_context tenant_id].to_h {{ |name| [name, context.public_send(name)] }}, "
        "context.log_stream_name, ENV['AWS_LAMBDA_LOG_STREAM_NAME'], context.class, context.w3c, $_global_aws_request_id]"
    )
    result = await function.invoke(expression)
    told, stream, variable, kind, w3c, everywhere = result.check().json()
    assert told == {
        "aws_request_id": result.request_id,
        "invoked_function_arn": "arn:aws:lambda:eu-central-1:123456789012:function:orders",
        "log_group_name": "/aws/lambda/orders",
        "function_name": "orders",
        "memory_limit_in_mb": "256",
        "function_version": "7",
        "identity": None,
        "client_context": None,
        "tenant_id": None,
    }
    assert re.fullmatch(r"\d{4}/\d\d/\d\d/\[7\][0-9a-f]{32}", stream)
    assert stream == variable
    assert (kind, w3c, everywhere) == ("LambdaContext", {}, result.request_id)  # gems read the global


@pytest.mark.catalogue("EN-080", "RT-023")
async def test_the_remaining_time_is_whole_milliseconds_until_the_deadline(deploy_ruby: Deploy) -> None:
    function = await deploy_ruby(timeout=20)
    words = "[context.get_remaining_time_in_millis, context.deadline_ms, Process.clock_gettime(Process::CLOCK_REALTIME) * 1000]"
    left, end, now = (await function.invoke(words)).check().json()
    assert (type(left), type(end)) == (int, int)
    assert 0 < left <= 20_000
    assert abs(end - now - left) < 1000  # two clocks that agree, however slow this machine is


async def test_the_remaining_time_is_never_negative(folder: MakeFolder) -> None:
    code = folder(**{"app.rb": EVALUATE})
    past, future = {"Lambda-Runtime-Deadline-Ms": "1"}, {"Lambda-Runtime-Deadline-Ms": deadline(60)}
    expression = b'"context.get_remaining_time_in_millis"'
    first, second = (await facing(code, [(expression, past), (expression, future)])).posts
    assert first.body == b"0"
    assert 0 < int(second.body) <= 60_000


@pytest.mark.catalogue("RT-026", "RT-027", "RT-028", "RT-033")
async def test_what_the_caller_sends_along(deploy_ruby: Deploy) -> None:
    function = await deploy_ruby()
    names = "[context.client_context, context.identity, context.tenant_id, context.aws_request_id]"
    client = {"client": {"app_title": "bücher", "odd key": None}, "custom": {"a": [1]}, "env": {"locale": "de"}}
    identity = {"cognitoIdentityId": "id", "cognitoIdentityPoolId": "pool"}
    request_id = "8476a536-e9f4-11e8-9739-2dfe598c3fcd"
    sent = {"client_context": client, "cognito_identity": identity, "tenant_id": "blue", "request_id": request_id}
    assert (await function.invoke(names, **sent)).check().json() == [client, identity, "blue", request_id]
    left = await function.invoke(names)
    assert left.check().json() == [None, None, None, left.request_id]  # nothing of it is left over


async def test_the_w3c_context_is_taken_out_of_the_client_context(deploy_ruby: Deploy) -> None:
    function = await deploy_ruby()
    w3c = {"traceparent": "00-1-2-01", "tracestate": "a=b", "baggage": 5, "more": "left out"}
    result = await function.invoke(
        "context.w3c.clear; [context.w3c, context.client_context]", client_context={"custom": {"a": "b"}, "w3c": w3c}
    )
    assert result.check().json() == [{"traceparent": "00-1-2-01", "tracestate": "a=b"}, {"custom": {"a": "b"}}]
    for odd in ("text", [1], None):
        assert (await function.invoke("context.w3c", client_context={"w3c": odd})).check().json() == {}


async def test_headers_that_are_empty_are_as_good_as_absent(folder: MakeFolder) -> None:
    """AWS's own client thinks so of these; our host leaves them out."""
    names = ("Trace-Id", "Cognito-Identity", "Client-Context", "Aws-Tenant-Id")
    expression = b'"[context.identity, context.client_context, context.tenant_id, ENV.key?(%q(_X_AMZN_TRACE_ID))]"'
    full = {"Lambda-Runtime-Trace-Id": TRACE}
    empty = {f"Lambda-Runtime-{name}": "" for name in names}
    posts = (await facing(folder(**{"app.rb": EVALUATE}), [(expression, full), (expression, empty), (expression, {})])).posts
    assert [post.body for post in posts] == [b"[null,null,null,true]", *[b"[null,null,null,false]"] * 2]


@pytest.mark.catalogue("EN-004", "RT-025")
async def test_the_trace_id_is_set_for_each_event_and_not_before(deploy_ruby: Deploy) -> None:
    app = """
    AT_LOAD = ENV["_X_AMZN_TRACE_ID"]
    def handler(event:, context:) = [AT_LOAD, ENV["_X_AMZN_TRACE_ID"]]
    """
    function = await deploy_ruby(app)
    assert (await function.invoke(trace_id=TRACE)).check().json() == [None, TRACE]
    at_load, made_up = (await function.invoke()).check().json()
    assert at_load is None
    assert re.fullmatch(r"Root=1-[0-9a-f]{8}-[0-9a-f]{24};Parent=[0-9a-f]{16};Sampled=0", made_up)


# ── events and results ──


@in_both_tiers
@pytest.mark.catalogue("RT-021", "RT-050", "IN-025", "IN-021")
async def test_events_and_results_of_any_kind_pass(deploy_ruby: Deploy) -> None:
    function = await deploy_ruby("def handler(event:, context:) = event\n")
    for event in ({"ä": "日本 🎉", "n": [1, 2.5, None, True]}, "text", 0, False, [], {}):
        result = await function.invoke(event)
        assert result.check().json() == event
        assert (result.function_error, result.content_type) == (None, "application/json")
    for payload in (b"null", b'{"i":12345678901234567890,"z":-0.0,"t":0.1}', '["é\u2028😀/",""]'.encode()):
        assert (await function.invoke(payload=payload)).check().payload == payload
    assert (await function.invoke(payload=b' {"a": 1, "a": 2}\n')).check().payload == b'{"a":2}'
    assert (await function.invoke(payload=b'{"json_class": "String", "raw": [1]}')).check().json()["raw"] == [1]


RESULTS = {  # those of AWS's client 3.1.3
    "nil": "null",
    ":sym": '"sym"',
    "{ a: 1, nil => 2, [1] => 3, 4 => 5 }": '{"a":1,"":2,"[1]":3,"4":5}',
    "Time.at(0).utc": '"1970-01-01 00:00:00 UTC"',
    "1..2": '"1..2"',
    "Rational(1, 2)": '"1/2"',
    "10**30": "1" + "0" * 30,
    "-0.0": "-0.0",
    '"ü/\\u2028"': '"ü/\u2028"',
    '"\\xfc".dup.force_encoding("ISO-8859-1")': '"ü"',
    '"ascii".b': '"ascii"',
    "StandardError.new('its text')": '"its text"',
    "Class.new { def to_json(*) = '{\"own\":1}' }.new": '{"own":1}',
    "99.times.inject([]) { |a, _| [a] }": "[" * 100 + "]" * 100,
}
RAW = {
    "StringIO.new('raw ü')": "raw ü".encode(),
    'StringIO.new("\\xff\\0".b)': b"\xff\0",
    "StringIO.new('read already').tap { |io| io.read(5) }": b"already",
    "StringIO.new": b"",
    "File.open(ENV['TMPDIR'] + '/data.bin')": b"\x01\xfe",
    "IO.popen(%w[printf piped])": b"piped",
}


@pytest.mark.catalogue("RT-050", "IN-025")
async def test_a_result_is_written_as_aws_writes_it(deploy_ruby: Deploy) -> None:
    function = await deploy_ruby()
    found = {expression: await function.invoke(expression) for expression in RESULTS}
    assert {expression: result.payload.decode() for expression, result in found.items()} == RESULTS
    assert {result.content_type for result in found.values()} == {"application/json"}


@pytest.mark.catalogue("RT-052")
async def test_what_can_be_read_is_an_answer_of_raw_bytes(deploy_ruby: Deploy) -> None:
    function = await deploy_ruby(
        EVALUATE.replace('"logger"', '"logger"\nFile.binwrite(ENV["TMPDIR"] + "/data.bin", "\\x01\\xfe")', 1)
    )
    found = {expression: await function.invoke(expression) for expression in RAW}
    assert {expression: result.payload for expression, result in found.items()} == RAW
    assert {result.content_type for result in found.values()} == {"application/unknown"}


async def test_a_function_may_have_its_own_marshaller(deploy_ruby: Deploy) -> None:
    app = """
    class AwsLambda::Marshaller
      class << self
        def marshall_request(request) = [request["Content-Type"], request["lambda-runtime-aws-request-id"], request.body]
        def marshall_response(result)
          case result[2]
          when '"both"' then ["<x>é</x>", "text/xml"]
          else result.inspect
          end
        end
      end
    end
    def handler(event:, context:) = event
    """
    function = await deploy_ruby(app)
    both = await function.invoke(payload=b'"both"')
    assert (both.payload, both.content_type) == ("<x>é</x>".encode(), "text/xml")
    body = await function.invoke(payload=b"[1,  2]")
    assert body.payload.decode() == f'["application/json", "{body.request_id}", "[1,  2]"]'
    assert body.content_type == "application/json"


async def test_an_event_of_another_content_type_is_a_string(folder: MakeFolder) -> None:
    """Our host always sends application/json, as Lambda does; AWS's client has this rule all the same."""
    code = folder(**{"app.rb": "def handler(event:, context:) = [event, event.encoding, event.valid_encoding?]\n"})
    [post] = (await facing(code, [("ü{".encode(), {"Content-Type": "text/plain"})])).posts
    assert json.loads(post.body) == ["ü{", "UTF-8", True]


@pytest.mark.catalogue("RT-021", "RT-057", "RT-058", "EN-077")
async def test_6_mib_both_ways_and_one_byte_too_many(deploy_ruby: Deploy) -> None:
    app = """
    def handler(event:, context:)
      puts Process.pid
      event.is_a?(Integer) ? "x" * (event - 2) : event
    end
    """
    function = await deploy_ruby(app)
    payload = b'"' + b"a" * (6 * MIB - 2) + b'"'
    echoed = await function.invoke(payload=payload)
    assert echoed.check().payload == payload
    whole = await function.invoke(PAYLOAD_LIMIT)
    assert len(whole.check().payload) == PAYLOAD_LIMIT
    large = await function.invoke(PAYLOAD_LIMIT + 1)
    assert large.function_error == "Unhandled"
    assert large.json()["errorType"] == "Function.ResponseSizeTooLarge"
    after = await function.invoke(2)
    assert after.check().json() == ""
    assert printed(echoed) == printed(whole) == printed(large) == printed(after)  # one process answered them all


# ── on the wire ──


@pytest.mark.catalogue("RT-029", "RT-061")
async def test_the_invocation_id_is_echoed_when_it_is_given(folder: MakeFolder) -> None:
    nonce = {"LAMBDA-RUNTIME-INVOCATION-ID": "the-id"}
    events = [(b'"1"', nonce), (b'"raise %q(x)"', nonce), (b'"2"', {})]
    answered, failed, without = (await facing(folder(**{"app.rb": EVALUATE}), events)).posts
    assert [post.path for post in (answered, failed, without)] == [
        f"invocation/one/{w}" for w in ("response", "error", "response")
    ]
    assert answered.fields["lambda-runtime-invocation-id"] == failed.fields["lambda-runtime-invocation-id"] == "the-id"
    assert "lambda-runtime-invocation-id" not in without.fields


async def test_a_handler_cannot_change_where_its_answer_goes(folder: MakeFolder) -> None:
    [post] = (await facing(folder(**{"app.rb": EVALUATE}), [(b'"context.aws_request_id << %q(!)"', {})])).posts
    assert post.path.startswith("invocation/one/")


async def test_a_proxy_in_the_variables_is_not_for_the_runtime_api(deploy_ruby: Deploy) -> None:
    proxy = dict.fromkeys(("http_proxy", "HTTP_PROXY"), "http://127.0.0.1:1")
    assert (await (await deploy_ruby(environment=proxy)).invoke("1")).check().json() == 1
