"""Where the worker is and how it is talked to: address, token, time limits. The environment is read here alone."""

from __future__ import annotations

import ipaddress
import os
from typing import Any

import httpx

from worker import __version__

DEFAULT_URL = "http://127.0.0.1:8600"
URL_VARIABLE, TOKEN_VARIABLE = "SDW_URL", "SDW_TOKEN"
ANSWER_S = httpx.Timeout(30.0, connect=5.0)
STREAM_S = httpx.Timeout(10.0, connect=5.0, read=50.0)
"""A stream has a comment every 15 s; one that is silent for three of them is dead."""
KEPT_CONNECTIONS = 20
GOODBYE_S = 2.0
"""For cancelling on the way out, which must not hold up whoever wants to leave."""


def settings(url: str | None, token: str | None) -> dict[str, Any]:
    """What both of httpx's clients are made with. Raises ValueError for an address that is none."""
    url = (url or os.environ.get(URL_VARIABLE) or DEFAULT_URL).rstrip("/")
    token = (token or os.environ.get(TOKEN_VARIABLE) or "").strip()
    try:
        parsed = httpx.URL(url)
    except httpx.InvalidURL as invalid:
        raise ValueError(f"{url!r} is not the address of a worker: {invalid}") from None
    if parsed.scheme not in ("http", "https") or not parsed.host or parsed.query or parsed.fragment:
        raise ValueError(f"{url!r} is not the address of a worker, such as {DEFAULT_URL}")
    headers = {"User-Agent": f"sd-worker-client/{__version__}"}
    if token:
        if not token.isascii() or not token.isprintable():  # RFC 9110, 5.5
            raise ValueError("the token holds what no header can carry")
        if parsed.userinfo:
            raise ValueError("the address holds a name, and there is a token: a request has room for one of them")
        headers["Authorization"] = f"Bearer {token}"
    # Proxies are for the world outside. A redirect would take pictures, and perhaps the token, elsewhere.
    return {
        "base_url": url,
        "headers": headers,
        "timeout": ANSWER_S,
        # Each job that is followed has a connection of its own; how many there may be is the caller's affair.
        "limits": httpx.Limits(max_connections=None, max_keepalive_connections=KEPT_CONNECTIONS),
        "follow_redirects": False,
        "trust_env": not _is_loopback(parsed.host),
    }


def _is_loopback(host: str) -> bool:
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
