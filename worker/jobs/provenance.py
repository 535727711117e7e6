"""Where a picture comes from, in the words of the IPTC that other programs read."""

from __future__ import annotations

from enum import StrEnum

from worker.jobs.params import Task


class DigitalSource(StrEnum):
    """Of the IPTC's vocabulary "Digital Source Type", which C2PA uses too: the two that a model's pictures can be."""

    GENERATED = "http://cv.iptc.org/newscodes/digitalsourcetype/trainedAlgorithmicMedia"
    """Made by a trained model, whole."""
    COMPOSITE = "http://cv.iptc.org/newscodes/digitalsourcetype/compositeWithTrainedAlgorithmicMedia"
    """Another picture, with what a trained model made of it."""

    @classmethod
    def of(cls, task: Task) -> DigitalSource:
        """What a task's pictures are."""
        return cls.COMPOSITE if task.takes_image else cls.GENERATED
