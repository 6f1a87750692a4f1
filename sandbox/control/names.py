"""Names and ARNs of functions and layers (IN-002, IN-003)."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final, NamedTuple

from sandbox.control.errors import ApiError, invalid, not_found

LATEST: Final = "$LATEST"
_FUNCTION = re.compile(
    r"(?:arn:(?P<partition>aws[a-zA-Z-]*)?:lambda:)?"
    r"(?:(?P<region>(?:eusc-)?[a-z]{2}(?:-gov|-iso[a-z]?)?-[a-z]+-[0-9]):)?(?:(?P<account>[0-9]{12}):)?"
    r"(?:function:)?(?P<name>[a-zA-Z0-9-_.]+)(?::(?P<qualifier>\$LATEST(?:\.PUBLISHED)?|[a-zA-Z0-9-_]+))?"
)
_LAYER = re.compile(r"arn:[^:]+:lambda:(?P<region>[^:]*):(?P<account>[^:]*):layer:(?P<name>[^:]+)(?::(?P<version>[0-9]+))?")


class Named(NamedTuple):
    """A function, and the version or alias of it that was asked for."""

    name: str
    qualifier: str | None = None

    @property
    def is_version(self) -> bool:
        return self.qualifier is not None and is_version(self.qualifier)


@dataclass(frozen=True, slots=True)
class Here:
    """Whose service this is: every ARN names it."""

    account: str
    region: str

    def function_arn(self, name: str, qualifier: str | None = None) -> str:
        arn = f"arn:aws:lambda:{self.region}:{self.account}:function:{name}"
        return f"{arn}:{qualifier}" if qualifier is not None else arn

    def layer_arn(self, name: str, version: int | None = None) -> str:
        arn = f"arn:aws:lambda:{self.region}:{self.account}:layer:{name}"
        return f"{arn}:{version}" if version is not None else arn

    def function(self, text: str, qualifier: str | None = None) -> Named:
        """Every form of a function's name. Raises ApiError: another region or account, two qualifiers that differ."""
        found = _FUNCTION.fullmatch(text)
        if found is None:  # the model lets nothing else pass
            raise not_found(f"Function not found: {text}")
        region, account, name = found["region"], found["account"], found["name"]
        if region is not None and region != self.region:
            raise not_found(f"Functions from '{region}' are not reachable in this region ('{self.region}')")
        if account is not None and account != self.account:
            raise ApiError("AccessDeniedException", f"This sandbox is account {self.account}: {text} belongs to another one")
        own = found["qualifier"]
        if own is not None and qualifier is not None and own != qualifier:
            raise invalid("The derived qualifier from the function name does not match the specified qualifier.")
        return Named(name, qualifier if qualifier is not None else own)

    def layer(self, arn: str) -> tuple[str, int | None] | None:
        """Name and version of one of our layers; None for somebody else's. Raises ApiError for another region."""
        found = _LAYER.fullmatch(arn)
        if found is None:
            return None
        if found["region"] != self.region:
            raise invalid(
                f"Layers are not in the same region as the function. Layers are expected to be in region {self.region}."
            )
        if found["account"] != self.account:
            return None
        return found["name"], int(found["version"]) if found["version"] else None


def is_version(qualifier: str) -> bool:
    """A number, not an alias."""
    return qualifier.isascii() and qualifier.isdigit()
