"""Data hyper-cleaning: weights for examples some of whose labels are wrong (Franceschi et al., ICML 2017).

200 handwritten digits, 40% of them labelled at random, train a linear classifier. The weight of each is learned through the
training, so that it ends where 100 digits with right labels are told apart.

    python examples/hyper_cleaning.py
"""

import torch
from sklearn.datasets import load_digits
from torch.nn.functional import cross_entropy

from metaimpute import after_training, momentum

STEPS = 15


def digits(noise=0.4):
    """Noisy training, clean validation and test images with labels, and which of the first were labelled at random."""
    generator = torch.Generator().manual_seed(0)
    images, labels = (torch.tensor(array) for array in load_digits(return_X_y=True))
    order = torch.randperm(len(labels), generator=generator).split([200, 100, len(labels) - 300])
    (x, y), *clean = [(images[rows].float() / 16, labels[rows]) for rows in order]
    random = torch.rand(len(y), generator=generator) < noise
    return (x, torch.where(random, torch.randint(0, 10, y.shape, generator=generator), y)), *clean, random


def weighted(params, weights, batch):
    return (weights * cross_entropy(batch[0] @ params["w"] + params["b"], batch[1], reduction="none")).mean()


def accuracy(params, weights, batch):
    return ((batch[0] @ params["w"] + params["b"]).argmax(1) == batch[1]).float().mean()


def trained(logits, train, judge, outer_loss=None):
    start = {"w": torch.zeros(64, 10).to(logits), "b": torch.zeros(10).to(logits)}
    outer = outer_loss or (lambda params, weights, batch: weighted(params, 1.0, batch))
    given = {"optimizer": momentum(0.5), "steps": STEPS, "batches": train, "outer_batch": judge}
    return after_training(weighted, outer, start, logits.sigmoid(), **given)


def main(iterations=50):
    train, validation, test, random = digits()
    logits = torch.zeros(len(random), requires_grad=True)
    optimizer = torch.optim.Adam([logits], lr=0.4)
    before = float(trained(logits.detach(), train, test, accuracy))
    for _ in range(iterations):
        optimizer.zero_grad()
        trained(logits, train, validation).backward()
        optimizer.step()
    after, weights = float(trained(logits.detach(), train, test, accuracy)), logits.detach().sigmoid()
    print(f"mean weight {weights[~random].mean():.2f}, of labels drawn at random {weights[random].mean():.2f}")
    print(f"test accuracy {before:.1%} with equal weights, {after:.1%} with learned ones")
    return before, after, weights, random


if __name__ == "__main__":
    main()
