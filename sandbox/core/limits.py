"""Every number of the execution environment, once, with its source (a catalogue row, or "ours").

Times are seconds and sizes are bytes unless a name says otherwise. `Limits` holds those that a test may inject.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

MIB: Final = 1024 * 1024

# Payloads and headers
PAYLOAD_LIMIT: Final = 6 * MIB + 100  # RT-057, RT-104, RT-038: /response, /error, init/error, the event
STREAM_LIMIT: Final = 200 * MIB  # RT-074
STREAM_BURST: Final = 6 * MIB  # RT-075: this much of a stream passes uncapped …
STREAM_RATE: Final = 2 * MIB  # RT-075: … and then this many bytes per second
HEADERS_LIMIT: Final = 2 * MIB  # ours: all header fields of a request; a single error cause reaches 1 MiB (real-clients 1.10)
ERROR_CAUSE_LIMIT: Final = 64 * 1024  # ours, for RT-098: a longer cause is cropped to its messages
CLIENT_CONTEXT_LIMIT: Final = 3583  # IN-006, counted in its base64 form

# Function configuration
MEMORY_MB: Final = range(128, 10240 + 1)  # EN-070
DEFAULT_MEMORY_MB: Final = 128  # CreateFunction's default
TIMEOUT_S: Final = range(1, 900 + 1)  # EN-073
DEFAULT_TIMEOUT_S: Final = 3  # EN-073
VARIABLES_LIMIT: Final = 4096  # EN-020: keys and values together
LAYERS: Final = 5  # EN-054
PACKAGE_LIMIT: Final = 262_144_000  # EN-054: code and layers unzipped, together
DIRECT_UPLOAD: Final = 52_428_800  # EN-054: a zip in a request; a larger one goes by way of S3
PACKAGE_ENTRIES: Final = 500_000  # ours: against a small zip that fills a disk with empty files
FUNCTION_NAME_LENGTH: Final = 64  # EN-079
HANDLER_LENGTH: Final = 128  # EN-079
TAGS: Final = 50  # CP-030
LINK_LIFETIME: Final = 600  # CP-017: seconds that a link to code or a layer is good for
REQUEST_LIMIT: Final = 70_167_211  # recorded: bytes of a request to the API that is no invoke
INVOKE_LIMIT: Final = 6 * MIB  # IN-009: bytes of a synchronous event
EVENT_LIMIT: Final = 1 * MIB  # NF-006, IN-009: bytes of an asynchronous event

# Asynchronous invokes
EVENT_RETRIES: Final = 2  # IN-101
EVENT_RETRY_WAITS: Final = (60.0, 120.0)  # IN-101: seconds before the first and the second retry
EVENT_AGE: Final = 21_600.0  # IN-102: seconds; the default, and the longest
THROTTLED_FIRST_WAIT: Final = 1.0  # IN-103: seconds until an event that was throttled is tried again; twice as long each time …
THROTTLED_LONGEST_WAIT: Final = 300.0  # … up to this
EVENTS_AT_A_TIME: Final = 10  # ours: attempts of one function's events at a time; fewer if less is reserved for it
RECURSIONS: Final = 16  # IN-142: invokes of one function in one chain of requests
EVENTS_KEPT: Final = 10_000  # ours: events that failed for good and have no destination; older ones are thrown away
DEAD_LETTER_TEXT: Final = 1024  # IN-107: bytes of ErrorMessage
DELIVERY_AGE: Final = 3600.0  # ours: seconds until a record that no destination takes is given up, and kept for people

# Billing
EVENT_FIRST_CHUNK: Final = 256 * 1024  # BL-011: bytes of an event that are one request …
EVENT_CHUNK: Final = 64 * 1024  # … and of each further one
STREAM_FREE: Final = 6 * MIB  # BL-013: bytes of a streamed answer that cost nothing
PROVISIONED_STEP: Final = 300  # BL-007: seconds to which the time of provisioned concurrency is rounded up

# Environment
FILE_DESCRIPTORS: Final = 1024  # EN-074
PROCESSES: Final = 1024  # EN-075: processes and threads of the environment
TMP_MB: Final = range(512, 10240 + 1)  # EN-051
DEFAULT_TMP_MB: Final = 512  # EN-051
EXTENSIONS: Final = 10  # EX-010
ACCOUNT_CONCURRENCY: Final = 1000  # CP-079: the account's default; beyond it an invoke is throttled
UNRESERVED_MINIMUM: Final = 100  # CP-071: so much of it cannot be reserved
REQUESTS_PER_CONCURRENCY: Final = 10  # IN-064: a second
SCALING_BURST: Final = 1000  # IN-065: environments of one function that may be made at once …
SCALING_RATE: Final = 100  # … and then in a second (1,000 in 10 s)
TENANT_ENVIRONMENTS: Final = 2500  # IN-068: of one function, at the account's concurrency
INIT_AHEAD: Final = 130.0  # LC-005: an Init ahead of invokes may take so long, or the function's timeout, if that is longer
POLL_LOST: Final = 1.0  # DECISIONS "a user-started runtime": gone for so long, its process is taken to have ended
REPOLL_WAIT: Final = 0.020  # DECISIONS "invoke that finds no idle environment"

# Telemetry and Logs API
SHUTDOWN_REASONS: Final = ("spindown", "timeout", "failure")  # EX-051
API_PORT: Final = 9001  # TL-011: no destination
SUBSCRIPTION_ITEMS: Final = range(1_000, 10_000 + 1)  # TL-030
SUBSCRIPTION_BYTES: Final = range(262_144, 1_048_576 + 1)  # TL-031
SUBSCRIPTION_TIMEOUT_MS: Final = range(25, 30_000 + 1)  # TL-032
SUBSCRIPTION_DEFAULTS: Final = {"maxItems": 10_000, "maxBytes": 262_144, "timeoutMs": 1_000}  # TL-030 … TL-032
TELEMETRY_BACKLOG: Final = 4  # ours: times maxBytes and maxItems; so far a subscriber may be behind before records are dropped
TELEMETRY_RECORD_COST: Final = 200  # ours: what a record that is kept for later subscribers is counted with besides its text
TELEMETRY_REPLAYS: Final = 10  # ours: how often an extension that subscribes anew is given its Init from the start
TELEMETRY_HISTORY: Final = 1 * MIB  # ours: the output of one Init that is kept for who subscribes later (TL-040)
TELEMETRY_ANSWER: Final = 64 * 1024  # ours: a longer answer of a subscriber is not read
EXTENSION_BODY: Final = 64 * 1024  # ours: a request to the Extensions or Telemetry API
EXTENSION_ERROR_TYPE: Final = 256  # ours: characters kept of an error type that an extension reports
EXTENSION_ERROR_MESSAGE: Final = 400  # ours: characters of its message that an explanation shows
HELD_OPEN_MS: Final = 10.0  # ours: the log names the extension that held the environment open longer than this

# Measuring (ours)
MEMORY_SAMPLE_MIN: Final = 0.010  # isolation.md, host rules: the watchdog's shortest …
MEMORY_SAMPLE_MAX: Final = 0.250  # … and longest interval
MEMORY_GROWTH_RATE: Final = 2.4e9  # bytes/s that a process was seen to allocate; sets the interval from the headroom
# Where a watchdog holds the memory limit, RLIMIT_DATA of each process is so many times that limit, and so much more: it counts
# what is reserved, not what is used, and each thread reserves 8 MiB for its stack (isolation.md 4).
DATA_FACTOR: Final = 2
DATA_EXTRA: Final = 512 * MIB
MEMORY_FRESH: Final = 0.020  # a REPORT uses a measurement at most this old

# Logs (ours where no row is named)
LOG_TAIL: Final = 4096  # IN-023: bytes of the log that LogType Tail gives
LOG_LINE_LIMIT: Final = 256 * 1024  # a longer line is split; the size of one CloudWatch Logs event
LOG_FRAME_LIMIT: Final = 8 * MIB  # a length beyond this is no frame's; a long record is split as a long line is
RESULT_LOG_LIMIT: Final = 4 * MIB  # the newest part of an invocation's log that its result keeps
REFUSALS_TOLD: Final = 20  # ours: how many refusals of a kind, and how many kinds, are told between two REPORTs
EXTENSION_NAME: Final = 255  # ours: characters of the name that an extension registers by
EXTENSION_NAMES: Final = 64  # ours: how many names that called are remembered for errors
LAST_REFUSALS: Final = 5  # how many refused requests an error quotes
LAST_OUTPUT_LINES: Final = 20  # users.md row 19: how many lines an error quotes


@dataclass(frozen=True, slots=True)
class Limits:
    """The time limits of the lifecycle, in seconds. Inject shorter ones in a test."""

    init: float = 10.0  # LC-003: extension, runtime and function init together, on demand
    idle: float = 600.0  # ours, LC-100: an environment that nobody invoked for so long is shut down
    lifetime: float = 7200.0  # ours, LC-039: and one that is as old as this, when it has nothing to do
    shutdown_external: float = 2.0  # LC-103, LC-077: the window with at least one external extension
    shutdown_internal: float = 0.5  # LC-102: the window with internal extensions only
    runtime_share: float = 0.6  # DECISIONS, EX-086: the runtime's part of the external window
    init_error_grace: float = 0.5  # ours: how long a runtime may live on after it has reported init/error (RT-101)
    telemetry_answer: float = 10.0  # ours, TL-036: a subscriber that has not answered by then is sent the batch again
    telemetry_retry: float = 60.0  # ours, TL-036: a batch that nobody took for so long is dropped, and told as dropped
    last_telemetry: float = 0.05  # ours, TL-041: the last platform.report goes out so soon after SHUTDOWN was given
    kill_wait: float = 2.0  # LC-114: the wait for processes that were sent SIGKILL is bounded
