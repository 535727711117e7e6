"""How a command ends: its exit status, and one line on standard error for everything but success."""

from __future__ import annotations

import sys

from worker.client.errors import BadAnswer, ClientError, JobCancelled, JobFailed, Refused, Unreachable

DONE, FAILED, USAGE, REFUSED, UNREACHABLE, CANCELLED = 0, 1, 2, 3, 4, 5
SIGNAL = 128
"""And the signal's number: 130 for Ctrl+C, as a shell has it."""


class UsageError(Exception):
    """What was asked for cannot be: a value that is none, a file that cannot be read or written."""


def status_of(error: ClientError) -> int:
    """The exit status that stands for an error."""
    match error:
        case JobFailed():
            return FAILED
        case JobCancelled():
            return CANCELLED
        case Refused():
            return REFUSED
        case Unreachable() | BadAnswer():
            return UNREACHABLE
        case _:
            raise AssertionError(f"{type(error).__name__} has no exit status")


def say(program: str, message: str) -> None:
    """One line, whatever the message holds."""
    print(f"{program}: {printable(message)}", file=sys.stderr)


def printable(text: str) -> str:
    """Text of somebody else's without what would steer the terminal, on one line."""
    return "".join(character if character.isprintable() else " " for character in text)
