"""Average precision, area and d' beside what a hand gives."""

from __future__ import annotations

import math

import numpy as np
import pytest

from seqdomains.pipelines.ranking import ranking


def test_chance_has_no_d_prime_and_half_an_area():
    labels = np.array([[True], [False], [True], [False]])
    found = ranking(labels, np.zeros((4, 1)))
    assert found["mean_auc"] == 0.5
    assert found["d_prime"] == pytest.approx(0)
    assert found["mean_average_precision"] == 0.5


def test_perfect_scores_have_a_finite_d_prime():
    labels = np.eye(3, dtype=bool)[np.arange(30) % 3]
    found = ranking(labels, labels.astype(float))
    assert found["mean_average_precision"] == 1
    assert found["mean_auc"] == 1
    assert 2 < found["d_prime"] < math.inf


def test_two_normal_distributions_have_their_distance():
    random = np.random.default_rng(0)
    labels = np.arange(40_000)[:, None] % 2 == 0
    scores = random.normal(size=(40_000, 1)) + 1.5 * labels
    assert ranking(labels, scores)["d_prime"] == pytest.approx(1.5, abs=0.03)


def test_classes_that_all_or_none_are_of_do_not_count():
    labels = np.array([[True, False, True], [True, False, False]])
    scores = np.array([[0.1, 0.2, 0.9], [0.3, 0.1, 0.2]])
    assert ranking(labels, scores)["mean_average_precision"] == 1
    assert ranking(labels[:, :2], scores[:, :2]) == {"mean_average_precision": None, "mean_auc": None, "d_prime": None}
