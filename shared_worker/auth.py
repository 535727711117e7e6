"""Bearer tokens, compared in constant time on their digests; several at once, so that they can be rotated."""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
from collections.abc import Iterable
from pathlib import Path


class Tokens:
    """The accepted tokens; only their digests are kept."""

    def __init__(self, tokens: Iterable[str]) -> None:
        self._digests = [_digest(token.strip().encode()) for token in tokens if token.strip()]

    @classmethod
    def from_file(cls, path: Path) -> Tokens:
        """One token a line; blank lines and lines that begin with # are passed over. Raises OSError."""
        lines = (line.strip() for line in path.read_text(encoding="utf-8").splitlines())
        return cls(line for line in lines if line and not line.startswith("#"))

    def __bool__(self) -> bool:
        return bool(self._digests)

    def accept(self, authorization: bytes | None) -> bool:
        """Whether the value of an `Authorization` header holds one of the tokens; the time tells nothing."""
        scheme, _, token = (authorization or b"").partition(b" ")
        digest = _digest(token.strip())
        matches = [hmac.compare_digest(digest, known) for known in self._digests]
        return scheme.lower() == b"bearer" and any(matches)


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach a server that listens on `host`."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def _digest(token: bytes) -> bytes:
    return hashlib.sha256(token).digest()
