"""The entry point of `sd-worker`: which command it is, with which worker, and how it ended."""

from __future__ import annotations

import argparse
import contextlib
import io
import os
import signal
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from types import FrameType
from typing import cast

from worker.cli import exits
from worker.cli.arguments import PROGRAM, parser
from worker.cli.exits import UsageError
from worker.client import Client, ClientError

Command = Callable[[argparse.Namespace, Client], int]
BACKENDS = ("cpu", "cuda", "mps")
ENDINGS = [getattr(signal, name) for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name)]


class Terminated(BaseException):
    """SIGTERM or SIGHUP; as with KeyboardInterrupt, nothing but `main` may swallow it."""

    def __init__(self, signum: int) -> None:
        super().__init__(signum)
        self.signum = signum


def main(arguments: Sequence[str] | None = None) -> int:
    """Returns the exit status: `sd-worker --help` lists them."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    match given[:1]:
        case ["serve"]:
            return _serve(given[1:])
        case ["inspect"]:
            from worker.models import inspect

            return inspect.main(given[1:], program=f"{PROGRAM} inspect")
    asked = parser().parse_args(given)
    if sys.__stdout__ is None:  # `>&-`: a file or a connection would take its number
        exits.say(PROGRAM, "the output cannot be written: it is closed")
        return exits.USAGE
    # One that is ignored already stays so: that is how nohup works.
    heeded = [number for number in ENDINGS if signal.getsignal(number) is not signal.SIG_IGN]
    before = {number: signal.signal(number, _terminate) for number in heeded}
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # prompts have letters that not every terminal has
    try:
        with Client(asked.url, token=_token(asked.token_file), patience_s=getattr(asked, "patience", 0.0)) as client:
            status = _command(asked.command)(asked, client)
            sys.stdout.flush()
            return status
    except ClientError as error:
        exits.say(PROGRAM, str(error))
        return exits.status_of(error)
    except (UsageError, ValueError) as error:
        exits.say(PROGRAM, str(error))
        return exits.USAGE
    except BrokenPipeError:  # whoever read has what it wanted
        _forget_output()
        return exits.SIGNAL + signal.SIGPIPE
    except OSError as error:
        _forget_output()
        exits.say(PROGRAM, f"the output cannot be written: {error.strerror or type(error).__name__}")
        return exits.USAGE
    except KeyboardInterrupt:
        exits.say(PROGRAM, "interrupted")
        return exits.SIGNAL + signal.SIGINT
    except Terminated as terminated:
        exits.say(PROGRAM, "terminated")
        return exits.SIGNAL + terminated.signum
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _forget_output() -> None:
    """What is left in the buffer must not be tried again at exit."""
    with contextlib.suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _command(name: str) -> Command:
    """Only what a command needs is imported."""
    if name == "generate":
        from worker.cli import generate

        return generate.run
    from worker.cli import ask

    return cast(Command, getattr(ask, name))


def _serve(arguments: list[str]) -> int:
    """A worker in this process, with its own flags and exit statuses."""
    own = argparse.ArgumentParser(prog=f"{PROGRAM} serve", add_help=False, allow_abbrev=False)
    own.add_argument("--backend", choices=BACKENDS, default="cpu")
    asked, rest = own.parse_known_args(arguments)
    from worker.main import run

    return run(asked.backend, rest)


def _token(file: Path | None) -> str | None:
    """The first line of the file that is no comment, as a worker's own --token-file has them. Raises UsageError."""
    if file is None:
        return None
    try:
        lines = [line.strip() for line in file.read_text(encoding="utf-8").splitlines()]
    except (OSError, UnicodeDecodeError):
        raise UsageError("--token-file cannot be read") from None
    tokens = [line for line in lines if line and not line.startswith("#")]
    if not tokens:
        raise UsageError("--token-file holds no token")
    return tokens[0]


def _terminate(signum: int, _frame: FrameType | None) -> None:
    raise Terminated(signum)
