"""The handler's second argument."""

from __future__ import annotations

import json
import os
import time

from .logs import Sink


class CognitoIdentity:
    """cognito_identity_id and cognito_identity_pool_id, None unless the caller had an identity."""

    __slots__ = ("cognito_identity_id", "cognito_identity_pool_id")

    def __init__(self, document: dict | None) -> None:
        document = document or {}
        self.cognito_identity_id = document.get("cognitoIdentityId")
        self.cognito_identity_pool_id = document.get("cognitoIdentityPoolId")

    def __repr__(self) -> str:
        return _repr(self)


class Client:
    __slots__ = ("app_package_name", "app_title", "app_version_code", "app_version_name", "installation_id")

    def __init__(self, document: dict) -> None:
        for name in self.__slots__:
            setattr(self, name, document.get(name))

    def __repr__(self) -> str:
        return _repr(self)


class ClientContext:
    """client, custom, env: what a mobile client sends along."""

    __slots__ = ("client", "custom", "env")

    def __init__(self, document: dict) -> None:
        client = document.get("client")
        self.client = Client(client) if client is not None else None
        self.custom = document.get("custom")
        self.env = document.get("env")

    def __repr__(self) -> str:
        return _repr(self)


class LambdaContext:
    """What Lambda says of this invocation. memory_limit_in_mb is a string, as on Lambda."""

    def __init__(self, headers: dict[str, str], sink: Sink) -> None:
        self._sink = sink
        self._deadline_ms = int(headers["lambda-runtime-deadline-ms"])
        self.aws_request_id = headers["lambda-runtime-aws-request-id"]
        self.invoked_function_arn = headers["lambda-runtime-invoked-function-arn"]
        self.function_name = os.environ["AWS_LAMBDA_FUNCTION_NAME"]
        self.function_version = os.environ["AWS_LAMBDA_FUNCTION_VERSION"]
        self.memory_limit_in_mb = os.environ["AWS_LAMBDA_FUNCTION_MEMORY_SIZE"]
        self.log_group_name = os.environ["AWS_LAMBDA_LOG_GROUP_NAME"]
        self.log_stream_name = os.environ["AWS_LAMBDA_LOG_STREAM_NAME"]
        identity = headers.get("lambda-runtime-cognito-identity")
        self.identity = CognitoIdentity(json.loads(identity) if identity else None)
        client_context = headers.get("lambda-runtime-client-context")
        document = json.loads(client_context) if client_context else None
        self._w3c = _w3c(document)
        self.client_context = ClientContext(document) if document is not None else None
        self.tenant_id = headers.get("lambda-runtime-aws-tenant-id")

    def get_remaining_time_in_millis(self) -> int:
        """Milliseconds until the deadline, never below 0."""
        return max(0, self._deadline_ms - int(time.time() * 1000))

    def w3c(self) -> dict[str, str]:
        """traceparent, tracestate and baggage, if the caller's client context has them."""
        return dict(self._w3c)

    def log(self, message: object) -> None:
        """Writes one record to the log, however many lines it has."""
        self._sink.write(str(message), 0)

    def __repr__(self) -> str:
        return _repr(self)


# What each shows of itself, in the order of AWS's client.
_SHOWN = {
    "LambdaContext": (
        "aws_request_id",
        "log_group_name",
        "log_stream_name",
        "function_name",
        "memory_limit_in_mb",
        "function_version",
        "invoked_function_arn",
        "client_context",
        "identity",
        "tenant_id",
    ),
    "ClientContext": ("custom", "env", "client"),
    "Client": ("installation_id", "app_title", "app_version_name", "app_version_code", "app_package_name"),
    "CognitoIdentity": ("cognito_identity_id", "cognito_identity_pool_id"),
}


def _w3c(client_context: object) -> dict[str, str]:
    """Takes `w3c` out of a client context."""
    found = client_context.pop("w3c", None) if isinstance(client_context, dict) else None
    if not isinstance(found, dict):
        return {}
    return {name: found[name] for name in ("traceparent", "tracestate", "baggage") if isinstance(found.get(name), str)}


def _repr(thing: object) -> str:
    name = type(thing).__name__
    fields = ",".join(f"{field}={getattr(thing, field)}" for field in _SHOWN[name])
    return f"{name}([{fields}])"
