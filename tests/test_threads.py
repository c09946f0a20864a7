"""scikit-learn's threads: several MetaImputers train at once as they would one by one."""

from __future__ import annotations

import joblib
import numpy as np
import torch
from sklearn.datasets import load_wine
from sklearn.model_selection import cross_val_score

from metaimpute import MetaImputer


def test_cross_validation_in_threads_gives_the_scores_of_one_thread() -> None:
    rows, labels = load_wine(return_X_y=True)
    labels[np.random.default_rng(0).random(len(labels)) < 0.6] = -1
    torch.manual_seed(5)
    before = torch.get_rng_state()

    def scores() -> np.ndarray:
        return cross_val_score(
            MetaImputer(systems="network", problem="l2i", steps=25, random_state=0),
            rows,
            labels,
            cv=4,
            error_score="raise",
        )

    alone = scores()
    with joblib.parallel_backend("threading", n_jobs=4):
        together = scores()
    np.testing.assert_array_equal(alone, together)
    assert torch.equal(before, torch.get_rng_state()), "fit draws nothing from the process's generator"
    assert torch.backends.mha.get_fastpath_enabled() and torch.backends.cuda.flash_sdp_enabled()
