"""The bearer tokens that an operator has set. Without one, nothing is opened that others could reach."""

from __future__ import annotations

from shared_worker.auth import Tokens, is_loopback
from worker.errors import ConfigurationError
from worker.settings import Settings


def read_tokens(settings: Settings) -> Tokens:
    """From environment or file. Raises ConfigurationError, also where none guards an address that others can reach."""
    if settings.token is not None:
        tokens = Tokens([settings.token.get_secret_value()])
    elif settings.token_file is not None:
        try:
            tokens = Tokens.from_file(settings.token_file)
        except (OSError, UnicodeDecodeError):
            raise ConfigurationError("--token-file cannot be read") from None
        if not tokens:
            raise ConfigurationError("--token-file holds no token")
    else:
        tokens = Tokens([])
    if not tokens and not is_loopback(settings.host):
        raise ConfigurationError(
            f"--host {settings.host} can be reached from outside: set SDW_TOKEN or --token-file, or bind to loopback"
        )
    return tokens
