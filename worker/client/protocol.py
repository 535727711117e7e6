"""The decisions that both clients share, without a byte of input or output: what an answer means, when to try again."""

from __future__ import annotations

import io
import json
import urllib.parse
from collections.abc import Mapping
from typing import Any

import httpx
from PIL import Image

from worker.client.errors import BadAnswer, ClientError, JobCancelled, JobFailed, Unreachable, refusal
from worker.client.events import Cancelled, Completed, Ending, Event, Failed, read_event
from worker.client.job import Job
from worker.client.patience import Patience
from worker.client.sse import EventReader

JOBS = "/v1/jobs"
INFO = "/v1/info"
PAGE = 100
BUSY, GATEWAY_OR_AWAY = 429, (502, 503, 504)
"""The queue is full; the worker, or what stands before it, expects to be back."""
HOPELESS = (httpx.UnsupportedProtocol, httpx.LocalProtocolError, httpx.DecodingError)
"""What is wrong now will be wrong later."""


def path_of(job_id: str, rest: str = "") -> str:
    """Below `/v1/jobs`; whatever an id holds, it stays one segment."""
    return f"{JOBS}/{urllib.parse.quote(job_id, safe='')}{rest}"


def unreachable(url: httpx.URL, error: httpx.HTTPError | None = None) -> ClientError:
    """What is told of a connection that did not come about or broke."""
    if isinstance(error, httpx.DecodingError):
        return BadAnswer("the answer cannot be decoded")
    told = f" ({type(error).__name__})" if error is not None else ""
    return Unreachable(f"no worker answers at {url.copy_with(userinfo=b'')}{told}")


def successful(response: httpx.Response) -> httpx.Response:
    """The response, already read, if it is a success. Raises Refused."""
    if not response.is_success:
        raise refusal(response.status_code, response.headers, response.content)
    return response


def json_of(response: httpx.Response) -> dict[str, Any]:
    """The object that a response, already read, holds. Raises Refused, BadAnswer."""
    successful(response)
    try:
        answer = json.loads(response.content)
    except (ValueError, RecursionError):
        answer = None
    if not isinstance(answer, dict):
        raise BadAnswer("the answer is not JSON as the contract has it")
    return answer


def job_of(answer: Mapping[str, Any]) -> Job:
    """Raises BadAnswer."""
    try:
        return Job.read(answer)
    except (KeyError, TypeError, ValueError):
        raise BadAnswer("the answer is no job as the contract has it") from None


def page_of(answer: Mapping[str, Any]) -> tuple[list[Job], str | None]:
    """A page of jobs, and the id that the next one comes after. Raises BadAnswer."""
    try:
        return [job_of(one) for one in answer["jobs"]], answer["next"]
    except (KeyError, TypeError):
        raise BadAnswer("the answer is no list of jobs as the contract has it") from None


def completed(event: Ending | None) -> Completed:
    """The good ending. Raises JobFailed and JobCancelled for the other two, BadAnswer for none at all."""
    match event:
        case Completed():
            return event
        case Failed():
            raise JobFailed(event.job_id, event.code, event.message, retriable=event.retriable)
        case Cancelled():
            raise JobCancelled(event.job_id, event.reason)
        case None:
            raise BadAnswer("the stream ended before the job did")


def picture_of(data: bytes) -> Image.Image:
    """The picture in a file. Raises BadAnswer."""
    try:
        with Image.open(io.BytesIO(data)) as image:
            image.load()
            return image
    except (OSError, SyntaxError, ValueError):
        raise BadAnswer("what the worker sent is no picture") from None


def own_path(url: str) -> str:
    """A picture's URL, which must be one of the worker's own: the token goes along. Raises BadAnswer."""
    if not url.startswith("/") or url.startswith("//"):
        raise BadAnswer("a picture's address is not the worker's own")
    return url


class Repeats:
    """One request that may be sent several times: waits out a worker that is away, and one whose queue is full."""

    def __init__(self, url: httpx.URL, patience_s: float, busy_s: float) -> None:
        self._url = url
        self._away, self._busy = Patience(patience_s), Patience(busy_s)

    def broken(self, error: httpx.HTTPError) -> float:
        """Seconds to wait after a connection that failed. Raises Unreachable."""
        wait_s = None if isinstance(error, HOPELESS) else self._away.wait_s()
        if wait_s is None:
            raise unreachable(self._url, error) from None
        return wait_s

    def answered(self, response: httpx.Response) -> float | None:
        """Seconds to wait for another try, None where the answer stands. Raises Refused."""
        if response.status_code == BUSY:
            patience = self._busy
        elif response.status_code in GATEWAY_OR_AWAY:
            patience = self._away
        else:
            return None
        refused = refusal(response.status_code, response.headers, response.content)
        wait_s = patience.wait_s(refused.retry_after_s)
        if wait_s is None:
            raise refused
        return wait_s


class Following:
    """The reading of one job's stream over as many connections as it takes: no event is missed, none comes twice."""

    def __init__(self, url: httpx.URL, after: int, patience_s: float) -> None:
        self._url = url
        self._patience = Patience(patience_s)
        self._reader = EventReader()
        self._last_id = after
        self._broken_by: httpx.HTTPError | None = None
        self._ended = False

    def done(self) -> bool:
        """Whether the job's ending was read."""
        return self._ended

    def headers(self) -> dict[str, str]:
        """What continues the stream; a new connection is about to be made."""
        self._reader = EventReader()
        headers = {"Accept": "text/event-stream", "Accept-Encoding": "identity"}  # compressing gathers events
        return headers | {"Last-Event-ID": str(self._last_id)} if self._last_id else headers

    def opened(self, response: httpx.Response) -> bool:
        """Whether there is a stream to read; 204 is the end of one that was seen already. Raises Refused, BadAnswer."""
        match response.status_code:
            case 200:
                kind = response.headers.get("content-type", "").partition(";")[0].strip()
                if kind != "text/event-stream":
                    raise BadAnswer("the answer is no event stream")
                return True
            case 204:
                self._ended = True
            case status if status in (BUSY, *GATEWAY_OR_AWAY):
                self._reader.retry_s = refusal(status, response.headers, b"").retry_after_s
            case status:
                raise refusal(status, response.headers, response.content)
        return False

    def feed(self, chunk: bytes) -> list[Event]:
        """The events that are new in `chunk`; nothing comes behind the ending. Raises BadAnswer."""
        events: list[Event] = []
        if chunk:
            self._patience.heard()
        for sent in self._reader.feed(chunk):
            event = None if self._ended else read_event(sent)
            if event is None or (event.id <= self._last_id and not isinstance(event, Ending)):
                continue  # an ending is new whatever its number: a disk may have lost what was told before it
            self._patience.refreshed()
            self._last_id = event.id
            self._ended = isinstance(event, Ending)
            events.append(event)
        return events

    def broken(self, error: httpx.HTTPError) -> None:
        """The connection failed; `wait_s` will tell whether to go on. Raises ClientError where that is no use."""
        self._broken_by = error
        if isinstance(error, HOPELESS):
            raise unreachable(self._url, error) from None

    def wait_s(self) -> float:
        """Seconds until the next connection. Raises Unreachable."""
        wait_s = self._patience.wait_s(self._reader.retry_s)
        if wait_s is None:
            raise unreachable(self._url, self._broken_by) from None
        return wait_s
