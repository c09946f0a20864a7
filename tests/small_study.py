"""A recipe and a study that take a moment."""

from __future__ import annotations

RECIPE = """\
about: {title: small}
task: {name: two_moons, labels: 4, validation: 20, size: 100}
model: {name: mlp, width: 8}
method: {name: mean_teacher}
problem: {name: l2i, estimator: mixed}
train: {steps: 6, batch: 4, unlabelled_batch: 8, eval_every: 2, checkpoint_every: 2, threads: 1}
"""
STUDY = """\
recipe: small.yaml
systems:
  none: {problem.name: none}
  l2i: []
seeds: 2
"""
