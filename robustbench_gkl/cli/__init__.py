"""The command line: one file per command, imported only when it is called."""

from __future__ import annotations

import importlib
import logging
import os
import signal
import sys
from io import TextIOWrapper
from types import FrameType

import click
from click.shell_completion import CompletionItem, shell_complete

from robustbench_gkl.core.errors import RankError, UserError, lost_rank
from robustbench_gkl.core.version import __version__

_GROUPS = {
    "Train": {
        "train": "Train a model from a recipe and options.",
        "import": "Turn a published checkpoint into a run.",
    },
    "Evaluate": {
        "check": "Say whether a model's robustness can be measured and believed.",
        "eval": "Attack a model and record what stands.",
        "certify": "Prove of samples that no attack can break them.",
        "corruptions": "Measure accuracy on corrupted images (CIFAR-10-C).",
        "merge": "Join what shards of an evaluation have left into one record.",
        "parity": "Compare our attacks with the published ones on the same samples.",
    },
    "Read": {
        "leaderboard": "Print or export the leaderboard over all records.",
        "compare": "Say which of two models is ahead, by a paired test.",
        "report": "Write static HTML pages over all records.",
        "reproduce": "Print and run the commands that made a row.",
    },
    "Suites": {
        "suite": "Run a matrix of trainings and evaluations; what is done is not done again.",
        "plan": "Say what a suite costs and how it spreads over devices.",
    },
    "Set up": {
        "doctor": "Check packages, devices, folders and speed of this installation.",
        "completion": "Print what makes a shell complete commands, options and names.",
        "list": "List losses, attacks, models, datasets, recipes or suites.",
    },
}
COMMANDS = {name: line for group in _GROUPS.values() for name, line in group.items()}
"""Each command and its line in the help; ``NAME`` lives in ``cli/NAME_command.py``."""
COMPLETE = "_GKLBENCH_COMPLETE"
"""The variable by which a shell asks for completions."""
_FIRST_ROW = """\
gklbench trains image classifiers to withstand adversarial images, attacks them and ranks them.

A first row of the leaderboard, in about a minute on a laptop:

  gklbench train digits-gkl --name first
  gklbench eval first --attack pgd:steps=20 --attack autoattack
  gklbench leaderboard

gklbench --help lists all commands, and gklbench COMMAND --help explains one, with examples.
gklbench doctor checks this installation.
Documentation: {documentation}"""


def _plugin_option() -> click.Option:
    """Return the option that all commands have; what it names is loaded before anything else is looked at."""

    def load(ctx: click.Context, parameter: click.Parameter, plugins: tuple[str, ...]) -> None:
        if plugins and not ctx.resilient_parsing:  # which is how words are completed
            from robustbench_gkl.core.plugins import load_plugins

            load_plugins(plugins)

    text = "Load losses, attacks, models, data sets or recipes of your own; may be repeated."
    return click.Option(
        ["--plugin"], multiple=True, metavar="FILE|MODULE", is_eager=True, expose_value=False, callback=load, help=text
    )


class _LazyGroup(click.Group):
    """A group with the names of its commands, which imports only the one that is called."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        module = importlib.import_module(f"robustbench_gkl.cli.{cmd_name}_command")
        command = module.command
        assert isinstance(command, click.Command)
        command.name = cmd_name  # not that of its function
        if not any(parameter.name == "plugin" for parameter in command.params):
            command.params.append(_plugin_option())
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        from robustbench_gkl.core.errors import unknown

        if args and not args[0].startswith("-") and args[0] not in COMMANDS and not ctx.resilient_parsing:
            raise unknown("command", args[0], COMMANDS)
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        widest = max(map(len, COMMANDS))
        for title, commands in _GROUPS.items():
            with formatter.section(title):
                formatter.write_dl([(name.ljust(widest), line) for name, line in commands.items()])

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem]:
        found = [CompletionItem(name, help=COMMANDS[name]) for name in COMMANDS if name.startswith(incomplete)]
        return found + click.Command.shell_complete(self, ctx, incomplete)  # which imports none of them


@click.command(cls=_LazyGroup, invoke_without_command=True, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="gklbench")
@click.pass_context
def group(ctx: click.Context) -> None:
    """Train, attack and rank robust image classifiers.

    \b
    gklbench train digits-gkl --name gkl
    gklbench eval gkl --attack pgd:steps=20 --attack autoattack
    gklbench leaderboard --csv leaderboard.csv
    """  # noqa: D301
    if ctx.invoked_subcommand is None:
        click.echo(_FIRST_ROW.format(documentation=documentation()))


def documentation() -> str:
    """Return where the documentation is, as the installed package's metadata says."""
    from importlib.metadata import PackageNotFoundError, metadata

    try:
        links = metadata("gklbench").get_all("Project-URL", [])
    except PackageNotFoundError:
        links = []
    return next(
        (link.split(", ")[1] for link in links if link.startswith("Documentation, ")), "docs/ in the repository"
    )


