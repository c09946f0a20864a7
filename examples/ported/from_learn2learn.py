"""MAML for few-shot digits: five of the ten under shuffled names, one image of each, as one writes it with ``learn2learn``.

There a task is adapted to on a clone::

    learner = l2l.algorithms.MAML(model, lr=RATE).clone()
    for _ in range(STEPS):
        learner.adapt(cross_entropy(learner(x), y))
    loss = cross_entropy(learner(x_new), y_new)

    python examples/ported/from_learn2learn.py
"""

import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.nn.functional import cross_entropy

from metaimpute import inner, sgd

WAYS, SHOTS, STEPS, RATE = 5, 1, 3, 0.5


def digits():
    """Images to meta-train on and images to be judged by, ``[images, 64]``, with their labels."""
    images, labels = (torch.tensor(array) for array in load_digits(return_X_y=True))
    return (images[:1000].float() / 16, labels[:1000]), (images[1000:].float() / 16, labels[1000:])


def task(data, generator):
    """Images to adapt to with the names of their digits, and others of the same digits with theirs."""
    images, labels = data
    rows = [(labels == digit).nonzero().flatten() for digit in torch.randperm(10, generator=generator)[:WAYS]]
    rows = [r[torch.randperm(len(r), generator=generator)[: SHOTS + 5]] for r in rows]
    fit, judge = torch.cat([r[:SHOTS] for r in rows]), torch.cat([r[SHOTS:] for r in rows])
    names = torch.arange(WAYS)
    return images[fit], names.repeat_interleave(SHOTS), images[judge], names.repeat_interleave(5)


def adapted(model, x, y, x_new, first_order=False):
    """Outputs for new images after the steps on the task's own; a function of the model's weights."""
    with inner(model, sgd(RATE), first_order=first_order) as learner:
        for _ in range(STEPS):
            learner.step(cross_entropy(model(x), y))
        return model(x_new)


def accuracy(model, data, tasks=100):
    generator = torch.Generator().manual_seed(7)
    right = []
    with torch.no_grad():
        for _ in range(tasks):
            x, y, x_new, y_new = task(data, generator)
            right.append(adapted(model, x, y, x_new).argmax(1) == y_new)
    return float(torch.cat(right).float().mean())


def main(iterations=300, first_order=False):
    torch.manual_seed(0)
    (train, test), generator = digits(), torch.Generator().manual_seed(1)
    model = nn.Sequential(nn.Linear(64, 64), nn.Tanh(), nn.Linear(64, WAYS))
    before, optimizer = accuracy(model, test), torch.optim.Adam(model.parameters(), lr=3e-3)
    for _ in range(iterations):
        optimizer.zero_grad()
        for _ in range(4):
            x, y, x_new, y_new = task(train, generator)
            (cross_entropy(adapted(model, x, y, x_new, first_order), y_new) / 4).backward()
        optimizer.step()
    after = accuracy(model, test)
    print(
        f"accuracy on new tasks, {SHOTS} image of each digit: {before:.1%} from a random start, {after:.1%} meta-learned"
    )
    return before, after


if __name__ == "__main__":
    main()
