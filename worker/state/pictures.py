"""Finished pictures as files: a folder for each job, written whole beside its place, then renamed into it."""

from __future__ import annotations

import shutil
from collections.abc import Collection, Iterable, Sequence
from pathlib import Path

from worker.jobs.events import Image

UNFINISHED = ".part"


class Pictures:
    """Raises OSError where it says so; what is to be removed and cannot be is removed at the next start."""

    def __init__(self, folder: Path) -> None:
        """Raises OSError."""
        self._folder = folder
        folder.mkdir(mode=0o700, exist_ok=True)

    def write(self, job_id: str, images: Sequence[Image]) -> None:
        """All of a job's, or none. Raises OSError."""
        place, part = self._folder / job_id, self._folder / (job_id + UNFINISHED)
        self.remove([place.name, part.name])  # an attempt that a process left behind when it died
        try:
            part.mkdir()
            for image in images:
                (part / _name(image.index, image.format.value)).write_bytes(image.data)
            part.rename(place)
        except OSError:
            self.remove([part.name])
            raise

    def read(self, job_id: str, index: int, form: str) -> bytes:
        """The bytes as they were written. Raises OSError."""
        return (self._folder / job_id / _name(index, form)).read_bytes()

    def remove(self, job_ids: Iterable[str]) -> None:
        """All of these jobs'."""
        for job_id in job_ids:
            shutil.rmtree(self._folder / job_id, ignore_errors=True)

    def keep_only(self, job_ids: Collection[str]) -> None:
        """Remove what belongs to no job of these, and what was never finished."""
        self.remove([folder.name for folder in self._folder.iterdir() if folder.name not in job_ids])


def _name(index: int, form: str) -> str:
    return f"{index}.{form}"
