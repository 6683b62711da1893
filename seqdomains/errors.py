"""Errors that a user can act on: each carries the exit code that the command line returns."""

from __future__ import annotations

from collections.abc import Sequence


class SeqdomainsError(Exception):
    """Base of the errors that end without a traceback. The message says what was found, expected and what to do."""

    exit_code = 1


class InputError(SeqdomainsError):
    """Bad data: an unreadable file, an illegal record, a damaged checkpoint. Exit code 1."""


class ConfigError(SeqdomainsError):
    r"""A bad command or configuration, all its problems at once. Exit code 2.

    Parameters
    ----------
    problems : sequence of str
        One line per problem, each beginning with its dotted key where there is one.

    Examples
    --------
    >>> str(ConfigError(["train.steps: -3 is below 1", "data.windw: unknown key; did you mean data.window?"]))
    'train.steps: -3 is below 1\ndata.windw: unknown key; did you mean data.window?'
    """

    exit_code = 2

    def __init__(self, problems: str | Sequence[str]) -> None:
        self.problems = (problems,) if isinstance(problems, str) else tuple(problems)
        super().__init__("\n".join(self.problems))
