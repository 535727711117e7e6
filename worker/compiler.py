"""A process beside the worker that compiles model calls with torch.compile, so that nobody waits for it.

It loads the model once more, compiles a call for inputs of given shapes, and sends what came out, which the worker
loads in a tenth of a second. A compiler in a thread would break other calls: while it traces, torch is changed for all
of them. Imports torch when something is compiled.
"""

from __future__ import annotations

import inspect
import io
import multiprocessing
import os
import subprocess
import sys
import tempfile
import threading
import time
from contextlib import suppress
from multiprocessing.connection import Connection
from pathlib import Path
from typing import TYPE_CHECKING, Any

from shared_worker.device import Device, free_bytes

if TYPE_CHECKING:
    from worker.engine.compiling import Compiled
    from worker.engine.shapes import Shapes
    from worker.models.base import Model
    from worker.models.checkpoint import Checkpoint

LONGEST_S = 1800.0
"""A call that is not compiled by then never is."""
BESIDE = 1.25
"""Times the model's weights: what must be free on its device before they are loaded there a second time."""
ENDED = "the compiler's process has ended"
NICE = 10
"""It gets a tenth of a core that the worker computes on all the time."""
GRAPHS = "triton.cudagraphs"
OPTIONS: dict[str, dict[str, Any]] = {"default": {}, "reduce-overhead": {GRAPHS: True}}
"""What torch calls its modes."""


class CompilerProcess:
    """As `worker.engine.compiling.Compiler`, for the calls of the model in `checkpoint`, on `device` too.

    `mode` is `default`, or `reduce-overhead` for CUDA graphs. It runs from the first call that is compiled on until
    there is nothing more to compile, at low priority, and ends with the worker. Inductor keeps what it compiled
    in its cache folder.
    """

    def __init__(self, checkpoint: Checkpoint, device: Device, mode: str) -> None:
        self._checkpoint = checkpoint
        self._device = device
        self._options = OPTIONS[mode]
        self._process: subprocess.Popen[bytes] | None = None
        self._connection: Connection
        self._began = 0.0

    def begin(self, shapes: Shapes) -> None:
        """Called between two steps, on the engine's thread. Raises RuntimeError where memory has no room for the model
        a second time, or the process has died."""
        self._began = time.monotonic()
        try:
            if self._process is None:
                self._start()
            self._connection.send(shapes)
        except OSError:
            self.rest()
            raise RuntimeError(ENDED) from None

    def ended(self) -> Compiled | None:
        """Raises RuntimeError with what the compiler said."""
        if not self._connection.poll():
            if time.monotonic() - self._began < LONGEST_S:
                return None
            self.rest()
            raise RuntimeError(f"it took longer than {LONGEST_S:.0f} s")
        try:
            answer: bytes | str = self._connection.recv()
        except (EOFError, OSError):
            self.rest()
            raise RuntimeError(ENDED) from None
        if isinstance(answer, str):
            raise RuntimeError(answer)
        return _loaded(answer, self._options)

    def rest(self) -> None:
        """Let the process go."""
        if self._process is not None:
            self._connection.close()
            with self._process as process:
                process.kill()
            self._process = None

    def _start(self) -> None:
        import torch

        if self._device.backend == "cuda":
            torch.cuda.empty_cache()  # to the device, what torch holds back without using it is taken
        needed, free = int(BESIDE * self._checkpoint.weights_bytes), free_bytes(self._device)
        if free is not None and free < needed:
            raise RuntimeError(f"to load the model a second time takes {needed} bytes, and {free} are free")
        self._connection, theirs = multiprocessing.Pipe()
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-m", __name__, str(theirs.fileno())],
                env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
                stdin=subprocess.PIPE,  # which it watches: it ends with whoever holds the other end
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                pass_fds=(theirs.fileno(),),
                # Ctrl-C is meant for the worker. Not a session, which would have a share of the processor to itself.
                process_group=0,
            )
        # The number of threads is written into the code that inductor makes.
        self._connection.send((self._checkpoint.alone(), self._device, self._options, torch.get_num_threads()))


def _loaded(compiled: bytes, options: dict[str, Any]) -> Compiled:
    import torch
    import torch._inductor.config

    with torch._inductor.config.patch({**options, "compile_threads": 1}):  # with more it starts processes of its own
        fast: Compiled = torch.compiler.load_compiled_function(io.BytesIO(compiled))
    if not options.get(GRAPHS):
        return fast

    def call(model: Any, rows: Any, timesteps: Any, tensors: Any) -> Any:
        torch.compiler.cudagraph_mark_step_begin()
        return fast(model, rows, timesteps, tensors).clone()  # a graph writes its output anew at each replay

    return call


# What happens in the process.


def main() -> None:
    """Answer each `Shapes` with bytes, or with what went wrong, until nobody listens."""
    threading.Thread(target=_end_with_worker, daemon=True).start()
    os.nice(NICE)
    worker: Connection = Connection(int(sys.argv[1]))
    checkpoint, device, options, threads = worker.recv()
    import torch

    torch.set_num_threads(threads)
    if device.backend == "cuda":
        torch.cuda.set_device(device.torch_name)  # compiled code names the current one, and loads on its like alone
    model: Model | None = None
    while True:
        shapes: Shapes = worker.recv()
        try:
            model = model or checkpoint.load(device, lambda share: None)
            answer: bytes | str = _compiled(model, shapes, options)
        except Exception as error:
            answer = f"{type(error).__name__}: {error}"
        worker.send(answer)


def _compiled(model: Model, shapes: Shapes, options: dict[str, Any]) -> bytes:
    import torch

    # Below its decorator: the compiler does not look through that of inference mode, which is on anyway.
    predict = inspect.unwrap(type(model).predict)
    # Whoever calls it gives what it was compiled for; what guards look at cannot be sent.
    options = {**options, "guard_filter_fn": torch.compiler.skip_all_guards_unsafe}
    # A process compiles many calls of one function, each for its own shapes.
    torch._dynamo.reset()
    torch._dynamo.config.enable_aot_compile = True  # as it is by itself from torch 2.12 on
    with torch.inference_mode():
        compiler: Any = torch.compile(predict, fullgraph=True, dynamic=False, options=options)
        compiled = compiler.aot_compile(((model, *shapes.zeros(model.device)), {}))
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "call"
        compiled.save_compiled_function(str(file))
        answer = file.read_bytes()
    if model.device.type == "cuda":
        _tune(compiled, model, shapes)
    return answer


def _tune(compiled: Compiled, model: Model, shapes: Shapes) -> None:
    """Call it once: in the first call Triton times its kernels, and keeps in the cache which are fastest, where the
    worker finds it when it loads what was compiled.

    With half of the memory that is free, so that the worker does not lack it; where that is not enough, the worker
    times them.
    """
    import torch

    device = model.device
    free, total = torch.cuda.mem_get_info(device)
    most = torch.cuda.memory_reserved(device) + free // 2
    torch.cuda.set_per_process_memory_fraction(most / total, device)
    try:
        # Libraries tell in many ways that they lack memory; and what is wrong with the call the worker will see.
        with torch.inference_mode(), suppress(Exception):
            compiled(model, *shapes.zeros(device))
    finally:
        torch._dynamo.reset()  # CUDA graphs keep their memory until then
        torch.cuda.empty_cache()
        torch.cuda.set_per_process_memory_fraction(1.0, device)


def _end_with_worker() -> None:
    sys.stdin.buffer.read()
    os._exit(0)


if __name__ == "__main__":
    main()
