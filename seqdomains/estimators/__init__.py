"""Models as scikit-learn estimators, for pipelines, cross-validation and searches over settings."""

from __future__ import annotations

from seqdomains.estimators.classifier import SequenceClassifier

__all__ = ["SequenceClassifier"]
