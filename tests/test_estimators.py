"""The estimators stand up to scikit-learn's own checks, and serve where estimators are used.

scikit-learn checks no estimator that takes texts, so that one that turns numbers into DNA is put before it: all checks
that there are for a classifier of numbers then run through it, and none is expected to fail.
"""

from __future__ import annotations

import copy
import json
import pickle
import threading

import numpy as np
import pytest
import torch
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer
from sklearn.utils.estimator_checks import parametrize_with_checks
from sklearn.utils.validation import validate_data

from seqdomains.backbone import MambaConfig, MambaLM
from seqdomains.errors import InputError
from seqdomains.estimators import SequenceClassifier
from seqdomains.genomics.alphabet import SIGNATURE

QUICK = {"d_model": 8, "n_layer": 1, "steps": 25, "learning_rate": 0.03, "reverse_complement": 0.0, "device": "cpu"}


class NumbersAsSequences(SequenceClassifier):
    """The estimator behind a front of numbers, which scikit-learn's checks need: a number is a share of C among As."""

    def fit(self, X, y):
        if y is None:
            return super().fit(["A"], None)
        X, y = validate_data(self, X, y)
        columns = self.n_features_in_
        super().fit(self._texts(X), y)
        self.n_features_in_ = columns
        return self

    def predict_proba(self, X):
        return super().predict_proba(self._texts(validate_data(self, X, reset=False)))

    def _texts(self, X):
        shares = 1 / (1 + np.exp(-np.asarray(X, float)))
        return ["".join("C" * n + "A" * (8 - n) for n in row) for row in (8 * shares).round().astype(int).tolist()]

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.input_tags.string = tags.input_tags.one_d_array = False
        tags.input_tags.two_d_array = True
        # Numbers spelt in eight letters are no fair test of skill.
        tags.classifier_tags.poor_score = True
        return tags


