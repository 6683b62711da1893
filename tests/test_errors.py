from __future__ import annotations

import pytest

from seqdomains.errors import LONGEST_MESSAGE, MOST_PROBLEMS, ConfigError, InputError


@pytest.mark.parametrize("kind", [InputError, ConfigError])
def test_messages_are_safe_to_print(kind):
    error = kind("tensor \x1b[31m\0 \ud800 in a.st\nline 2")
    assert str(error) == "tensor \\x1b[31m\\x00 \\ud800 in a.st\nline 2"


def test_a_long_message_keeps_both_ends():
    text = str(InputError("a.tsv, line 1: found " + "x" * 1_000_000 + "; do this"))
    assert text.startswith("a.tsv, line 1: found xxx")
    assert text.endswith("xxx; do this")
    assert len(text) == LONGEST_MESSAGE
    assert len(str(InputError("\x1b" * 1000))) == LONGEST_MESSAGE


def test_very_many_problems_are_counted():
    error = ConfigError([f"a.b{number}: unknown key" for number in range(1000)])
    assert len(error.problems) == MOST_PROBLEMS + 1
    assert error.problems[-1] == "and 980 more"
