"""Every error a client or operator can meet: its code, its HTTP status, and whether trying again helps.

WorkerError
├── RequestError              an HTTP request that is answered with problem+json
│   ├── MalformedBody         400 malformed
│   ├── MalformedRequest      400 malformed_request
│   ├── Unauthorized          401 unauthorized
│   ├── CrossSite             403 cross_site
│   ├── RouteNotFound         404 not_found
│   ├── JobNotFound           404 job_not_found
│   ├── ImageNotFound         404 image_not_found
│   ├── MethodNotAllowed      405 method_not_allowed
│   ├── BodyTooSlow           408 body_too_slow
│   ├── ModelMismatch         409 model_mismatch
│   ├── JobCancelled          409 job_cancelled
│   ├── JobExpired            410 job_expired
│   ├── PreconditionFailed    412 precondition_failed
│   ├── BodyTooLarge          413 body_too_large
│   ├── UnsupportedMediaType  415 unsupported_media_type
│   ├── RangeNotSatisfiable   416 range_not_satisfiable
│   ├── InvalidRequest        422 invalid_request
│   ├── IdempotencyConflict   422 idempotency_key_reused
│   ├── QueueFull             429 queue_full
│   ├── InternalError         500 internal_error
│   ├── JobFailed             500 job_failed
│   ├── Draining              503 draining
│   ├── StorageFull           503 storage_full
│   ├── TooManyConnections    503 too_many_connections
│   ├── WorkerFailed          503 worker_failed
│   └── JobTimedOut           504 job_timed_out
├── JobFailure                the `failed` ending of one job
│   ├── InvalidInput          invalid_input
│   ├── OutOfMemory           out_of_memory
│   ├── NanOutput             nan_output
│   ├── UnsafeOutput          unsafe_output
│   ├── SigningFailed         signing_failed
│   ├── EngineFailed          engine_failed
│   └── Poisoned              poisoned
└── StartError                one line on standard error, and the exit status
    ├── ConfigurationError    configuration
    ├── DiskUnavailable       disk_unavailable
    ├── DeviceUnavailable     device_unavailable
    └── ModelUnusable         model_unusable

Messages are for clients: no traceback, path, address or prompt goes into one that is sent over HTTP.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class FieldFault:
    """What is wrong with one field of a request."""

    field: str
    message: str


class WorkerError(Exception):
    """Base of all; `code` is unique in the tree."""

    code = "error"
    retriable = False

    def __init__(self, detail: str = "") -> None:
        super().__init__(detail or self.title())
        self.detail = detail or self.title()

    @classmethod
    def title(cls) -> str:
        """The first sentence of the class's docstring."""
        return (cls.__doc__ or cls.__name__).split("\n")[0].rstrip(".")


class RequestError(WorkerError):
    """The request was refused."""

    status = 500
    code = "request_error"
    errors: tuple[FieldFault, ...] = ()
    headers: dict[str, str] = {}  # noqa: RUF012 - never changed, replaced by instances that need their own


class MalformedBody(RequestError):
    """The body is not valid JSON."""

    status, code = 400, "malformed"


class MalformedRequest(RequestError):
    """The request is not valid HTTP."""

    status, code = 400, "malformed_request"


class Unauthorized(RequestError):
    """A valid bearer token is required."""

    status, code = 401, "unauthorized"
    headers = {"WWW-Authenticate": "Bearer"}  # noqa: RUF012


class CrossSite(RequestError):
    """A page of another origin may change nothing here."""

    status, code = 403, "cross_site"


class RouteNotFound(RequestError):
    """There is nothing at this path."""

    status, code = 404, "not_found"


class JobNotFound(RequestError):
    """The worker knows no job of this id."""

    status, code = 404, "job_not_found"


class ImageNotFound(RequestError):
    """The job has no such image (yet)."""

    status, code = 404, "image_not_found"


class MethodNotAllowed(RequestError):
    """This path does not answer to this method."""

    status, code = 405, "method_not_allowed"


class BodyTooSlow(RequestError):
    """The body took too long to arrive."""

    status, code = 408, "body_too_slow"


class ModelMismatch(RequestError):
    """The worker has another model loaded."""

    status, code = 409, "model_mismatch"


class JobCancelled(RequestError):
    """The job was cancelled before its pictures were done."""

    status, code = 409, "job_cancelled"


