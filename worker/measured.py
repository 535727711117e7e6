"""What was measured of a model on a device, kept in a file between starts; lost without harm."""

from __future__ import annotations

import json
import logging
import os
from pathlib import Path

logger = logging.getLogger(__name__)


def cache_dir() -> Path | None:
    """`sd-worker` where the user's caches are (XDG Base Directory); None without a home."""
    try:
        caches = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    except RuntimeError:
        return None
    return Path(caches) / "sd-worker"


def cache_file() -> Path | None:
    """`rows.json` in there."""
    folder = cache_dir()
    return None if folder is None else folder / "rows.json"


class MeasuredRows:
    """The rows that pay in one call, by what they were measured on. Without a file nothing is kept."""

    def __init__(self, file: Path | None) -> None:
        self._file = file

    def get(self, key: str) -> int | None:
        """What is known of `key`."""
        rows = self._read().get(key)
        return rows if type(rows) is int and 2 <= rows <= 1024 else None

    def keep(self, key: str, rows: int) -> None:
        """Write the whole file, then rename it: another worker may read at the same moment."""
        if self._file is None:
            return
        temporary = self._file.with_name(f"{self._file.name}.{os.getpid()}")
        try:
            self._file.parent.mkdir(parents=True, exist_ok=True)
            temporary.write_text(json.dumps(self._read() | {key: rows}, indent=1) + "\n", encoding="utf-8")
            temporary.replace(self._file)
        except OSError as error:
            logger.debug("the measured rows are not kept: %s", error)

    def _read(self) -> dict[str, object]:
        try:
            content = json.loads(self._file.read_text(encoding="utf-8")) if self._file else {}
        except (OSError, ValueError):
            return {}
        return content if isinstance(content, dict) else {}
