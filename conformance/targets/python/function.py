"""The handlers that the conformance suite asks a runtime for, in Python."""

import itertools
import os
import sys
import time

_calls = itertools.count(1)


def echo(event, context):
    return event


def error(event, context):
    raise ValueError(event["message"])


def sleep(event, context):
    time.sleep(event["ms"] / 1000)
    return True


def exit(event, context):
    os._exit(event["code"])


def big(event, context):
    return "x" * event["bytes"]


def log(event, context):
    for line in event["lines"]:
        print(line)
    for line in event["errors"]:
        print(line, file=sys.stderr)
    return True


def count(event, context):
    return next(_calls)


def context(event, context):
    client = context.client_context
    identity = context.identity
    return {
        "requestId": context.aws_request_id,
        "functionArn": context.invoked_function_arn,
        "remainingMs": context.get_remaining_time_in_millis(),
        "traceId": os.environ.get("_X_AMZN_TRACE_ID"),
        "clientContext": {"custom": client.custom, "env": client.env} if client else None,
        "identity": {
            "cognitoIdentityId": identity.cognito_identity_id,
            "cognitoIdentityPoolId": identity.cognito_identity_pool_id,
        }
        if identity and identity.cognito_identity_id
        else None,
        "tenantId": getattr(context, "tenant_id", None),
        "functionName": context.function_name,
        "functionVersion": context.function_version,
        "memoryMB": context.memory_limit_in_mb,
        "logGroup": context.log_group_name,
        "logStream": context.log_stream_name,
    }
