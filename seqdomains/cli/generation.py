"""What `genomics generate` does: a language model, prompts and settings in, FASTA out."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import IO

import numpy as np
from numpy.typing import NDArray

from seqdomains.backbone.artefact import WEIGHTS
from seqdomains.cli.batch_plan import hash_of
from seqdomains.cli.models import artefact_of, choose_device, load_model, next_token_model_of
from seqdomains.errors import ConfigError, InputError, printable
from seqdomains.files import output_file
from seqdomains.genomics.alphabet import PAD, N, decode, encode
from seqdomains.genomics.fasta import STDIN
from seqdomains.genomics.markov import BASES
from seqdomains.genomics.records import stream_records
from seqdomains.kernels.token_draw import Sampling
from seqdomains.pipelines.answers import silence_stdout
from seqdomains.pipelines.generate import generate
from seqdomains.pipelines.tables import refuse_compressed

_COLUMNS = 60


def run_generate(
    path: Path,
    *,
    prompt: str | None,
    length: int,
    count: int,
    temperature: float,
    top_k: int | None,
    top_p: float | None,
    seed: int,
    any_code: bool,
    output: str,
    device: str | None,
) -> None:
    """Write sequences that go on from each prompt, with the settings in their headers."""
    try:
        codes = tuple(range(PAD if any_code else BASES))
        sampling = Sampling(temperature=temperature, top_k=top_k, top_p=top_p, codes=codes)
    except ValueError as error:
        raise ConfigError(f"--{str(error).replace('_', '-', 1)}") from error
    if (
        prompt
        and _names_a_file(prompt)
        and Path(prompt).exists()
        and Path(output).is_file()
        and Path(output).samefile(prompt)
    ):
        raise ConfigError(f"-o {output}: is also the prompt, which would be lost; choose another file")
    where = choose_device(device)
    model = next_token_model_of(load_model(path, device=where))
    weights = hash_of(artefact_of(path) / WEIGHTS)[:16]
    settings = f"GENERATED seed={seed} temperature={temperature:g} top_k={top_k or 'all'} top_p={top_p or 1:g} "
    settings += f"codes={'all' if any_code else 'ACGT'} model_sha256={weights}"
    number = 0
    try:
        with _opened(output) as handle:
            for name, bases in _prompts(prompt):
                # As before the windows of training: what comes before is not known.
                tokens = np.concatenate([np.array([N], np.uint8), bases])
                written = generate(
                    model,
                    tokens,
                    length=length,
                    count=count,
                    sampling=sampling,
                    seed=seed,
                    first=number,
                    device=where,
                )
                with closing(written) as sequences:
                    for sequence in sequences:
                        number += 1
                        header = f">generated_{number} {settings} prompt={name} prompt_bp={len(bases)} length={length}"
                        handle.write(f"{header}\n{_lines(sequence)}")
    except BrokenPipeError:
        silence_stdout()


def _prompts(prompt: str | None) -> Iterator[tuple[str, NDArray[np.uint8]]]:
    """Yield name and bases of each prompt: the records of a file, or the letters themselves."""
    if prompt is None:
        yield "none", np.zeros(0, np.uint8)
    elif not prompt:
        raise ConfigError("--prompt: is empty; give bases, or a FASTA file, or leave it out")
    elif _names_a_file(prompt):
        if prompt != STDIN and not Path(prompt).exists():
            raise ConfigError(f"--prompt {printable(prompt)}: is neither bases, which are letters alone, nor a file")
        for record in stream_records(prompt):
            yield printable(record.name), record.codes()
    else:
        yield "given", encode(prompt, record="--prompt")


def _names_a_file(prompt: str) -> bool:
    """Tell a file, or stdin, from bases, which are letters alone."""
    return not (prompt.isascii() and prompt.isalpha())


def _lines(codes: NDArray[np.int64]) -> str:
    text = decode(codes)
    return "".join(f"{text[at : at + _COLUMNS]}\n" for at in range(0, len(text), _COLUMNS))


@contextmanager
def _opened(output: str) -> Iterator[IO[str]]:
    """Open the output; a file stands under its name once all is written, and not at all on failure."""
    path = Path(output)
    refuse_compressed(path)
    try:
        if output == STDIN:
            yield sys.stdout
        elif path.exists() and not path.is_file():
            with path.open("w", encoding="utf-8") as pipe:
                yield pipe
        else:
            with output_file(path) as partial, partial.open("w", encoding="utf-8", newline="\n") as handle:
                yield handle
    except BrokenPipeError:
        raise
    except OSError as error:
        raise InputError(f"cannot write {output}: {error.strerror or error}; choose another -o") from error
