"""The managed Ruby runtime: what it prints and logs."""

from __future__ import annotations

import json
import re

import pytest

from sandbox import Host
from tests.conftest import MakeFolder
from tests.runtimes.conftest import Deploy, code_of, in_both_tiers, in_tier_process, printed
from tests.runtimes.ruby import EVALUATE, deploying, facing, frame, ruby

pytestmark = in_tier_process

TIME = r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}"
REPLACEMENT = "\N{REPLACEMENT CHARACTER}"


@pytest.fixture
def deploy_ruby(host: Host, folder: MakeFolder) -> Deploy:
    return deploying(host, folder)


def bare(record: str) -> str:
    """A record of Logger without its time and process."""
    return re.sub(rf"\[{TIME} #\d+\]", "[]", record)


# ── what is printed ──


@in_both_tiers
@pytest.mark.catalogue("TL-052")
async def test_everything_that_is_printed_is_told_in_order(deploy_ruby: Deploy) -> None:
    app = """
    require "logger"
    LOGGER = Logger.new($stdout)
    def handler(event:, context:)
      30.times do |n|
        puts "puts #{n}"
        print "print #{n}\\n"
        p n
        LOGGER.info("logged #{n}")
        $stdout.puts "stdout #{n}"
        Kernel.puts "kernel #{n}"
        warn "warn #{n}"
        $stderr.puts "stderr #{n}"
        STDOUT << "shovel #{n}\\n"
        printf("printf %d\\n", n)
      end
      system("echo child; echo child err >&2")
      puts "two\\nlines\\n"
      $stdout.write("\\xff\\n")
    end
    """
    result = await (await deploy_ruby(app)).invoke()
    words = ("puts", "print", "", "logged", "stdout", "kernel", "warn", "stderr", "shovel", "printf")
    expected = [f"{word} {n}".strip() for n in range(30) for word in words] + ["child", "child err", "two\nlines", REPLACEMENT]
    assert [line.rpartition(" -- : ")[2] for line in printed(result)] == expected
    start, end = f"START RequestId: {result.request_id} Version: $LATEST", f"END RequestId: {result.request_id}"
    assert result.log[1:-1] == [start, *printed(result), end]
    assert {record.request_id for record in result.records if record.type == "function"} == {result.request_id}


PUTS = {  # what makes one record, as AWS's client tells it
    "puts": [""],
    "puts nil": [""],
    "puts []": [""],
    "puts 'one'": ["one"],
    "puts 'one', 2, nil, :three": ["one\n2\n\nthree"],
    "puts ['a', ['b', [1]]]": ["a\nb\n1"],
    'puts "a\\nb\\n"': ["a\nb"],
    "puts 'ü 日本 😀'": ["ü 日本 😀"],
    'puts "\\xff".b': [REPLACEMENT],
    'puts "a\\xffb"': [f"a{REPLACEMENT}b"],
    'puts "caf\\xe9".dup.force_encoding("ISO-8859-1")': ["café"],
    'puts "ü".encode("UTF-16LE")': ["ü"],
    'puts "nul \\0 and \\e[1mcolour"': ["nul \0 and \x1b[1mcolour"],
    "puts 'a'; puts 'b'": ["a", "b"],
    "1.instance_eval { puts 'elsewhere' }": ["elsewhere"],
    "Thread.new { puts 'in a thread' }.join": ["in a thread"],
    "Process.wait(fork { puts 'in a child'; exit! })": ["in a child"],
    'print "tail"': ["tail"],
    "pp({ a: 1 }); p; p 1, 2": ["{:a=>1}", "1", "2"],
    "$stdout.puts 'a', ['b']": ["a", "b"],
    "at = StringIO.new; at.puts 'not printed'; at.close": [],
    "require 'tempfile'; Tempfile.create { |file| file.puts 'not printed' }": [],
    "require 'delegate'; SimpleDelegator.new($stdout).puts 'by a delegate'": ["by a delegate"],
}


