# The handlers that the conformance suite asks a runtime for, in bash. Each gets its event as $1 and on standard input.
# Names of builtins have a _ after them: the runtime's own shell would use them otherwise.
# shellcheck shell=bash

exec 3>&1 # in a handler standard output is the answer
calls=0

field() { # field NAME: a value of the event on standard input, as text
    python3 -c 'import json, sys; print(json.load(sys.stdin)[sys.argv[1]], end="")' "$1"
}

echo_() { cat; }

error() {
    field message >&2
    return 1
}

sleep_() {
    sleep "$(field ms | sed 's/^/000/; s/\(...\)$/.\1/')"
    printf true
}

exit_() { exit "$(field code)"; }

big() {
    printf '"'
    head -c "$(field bytes)" /dev/zero | tr '\0' x
    printf '"'
}

log() {
    PYTHONIOENCODING=utf-8 python3 -c '
import json, sys

event = json.load(sys.stdin)
for line in event["lines"]:
    print(line)
for line in event["errors"]:
    print(line, file=sys.stderr)
' >&3
    printf true
}

count() { printf '%d' $((calls += 1)); }

context() {
    python3 -c '
import json, os, sys

request_id, arn, deadline, client, identity, tenant = sys.argv[1:]
told = {
    "requestId": request_id,
    "functionArn": arn,
    "deadlineMs": int(deadline),
    "traceId": os.environ.get("_X_AMZN_TRACE_ID") or None,
    "clientContext": json.loads(client or "null"),
    "identity": json.loads(identity or "null"),
    "tenantId": tenant or None,
    "functionName": os.environ["AWS_LAMBDA_FUNCTION_NAME"],
    "functionVersion": os.environ["AWS_LAMBDA_FUNCTION_VERSION"],
    "memoryMB": int(os.environ["AWS_LAMBDA_FUNCTION_MEMORY_SIZE"]),
    "logGroup": os.environ["AWS_LAMBDA_LOG_GROUP_NAME"],
    "logStream": os.environ["AWS_LAMBDA_LOG_STREAM_NAME"],
}
print(json.dumps(told))
' "$(header Lambda-Runtime-Aws-Request-Id)" "$(header Lambda-Runtime-Invoked-Function-Arn)" \
        "$(header Lambda-Runtime-Deadline-Ms)" "$(header Lambda-Runtime-Client-Context)" \
        "$(header Lambda-Runtime-Cognito-Identity)" "$(header Lambda-Runtime-Aws-Tenant-Id)"
}
