"""Likelihoods along a record: those of one pass, however it is cut, in each format."""

from __future__ import annotations

import subprocess
import sys
import textwrap
from itertools import pairwise

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from seqdomains.backbone import MambaConfig, MambaLM
from seqdomains.errors import ConfigError, InputError
from seqdomains.pipelines import stream as streaming
from seqdomains.pipelines.likelihood import RunningLikelihood, stream_likelihood
from seqdomains.pipelines.tracks import open_track

LENGTHS = {"x": 100, "y": 1, "z": 33, "w": 2}


def model():
    built = MambaLM(MambaConfig(d_model=16, n_layer=2), generator=torch.Generator().manual_seed(0)).eval()
    with torch.no_grad():  # answers that differ
        built.lm_head.weight.mul_(10)
    return built


def tokens(length, seed=0):
    return np.random.default_rng(seed).integers(0, 4, length).astype(np.uint8)


def at_once(lm, codes):
    with torch.inference_mode():
        batch = torch.from_numpy(codes)[None].long()
        return lm(batch).double().log_softmax(-1)[0, :-1].gather(1, batch[0, 1:, None])[:, 0].numpy()


def records():
    return {name: tokens(length, number) for number, (name, length) in enumerate(LENGTHS.items())}


def expected(every):
    """Record, start, end and mean of each bin; the first position of a record has no value."""
    rows = []
    for name, codes in records().items():
        values = np.concatenate([[np.nan], at_once(model(), codes)]) if len(codes) > 1 else np.array([np.nan])
        for start in range(0, len(codes), every):
            first, end = max(start, 1), min(start + every, len(codes))
            if end > first:
                rows.append((name, first, end, values[first:end].mean()))
    return rows


def streamed(output, every, **options):
    pieces = [(name, np.array_split(codes, 3)) for name, codes in records().items()]
    track = open_track(output, value="log_likelihood", **options)
    return stream_likelihood(model(), [("toy", pieces)], track, every=every, progress=False)


def agree(found, wanted):
    assert [row[:3] for row in found] == [row[:3] for row in wanted]
    np.testing.assert_allclose([row[3] for row in found], [row[3] for row in wanted], atol=1e-5)


@pytest.mark.parametrize("cuts", [[200], [1] * 30 + [170], [64, 0, 1, 135]], ids=len)
def test_values_are_those_of_one_pass(cuts):
    lm, codes = model(), tokens(200)
    running = RunningLikelihood(lm, device=torch.device("cpu"))
    borders = np.cumsum([0, *cuts])
    found = np.concatenate([running.read(codes[a:b]) for a, b in pairwise(borders)])
    np.testing.assert_allclose(found, at_once(lm, codes), atol=1e-5)


@pytest.mark.parametrize("chunk", [1, 7, 16, 1000])
@pytest.mark.parametrize("every", [1, 5, 16, 1000])
def test_bedgraph_has_each_position_once(chunk, every, tmp_path, monkeypatch):
    monkeypatch.setattr(streaming, "CHUNK", chunk)
    outcome = streamed(tmp_path / "a.bedgraph", every)
    rows = [line.split("\t") for line in (tmp_path / "a.bedgraph").read_text().splitlines()]
    agree([(name, int(start), int(end), float(value)) for name, start, end, value in rows], expected(every))
    assert outcome.windows == len(rows)


@pytest.mark.parametrize("every", [1, 7])
def test_parquet_and_bigwig_hold_the_same(every, tmp_path):
    bigwig = pytest.importorskip("pyBigWig", reason="pyBigWig is not installed")
    streamed(tmp_path / "a.parquet", every)
    found = [tuple(row.values()) for row in pq.read_table(tmp_path / "a.parquet").to_pylist()]
    agree(found, expected(every))
    streamed(tmp_path / "a.bw", every, lengths=LENGTHS)
    track = bigwig.open(str(tmp_path / "a.bw"))
    assert track.chroms() == LENGTHS
    agree([(name, *row) for name in LENGTHS for row in track.intervals(name) or ()], expected(every))


@pytest.mark.parametrize("chunk", [1, 7, 1000])
@pytest.mark.parametrize("every", [1, 5, 16, 1000])
def test_codes_that_do_not_count_are_read_and_left_out(chunk, every, tmp_path, monkeypatch):
    """With a code before the record its first position counts; a bin in which none counts has no row."""
    monkeypatch.setattr(streaming, "CHUNK", chunk)
    codes = tokens(90)
    for first, last in ((3, 4), (30, 63), (80, 90)):
        codes[first:last] = 4
    values = np.where(codes < 4, at_once(model(), np.concatenate([[4], codes]).astype(np.uint8)), np.nan)
    bins = [(start, min(start + every, 90)) for start in range(0, 90, every)]
    wanted = [("r", a, b, np.nanmean(values[a:b])) for a, b in bins if not np.isnan(values[a:b]).all()]
    track = open_track(tmp_path / "a.parquet", value="v")
    inputs = [("toy", [("r", np.array_split(codes, 4))])]
    stream_likelihood(model(), inputs, track, every=every, before=4, codes=4, progress=False)
    agree([tuple(row.values()) for row in pq.read_table(tmp_path / "a.parquet").to_pylist()], wanted)


def test_a_bad_input_is_taken_back(tmp_path):
    def broken():
        yield "bad", iter([tokens(50)])
        raise InputError("truncated")

    good = [("g", [tokens(20)])]
    track = open_track(tmp_path / "a.parquet", value="log_likelihood")
    outcome = stream_likelihood(model(), [("b", broken()), ("g", good)], track, progress=False)
    assert outcome.exit_code == 3
    assert set(pq.read_table(tmp_path / "a.parquet")["record"].to_pylist()) == {"g"}


def test_infinite_logits_are_refused():
    lm = model()
    with torch.no_grad():
        lm.lm_head.weight.fill_(float("nan"))
    with pytest.raises(InputError, match="not finite"):
        RunningLikelihood(lm, device=torch.device("cpu")).read(tokens(10))


def test_bigwig_without_its_library_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyBigWig", None)
    with pytest.raises(ConfigError, match="seqdomains\\[bigwig\\]"):
        streamed(tmp_path / "a.bw", 1, lengths=LENGTHS)
    assert not list(tmp_path.iterdir())


def test_memory_does_not_grow_with_the_record():
    """Peak resident memory between 1 and 4 million positions, each in a process of its own."""
    script = textwrap.dedent(
        """
        import resource, sys
        import numpy as np, torch
        from seqdomains.backbone import MambaConfig, MambaLM
        from seqdomains.pipelines.likelihood import stream_likelihood
        from seqdomains.pipelines.tracks import open_track
        torch.set_num_threads(1)
        lm = MambaLM(MambaConfig(d_model=8, n_layer=1)).eval()
        pieces = (np.zeros(1 << 16, np.uint8) for _ in range(int(sys.argv[1])))
        stream_likelihood(lm, [("a", [("r", pieces)])], open_track("/dev/null", value="v"), every=1000, progress=False)
        print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
        """
    )
    peaks = [
        int(subprocess.run([sys.executable, "-c", script, str(n)], capture_output=True, text=True, check=True).stdout)
        for n in (16, 64)
    ]
    assert peaks[1] < peaks[0] * 1.1, peaks