@pytest.mark.catalogue("TL-055")
async def test_a_call_of_puts_is_one_record(deploy_ruby: Deploy) -> None:
    function = await deploy_ruby()
    expected = PUTS
    if ruby().number >= (3, 4):
        expected = PUTS | {"pp({ a: 1 }); p; p 1, 2": ["{a: 1}", "1", "2"]}
    found = {}
    for expression in PUTS:
        result = await function.invoke(f"{expression}; nil")
        found[expression] = printed(result)
        assert result.check().json() is None
    assert found == expected


async def test_a_function_may_have_its_own_puts(deploy_ruby: Deploy) -> None:
    app = """
    def puts(*words) = $stdout.write("mine: #{words.join}\\n")
    def handler(event:, context:) = puts("hello")
    """
    assert printed(await (await deploy_ruby(app)).invoke()) == ["mine: hello"]


async def test_a_line_without_its_end_belongs_to_the_invoke_that_wrote_it(deploy_ruby: Deploy) -> None:
    function = await deploy_ruby("def handler(event:, context:) = print('of ', event)\n")
    assert [printed(await function.invoke(event)) for event in (1, 2)] == [["of 1"], ["of 2"]]


async def test_what_is_printed_in_init_is_told(deploy_ruby: Deploy) -> None:
    app = """
    require "logger"
    puts "puts"
    warn "warn"
    Logger.new($stdout).warn("logged")
    def handler(event:, context:) = Logger.new($stdout).warn("now")
    """
    result = await (await deploy_ruby(app)).invoke()
    init = [record.record for record in result.records if record.type == "function" and record.request_id is None]
    assert [bare(line) for line in init] == ["puts", "warn", "W, []  WARN  -- : logged"]  # there is no request id yet
    assert bare(printed(result)[-1]) == f"W, []  WARN {result.request_id} -- : now"


async def test_a_long_record_is_one_record(deploy_ruby: Deploy) -> None:
    """Short ones share a pipe with what is printed, others have their own; between the two nothing may be lost."""
    function = await deploy_ruby("def handler(event:, context:) = puts('z' * (event - 2) + \"\\nz\")\n")
    for size in (4079, 4080, 4081, 5000, 65_536, 200_000):
        assert printed(await function.invoke(size)) == ["z" * (size - 2) + "\nz"]


async def test_a_very_long_record_shows_no_frame_head(deploy_ruby: Deploy) -> None:
    result = await (await deploy_ruby()).invoke("puts 'ü' * 750_000")
    assert "".join(printed(result)) == "ü" * 750_000


async def test_long_records_and_short_ones_are_all_there(deploy_ruby: Deploy) -> None:
    app = 'def handler(event:, context:)\n  40.times { |n| puts(n.to_s * 5000); puts "short #{n}" }\nend\n'
    told = printed(await (await deploy_ruby(app)).invoke())
    assert [line for line in told if line.startswith("short")] == [f"short {n}" for n in range(40)]
    assert [line for line in told if not line.startswith("short")] == [str(n) * 5000 for n in range(40)]


async def test_long_records_of_threads_are_never_mixed(deploy_ruby: Deploy) -> None:
    app = """
    def handler(event:, context:)
      8.times.map { |n| Thread.new { 4.times { puts((97 + n).chr * 100_000) } } }.each(&:join)
    end
    """
    told = printed(await (await deploy_ruby(app)).invoke())
    assert sorted(told) == sorted(chr(97 + n) * 100_000 for n in range(8) for _ in range(4))


# ── Logger ──


