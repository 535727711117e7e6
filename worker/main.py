"""From settings to a serving process. The port is open first; all that takes time to import or to read comes meanwhile.

Nothing is imported here that the port does not need.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import gc
import os
import signal
import socket
import sys
import threading
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, NoReturn, TypeVar

from shared_worker.auth import Tokens
from shared_worker.device import Backend, NoSuchDevice, find_device
from worker import logs
from worker.allocator import keep_freed_memory
from worker.descriptors import room_for_connections
from worker.door import Door
from worker.errors import DeviceUnavailable, StartError
from worker.server import address_of, listen, make_server
from worker.settings import Settings, read_settings
from worker.tokens import read_tokens

if TYPE_CHECKING:
    from worker.provide import Provided
    from worker.serving import Serving

SWITCH_INTERVAL_S = 0.0005
"""Python's default of 5 ms lets an engine thread of many small calls delay the event loop by 12 ms (p99)."""
Result = TypeVar("Result")


def cpu() -> int:
    """Entry point of `sd-worker-cpu`."""
    return run("cpu")


def cuda() -> int:
    """Entry point of `sd-worker-cuda`."""
    return run("cuda")


def mps() -> int:
    """Entry point of `sd-worker-mps`."""
    return run("mps")


def run(backend: Backend, arguments: Sequence[str] | None = None) -> int:
    """Serve until stopped, and end the process: with 0 after a drain, 1 if the engine failed, 2 if the model cannot be
    loaded. Returns 2 if it cannot start, or 1 where that may go well the next time.

    With `inspect` as its first argument it says what a file is instead.
    """
    given = list(sys.argv[1:] if arguments is None else arguments)
    if given[:1] == ["inspect"]:
        from worker.models import inspect

        return inspect.main(given[1:], program=f"sd-worker-{backend} inspect")
    gc.disable()  # until the model is loaded: what imports make stays, and looking through it takes a fifth of the time
    try:
        settings = read_settings(backend, given)
        return _serve(settings, backend)
    except StartError as error:
        print(f"sd-worker-{backend}: {error.detail}", file=sys.stderr)
        return error.exit_status
    finally:
        logs.write_out()
        gc.enable()


def _serve(settings: Settings, backend: Backend) -> int:
    logs.configure(settings.log_level, settings.log_format)
    # No download at serving time, whatever a configuration names.
    os.environ["HF_HUB_OFFLINE"] = "1"
    os.environ["HF_HUB_DISABLE_PROGRESS_BARS"] = "1"
    # What is wrong with a model is told in a line; the libraries print tables.
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("DIFFUSERS_VERBOSITY", "error")
    sys.setswitchinterval(SWITCH_INTERVAL_S)
    if backend == "cpu":
        keep_freed_memory()
    if backend == "cuda":
        _let_segments_grow()
    tokens = read_tokens(settings)
    connections = room_for_connections()
    listener = listen(settings.host, settings.port)
    with contextlib.ExitStack() as at_end:
        return asyncio.run(_run(settings, backend, tokens, listener, connections, at_end))


def _let_segments_grow() -> None:
    """Before torch is imported, which reads it. Calls of ever other rows and sizes leave holes in segments of fixed
    sizes, until one finds no room although enough is free."""
    if sys.platform != "win32" and "PYTORCH_CUDA_ALLOC_CONF" not in os.environ:  # torch has none there, and warns
        os.environ.setdefault("PYTORCH_ALLOC_CONF", "expandable_segments:True")


async def _run(
    settings: Settings,
    backend: Backend,
    tokens: Tokens,
    listener: socket.socket,
    connections: int,
    at_end: contextlib.ExitStack,
) -> NoReturn:
    door = Door(other_origins=bool(settings.origins))
    url = address_of(settings.host, listener)
    serving: Serving | None = None

    async def drain() -> None:
        if serving is None:
            door.close(failed=False)
        else:
            await serving.drain()

    def hurry() -> None:
        if serving is not None:
            serving.hurry()

    server = make_server(door, drain, hurry, connections=connections)
    until_closed = asyncio.create_task(server.serve(sockets=[listener]))
    await asyncio.sleep(0)  # the port is open, and signals are caught
    preparing = _in_thread(functools.partial(_prepare, settings, backend))
    await asyncio.wait((preparing, until_closed), return_when=asyncio.FIRST_COMPLETED)
    if server.stopping or not preparing.done():
        await until_closed
        _leave(0)
    try:
        provided = preparing.result()
        at_end.callback(provided.journal.close)
        from worker.serving import begin  # which is imported already

        serving = begin(settings, tokens, provided, url, server.begin_shutdown)
    except Exception:
        door.close(failed=True)
        server.should_exit = True
        await until_closed
        raise
    door.open(serving.app)
    await until_closed
    for number in (signal.SIGINT, signal.SIGTERM):  # uvicorn has put back what would end the process in mid-sentence
        signal.signal(number, signal.SIG_IGN)
    status = await serving.end()
    at_end.close()
    _leave(status)


def _prepare(settings: Settings, backend: Backend) -> Provided:
    """All that takes time before a worker can accept jobs, imports above all. Raises StartError."""
    from worker import provide, serving  # noqa: F401 - so that nothing is left to import on the event loop

    try:
        device = find_device(backend, settings.device_index)
    except NoSuchDevice as missing:
        raise DeviceUnavailable(str(missing)) from None
    return provide.everything(settings, device)


def _in_thread(work: Callable[[], Result]) -> asyncio.Future[Result]:
    """The result of `work`, from a thread of its own for which nobody waits when the process ends."""
    loop = asyncio.get_running_loop()
    future: asyncio.Future[Result] = loop.create_future()

    def tell() -> None:
        try:
            set_it = functools.partial(future.set_result, work())
        except BaseException as error:
            set_it = functools.partial(future.set_exception, error)
        with contextlib.suppress(RuntimeError):  # the loop is closed: nobody is left to tell
            loop.call_soon_threadsafe(set_it)

    threading.Thread(target=tell, name="preparing", daemon=True).start()
    return future


def _leave(status: int) -> NoReturn:
    """End at once, although a thread is deep inside an import, the device, a disk or a resolver: at an ordinary exit
    Python would wait for it, or crash under it. Nothing here leaves anything to be done at exit."""
    logs.write_out()
    with contextlib.suppress(AttributeError, OSError, ValueError):  # it is not there any more
        sys.stdout.flush()
    os._exit(status)
