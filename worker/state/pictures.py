"""Finished pictures as files, each written whole and to the disk beside its place, then renamed into it."""

from __future__ import annotations

import contextlib
import os
import re
from collections import defaultdict
from collections.abc import Collection, Sequence
from pathlib import Path

from worker.jobs.events import Image

UNFINISHED = ".part"
OURS = re.compile(r"job_[0-9a-f]+\.[0-9]+\.[a-z]+(\.part)?")
"""Nothing else in the folder is touched: it may be somebody's."""


class Pictures:
    """In `folder`, under names that begin with their job's id. Safe from any thread, one job from one at a time."""

    def __init__(self, folder: Path) -> None:
        """Raises OSError."""
        self._folder = folder
        self._names: defaultdict[str, list[str]] = defaultdict(list)
        folder.mkdir(mode=0o700, exist_ok=True)

    def write(self, job_id: str, images: Sequence[Image]) -> None:
        """All of a job's, or none. Raises OSError."""
        try:
            for image in images:
                place = self._place(job_id, image.index, image.format.value)
                self._names[job_id].append(place.name)
                part = place.with_name(place.name + UNFINISHED)
                try:
                    with part.open("wb") as file:
                        file.write(image.data)
                        file.flush()
                        os.fsync(file.fileno())  # a power cut may else leave the name without the bytes
                    part.rename(place)
                except OSError:
                    part.unlink(missing_ok=True)
                    raise
            self._keep_names()
        except OSError:
            self.remove(job_id)
            raise

    def read(self, job_id: str, index: int, form: str) -> bytes:
        """The bytes as they were written. Raises OSError."""
        return self._place(job_id, index, form).read_bytes()

    def remove(self, job_id: str) -> None:
        """All of a job's; what cannot be removed now is removed at the next start."""
        for name in self._names.pop(job_id, ()):
            with contextlib.suppress(OSError):
                (self._folder / name).unlink()

    def count(self) -> int:
        """All that lie there, whomever they belong to; without what was never finished."""
        names = [file.name for file in self._folder.iterdir()]
        return sum(1 for name in names if OURS.fullmatch(name) and not name.endswith(UNFINISHED))

    def keep_only(self, job_ids: Collection[str]) -> None:
        """Remove what belongs to no job of these, and what was never finished."""
        for file in self._folder.iterdir():
            if not OURS.fullmatch(file.name):
                continue
            job_id = file.name.partition(".")[0]
            if job_id in job_ids and file.suffix != UNFINISHED:
                self._names[job_id].append(file.name)
            else:
                with contextlib.suppress(OSError):
                    file.unlink()

    def _keep_names(self) -> None:
        """Also through a power cut, where the file system offers that for a folder."""
        folder = os.open(self._folder, os.O_RDONLY)
        try:
            with contextlib.suppress(OSError):
                os.fsync(folder)
        finally:
            os.close(folder)

    def _place(self, job_id: str, index: int, form: str) -> Path:
        return self._folder / f"{job_id}.{index}.{form}"