@pytest.mark.catalogue("TL-055", "EN-026")
async def test_records_of_logger_have_the_request_id(deploy_ruby: Deploy) -> None:
    app = """
    require "logger"
    def handler(event:, context:)
      logger = Logger.new($stdout)
      %i[debug info warn error fatal unknown].each { |level| logger.public_send(level, "said ü") }
      logger.info("mine") { "two\\nlines" }
      Logger.new($stderr, progname: "app").warn({ a: 1 })
      Logger.new(STDOUT).error(nil)
      Logger.new(nil).info("with no device")
      Logger.new($stdout, datetime_format: "%Y").info("dated")
      Logger.new($stdout, 5, 1000, level: :warn).info("left out")
      $stdout.sync
    end
    """
    result = await (await deploy_ruby(app)).invoke()
    assert result.check().json() is True
    words = printed(result)
    assert all(re.match(rf"[DIWEFA], \[{TIME} #\d+\] ", word) for word in words)
    hash_ = "{:a=>1}" if ruby().number < (3, 4) else "{a: 1}"
    assert [bare(word).replace(result.request_id, "ID") for word in words] == [
        "D, [] DEBUG ID -- : said ü",
        "I, []  INFO ID -- : said ü",
        "W, []  WARN ID -- : said ü",
        "E, [] ERROR ID -- : said ü",
        "F, [] FATAL ID -- : said ü",
        "A, []   ANY ID -- : said ü",
        "I, []  INFO ID -- mine: two\nlines",
        f"W, []  WARN ID -- app: {hash_}",
        "E, [] ERROR ID -- : nil",
        "I, []  INFO ID -- : with no device",
        "I, []  INFO ID -- : dated",
    ]


async def test_what_loggers_are_told_otherwise(deploy_ruby: Deploy) -> None:
    function = await deploy_ruby()
    shown = {
        "Logger.new($stdout, formatter: ->(s, _, _, m) { \"#{s}|#{m}\" }).info('mine')": ["INFO|mine"],
        'l = Logger.new($stdout); l.formatter = proc { |*, m| m }; l.info("one\\ntwo")': ["one\ntwo"],
        "Logger.new($stdout) << 'raw'": ["raw"],
        "l = Logger.new($stdout, level: :error); l.warn('left out'); l.error { 'x' }": ["E, [] ERROR ID -- : x"],
        "l = Logger.new($stdout); l.level = Logger::FATAL; l.error('left out')": [],
        "l = Logger.new($stdout); l.close; l.reopen; l.info('after close')": ["I, []  INFO ID -- : after close"],
        "Class.new(Logger).new($stdout).info('of a subclass')": ["I, []  INFO ID -- : of a subclass"],
        "require 'tmpdir'; l = Logger.new(Dir.tmpdir + '/a.log'); l.info('in a file'); "
        "File.read(Dir.tmpdir + '/a.log').include?('INFO -- : in a file') or raise": [],
        "io = StringIO.new; Logger.new(io).info('in a string'); io.string.include?('INFO -- : in a string') or raise": [],
    }
    found = {}
    for expression in shown:
        result = await function.invoke(f"{expression}; nil")
        assert result.function_error is None, result.payload
        found[expression] = [bare(line).replace(result.request_id, "ID") for line in printed(result)]
    assert found == shown


async def test_a_logger_needs_a_device(deploy_ruby: Deploy) -> None:
    assert (await (await deploy_ruby()).invoke("Logger.new")).json()["errorType"] == "Function<ArgumentError>"


async def test_an_exception_in_a_record(deploy_ruby: Deploy) -> None:
    app = """
    require "logger"
    def handler(event:, context:)
      Logger.new($stdout).error(RuntimeError.new("no trace"))
      raise KeyError, "one\\ntwo"
    rescue KeyError => e
      Logger.new($stdout).error(e)
    end
    """
    function = await deploy_ruby(app)
    result = await function.invoke()
    bare_one, traced = printed(result)
    assert bare(bare_one) == f"E, [] ERROR {result.request_id} -- : no trace (RuntimeError)"
    own = frame(f"{code_of(function)}/app.rb", 5)
    assert bare(traced).startswith(f"E, [] ERROR {result.request_id} -- : one\ntwo (KeyError)\n{own}\n")


