"""Distances between two sets of features, and scores of a classifier's predictions.

Each takes arrays or `Rows`: features in parts, in memory or in files, which are read in blocks.
What each set alone contributes can be computed once, or gathered batch by batch.
"""

from sg_jax.evaluation.kernel import KernelReference, kid
from sg_jax.evaluation.neighbours import NEIGHBOURS, Manifold, precision_recall
from sg_jax.evaluation.predictions import SPLIT, Predictions, class_accuracy, inception_score
from sg_jax.evaluation.rows import Rows
from sg_jax.evaluation.sliced import SlicedReference, mind
from sg_jax.evaluation.statistics import Statistics, frechet

__all__ = [
    "NEIGHBOURS",
    "SPLIT",
    "KernelReference",
    "Manifold",
    "Predictions",
    "Rows",
    "SlicedReference",
    "Statistics",
    "class_accuracy",
    "frechet",
    "inception_score",
    "kid",
    "mind",
    "precision_recall",
]
