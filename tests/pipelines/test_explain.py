"""Importance of positions: against brute force, against each other where they must agree, against a planted motif."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from seqdomains.backbone import MambaConfig, MambaLM, SequenceClassifier
from seqdomains.errors import InputError
from seqdomains.pipelines.explain import ExplainedWindow, Explainer, explain, recovery
from seqdomains.pipelines.scores import ClassScore, LikelihoodScore, MeanScore

CPU = torch.device("cpu")
COMPLEMENT = (3, 2, 1, 0, 4, 5)
METHODS = ("ism", "saliency", "integrated-gradients")


def classifier_of(**options):
    config = MambaConfig(d_model=16, n_layer=2, vocab_size=6, **options)
    model = SequenceClassifier(config, classes=("a", "b", "c"), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        model.head.weight.mul_(20)
        model.backbone.embedding.weight.mul_(20)
    return model.eval()


def window_of(length=30, first=5, last=20, unknown=(7,)):
    tokens = np.random.default_rng(1).integers(4, size=length).astype(np.uint8)
    tokens[list(unknown)] = 4
    return ExplainedWindow("chr1", 1000, tokens, first, last)


def explainer_of(model, method="ism", **options):
    return Explainer(model, method, codes=(0, 1, 2, 3), device=CPU, at_once=4, **options)


def explained(explainer, window):
    (found,) = explainer.explain([window])
    return found


class Linear(torch.nn.Module):
    """A classifier whose log-odds are a sum over the positions."""

    classes = ("own", "other")

    def __init__(self, length):
        super().__init__()
        self.config = SimpleNamespace(vocab_size=6)
        self.weight = torch.nn.Parameter(torch.randn(length, 6, generator=torch.Generator().manual_seed(0)))

    def forward(self, tokens, recompute=False):
        given = tokens if tokens.is_floating_point() else torch.nn.functional.one_hot(tokens.long(), 6).float()
        found = (given * self.weight).sum((1, 2))
        return torch.stack([found, torch.zeros_like(found)], 1)


def test_every_alternative_is_tried_by_itself():
    model, window = classifier_of(), window_of()
    spans, values = explained(explainer_of(model, number=1), window)
    score = ClassScore(model, 1)

    def of(tokens):
        with torch.no_grad():
            return float(score(torch.from_numpy(tokens)[None]))

    own = of(window.tokens)
    places = [place for place in range(5, 20) if place != 7]  # 7 holds a code without alternatives
    assert spans.starts.tolist() == [1000 + place for place in places]
    assert spans.ends.tolist() == [1001 + place for place in places]
    assert (spans.record, spans.of) == ("chr1", "b")
    for row, place in zip(values, places, strict=True):
        changed = np.tile(window.tokens, (4, 1))
        changed[:, place] = range(4)
        expected = [of(one) - own for one in changed]
        assert row[1:] == pytest.approx(expected, abs=1e-5)
        assert row[1 + window.tokens[place]] == 0
        assert row[0] == pytest.approx(own - np.mean([of(one) for one in changed]), abs=1e-5)


def test_the_log_odds_are_those_of_the_probabilities():
    tokens = torch.from_numpy(window_of().tokens)[None]
    model = classifier_of()
    with torch.no_grad():
        shares = model(tokens).double().softmax(1)[0]
        for number, share in enumerate(shares):
            assert float(ClassScore(model, number)(tokens)) == pytest.approx(float(torch.log(share / (1 - share))))
    assert explained(explainer_of(model), window_of())[0].of == model.classes[int(shares.argmax())]


def test_of_a_sum_over_positions_all_methods_say_the_same():
    model, window = Linear(30), window_of()
    found = [explained(explainer_of(model, method, number=0, steps=2), window)[1] for method in METHODS]
    assert np.allclose(found[0], found[1], atol=1e-5)
    assert np.allclose(found[0], found[2], atol=1e-5)
    assert np.abs(found[0]).max() > 0.5


def test_gradients_are_those_of_finite_differences():
    model, window = classifier_of(), window_of()
    _, values = explained(explainer_of(model, "saliency", number=0), window)
    score, step = ClassScore(model.double(), 0), 1e-6
    given = torch.nn.functional.one_hot(torch.from_numpy(window.tokens).long(), 6).double()
    with torch.no_grad():
        for row, place in ((0, 5), (4, 10)):
            for code in range(4):
                moved = given.clone()
                moved[place, code] += step
                moved[place, window.tokens[place]] -= step
                slope = float(score(moved[None]) - score(given[None])) / step
                assert values[row, 1 + code] == pytest.approx(slope, abs=1e-3)


def test_integrated_gradients_add_up_to_the_difference_from_the_blank_window():
    gaps = []
    for steps in (2, 64):
        explainer = explainer_of(classifier_of(), "integrated-gradients", number=0, steps=steps)
        _, values = explained(explainer, window_of(first=0, last=30))
        blank = torch.zeros(1, 30, 6)
        blank[..., :4] = 0.25
        blank[0, 7] = torch.eye(6)[4]
        with torch.no_grad():
            score = ClassScore(explainer.model, 0)
            difference = float(score(torch.from_numpy(window_of().tokens)[None]) - score(blank))
        assert explainer.completeness.difference == pytest.approx(difference, abs=1e-4)
        assert abs(values[:, 0].sum() - difference) == pytest.approx(explainer.completeness.gap, abs=1e-4)
        gaps.append(explainer.completeness.gap)
    assert gaps[1] < gaps[0] / 20
    assert gaps[1] < 0.01 * abs(difference)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("kind", ["classifier", "language model"])
def test_both_strands_explain_the_other_strand_alike(method, kind):
    """The change for T at a position is that for A at its place on the other strand."""
    model = classifier_of() if kind == "classifier" else MambaLM(MambaConfig(d_model=16, n_layer=1, vocab_size=6))
    window = window_of(first=0, last=30)
    other = replace(window, tokens=np.array(COMPLEMENT, np.uint8)[window.tokens][::-1].copy())
    explainer = explainer_of(model.eval(), method, complement=COMPLEMENT, ignored=4)
    (spans, found), (other_spans, of_other) = (explained(explainer, one) for one in (window, other))
    assert spans.of == other_spans.of
    assert np.allclose(found[:, 0], of_other[::-1, 0], atol=1e-4)
    assert np.allclose(found[:, 1:], of_other[::-1, 1:][:, [3, 2, 1, 0]], atol=1e-4)
    one_strand = explained(replace(explainer, complement=None), window)[1]
    assert not np.allclose(found, one_strand, atol=1e-3)


@pytest.mark.parametrize("before", [None, 5])
def test_the_likelihood_of_mixtures_is_that_of_codes(before):
    model = MambaLM(MambaConfig(d_model=16, n_layer=1, vocab_size=6)).eval()
    tokens = torch.from_numpy(window_of().tokens)[None]
    score = LikelihoodScore(model, ignored=4, before=before)
    mixture = torch.nn.functional.one_hot(tokens.long(), 6).float()
    with torch.no_grad():
        assert float(score(mixture)) == pytest.approx(float(score(tokens)), abs=1e-4)
        read = tokens if before is None else torch.nn.functional.pad(tokens, (1, 0), value=before)
        exact = -model.loss(read, ignored=4, reduction="sum")
        assert float(score(tokens)) == pytest.approx(float(exact), abs=1e-4)
        both = float(MeanScore(score, COMPLEMENT)(tokens))
        other = torch.tensor(COMPLEMENT, dtype=torch.uint8)[tokens.long()].flip(1)
        assert both == pytest.approx(float(score(tokens) + score(other)) / 2, abs=1e-4)


@pytest.mark.parametrize("method", METHODS)
def test_windows_together_are_what_each_is_alone(method):
    """Of two lengths, with the likeliest class of each."""
    model = classifier_of()
    windows = []
    for seed, length in enumerate((30, 30, 30, 30, 30, 20, 20)):
        tokens = np.random.default_rng(seed).integers(5, size=length).astype(np.uint8)
        windows.append(ExplainedWindow("c", 100 * seed, tokens, seed, 18))
    together = list(explainer_of(model, method, steps=4).explain(windows))
    alone = [explained(explainer_of(model, method, steps=4), window) for window in windows]
    assert len({spans.of for spans, _ in alone}) > 1
    for (spans, values), (own, expected) in zip(together, alone, strict=True):
        assert (spans.of, spans.starts.tolist()) == (own.of, own.starts.tolist())
        assert np.allclose(values, expected, atol=1e-4)


@pytest.mark.parametrize("method", METHODS)
def test_fewer_windows_at_once_where_the_memory_runs_out(method):
    class Small(Linear):
        most = 2

        def forward(self, tokens, recompute=False):
            if len(tokens) > self.most:
                raise torch.OutOfMemoryError("CUDA out of memory")
            return super().forward(tokens, recompute)

    model, windows = Small(30), [window_of(), window_of(first=2), window_of(last=9), window_of(), window_of()]
    explainer = explainer_of(model, method, number=0, steps=2)
    found = list(explainer.explain(windows))
    assert explainer.at_once == 2
    expected = list(explainer_of(Linear(30), method, number=0, steps=2).explain(windows))
    assert all(np.allclose(a[1], b[1], atol=1e-5) for a, b in zip(found, expected, strict=True))
    model.most = 0
    with pytest.raises(InputError, match="one window of 30 tokens does not fit into the memory"):
        list(explainer.explain(windows))


@pytest.mark.parametrize("method", METHODS)
def test_models_of_both_sides_are_explained(method):
    model = classifier_of(bidirectional=True, complement=COMPLEMENT)
    _, values = explained(explainer_of(model, method, number=0), window_of())
    assert np.abs(values[:, 0]).min() > 0


class Shown:
    def __init__(self):
        self.rows = []

    def begin_input(self):
        return

    def write(self, spans, values):
        self.rows += list(zip(spans.starts.tolist(), values[:, 0].tolist(), strict=True))


def test_windows_are_read_in_order_and_the_model_is_given_back():
    model = classifier_of().train()
    shown = Shown()
    inputs = [("x", iter([window_of(), window_of(first=20, last=30)]))]
    outcome = explain(explainer_of(model), inputs, nullcontext(shown), progress=False)
    assert [start for start, _ in shown.rows] == [1000 + place for place in range(5, 30) if place != 7]
    assert outcome.windows == len(shown.rows)
    assert model.training


def test_a_model_that_is_not_causal_has_no_likelihood():
    model = MambaLM(MambaConfig(d_model=8, n_layer=1, vocab_size=6, bidirectional=True))
    with pytest.raises(InputError, match="a log-likelihood takes one that reads from the first position"):
        explain(explainer_of(model), [], nullcontext(Shown()), progress=False)


@pytest.mark.parametrize("method", METHODS)
def test_scores_that_are_not_finite_are_refused(method):
    model = classifier_of()
    with torch.no_grad():
        model.head.bias[0] = torch.nan
    with pytest.raises(InputError, match="scores that are not finite; its weights are damaged"):
        explained(explainer_of(model, method, number=0), window_of())


@pytest.mark.parametrize(("truth", "inside"), [([True, True], 2), ([False, False], 0)])
def test_a_truth_of_one_kind_is_refused(truth, inside):
    with pytest.raises(InputError, match=f"{inside} of the 2 positions to explain are in the truth: expected some"):
        recovery(np.array([1.0, 2.0]), np.array(truth))


def test_a_planted_motif_is_found():
    """A classifier that learns whether GATTACA stands in a window rests its answer on those seven bases."""
    torch.manual_seed(0)
    random = np.random.default_rng(0)
    motif = np.array([2, 0, 3, 3, 0, 1, 0], np.uint8)
    config = MambaConfig(d_model=24, n_layer=2, vocab_size=6, bidirectional=True)
    model = SequenceClassifier(config, classes=("with", "without"), pooling="mean")
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-3)

    def draw(count):
        tokens = random.integers(4, size=(count, 40)).astype(np.uint8)
        starts = random.integers(33, size=count)
        for row, start in zip(tokens[::2], starts[::2], strict=True):
            row[start : start + 7] = motif
        return tokens, starts

    for _ in range(60):
        tokens, _ = draw(32)
        targets = torch.arange(32) % 2
        loss = torch.nn.functional.cross_entropy(model(torch.from_numpy(tokens)), targets)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    tokens, starts = draw(16)
    for method in ("ism", "integrated-gradients"):
        explainer = explainer_of(model.eval(), method, number=0)
        importance, truth = [], []
        for row, start in zip(tokens[::2], starts[::2], strict=True):
            _, values = explained(explainer, ExplainedWindow("x", 0, row, 0, 40))
            importance.append(values[:, 0])
            truth.append((np.arange(40) >= start) & (np.arange(40) < start + 7))
        found = recovery(np.concatenate(importance), np.concatenate(truth))
        assert found["chance"] == pytest.approx(7 / 40)
        assert found["of_magnitude"] > 0.8, method


@pytest.mark.gpu
@pytest.mark.parametrize("method", METHODS)
def test_a_gpu_says_what_a_cpu_says(method):
    model, window = classifier_of(bidirectional=True), window_of()
    _, expected = explained(explainer_of(model, method, number=0, complement=COMPLEMENT), window)
    shown = Shown()
    explainer = replace(explainer_of(model, method, number=0, complement=COMPLEMENT), device=torch.device("cuda"))
    explain(explainer, [("x", [window])], nullcontext(shown), progress=False)
    assert [value for _, value in shown.rows] == pytest.approx(expected[:, 0].tolist(), abs=1e-3)
    assert next(model.parameters()).device == CPU
