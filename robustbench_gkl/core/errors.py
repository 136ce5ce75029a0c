"""The errors that users are meant to see."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches


class UserError(ValueError):
    """Something the user gave cannot be used.

    The message is one line that says what was expected, what came and what to do. The command line prints it
    without a traceback and exits with 2.
    """


class RankError(Exception):
    """Another of the processes that work together has failed; ``message`` and exit ``code`` are its own."""

    def __init__(self, message: str, code: int) -> None:
        super().__init__(message)
        self.message, self.code = message, code


def unknown(kind: str, name: str, choices: Iterable[str]) -> UserError:
    """Return the error for a ``name`` that is none of ``choices``; it lists them and the closest one."""
    known = sorted(choices)
    folded = {choice.lower(): choice for choice in known}
    near = [folded[match] for match in get_close_matches(name.lower(), folded, n=1)]
    hint = f"; did you mean {near[0]!r}?" if near and near[0] != name else ""
    return UserError(f"unknown {kind} {name!r}{hint} (choose from {', '.join(known) or 'none'})")


def one_line(error: BaseException) -> str:
    """Return kind and message of another library's ``error`` on one line of at most 200 characters."""
    text = " ".join(f"{type(error).__name__}: {error}".split())
    return text if len(text) <= 200 else f"{text[:197]}..."
