"""What shells need beside click's completion: values after an equals sign, and a start of zsh without its completion.

Importing this registers it with click.
"""

from __future__ import annotations

import re

from click.shell_completion import (
    BashComplete,
    CompletionItem,
    FishComplete,
    ShellComplete,
    ZshComplete,
    add_completion_class,
)

_BEFORE_VALUE = re.compile(r"--[^=]*=")
_PARTING = ("=", ":")
"""Words of their own to bash, wherever they stand."""


class _WholeWords(ShellComplete):
    """For shells in which ``--loss=tr`` is one word, and a completion replaces all of it."""

    def format_completion(self, item: CompletionItem) -> str:
        """Return a completion as the script reads it, with the option where the word begins with one."""
        _, word = self.get_completion_args()
        option = _BEFORE_VALUE.match(word)
        if option is not None and item.type == "plain":
            item = CompletionItem(option[0] + item.value, help=item.help)
        return super().format_completion(item)


class _Bash(BashComplete):
    """For bash, in which ``--loss=tr`` is three words and a completion replaces the last; ``pgd:steps`` likewise."""

    def get_completion_args(self) -> tuple[list[str], str]:
        """Return the words before the one that is completed, and that one, as they were typed."""
        args, word = super().get_completion_args()
        typed = [""]
        for part in (*args, word):
            if part in _PARTING or typed[-1].endswith(_PARTING):
                typed[-1] += part
            else:
                typed.append(part)
        *before, last = typed[1:] or [""]
        return before, last


class _Zsh(_WholeWords, ZshComplete):
    """For zsh, whose completion has to be loaded first."""

    source_template = ZshComplete.source_template.replace(
        "#compdef %(prog_name)s\n",
        "#compdef %(prog_name)s\n(( $+functions[compdef] )) || { autoload -Uz compinit && compinit -i }\n",
    )


class _Fish(_WholeWords, FishComplete):
    """For fish; the help of a completion may have commas."""

    source_template = FishComplete.source_template.replace('string split ","', 'string split -m 1 ","')


for _shell in (_Bash, _Zsh, _Fish):
    add_completion_class(_shell)
