"""Two threads beside the engine that turn pixels into bytes, tell of them, and so complete most jobs.

What they need to know of pixels is imported by them: numpy comes in with torch, when the port is open.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from worker.engine.outbox import Outbox
from worker.engine.run import JobRun
from worker.engine.runner import Pixels
from worker.jobs.events import Completed, Image, Preview
from worker.jobs.params import JobParams, PreviewParams
from worker.jobs.provenance import DigitalSource
from worker.jobs.tiling import Tile

THREADS = 2
Pieces = Sequence[tuple[Tile | None, Pixels]]
"""What `assemble` makes one picture of."""

Sign = Callable[[bytes, JobParams], bytes]
"""Gives an encoded picture of a job content credentials. May raise a `JobFailure`."""


class EncodingPool:
    """A job is completed by whichever thread brings its last outstanding preview or picture; `keep_images` is called
    there with all its pictures before that is told, and `on_ended` behind it. Pictures are signed there too, if there
    is a `sign`."""

    def __init__(
        self,
        outbox: Outbox,
        model_id: str,
        on_encoded: Callable[[float], None],
        keep_images: Callable[[str, Sequence[Image]], None],
        on_ended: Callable[[], None],
        sign: Sign | None = None,
    ) -> None:
        self._outbox = outbox
        self._model_id = model_id
        self._on_encoded = on_encoded
        self._keep_images = keep_images
        self._on_ended = on_ended
        self._sign = sign
        self._pool = ThreadPoolExecutor(THREADS, thread_name_prefix="encoding")

    def preview(self, run: JobRun[Any], asked: PreviewParams, step: int, steps: int, pieces: Pieces) -> None:
        """Tell what a picture looks like after `step` of its `steps`; a job's previews are told in their order."""
        params = run.work.params
        place = run.previews.order()
        run.pictures.preview_follows()

        def encode() -> None:
            from worker.engine import encoding
            from worker.engine.assembling import assemble

            pixels = assemble(pieces)
            data, width, height = encoding.encode_preview(pixels, params.width, params.height, asked)
            preview = Preview(step, steps, width, height, asked.format, data)
            run.previews.encoded(place, preview, lambda event: self._outbox.send(run, event))

        self._submit(run, encode)

    def picture(self, run: JobRun[Any], index: int, seed: int, pieces: Pieces) -> None:
        """Keep a finished picture for its job's completion."""
        params = run.work.params

        def encode() -> Image:
            from worker.engine import encoding
            from worker.engine.assembling import assemble
            from worker.engine.composing import compose

            composed = compose(assemble(pieces), params)
            height, width = composed.shape[:2]
            text = encoding.describe_parameters(params, seed, self._model_id)
            source = DigitalSource.of(params.task)
            data = encoding.encode_image(composed, params.output, source, text if params.output.metadata else None)
            if self._sign is not None:
                data = self._sign(data, params)
            return Image(index, seed, width, height, params.output.format, data)

        self._submit(run, encode)

    def close(self) -> None:
        """Wait for all that is being encoded: it completes jobs, so none of it is thrown away."""
        self._pool.shutdown()

    def _submit(self, run: JobRun[Any], encode: Callable[[], Image | None]) -> None:
        def work() -> None:
            if run.ended:
                return  # nobody gets it any more
            started = time.monotonic()
            try:
                encoded = encode()
                self._on_encoded(time.monotonic() - started)
                images = run.pictures.arrived(encoded)
                if images is not None:
                    self._keep_images(run.work.job_id, images)
            except BaseException as error:  # a panic in a library's Rust is no Exception
                self._outbox.send(run, run.failure(error))
                self._on_ended()
            else:
                if images is not None:
                    self._outbox.send(run, Completed(images, run.final_timings(), run.warnings))
                    self._on_ended()

        self._pool.submit(work)
