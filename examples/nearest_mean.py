"""A system of one's own: a row belongs to the class whose mean is nearest."""

import numpy as np
from scipy.spatial.distance import cdist
from scipy.special import softmax

from metaimpute.ensemble.members import register_member


@register_member("nearest_mean")
class NearestMean:
    for_classes, for_values, takes_sparse, most, prior, once = True, False, False, 10**9, 1.0, False

    def fit(self, rows):
        self.means = np.stack([rows.labelled[rows.labels == c].mean(0) for c in range(rows.classes)])
        self.scale = (cdist(rows.labelled, self.means) ** 2).min(1).mean() + 1e-9

    def predict(self, rows):
        return softmax(-(cdist(rows, self.means) ** 2) / self.scale, 1)
