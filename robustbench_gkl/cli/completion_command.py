"""``gklbench completion``."""

from __future__ import annotations

import click
from click.shell_completion import get_completion_class

from robustbench_gkl.cli import sections

_SHELLS = ("bash", "zsh", "fish")


@sections.command(
    examples=[
        'eval "$(gklbench completion bash)"  # in ~/.bashrc',
        'eval "$(gklbench completion zsh)"  # in ~/.zshrc',
        "gklbench completion fish > ~/.config/fish/completions/gklbench.fish",
    ]
)
@click.argument("shell", type=click.Choice(_SHELLS))
def command(shell: str) -> None:
    """Print the script that makes SHELL complete commands, options and the names of runs, recipes and attacks."""
    from robustbench_gkl.cli import COMPLETE, group, shells  # noqa: F401

    completion = get_completion_class(shell)
    assert completion is not None
    click.echo(completion(group, {}, "gklbench", COMPLETE).source())
