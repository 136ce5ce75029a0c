"""Commands whose help has its options in named sections, and examples at its end."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import click

F = TypeVar("F", bound=Callable[..., Any])

SECTIONS = ("What to run", "The model", "Threat", "How", "Budget", "Output", "Where", "Common")
"""The sections of a command's help, in their order."""


class Option(click.Option):
    """An option that stands in a section of the help.

    Args:
        section: one of :data:`SECTIONS`.
        names, settings: see :class:`click.Option`.
    """

    def __init__(self, names: Sequence[str], *, section: str, **settings: Any) -> None:
        super().__init__(names, **settings)
        self.section = section


def _section(title: str) -> Callable[..., Callable[[F], F]]:
    """Return :func:`click.option` for options that stand in this section."""

    def option(*names: str, **settings: Any) -> Callable[[F], F]:
        return click.option(*names, cls=Option, section=title, **settings)

    return option


what, model, threat, how, budget, output, where, common = map(_section, SECTIONS)


class Command(click.Command):
    """A command with examples.

    Args:
        examples: lines that a user could type.
        arguments, settings: see :class:`click.Command`.
    """

    def __init__(self, *arguments: Any, examples: Sequence[str] = (), **settings: Any) -> None:
        super().__init__(*arguments, **settings)
        self.examples = tuple(examples)
        if examples:
            self.epilog = "\n".join(["\b", "Examples:", *(f"  {line}" for line in examples)])

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the options, section by section."""
        found: dict[str, list[tuple[str, str]]] = {section: [] for section in SECTIONS}
        for parameter in self.get_params(ctx):
            line = None if isinstance(parameter, click.Argument) else parameter.get_help_record(ctx)
            if line is not None:
                found[parameter.section if isinstance(parameter, Option) else SECTIONS[-1]].append(line)
        for section, lines in found.items():
            if lines:
                with formatter.section(section):
                    formatter.write_dl(lines)


def command(*, examples: Sequence[str]) -> Callable[[Callable[..., Any]], Command]:
    """Make a command of a function, with examples for its help."""
    return click.command(cls=Command, examples=examples)
