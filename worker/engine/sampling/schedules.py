"""Which kind of noise a model was trained on, by its scheduler's configuration."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeAlias

from worker.engine.sampling.flow import FlowSchedule
from worker.engine.sampling.schedule import NoiseSchedule

Schedule: TypeAlias = NoiseSchedule | FlowSchedule


def read_schedule(config: Mapping[str, Any]) -> Schedule:
    """From the content of a `scheduler_config.json`. Raises UnsupportedSchedule."""
    flows = str(config.get("_class_name", "")).startswith("FlowMatch")
    return FlowSchedule.from_config(config) if flows else NoiseSchedule.from_config(config)
