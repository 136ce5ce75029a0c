"""The errors that users are meant to see."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches

_MOST_LISTED = 100
"""Choices that an error lists."""


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


def unknown(kind: str, name: str, choices: Iterable[str], *, listing: str | None = None) -> UserError:
    """Return the error for a ``name`` that is none of ``choices``: the closest one, and all of them.

    Args:
        kind: what is named, as in "unknown loss".
        name: what was given.
        choices: what could have been.
        listing: how to list the choices, in place of hundreds of them.
    """
    known = sorted(set(choices))
    folded = {choice.lower(): choice for choice in known}
    near = [folded[match] for match in get_close_matches(name.lower(), folded, n=1)]
    hint = f"; did you mean {near[0]!r}?" if near and near[0] != name else ""
    more = f" and {len(known) - _MOST_LISTED:,} more" if len(known) > _MOST_LISTED else ""
    listing = listing or f"choose from {', '.join(known[:_MOST_LISTED]) or 'none'}{more}"
    return UserError(f"unknown {kind} {name!r}{hint} ({listing})")


def one_line(error: BaseException) -> str:
    """Return kind and message of another library's ``error`` on one line of at most 200 characters."""
    text = " ".join(f"{type(error).__name__}: {error}".split())
    return text if len(text) <= 200 else f"{text[:197]}..."


def lost_rank(rank: str, error: RuntimeError) -> str:
    """Return that ``rank`` has lost another one, which torch's ``error`` comes of, on one line."""
    reason = str(error).partition("\n")[0].partition(". ")[0]
    return f"{rank} lost another one, which ended or cannot be reached ({reason})"