@pytest.fixture
def one_thread():
    """Of several threads that share a product the last bit depends on how many rows it has: 2e-7 of a logit."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.mark.usefixtures("one_thread")
@parametrize_with_checks([NumbersAsSequences(**QUICK)])
def test_scikit_learns_checks(estimator, check):
    check(estimator)


@pytest.fixture(scope="module")
def data():
    """Sequences of 10 to 29 bp, two in three with many more A than C."""
    random = np.random.default_rng(0)
    X, y = [], []
    for number in range(45):
        share = (0.85, 0.9, 0.1)[number % 3]
        X.append("".join(random.choice(list("AC"), random.integers(10, 30), p=(share, 1 - share))))
        y.append(("many", "many", "few")[number % 3])
    return X, y


@pytest.fixture(scope="module")
def fitted(data):
    return SequenceClassifier(**QUICK).fit(*data)


def test_it_says_what_it_takes():
    tags = SequenceClassifier().__sklearn_tags__()
    assert tags.input_tags.string
    assert not tags.input_tags.two_d_array
    assert (tags.estimator_type, tags.target_tags.required) == ("classifier", True)


def test_it_learns_and_all_answers_agree(fitted, data):
    X, y = data
    assert fitted.score(X, y) > 0.9
    assert fitted.classes_.tolist() == ["few", "many"]
    assert (fitted.n_features_in_, fitted.window_) == (1, max(map(len, X)))
    shares = fitted.predict_proba(X)
    assert shares.sum(axis=1) == pytest.approx(np.ones(len(X)))
    assert fitted.predict(X).tolist() == fitted.classes_[shares.argmax(axis=1)].tolist()
    odds = fitted.decision_function(X)
    assert odds == pytest.approx(np.log(shares[:, 1] / shares[:, 0]))
    assert not fitted.model_.training


def test_lengths_and_order_change_no_answer(fitted, data):
    X = data[0]
    together = fitted.predict_proba(X)
    for place in (0, 7, 44):
        assert fitted.predict_proba([X[place]])[0] == pytest.approx(together[place], rel=1e-5)
    assert fitted.predict_proba(X[::-1])[::-1] == pytest.approx(together, rel=1e-5)
    long = "A" * 100 + "C" * fitted.window_ + "A" * 100
    assert fitted.predict_proba([long]) == pytest.approx(fitted.predict_proba(["C" * fitted.window_]), rel=1e-5)


def test_three_classes_have_a_score_each():
    X, y = ["AAAA", "CCCC", "GGGG"] * 4, [5, 7, 9] * 4
    estimator = SequenceClassifier(**QUICK).fit(X, y)
    assert estimator.decision_function(X).shape == (12, 3)
    assert estimator.predict(X).tolist() == y


def test_forms_of_input(fitted, data):
    import pandas as pd

    X, y = data
    expected = fitted.predict_proba(X)
    for form in (np.array(X), np.array(X, object), pd.Series(X), np.array(X)[:, None], [text.lower() for text in X]):
        assert np.array_equal(fitted.predict_proba(form), expected)
    frame = pd.DataFrame({"promoter": X})
    named = SequenceClassifier(**QUICK | {"steps": 1}).fit(frame, pd.Series(y))
    assert named.feature_names_in_.tolist() == ["promoter"]
    assert named.predict(frame).shape == (45,)
    assert not hasattr(named.fit(X, y), "feature_names_in_")


@pytest.mark.parametrize(
    ("X", "message"),
    [
        ("ACGT", "X is one text"),
        ([], r"0 sample\(s\)"),
        (["ACGT", ""], r"X\[1\] is empty"),
        (["ACGT", None], r"X\[1\] is None of type NoneType: expected DNA as text"),
        (["ACGT", 7.5], r"X\[1\] is 7.5 of type float"),
        (["ACGT", "ACJT"], r"X\[1\]', position 3: 'J' is not an IUPAC"),
        ([["ACGT", "A"], ["ACGT", "C"]], r"X has the shape \(2, 2\)"),
    ],
)
def test_what_is_no_dna_is_named(fitted, X, message):
    for method in (fitted.predict, lambda X: SequenceClassifier(**QUICK).fit(X, ["a", "b"])):
        with pytest.raises(ValueError, match=message):
            method(X)


@pytest.mark.parametrize(
    ("changes", "y", "message"),
    [
        ({}, ["a", "a"], "y has one class, .*'a'"),
        ({}, ["a"], "inconsistent numbers of samples"),
        ({}, [0.5, 1.5], "Unknown label type"),
        ({"head_only": True}, ["a", "b"], "no pretrained backbone"),
        ({"steps": 0}, ["a", "b"], "steps"),
        ({"learning_rate": 0}, ["a", "b"], "greater than 0"),
        ({"window": 3}, ["a", "b"], "window"),
        ({"pooling": "max"}, ["a", "b"], "pooling 'max'"),
    ],
)
def test_parameters_are_looked_at_when_fitting(changes, y, message):
    estimator = SequenceClassifier(**QUICK | changes)
    with pytest.raises(ValueError, match=message):
        estimator.fit(["ACGT", "AACC"], y)


def test_nothing_is_known_before_fitting(tmp_path):
    for use in (lambda one: one.predict(["A"]), lambda one: one.save(tmp_path / "x")):
        with pytest.raises(NotFittedError):
            use(SequenceClassifier())
    assert not (tmp_path / "x").exists()


def test_it_is_cross_validated_searched_and_piped(data):
    X, y = data
    quick = SequenceClassifier(**QUICK)
    assert cross_val_score(quick, X, y, cv=3).mean() > 0.8
    search = GridSearchCV(quick, {"steps": [1, 25], "pooling": ["mean"]}, cv=2, scoring="balanced_accuracy").fit(X, y)
    assert search.best_params_["steps"] == 25
    assert search.classes_.tolist() == ["few", "many"]
    upper = FunctionTransformer(lambda texts: [text.upper() for text in texts])
    piped = make_pipeline(upper, clone(quick)).fit([text.lower() for text in X], y)
    assert piped.score(X, y) > 0.9


def test_copies_are_equal_and_equal_seeds_give_equal_models(fitted, data):
    again = clone(fitted).fit(*data)
    for other in (again, copy.deepcopy(fitted), pickle.loads(pickle.dumps(fitted))):  # noqa: S301 - our own bytes
        assert np.array_equal(other.predict_proba(data[0]), fitted.predict_proba(data[0]))
    other = clone(fitted).set_params(random_state=1).fit(*data)
    assert not np.array_equal(other.predict_proba(data[0]), fitted.predict_proba(data[0]))


def test_fitting_leaves_the_process_as_it_was(data):
    torch.manual_seed(5)
    expected = torch.rand(2)
    torch.manual_seed(5)
    np.random.seed(1)  # noqa: NPY002
    before = np.random.get_state()[1].copy()  # noqa: NPY002
    SequenceClassifier(**QUICK | {"steps": 1}).fit(*data)
    assert torch.equal(torch.rand(2), expected)
    assert np.array_equal(np.random.get_state()[1], before)  # noqa: NPY002
    assert not torch.are_deterministic_algorithms_enabled()


def test_it_is_fitted_in_a_thread(fitted, data):
    found = []
    worker = threading.Thread(target=lambda: found.append(clone(fitted).fit(*data).predict_proba(data[0])))
    worker.start()
    worker.join()
    assert np.array_equal(found[0], fitted.predict_proba(data[0]))


@pytest.fixture(scope="module")
def language_model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models") / "lm"
    model = MambaLM(MambaConfig(d_model=12, n_layer=2), generator=torch.Generator().manual_seed(0))
    model.save_pretrained(folder, signature={**SIGNATURE, "window": 16})
    return folder


@pytest.mark.parametrize("head_only", [False, True])
def test_a_trained_backbone_is_taken(language_model, data, head_only):
    estimator = SequenceClassifier(language_model, **QUICK | {"head_only": head_only, "steps": 3}).fit(*data)
    before = MambaLM.from_pretrained(language_model).backbone.state_dict()
    after = estimator.model_.backbone.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before) == head_only
    assert (estimator.window_, estimator.model_.config.d_model) == (16, 12)


def test_a_model_of_something_else_is_refused(tmp_path, data):
    MambaLM(MambaConfig(d_model=8, n_layer=1)).save_pretrained(tmp_path / "lm", signature={"domain": "audio"})
    with pytest.raises(InputError, match="domain is 'audio'"):
        SequenceClassifier(tmp_path / "lm", **QUICK).fit(*data)
    with pytest.raises(InputError, match="no such folder"):
        SequenceClassifier(tmp_path / "none", **QUICK).fit(*data)


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"steps": 0}, "steps: Input should be greater than or equal to 1"),
        ({"batch_size": 0}, "batch_size: Input should be greater"),
        ({"learning_rate": -1}, "^learning_rate: Input should be greater than 0$"),
        ({"window": 4, "steps": 2}, "^window: Input should be greater than or equal to 8$"),
        ({"window": 0}, "^window: Input should be greater than or equal to 8$"),
        ({"reverse_complement": 3}, "^reverse_complement: Input should be less than or equal to 1$"),
        ({"d_model": 0}, "^d_model: Input should be greater than or equal to 1$"),
    ],
)
def test_parameters_out_of_bounds_have_their_own_names(data, wrong, words):
    with pytest.raises(ValueError, match=words) as found:
        SequenceClassifier(**QUICK | wrong).fit(*data)
    assert "TrainConfig" not in str(found.value)


def test_balanced_classes_are_drawn_alike():
    # No sequence tells the classes apart: what is left is how often each was drawn.
    X, y = ["ACGT"] * 40, ["rare"] * 4 + ["common"] * 36
    shares = {
        balanced: SequenceClassifier(**QUICK | {"balanced": balanced, "steps": 60}).fit(X, y).predict_proba(X)[0, 1]
        for balanced in (False, True)
    }
    assert shares[False] < 0.25
    assert shares[True] == pytest.approx(0.5, abs=0.15)


@pytest.mark.parametrize("labels", [["few", "many"], [3, 7], [False, True], np.array(["few", "many"], object)])
def test_what_is_saved_is_read_back(data, tmp_path, labels):
    X, y = data
    y = np.asarray(labels)[(np.array(y) == "many").astype(int)]
    estimator = SequenceClassifier(**QUICK | {"steps": 2, "random_state": np.random.RandomState(3)}).fit(X, y)
    estimator.save(tmp_path / "saved")
    estimator.save(tmp_path / "saved")
    again = SequenceClassifier.load(tmp_path / "saved")
    assert np.array_equal(again.predict_proba(X), estimator.predict_proba(X))
    assert (again.classes_.dtype, again.classes_.tolist()) == (estimator.classes_.dtype, estimator.classes_.tolist())
    assert again.get_params() == estimator.get_params() | {"random_state": None}
    assert sorted(path.name for path in tmp_path.iterdir()) == ["saved"]


def test_damaged_and_foreign_folders_are_refused(fitted, tmp_path):
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "mine.txt").write_text("x")
    with pytest.raises(InputError, match="holds something else than a saved estimator"):
        fitted.save(tmp_path / "other")
    with pytest.raises(InputError, match=r"estimator.json cannot be read"):
        SequenceClassifier.load(tmp_path / "other")
    fitted.save(tmp_path / "saved")
    path = tmp_path / "saved" / "estimator.json"
    whole = json.loads(path.read_text())
    for changes, message in (
        ({"format_version": 2}, "format_version"),
        ({"more": 1}, "more: Extra inputs"),
        ({"parameters": {"step": 3}}, "unexpected keyword argument 'step'"),
        ({"classes": ["few"]}, "are not of one estimator"),
        ({"dtype": "O,O"}, "dtype: String should match"),
        ({"dtype": "<i8"}, "is damaged or was edited"),
    ):
        path.write_text(json.dumps(whole | changes))
        with pytest.raises(InputError, match=message):
            SequenceClassifier.load(tmp_path / "saved")
