"""Overrides that make a recipe of noisy digits small enough for a test of its gradients."""

from __future__ import annotations

SMALL = ("model.width=8", "train.batch=12", "problem.holdout_batch=12", "train.threads=1")
