"""Distilled digits, one image per class, against a random real image per class (Wang et al., 2018, Table 1, random start)."""

from __future__ import annotations

import torch

from metaimpute.training.session import Session

from .claim import Claim, Numbers, trained

RECIPE = "digits_distillation"
MARGIN = 79.5 - 68.6  # accuracy on MNIST in Table 1: distilled images and random real ones, starts drawn at random
STARTS = 10
RATES = (0.1, 0.3, 1.0, 3.0)  # problem.inner.lr is 1


def error_on_new_starts(session: Session, first: int) -> float:
    """Mean test error of networks drawn anew and trained on the images for the recipe's steps."""
    problem, errors = session.algorithm.problem, []
    network = session.module
    for seed in range(first, first + STARTS):
        torch.manual_seed(seed)
        for part in network.modules():
            if hasattr(part, "reset_parameters"):
                part.reset_parameters()
        errors.append(session.evaluate()["test_error"])
    assert problem.name == "dataset_distillation"
    return sum(errors) / len(errors)


def distilled(seed: int) -> Numbers:
    session, _ = trained(RECIPE, seed)
    return {"test_error": error_on_new_starts(session, 1000)}


def real(seed: int) -> Numbers:
    """One real image per class drawn by the seed, with the learning rate that suits it best on the test set itself."""
    session, _ = trained(RECIPE, seed, "train.steps=1", "problem.learn_rate=true")
    meta, pool = session.algorithm.meta, session.data.labelled
    assert meta is not None and isinstance(pool.inputs, torch.Tensor) and pool.targets is not None
    drawn = torch.randperm(len(pool), generator=torch.Generator().manual_seed(seed))
    rows = [int(drawn[pool.targets[drawn] == label][0]) for label in range(10)]
    found = []
    for rate in RATES:
        with torch.no_grad():
            meta["images"].copy_(pool.inputs[rows])
            meta["log_scale"].fill_(rate).log_()
        found.append(error_on_new_starts(session, 1000))
    return {"test_error": min(found)}


CLAIM = Claim(
    paper="Wang et al., 2018, Table 1 (MNIST, random start, 10 images per class)",
    claim=f"one distilled digit per class is at least {MARGIN:.1f} points above a random real one, on networks not seen before",
    arms={"distilled": distilled, "random real images, best of 4 learning rates": real},
    holds=lambda mean: (
        mean["random real images, best of 4 learning rates"]["test_error"] - mean["distilled"]["test_error"] >= MARGIN
    ),
    tuned="learning rates on seeds 100 to 103, after a learned rate had diverged on one of the seeds 0 to 4",
)
