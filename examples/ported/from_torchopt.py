"""Learning to reweight examples (Ren et al., ICML 2018) on digits with wrong labels, as one writes it with ``torchopt``.

There the step ahead is taken on the network itself, which is put back afterwards::

    net_state, rule_state = torchopt.extract_state_dict(net), torchopt.extract_state_dict(meta_sgd)
    meta_sgd.step((factors * losses(net, x, y)).sum())
    slopes = torch.autograd.grad(losses(net, x_clean, y_clean).mean(), factors)[0]
    torchopt.recover_state_dict(net, net_state)
    torchopt.recover_state_dict(meta_sgd, rule_state)

    python examples/ported/from_torchopt.py
"""

import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.nn.functional import cross_entropy

from metaimpute import inner

NOISE, BATCH = 0.6, 100


def digits():
    """Training digits of which most have a random label, clean ones, and a test set, as ``(images, labels)``."""
    generator = torch.Generator().manual_seed(0)
    images, labels = (torch.tensor(array) for array in load_digits(return_X_y=True))
    order = torch.randperm(len(labels), generator=generator)
    train, clean, test = [
        (images[rows].float() / 16, labels[rows]) for rows in order.split([1200, 50, len(labels) - 1250])
    ]
    wrong = torch.rand(1200, generator=generator) < NOISE
    noisy = torch.where(wrong, torch.randint(10, (1200,), generator=generator), train[1])
    return (train[0], noisy), clean, test


def losses(net, x, y):
    return cross_entropy(net(x), y, reduction="none")


def weights_of(net, sgd, x, y, clean):
    """How much more of each example helps the clean ones after the next step, at least 0, to the sum of 1."""
    factors = torch.zeros(len(x), requires_grad=True)
    with inner(net, sgd) as block:  # net and sgd come out of it as they went in
        block.step((factors * losses(net, x, y)).sum())
        slopes = torch.autograd.grad(losses(net, *clean).mean(), factors)[0]
    weights = (-slopes).clamp_min(0)
    return weights / weights.sum().clamp_min(1e-12)


def trained(weighted, data, steps):
    torch.manual_seed(0)
    (x, y), clean, test = data
    net = nn.Sequential(nn.Linear(64, 64), nn.Tanh(), nn.Linear(64, 10))
    sgd = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9)
    generator = torch.Generator().manual_seed(1)
    for _ in range(steps):
        rows = torch.randint(len(x), (BATCH,), generator=generator)
        weights = weights_of(net, sgd, x[rows], y[rows], clean) if weighted else torch.full((BATCH,), 1 / BATCH)
        sgd.zero_grad()
        (weights * losses(net, x[rows], y[rows])).sum().backward()
        sgd.step()
    with torch.no_grad():
        return float((net(test[0]).argmax(1) == test[1]).float().mean())


def main(steps=600):
    data = digits()
    plain, reweighted = trained(False, data, steps), trained(True, data, steps)
    print(f"test accuracy with {NOISE:.0%} random labels: {plain:.1%} as they are, {reweighted:.1%} reweighted")
    return plain, reweighted


if __name__ == "__main__":
    main()
