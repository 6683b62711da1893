"""The commands in the pages under docs work when they are pasted, one block after the other into one folder."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest
import soundfile

DOCS = Path(__file__).parents[2] / "docs"
PAGES = ("audio.md", "genomics.md")
BLOCK = re.compile(r"(?:^<!-- (?P<note>[^\n]*) -->\n)?^```(?:sh|console)\n(?P<text>.*?)^```$", re.MULTILINE | re.DOTALL)
PROGRAM = "seqdomains "
NEEDS_DATA = "needs SEQDOMAINS_DATA"


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
        left_out = note.startswith("not executed") or (note == NEEDS_DATA and "SEQDOMAINS_DATA" not in os.environ)
        yield Block(found["text"], not left_out, int(code[1]) if code else 0)


def words(command):
    """The words of a command, with the variables that a shell would put in."""
    return [os.path.expandvars(word) for word in shlex.split(command, comments=True)[1:]]


def test_blocks_and_their_notes_are_found(monkeypatch):
    page = "a\n\n```sh\nls\nseqdomains x \\\n  y\n```\n\n<!-- exit code 3 -->\n```console\nseqdomains z\n```\n"
    page += "```\nno\n```\n<!-- not executed: so -->\n```sh\nrm\n```\n<!-- needs SEQDOMAINS_DATA -->\n```sh\ncat\n```\n"
    for here in (False, True):
        monkeypatch.setenv("SEQDOMAINS_DATA", "/data") if here else monkeypatch.delenv("SEQDOMAINS_DATA", raising=False)
        found = list(blocks(page))
        assert [(block.executed, block.code) for block in found] == [(True, 0), (True, 3), (False, 0), (here, 0)]
    assert list(found[0].commands()) == ["ls", "seqdomains x    y"]
    assert words('seqdomains x "$SEQDOMAINS_DATA/a b" # c') == ["x", "/data/a b"]


@pytest.mark.parametrize("page", PAGES)
def test_all_blocks_of_a_page_are_found(page):
    text = (DOCS / page).read_text()
    assert text.count("```sh\n") == len(list(blocks(text))) > 0


def of_sound(folder):
    prompt = soundfile.info(folder / "flat" / "zero_0.wav").frames
    assert [soundfile.info(folder / name).frames for name in ("new.wav", "more-0001.flac", "more-0002.flac")] == [
        4000,
        prompt + 1600,
        prompt + 1600,
    ]
    assert len((folder / "seconds.tsv").read_text().splitlines()) == 3
    assert len((folder / "classes.tsv").read_text().splitlines()) == 81
    errors = [json.loads(line)["reason"] for line in (folder / "mixed" / "errors.jsonl").read_text().splitlines()]
    assert [any(word in error for error in errors) for word in ("'no sound at all'", "cut.wav is truncated")] == [
        True,
        True,
    ]
    assert len(errors) == 2


def of_dna(folder):
    assert len((folder / "bits.tsv").read_text().splitlines()) == 3
    header, *rows = [line.split("\t") for line in (folder / "scored.tsv").read_text().splitlines()]
    assert header == ["#chrom", "pos", "id", "ref", "alt", "score", "forward", "reverse"]
    assert {("NA" in row) for row in rows if row[4] == "<DEL>"} == {True}
    assert {("NA" in row) for row in rows if row[4] != "<DEL>"} == {False}
    assert (folder / "scored.vcf.gz.tbi").exists()
    assert (folder / "new.fa").read_text().count(">generated_") == 4
    assert json.loads((folder / "runs" / "masked" / "evaluation.json").read_text())["simulated"]


@pytest.mark.slow
@pytest.mark.parametrize(("page", "check"), [("audio.md", of_sound), ("genomics.md", of_dna)])
def test_every_block_works(seqdomains, monkeypatch, tmp_path, page, check):
    monkeypatch.chdir(tmp_path)
    for block in blocks((DOCS / page).read_text()):
        for command in block.commands() if block.executed else ():
            if command.startswith(PROGRAM):
                # In this process: starting another one for each takes longer than they do.
                outcome = seqdomains(*words(command))
                assert outcome.code == block.code, f"{command}\n{outcome.err}"
            else:
                subprocess.run(["/bin/bash", "-euc", command], check=True, capture_output=True)
    check(tmp_path)