class JobExpired(RequestError):
    """The job ended some time ago and is no longer kept."""

    status, code = 410, "job_expired"


class PreconditionFailed(RequestError):
    """The image is not the one that If-Match names."""

    status, code = 412, "precondition_failed"


class BodyTooLarge(RequestError):
    """The body is larger than the worker accepts."""

    status, code = 413, "body_too_large"


class UnsupportedMediaType(RequestError):
    """The body must be application/json."""

    status, code = 415, "unsupported_media_type"


class RangeNotSatisfiable(RequestError):
    """The requested range lies outside the image."""

    status, code = 416, "range_not_satisfiable"


class InvalidRequest(RequestError):
    """The request is not valid."""

    status, code = 422, "invalid_request"

    def __init__(self, *errors: FieldFault) -> None:
        super().__init__("; ".join(f"{fault.field}: {fault.message}" for fault in errors)[:1000])
        self.errors = errors


class IdempotencyConflict(RequestError):
    """The Idempotency-Key was used before with another body."""

    status, code = 422, "idempotency_key_reused"


class QueueFull(RequestError):
    """The queue is full."""

    status, code, retriable = 429, "queue_full", True

    def __init__(self, retry_after_s: int) -> None:
        super().__init__(f"The queue is full; try again in {retry_after_s} s")
        self.headers = {"Retry-After": str(retry_after_s)}


class InternalError(RequestError):
    """The worker failed to answer."""

    status, code = 500, "internal_error"


class JobFailed(RequestError):
    """The job ended without its pictures.

    Told to a client whose request waits for them: `code` is the job's own, the status says whose fault it is.
    """

    status, code = 500, "job_failed"

    def __init__(self, code: str = "", message: str = "", *, retriable: bool = False) -> None:
        super().__init__(message)
        self.code = code or self.code
        self.retriable = retriable
        if code == InvalidInput.code:
            self.status = InvalidRequest.status
        elif retriable:
            self.status = WorkerFailed.status


class Draining(RequestError):
    """The worker is shutting down and accepts no more jobs."""

    status, code, retriable = 503, "draining", True
    headers = {"Retry-After": "5"}  # noqa: RUF012


class StorageFull(RequestError):
    """The worker cannot write jobs down at present: its state directory is full or out of order."""

    status, code, retriable = 503, "storage_full", True
    headers = {"Retry-After": "30"}  # noqa: RUF012


class TooManyConnections(RequestError):
    """The worker has as many connections as it can have."""

    status, code, retriable = 503, "too_many_connections", True
    headers = {"Retry-After": "5"}  # noqa: RUF012


class WorkerFailed(RequestError):
    """The worker's engine has failed and accepts no more jobs."""

    status, code, retriable = 503, "worker_failed", True
    headers = {"Retry-After": "30"}  # noqa: RUF012


class JobTimedOut(RequestError):
    """The job was not done in the time that it may take."""

    status, code = 504, "job_timed_out"


class JobFailure(WorkerError):
    """The job failed."""

    code = "job_failure"


class InvalidInput(JobFailure):
    """The model cannot draw what was asked."""

    code = "invalid_input"


class OutOfMemory(JobFailure):
    """The job does not fit into the device's memory."""

    code = "out_of_memory"


class NanOutput(JobFailure):
    """The model gave a picture that is not a number."""

    code = "nan_output"


class UnsafeOutput(JobFailure):
    """The safety checker flagged a picture of this job."""

    code = "unsafe_output"


class SigningFailed(JobFailure):
    """The picture could not be given its content credentials."""

    code, retriable = "signing_failed", True


class EngineFailed(JobFailure):
    """The engine failed while it worked on this job."""

    code, retriable = "engine_failed", True


class Poisoned(JobFailure):
    """The worker's process ended twice while this job ran; it is not tried again."""

    code, retriable = "poisoned", False


class StartError(WorkerError):
    """The worker cannot start."""

    code = "start_error"
    exit_status = 2
    """1 where the next start may go well without anybody's doing."""


class ConfigurationError(StartError):
    """A setting is wrong."""

    code = "configuration"


class DiskUnavailable(StartError):
    """The disk is full or does not answer."""

    code = "disk_unavailable"
    exit_status = 1


class DeviceUnavailable(StartError):
    """The device is not there."""

    code = "device_unavailable"


class ModelUnusable(StartError):
    """The model cannot be served."""

    code = "model_unusable"
