"""A task of one's own: benign or malignant, from 30 measurements of cell nuclei (Street et al., 1993; in scikit-learn).

metaimpute run examples/breast_cancer.yaml --import examples/breast_cancer.py
"""

import torch
from sklearn.datasets import load_breast_cancer

from metaimpute import Classes, Pool, Task, register_task, semi_supervised

TEST = 169


@register_task("breast_cancer")
class BreastCancer(Task):
    """569 tumours, 30 measurements each; weak views add noise, strong views also blank measurements out.

    Args:
        noise: standard deviation of the views' noise, in standard deviations of a measurement.
        dropped: share of measurements that a strong view sets to their mean.
    """

    input_kind = "vector"
    input_shape = (30,)

    labels: int = 10
    validation: int = 40
    noise: float = 0.1
    dropped: float = 0.2

    @property
    def output(self):
        return Classes(2)

    @property
    def label_names(self):
        return ["malignant", "benign"]

    def load(self, seed):
        measured, targets = load_breast_cancer(return_X_y=True)
        x, y = torch.tensor(measured, dtype=torch.float32), torch.tensor(targets)
        order = torch.randperm(len(x), generator=torch.Generator().manual_seed(0))  # the same test rows for every seed
        train, test = order[TEST:], order[:TEST]
        x = (x - x[train].mean(0)) / x[train].std(0)
        pool = Pool(x, y, torch.arange(len(x)))
        return semi_supervised(
            pool.subset(train),
            pool.subset(test),
            labels=self.labels,
            validation=self.validation,
            classes=2,
            seed=seed,
            source="scikit-learn breast cancer",
        )

    def view(self, raw, kind, generator):
        if kind == "none":
            return raw
        moved = raw + self.noise * torch.randn(raw.shape, generator=generator)
        if kind == "strong":
            moved = moved * (torch.rand(raw.shape, generator=generator) >= self.dropped)
        return moved
