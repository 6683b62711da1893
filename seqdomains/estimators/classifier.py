"""A classifier of DNA sequences as a scikit-learn estimator."""

from __future__ import annotations

import json
import os
import signal
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal, Self

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.utils import check_consistent_length, check_random_state, column_or_1d
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_is_fitted

from seqdomains.backbone import MambaConfig, Pooling, from_pretrained
from seqdomains.backbone import SequenceClassifier as Model
from seqdomains.backbone.transfer import begin_with
from seqdomains.errors import InputError
from seqdomains.estimators.sequences import column_name, encoded
from seqdomains.files import atomic_folder, read_bounded
from seqdomains.genomics.alphabet import VOCAB_SIZE, check_signature
from seqdomains.genomics.corpus import Corpus
from seqdomains.genomics.data_config import SpeciesData
from seqdomains.genomics.record_task import RecordTask, padded
from seqdomains.genomics.sequences import EncodedSequences
from seqdomains.pipelines.borrowed import borrowed, deterministic, seeded
from seqdomains.pipelines.inference import Classifier
from seqdomains.pipelines.interrupts import StoppedError
from seqdomains.pipelines.recipe import TrainConfig
from seqdomains.pipelines.run_folder import RunFolder
from seqdomains.pipelines.train import train

_LONGEST = 1024  # bp that are read of a sequence where nobody says how many
_SHORTEST = 8
_TOKENS_AT_ONCE = {"cpu": 1 << 14, "cuda": 1 << 19}
_PARAMETERS = {"batch": "batch_size", "lr": "learning_rate"}  # by their names in configurations
_ABOUT = "estimator.json"
_LARGEST_ABOUT = 4 << 20


