"""Other AWS services, at the endpoint that the user names: code in S3, logs in CloudWatch. botocore speaks to them."""

from __future__ import annotations

from typing import Any

from sandbox.control.errors import ApiError
from sandbox.process.variables import DUMMY_CREDENTIALS


class OtherServices:
    """Clients for one endpoint. credentials: the names of EN-001; dummies unless given."""

    def __init__(self, endpoint: str, region: str, credentials: dict[str, str] | None = None) -> None:
        self._endpoint = endpoint
        self._region = region
        self._credentials = credentials or DUMMY_CREDENTIALS
        self._s3: Any = None

    def client(self, service: str, *, quick: bool = False, **config: Any) -> Any:
        """quick: it gives up soon, and does not try again."""
        import botocore.session
        from botocore.config import Config

        # A profile of the user's is not meant for this endpoint, and need not be there.
        session = botocore.session.Session(session_vars={"profile": (None, None, None, None)})
        times = {"read_timeout": 5, "retries": {"total_max_attempts": 1}} if quick else {"retries": {"max_attempts": 2}}
        return session.create_client(
            service,
            region_name=self._region,
            endpoint_url=self._endpoint,
            aws_access_key_id=self._credentials["AWS_ACCESS_KEY_ID"],
            aws_secret_access_key=self._credentials["AWS_SECRET_ACCESS_KEY"],
            aws_session_token=self._credentials.get("AWS_SESSION_TOKEN"),
            config=Config(connect_timeout=5, **times, **config),
        )

    def fetch_object(self, bucket: str, key: str, version: str | None) -> bytes:
        """An object of S3. Raises ApiError, in AWS's words."""
        from botocore.exceptions import BotoCoreError, ClientError

        if self._s3 is None:
            self._s3 = self.client("s3", s3={"addressing_style": "path"})
        try:
            extra = {"VersionId": version} if version is not None else {}
            body: bytes = self._s3.get_object(Bucket=bucket, Key=key, **extra)["Body"].read()
            return body
        except ClientError as error:
            code, text = error.response["Error"].get("Code", ""), error.response["Error"].get("Message", "")
        except (BotoCoreError, ValueError) as error:
            code, text = "none", f"{error} (--aws-endpoint {self._endpoint})"
        told = f"Error occurred while GetObject. S3 Error Code: {code}. S3 Error Message: {text}"
        raise ApiError("InvalidParameterValueException", told)