class _Messages(logging.Handler):
    """Prints the messages of the library, such as that a download has begun."""

    def emit(self, record: logging.LogRecord) -> None:
        click.echo(self.format(record), err=True)


def _terminate(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def run(arguments: list[str] | None = None) -> int:
    """Run the command line and return its exit code: 0 done, 1 failed, 2 bad input, 130 interrupted."""
    if (asked := os.environ.get(COMPLETE)) is not None:
        from robustbench_gkl.cli import shells  # noqa: F401

        return shell_complete(group, {}, "gklbench", COMPLETE, asked)
    signal.signal(signal.SIGTERM, _terminate)
    logger = logging.getLogger("robustbench_gkl")
    before = (logger.handlers, logger.propagate, logger.level)
    logger.handlers, logger.propagate = [_Messages()], False
    logger.setLevel(logging.ERROR if _leads() is False else logging.INFO)
    try:
        with group.make_context("gklbench", sys.argv[1:] if arguments is None else list(arguments)) as context:
            group.invoke(context)
    except UserError as error:
        return _fail(str(error), 2)
    except RankError as error:
        return _fail(error.message, error.code)
    except click.exceptions.Exit as error:
        return error.exit_code
    except click.ClickException as error:
        return _fail(error.format_message(), 2)
    except KeyboardInterrupt as error:
        return _fail(str(error) or "interrupted", 130)
    except ConnectionError as error:
        return _fail(error.strerror or str(error), 1, wait=False)  # a rank is gone, and will read nothing
    except OSError as error:
        return _fail(f"{error.strerror or error}{f': {error.filename}' if error.filename else ''}", 1)
    except RuntimeError as error:
        if type(error).__module__ == "torch.distributed":  # of the store that ranks speak through
            return _fail(lost_rank("this rank", error), 1, wait=False)
        if "out of memory" not in str(error):
            raise
        return _fail("the device ran out of memory; use a smaller --batch-size", 1)
    finally:
        logger.handlers, logger.propagate = before[:2]
        logger.setLevel(before[2])
    return 0


def _fail(message: str, code: int, *, wait: bool = True) -> int:
    """Print what went wrong, once for all ranks that torchrun has started, and return the exit code."""
    leads = _leads()
    reached = True
    if leads is not None:
        for number in (signal.SIGTERM, signal.SIGINT):
            # torchrun ends the other ranks when the first is gone; each must still come to its own exit code.
            signal.signal(number, signal.SIG_IGN)
        message, code, reached = _tell(message, code, wait=wait)
    if leads is not False or not reached:
        click.echo(f"Error: {' '.join(message.split())}", err=True)
    return code


def _tell(message: str, code: int, *, wait: bool) -> tuple[str, int, bool]:
    from robustbench_gkl.ranks.collectives import world_from_environment
    from robustbench_gkl.ranks.exchange import exchange_of

    try:
        return exchange_of(world_from_environment()).fail(message, code, wait=wait)
    except (UserError, RuntimeError):  # no world, or none that can be reached
        return message, code, False


def _leads() -> bool | None:
    """Return whether this is the first of the ranks that torchrun has started; None if it has started none."""
    return os.environ["RANK"] == "0" if {"RANK", "WORLD_SIZE"} <= os.environ.keys() else None


def main() -> None:
    """Run the command line and exit; what the terminal's encoding lacks is written as a question mark."""
    if isinstance(sys.stdout, TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")
    sys.exit(run())
