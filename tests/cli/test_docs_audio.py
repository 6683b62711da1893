"""The commands in docs/audio.md work when they are pasted, one block after the other into one folder."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest

PAGE = Path(__file__).parents[2] / "docs" / "audio.md"
BLOCK = re.compile(r"(?:^<!-- (?P<note>[^\n]*) -->\n)?^```(?:sh|console)\n(?P<text>.*?)^```$", re.MULTILINE | re.DOTALL)
PROGRAM = "seqdomains "


@dataclass(frozen=True)
class Block:
    text: str
    executed: bool
    code: int

    def commands(self):
        """Its commands, each of seqdomains by itself."""
        lines, others = self.text.replace("\\\n", " ").splitlines(), []
        for line in lines:
            if not line.startswith(PROGRAM):
                others.append(line)
                continue
            if others:
                yield "\n".join(others)
            others = []
            yield line
        if others:
            yield "\n".join(others)


def blocks(page):
    for found in BLOCK.finditer(page):
        note = found["note"] or ""
        code = re.fullmatch("exit code ([0-9]+)", note)
        yield Block(found["text"], not note.startswith("not executed"), int(code[1]) if code else 0)


def test_blocks_and_their_notes_are_found():
    page = "a\n\n```sh\nls\nseqdomains x \\\n  y\n```\n\n<!-- exit code 3 -->\n```console\nseqdomains z\n```\n"
    page += "```\nno\n```\n<!-- not executed: so -->\n```sh\nrm\n```\n"
    found = list(blocks(page))
    assert [(block.executed, block.code) for block in found] == [(True, 0), (True, 3), (False, 0)]
    assert list(found[0].commands()) == ["ls", "seqdomains x    y"]
    assert PAGE.read_text().count("```sh\n") == len(list(blocks(PAGE.read_text())))


@pytest.mark.slow
def test_every_block_works(seqdomains, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    for block in blocks(PAGE.read_text()):
        for command in block.commands() if block.executed else ():
            if command.startswith(PROGRAM):
                # In this process: starting another one for each takes longer than they do.
                outcome = seqdomains(*shlex.split(command, comments=True)[1:])
                assert outcome.code == block.code, f"{command}\n{outcome.err}"
            else:
                subprocess.run(["/bin/bash", "-euc", command], check=True, capture_output=True)
    assert len((tmp_path / "classes.tsv").read_text().splitlines()) == 81
    errors = [json.loads(line)["reason"] for line in (tmp_path / "mixed" / "errors.jsonl").read_text().splitlines()]
    assert [any(word in error for error in errors) for word in ("'no sound at all'", "cut.wav is truncated")] == [
        True,
        True,
    ]
    assert len(errors) == 2
