"""A learning rate for every entry of every parameter, learned through training (Meta-SGD; Li et al., 2017).

Ten steps on 100 handwritten digits, from a fixed start, should end where 400 others are told apart. The rates are held to
their word on digits that took part in nothing.

    python examples/learned_rates.py
"""

import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.nn.functional import cross_entropy

from metaimpute import FunctionalModel, after_training, sgd

STEPS = 10


def digits():
    """Training, validation and test images with their labels, in that order."""
    images, labels = (torch.tensor(array) for array in load_digits(return_X_y=True))
    images, order = images.float() / 16, torch.randperm(len(labels), generator=torch.Generator().manual_seed(0))
    return [(images[rows], labels[rows]) for rows in order.split([100, 400, len(labels) - 500])]


def trained(model, log_rates, fit, judge):
    """Loss on ``judge`` after the steps on ``fit``; the start is a constant."""

    def loss(params, coupling, batch):
        return cross_entropy(model(params, batch[0]), batch[1])

    start = {name: p.detach() for name, p in model.params.items()}
    rule = sgd({name: rate.exp() for name, rate in log_rates.items()})
    return after_training(loss, loss, start, optimizer=rule, steps=STEPS, batches=fit, outer_batch=judge)


def main(iterations=60):
    torch.manual_seed(0)
    model = FunctionalModel(nn.Sequential(nn.Linear(64, 32), nn.Tanh(), nn.Linear(32, 10)))
    train, validation, test = digits()
    tried = [torch.tensor(rate) for rate in (0.03, 0.1, 0.3, 1.0, 3.0)]  # one for all
    best = min(tried, key=lambda rate: trained(model, dict.fromkeys(model.params, rate.log()), train, validation))
    rates = {name: torch.full_like(p, float(best)).log().requires_grad_() for name, p in model.params.items()}
    with torch.no_grad():
        before = float(trained(model, rates, train, test))
    optimizer = torch.optim.Adam(rates.values(), lr=0.1)
    for _ in range(iterations):
        optimizer.zero_grad()
        trained(model, rates, train, validation).backward()
        optimizer.step()
    with torch.no_grad():
        after = float(trained(model, rates, train, test))
    print(f"test loss after {STEPS} steps: {before:.3f} at {best:g}, the best for all; {after:.3f} at learned rates")
    return before, after


if __name__ == "__main__":
    main()