@pytest.mark.parametrize(
    ("expression", "expected"),
    [
        ('Logger.new($stdout).info("a\\xff")', f"I, []  INFO ID -- : a{REPLACEMENT}"),
        ('Logger.new($stdout) << "\\xff\\n"', REPLACEMENT),
        ('Logger.new($stdout, formatter: ->(*, m) { m }).info("\\xff")', REPLACEMENT),
    ],
)
async def test_records_that_are_no_utf8(deploy_ruby: Deploy, expression: str, expected: str) -> None:
    result = await (await deploy_ruby()).invoke(f"{expression}; nil")
    assert [bare(line).replace(result.request_id, "ID") for line in printed(result)] == [expected]


# ── JSON ──


@in_both_tiers
@pytest.mark.catalogue("EN-011", "TL-054")
async def test_json_records(deploy_ruby: Deploy) -> None:
    app = """
    require "logger"
    Logger.new($stdout).info("in init")
    def handler(event:, context:)
      Logger.new($stdout, progname: "mine").info("said ü\\ntwice")
      Logger.new($stderr).unknown({ order: 7 })
      puts "stays text"
      Logger.new($stdout, formatter: ->(*, message) { "mine: #{message}" }).info("x")
      Logger.new($stdout).info("a\\xff") if event == 2
    end
    """
    function = await deploy_ruby(app, log_format="JSON")
    result = await function.invoke()
    init, first, second, text, own = printed(result)
    told = [json.loads(line) for line in (init, first, second)]
    assert all(re.fullmatch(TIME + "Z", one.pop("timestamp")) for one in told)
    assert list(json.loads(first)) == ["timestamp", "level", "message", "requestId", "logger"]
    hash_ = "{:order=>7}" if ruby().number < (3, 4) else "{order: 7}"
    assert told == [
        {"level": "INFO", "message": "in init"},
        {"level": "INFO", "message": "said ü\ntwice", "requestId": result.request_id, "logger": "mine"},
        {"level": "ANY", "message": hash_, "requestId": result.request_id},
    ]
    assert (text, own) == ("stays text", "mine: x")
    assert json.loads(printed(await function.invoke(2))[-1])["message"] == f"a{REPLACEMENT}"


async def test_nothing_in_a_json_record_can_make_the_logger_raise(deploy_ruby: Deploy) -> None:
    function = await deploy_ruby(log_format="JSON")
    shown = {
        'Logger.new($stdout, progname: "\\xff").info("x")': ("logger", REPLACEMENT),
        'Logger.new($stdout).error(RuntimeError.new("x").tap { |e| e.set_backtrace(["\\xff:1"]) })': (
            "location",
            f"{REPLACEMENT}::1",
        ),
    }
    for expression, (field, value) in shown.items():
        result = await function.invoke(f"{expression}; nil")
        result.check()
        assert json.loads(printed(result)[0])[field] == value


@pytest.mark.catalogue("EN-011")
@pytest.mark.parametrize(
    ("level", "expected"),
    [
        ("TRACE", ["DEBUG", "INFO", "WARN", "ERROR", "FATAL", "ANY"]),
        (None, ["DEBUG", "INFO", "WARN", "ERROR", "FATAL", "ANY"]),
        ("WARN", ["WARN", "ERROR", "FATAL", "ANY"]),
        ("FATAL", ["FATAL", "ANY"]),
    ],
)
async def test_levels_filter_records_and_nothing_else(deploy_ruby: Deploy, level: str | None, expected: list[str]) -> None:
    app = """
    require "logger"
    def handler(event:, context:)
      logger = Logger.new($stdout)
      %i[debug info warn error fatal unknown].each { |level| logger.public_send(level, "said") }
      puts "printed"
      Logger.new($stdout, level: :debug).debug("told to")
      [ENV["AWS_LAMBDA_LOG_FORMAT"], ENV["AWS_LAMBDA_LOG_LEVEL"]]
    end
    """
    function = await deploy_ruby(app, log_format="JSON", **({"log_level": level} if level else {}))
    result = await function.invoke()
    assert result.check().json() == ["JSON", level]
    *lines, last = printed(result)
    assert lines.pop() == "printed"
    assert [json.loads(line)["level"] for line in lines] == expected
    assert json.loads(last)["message"] == "told to"


