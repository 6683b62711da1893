"""Errors that a user can act on: each carries the exit code that the command line returns."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final

LONGEST_MESSAGE: Final = 1600  # characters; a message quotes what it found, which may be a line of megabytes
MOST_PROBLEMS: Final = 20
# Terminals obey control characters, and UTF-8 has no lone surrogates; line ends stay.
_UNPRINTABLE = re.compile("[\x00-\x09\x0b-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")


def printable(text: str) -> str:
    r"""Return a message that is safe to print: control characters escaped, its middle left out where it is long.

    Examples
    --------
    >>> printable("tensor \x1b[31m"), len(printable("a" * 1_000_000))
    ('tensor \\x1b[31m', 1600)
    """
    # Once more behind the escapes, which are longer than what they stand for.
    return _shortened(_UNPRINTABLE.sub(lambda match: match[0].encode("unicode_escape").decode(), _shortened(text)))


def reason(error: Exception) -> str:
    """Return what an error of the system says, without its number and the path, which the message names anyway.

    Examples
    --------
    >>> reason(FileNotFoundError(2, "No such file or directory", "a.tsv")), reason(ValueError("no UTF-8"))
    ('No such file or directory', 'no UTF-8')
    """
    return str(getattr(error, "strerror", None) or error)


def _shortened(text: str) -> str:
    if len(text) <= LONGEST_MESSAGE:
        return text
    return text[: LONGEST_MESSAGE // 4 * 3 - 5] + " ... " + text[-LONGEST_MESSAGE // 4 :]


class SeqdomainsError(Exception):
    """Base of the errors that end without a traceback. The message says what was found, expected and what to do."""

    exit_code = 1

    def __init__(self, message: str) -> None:
        super().__init__(printable(message))


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
        found = (problems,) if isinstance(problems, str) else tuple(problems)
        more = (f"and {len(found) - MOST_PROBLEMS} more",) if len(found) > MOST_PROBLEMS else ()
        self.problems = tuple(printable(problem) for problem in found[:MOST_PROBLEMS]) + more
        super().__init__("\n".join(self.problems))