class _Saved(BaseModel):
    """What `estimator.json` says."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    format_version: Literal[1] = 1
    parameters: dict[str, bool | int | float | str | None]
    classes: list[bool | int | float | str]
    dtype: str = Field(pattern=r"^[<>|=][biufUO][0-9]{0,4}$")
    window: int
    feature_name: str | None = None


class SequenceClassifier(ClassifierMixin, BaseEstimator):  # type: ignore[misc]
    """A classifier of DNA sequences that scikit-learn can clone, cross-validate, search and put into pipelines.

    `X` is a list, array or Series of strings of IUPAC letters, of any lengths, or one column of them. A model is
    trained from scratch, or on the backbone of a trained one.

    Parameters
    ----------
    pretrained : str, Path or None
        A run folder or an artefact of `seqdomains genomics pretrain`, `train` or `finetune`, whose backbone is taken.
    head_only : bool
        Whether that backbone stays as it is.
    backbone_lr_scale : float
        Its learning rate, in parts of that of the head; it says nothing with `head_only`.
    d_model, n_layer : int
        Width and number of blocks of a model from scratch. With `pretrained` they do nothing: the model has its own.
    pooling : {"mean", "last", "both"}
        What the head sees: the mean over a sequence's positions, its last one, or both.
    window : int or None
        Most bp of a sequence that are read: of a longer one training draws parts, and its middle is classified. None:
        the longest of the training sequences, but at most the window of the `pretrained` model, or 1024.
    steps, batch_size : int
        Optimizer steps, and sequences in each.
    learning_rate : float
        Highest rate of AdamW; it warms up linearly and falls as half a cosine.
    reverse_complement : float
        Probability of reading a training sequence from the other strand.
    balanced : bool
        Whether training draws classes alike, or sequences alike.
    random_state : int, RandomState or None
        Decides initial weights and what is drawn: equal numbers give equal models on one machine.
    device : str or None
        ``cpu``, ``cuda`` or ``cuda:N``; None takes a GPU where there is one.
    verbose : bool
        Whether to tell how far training is.

    Attributes
    ----------
    classes_ : ndarray of shape (n_classes,)
        Labels in the order of the columns of `predict_proba`.
    n_features_in_ : int
        1: a sequence is one feature.
    feature_names_in_ : ndarray of shape (1,)
        Name of the column, where `X` was a DataFrame.
    window_ : int
        Most bp of a sequence that are read.
    model_ : seqdomains.backbone.SequenceClassifier
        The trained model, on the CPU.

    Examples
    --------
    >>> X = ["ACACACAC", "CACACA", "GTTGTTGTT", "TTGTTG"] * 5
    >>> y = ["ac", "ac", "gtt", "gtt"] * 5
    >>> estimator = SequenceClassifier(d_model=16, n_layer=1, steps=25, learning_rate=0.02, reverse_complement=0)
    >>> estimator.fit(X, y).predict(["ACACA", "TTGTTGTTG"]).tolist()
    ['ac', 'gtt']
    """

    def __init__(
        self,
        pretrained: str | os.PathLike[str] | None = None,
        *,
        head_only: bool = False,
        backbone_lr_scale: float = 1.0,
        d_model: int = 64,
        n_layer: int = 2,
        pooling: Pooling = "mean",
        window: int | None = None,
        steps: int = 500,
        batch_size: int = 32,
        learning_rate: float = 4e-3,
        reverse_complement: float = 0.5,
        balanced: bool = False,
        random_state: int | np.random.RandomState | None = 0,
        device: str | None = None,
        verbose: bool = False,
    ) -> None:
        self.pretrained = pretrained
        self.head_only = head_only
        self.backbone_lr_scale = backbone_lr_scale
        self.d_model = d_model
        self.n_layer = n_layer
        self.pooling = pooling
        self.window = window
        self.steps = steps
        self.batch_size = batch_size
        self.learning_rate = learning_rate
        self.reverse_complement = reverse_complement
        self.balanced = balanced
        self.random_state = random_state
        self.device = device
        self.verbose = verbose

    def fit(self, X: Any, y: Any) -> Self:
        """Train on sequences and their labels.

        Parameters
        ----------
        X : list, array or Series of str, shape (n,), or one column, shape (n, 1)
            Sequences.
        y : array-like, shape (n,)
            Labels of two classes or more.

        Raises
        ------
        ValueError
            A sequence is empty or no DNA, `y` does not fit, or a parameter is out of its bounds.
        InputError
            The `pretrained` model cannot be read, or is not of DNA.
        """
        codes = encoded(X)
        if y is None:
            raise ValueError("SequenceClassifier requires y to be passed, but the target y is None")
        check_consistent_length(X, y)
        labels = column_or_1d(y, warn=True)
        check_classification_targets(labels)
        classes, targets = np.unique(labels, return_inverse=True)
        if len(classes) < 2:
            raise ValueError(
                f"y has one class, {classes.tolist()[0]!r}, and nothing to tell it from; expected two or more"
            )
        if self.head_only and self.pretrained is None:
            raise ValueError("head_only: there is no pretrained backbone to leave as it is")
        seed = int(check_random_state(self.random_state).randint(np.iinfo(np.int32).max))
        names = tuple(map(str, classes.tolist()))
        with seeded(seed):
            model, longest = self._model(names)
        window = max(_SHORTEST, min(max(map(len, codes)), longest)) if self.window is None else self.window
        corpus = Corpus(
            classes=names,
            class_of=targets.astype(np.int64),
            names=tuple(f"sequence{number}" for number in range(len(codes))),
            files=(Path("X"),) * len(codes),
            homologues=(None,) * len(codes),
            groups=None,
            sequences=EncodedSequences(codes),
        )
        with _parameters_checked():
            data = SpeciesData(
                window=window,
                split="none",
                unit="record",
                reverse_complement=self.reverse_complement,
                balanced=self.balanced,
            )
        recipe = self._recipe(seed)
        task = RecordTask(data, corpus=corpus)
        self._train(model, task, recipe)
        self.model_ = model.eval()
        self.classes_ = classes
        self.window_ = window
        self.signature_ = dict(task.signature())
        self.n_features_in_ = 1
        if (name := column_name(X)) is not None:
            self.feature_names_in_ = np.array([name], dtype=object)
        elif hasattr(self, "feature_names_in_"):
            del self.feature_names_in_
        return self

    def predict_proba(self, X: Any) -> NDArray[np.float64]:
        """Return class probabilities, shape (n, n_classes), in the order of `classes_`.

        Raises
        ------
        sklearn.exceptions.NotFittedError
            Before `fit`.
        ValueError
            A sequence is empty or no DNA.
        """
        check_is_fitted(self)
        codes = encoded(X)
        device = self._device()
        starts = [max(0, len(row) - self.window_) // 2 for row in codes]
        rows = [row[start : start + self.window_] for row, start in zip(codes, starts, strict=True)]
        # Sequences of about one length are padded little.
        order = np.argsort([len(row) for row in rows], kind="stable")
        found = np.empty((len(rows), len(self.classes_)))
        with deterministic(), borrowed(self.model_, device=device, training=False):
            at_once = max(1, _TOKENS_AT_ONCE.get(device.type, 1 << 14) // len(rows[order[-1]]))
            classifier = Classifier(self.model_, device=device, batch_size=at_once)
            for first in range(0, len(rows), at_once):
                places = order[first : first + at_once]
                tokens, lengths = padded([rows[place] for place in places.tolist()])
                found[places] = classifier.probabilities(torch.from_numpy(tokens), torch.from_numpy(lengths))
        return found

    def decision_function(self, X: Any) -> NDArray[np.float64]:
        """Return log-probabilities, shape (n, n_classes), or of two classes the log-odds of the second, shape (n,)."""
        scores = np.log(np.maximum(self.predict_proba(X), np.finfo(np.float64).tiny))
        return scores if scores.shape[1] > 2 else scores[:, 1] - scores[:, 0]

    def predict(self, X: Any) -> NDArray[Any]:
        """Return the most probable label of each sequence, shape (n,)."""
        best = self.predict_proba(X).argmax(axis=1)
        return np.asarray(self.classes_[best])

    def save(self, folder: str | os.PathLike[str]) -> None:
        """Write the fitted estimator to a folder, as JSON and safetensors; the commands take ``folder/model``.

        Raises
        ------
        sklearn.exceptions.NotFittedError
            Before `fit`.
        InputError
            The folder holds something else, or cannot be written.

        Examples
        --------
        >>> import tempfile
        >>> estimator = SequenceClassifier(d_model=8, n_layer=1, steps=1).fit(["ACGT", "TTTT"], [3, 7])
        >>> folder = Path(tempfile.mkdtemp()) / "saved"
        >>> estimator.save(folder)
        >>> SequenceClassifier.load(folder).classes_.tolist()
        [3, 7]
        """
        check_is_fitted(self)
        target = Path(folder)
        if target.exists() and not (target / _ABOUT).is_file() and (not target.is_dir() or any(target.iterdir())):
            raise InputError(f"{target} holds something else than a saved estimator; choose another folder")
        parameters = self.get_params(deep=False)
        if not isinstance(self.random_state, int | np.integer):
            parameters["random_state"] = None  # a generator has moved on
        about = _Saved(
            parameters={name: _plain(value) for name, value in parameters.items()},
            classes=self.classes_.tolist(),
            dtype=self.classes_.dtype.str,
            window=self.window_,
            feature_name=str(self.feature_names_in_[0]) if hasattr(self, "feature_names_in_") else None,
        )
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            with atomic_folder(target) as partial:
                self.model_.save_pretrained(partial / "model", signature=self.signature_)
                text = json.dumps(about.model_dump(mode="json"), indent=2, allow_nan=False)
                (partial / _ABOUT).write_text(text + "\n", encoding="utf-8")
        except OSError as error:
            raise InputError(f"cannot write {target}: {error.strerror or error}") from error

    @classmethod
    def load(cls, folder: str | os.PathLike[str]) -> Self:
        """Read a fitted estimator that `save` wrote.

        Raises
        ------
        InputError
            The folder is damaged, was edited, or holds something else.
        """
        path = Path(folder) / _ABOUT
        try:
            about = _Saved.model_validate_json(read_bounded(path, _LARGEST_ABOUT), strict=True)
            estimator = cls(**about.parameters)  # type: ignore[arg-type]
            classes = np.array(about.classes, dtype=np.dtype(about.dtype))
        except OSError as error:
            raise InputError(f"{path} cannot be read: {error.strerror or error}; expected a saved estimator") from error
        except ValidationError as error:
            problems = [f"{'.'.join(map(str, item['loc'])) or 'content'}: {item['msg']}" for item in error.errors()]
            raise InputError(f"{path}: {'; '.join(problems)}; save the estimator again") from error
        except (ValueError, TypeError) as error:
            raise InputError(f"{path} is damaged or was edited ({error}); save the estimator again") from error
        loaded = from_pretrained(Path(folder) / "model")
        check_signature(loaded.signature)
        names = tuple(map(str, classes.tolist()))
        if not isinstance(loaded.model, Model) or loaded.model.classes != names or about.window < 1:
            raise InputError(f"{folder}: {_ABOUT} and model are not of one estimator; save it again")
        estimator.model_ = loaded.model
        estimator.classes_ = classes
        estimator.window_ = about.window
        estimator.signature_ = loaded.signature
        estimator.n_features_in_ = 1
        if about.feature_name is not None:
            estimator.feature_names_in_ = np.array([about.feature_name], dtype=object)
        return estimator

    def __sklearn_tags__(self) -> Any:
        """Tell scikit-learn that samples are strings."""
        tags = super().__sklearn_tags__()
        tags.input_tags.string = True
        tags.input_tags.one_d_array = True
        tags.input_tags.two_d_array = False
        return tags

    def _model(self, names: tuple[str, ...]) -> tuple[Model, int]:
        """Return an untrained model, or one with a new head, and the longest sequence that it is to read."""
        if self.pretrained is None:
            with _parameters_checked():
                config = MambaConfig(d_model=self.d_model, n_layer=self.n_layer, vocab_size=VOCAB_SIZE)
            return Model(config, classes=names, pooling=self.pooling), _LONGEST
        run = RunFolder(Path(self.pretrained))
        loaded = from_pretrained(run.artefact if run.config.exists() else run.path)
        check_signature(loaded.signature)
        own = loaded.signature.get("window")
        new = Model(loaded.model.config, classes=names, pooling=self.pooling)
        model = begin_with(new, loaded.model, head_only=self.head_only)
        return model, own if isinstance(own, int) and own > 0 else _LONGEST

    def _recipe(self, seed: int) -> TrainConfig:
        with _parameters_checked():
            return TrainConfig(
                steps=self.steps,
                batch=self.batch_size,
                lr=self.learning_rate,
                min_lr=min(1e-5, max(0.0, self.learning_rate)),
                backbone_lr_scale=self.backbone_lr_scale,
                seed=seed,
                # A fit begins anew, so that its checkpoints serve nobody.
                checkpoint_every=max(1, self.steps),
                log_every=max(1, self.steps),
            )

    def _train(self, model: Model, task: RecordTask, recipe: TrainConfig) -> None:
        with tempfile.TemporaryDirectory(prefix="seqdomains-") as folder:
            run = RunFolder.prepare(Path(folder) / "run", {"train": recipe.model_dump(mode="json")})
            try:
                train(model, task, recipe, run, device=self._device(), progress=self.verbose)
            except StoppedError as error:
                # Of a fit nothing is kept that could be gone on from.
                if error.signum == signal.SIGINT:
                    raise KeyboardInterrupt from error
                raise SystemExit(error.exit_code) from error

    def _device(self) -> torch.device:
        return torch.device(self.device or ("cuda" if torch.cuda.is_available() else "cpu"))


@contextmanager
def _parameters_checked() -> Iterator[None]:
    """Raise what is out of its bounds as an error under the name that the parameter has here."""
    try:
        yield
    except ValidationError as error:
        problems = []
        for problem in error.errors():
            place = str(problem["loc"][0]) if problem["loc"] else ""
            text = problem["msg"].removeprefix("Value error, ")
            problems.append(f"{_PARAMETERS.get(place, place)}: {text}" if place else text)
        raise ValueError("; ".join(problems)) from error


def _plain(value: Any) -> bool | int | float | str | None:
    if isinstance(value, np.generic):
        value = value.item()
    return value if isinstance(value, bool | int | float | str | None) else os.fspath(value)
