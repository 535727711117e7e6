"""The `traceparent` header (W3C Trace Context): taken in with a job, and passed on with the answer.

Where requests are traced, the framework has taken it in already, and the request's own span is passed on.
"""

from __future__ import annotations

import re
import secrets

from fastapi import Request
from opentelemetry import trace

TRACEPARENT = "traceparent"
_FORM = re.compile(r"(?!ff)[0-9a-f]{2}-(?!0{32})([0-9a-f]{32})-(?!0{16})[0-9a-f]{16}-([0-9a-f]{2})(-.*)?")
"""Version, trace id, the caller's span, flags; later versions may have more behind."""


def read_trace(request: Request) -> tuple[str | None, dict[str, str]]:
    """The trace id, None without one that can be read, and the header for the answer: the same trace, our own span."""
    span = trace.get_current_span().get_span_context()
    if span.is_valid:
        trace_id = trace.format_trace_id(span.trace_id)
        return trace_id, {
            TRACEPARENT: f"00-{trace_id}-{trace.format_span_id(span.span_id)}-{int(span.trace_flags):02x}"
        }
    found = _FORM.fullmatch(request.headers.get(TRACEPARENT, ""))
    if found is None:
        return None, {}
    trace_id, flags = found.group(1), found.group(2)
    return trace_id, {TRACEPARENT: f"00-{trace_id}-{secrets.token_hex(8)}-{flags}"}
