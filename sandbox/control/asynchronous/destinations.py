"""Where records go: SQS, SNS, EventBridge and S3 of other services, or files (IN-106 … IN-109)."""

from __future__ import annotations

import hashlib
import json
import os
import threading
import uuid
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final, NamedTuple
from urllib.parse import unquote, urlsplit

from sandbox.control.asynchronous.queue import Delivery
from sandbox.control.aws import OtherServices
from sandbox.core.limits import EVENT_LIMIT

FILES: Final = "file://"


class Refused(Exception):
    """A service took the request, and not the message."""


class Arn(NamedTuple):
    """arn:aws:service:region:account:resource."""

    service: str
    account: str
    resource: str

    @classmethod
    def of(cls, text: str) -> Arn:
        parts = text.split(":", 5)
        return cls(parts[2], parts[4], parts[5])


class Sender:
    """others: the services at --aws-endpoint. Without them a record for an ARN becomes a file below `folder`."""

    def __init__(self, others: OtherServices | None, folder: Path, on_trouble: Callable[[str], None]) -> None:
        self._others = others
        self._folder = folder
        self._on_trouble = on_trouble
        self._clients: dict[str, Any] = {}
        self._lock = threading.Lock()  # it is called in several threads
        self._closed = False
        self._told: set[str] = set()

    def __call__(self, delivery: Delivery) -> None:
        target = delivery.target
        if target.startswith(FILES):
            parts = urlsplit(target)
            _write(Path(unquote(parts.netloc + parts.path)), delivery)
            return
        arn = Arn.of(target)
        if self._others is None:
            folder = self._folder / arn.service / (arn.resource.replace("/", "-").replace("\0", "").lstrip(".") or "-")
            if target not in self._told:
                self._told.add(target)
                self._on_trouble(f"{target}: there is no --aws-endpoint: what it would get is in {folder}")
            _write(folder, delivery)
            return
        if arn.service == "lambda":
            size = len(delivery.message["body"].encode())
            raise Refused(f"the record has {size} bytes: an asynchronous event has at most {EVENT_LIMIT}")
        if arn.service not in _SERVICES:
            raise Refused(f"{arn.service} takes no records: {', '.join(_SERVICES)} do")
        _SERVICES[arn.service](self._client(arn.service), arn, delivery)

    def _client(self, service: str) -> Any:
        with self._lock:
            if self._closed:
                raise Refused("the host is shutting down")
            if service not in self._clients:
                assert self._others is not None
                config = {"s3": {"addressing_style": "path"}} if service == "s3" else {}
                self._clients[service] = self._others.client(service, quick=True, **config)
            return self._clients[service]

    def close(self) -> None:
        """Ends its connections."""
        with self._lock:
            self._closed = True
            for client in self._clients.values():
                client.close()
            self._clients.clear()


def _write(folder: Path, delivery: Delivery) -> None:
    """One file a message, under a name of its own: written again after a crash, it replaces itself."""
    folder.mkdir(parents=True, exist_ok=True)
    message = delivery.message
    text = message["body"]
    if delivery.kind == "dead-letter":
        text = json.dumps({"body": text, "attributes": message["attributes"]}, indent=2)
    stamp = f"{datetime.fromtimestamp(delivery.made, UTC):%Y-%m-%dT%H.%M.%S.%f}"
    path = folder / f"{stamp}-{delivery.request_id}-{delivery.kind}.json"
    part = path.with_suffix(".part")
    with part.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    part.rename(path)


def _attributes(delivery: Delivery) -> Mapping[str, Any]:
    attributes: Mapping[str, Any] = delivery.message.get("attributes", {})
    return attributes


def _to_sqs(client: Any, arn: Arn, delivery: Delivery) -> None:
    url = client.get_queue_url(QueueName=arn.resource, QueueOwnerAWSAccountId=arn.account)["QueueUrl"]
    extra: dict[str, Any] = {"MessageAttributes": _attributes(delivery)} if _attributes(delivery) else {}
    if "trace" in delivery.message:  # recorded
        trace = {"DataType": "String", "StringValue": delivery.message["trace"]}
        extra["MessageSystemAttributes"] = {"AWSTraceHeader": trace}
    client.send_message(QueueUrl=url, MessageBody=delivery.message["body"], **extra)


def _to_sns(client: Any, arn: Arn, delivery: Delivery) -> None:
    extra = {"MessageAttributes": _attributes(delivery)} if _attributes(delivery) else {}
    client.publish(TopicArn=delivery.target, Message=delivery.message["body"], **extra)


def _to_events(client: Any, arn: Arn, delivery: Delivery) -> None:
    """IN-109."""
    entry = {
        "Source": "lambda",
        "DetailType": f"Lambda Function Invocation Result - {delivery.kind.capitalize()}",
        "Resources": [delivery.target, delivery.message["arn"]],
        "Detail": delivery.message["body"],
        "EventBusName": arn.resource.partition("/")[2] or "default",
    }
    answer = client.put_events(Entries=[entry])
    if answer.get("FailedEntryCount"):
        raise Refused(str(answer["Entries"]))


def _to_s3(client: Any, arn: Arn, delivery: Delivery) -> None:
    """IN-108. The same record has the same key if it is sent twice."""
    at = datetime.fromtimestamp(delivery.made, UTC)
    digest = hashlib.sha256(f"{delivery.id} {delivery.request_id} {delivery.made}".encode()).digest()
    name = f"{at:%Y-%m-%dT%H.%M.%S}-{uuid.UUID(bytes=digest[:16], version=4)}"
    key = f"aws/lambda/async/{delivery.function}/{at:%Y/%m/%d}/{name}"
    body = delivery.message["body"].encode()
    client.put_object(Bucket=arn.resource, Key=key, Body=body, ContentType="application/json")


_SERVICES: Final[Mapping[str, Callable[[Any, Arn, Delivery], None]]] = {
    "sqs": _to_sqs,
    "sns": _to_sns,
    "events": _to_events,
    "s3": _to_s3,
}