@pytest.mark.catalogue("TL-054")
async def test_an_exception_in_a_json_record(deploy_ruby: Deploy) -> None:
    app = """
    require "logger"
    def handler(event:, context:)
      Logger.new($stdout).warn(RuntimeError.new("no trace"))
      raise KeyError, "one\\ntwo"
    rescue KeyError => e
      Logger.new($stdout).error(e)
    end
    """
    function = await deploy_ruby(app, log_format="JSON")
    result = await function.invoke()
    bare_one, traced = [json.loads(line) for line in printed(result)]
    fields = {"requestId": result.request_id}
    del bare_one["timestamp"], traced["timestamp"]
    runtime_error = {"errorType": "RuntimeError", "errorMessage": "no trace"}
    assert bare_one == {"level": "WARN", "message": "no trace"} | fields | runtime_error
    file = f"{code_of(function)}/app.rb"
    assert traced.pop("stackTrace")[0] == frame(file, 5)
    label = "handler" if ruby().number < (3, 4) else "Object#handler"
    assert traced == {
        "level": "ERROR",
        "message": "one\ntwo",
        "errorType": "KeyError",
        "errorMessage": "one\ntwo",
        "location": f"{file}:{label}:5",
        **fields,
    }


async def test_errors_stay_text_in_json(deploy_ruby: Deploy) -> None:
    """As with AWS's client, and at any level."""
    function = await deploy_ruby("def handler(event:, context:) = raise('no')\n", log_format="JSON", log_level="FATAL")
    result = await function.invoke()
    words, document = printed(result)
    assert words == "Error raised from handler method"
    assert json.loads(document) == result.json()
    assert document.startswith('{\n  "errorMessage": "no",\n  "errorType": "Function<RuntimeError>",\n  "stackTrace": [\n    "')


# ── the descriptor ──


@pytest.mark.catalogue("EN-026", "TL-055")
async def test_the_log_descriptor_is_hidden_from_the_handler_and_from_children(deploy_ruby: Deploy) -> None:
    app = """
    require "rbconfig"
    AT_LOAD = ENV["_LAMBDA_TELEMETRY_LOG_FD"]
    def handler(event:, context:)
      puts "one\\nrecord"
      found = IO.popen("ls /proc/self/fd 2>/dev/null || ls /dev/fd", close_others: false, &:read).split.map(&:to_i)
      [AT_LOAD, ENV["_LAMBDA_TELEMETRY_LOG_FD"], found.select { |fd| fd > 3 }, `env`.include?("_LAMBDA_TELEMETRY_LOG_FD")]
    end
    """
    result = await (await deploy_ruby(app)).invoke()
    assert result.check().json() == [None, None, [], False]  # 3 is the folder that ls reads
    assert printed(result)[0] == "one\nrecord"  # so there is such a descriptor


async def test_without_the_descriptor_everything_goes_to_stdout(folder: MakeFolder) -> None:
    app = EVALUATE + "puts 'in init'\nLogger.new($stdout).info('in init')\n"
    words = "puts 'a', 'b'; Logger.new($stdout).info('one'); $stdout.puts 'c'; Logger.new(nil).info('nowhere'); raise %q(x)"
    ended = await facing(folder(**{"app.rb": app}), [(json.dumps(words).encode(), {})])
    first, second, *lines = ended.out.splitlines()
    assert (first, bare(second)) == ("in init", "I, []  INFO  -- : in init")
    assert [bare(line) for line in lines[:5]] == [
        "a",
        "b",
        "I, []  INFO one -- : one",
        "c",
        "Error raised from handler method",
    ]
    assert json.loads("".join(lines[5:]))["errorMessage"] == "x"
    assert "\xa5" not in ended.out
