"""MAML on sine waves: a start from which two steps on ten points fit a new wave (Finn, Abbeel and Levine, ICML 2017).

The steps' learning rate is learned along with the start. Tasks are one stack, so that a step of all is one call.

    python examples/maml.py
"""

import torch
from torch import nn

from metaimpute import FunctionalModel, after_training, sgd
from metaimpute.engine import stacked

TASKS, POINTS, STEPS = 16, 10, 2


def waves(generator, tasks=TASKS):
    """Sines of random height and phase: points to fit, and points to be judged by, tensors ``[tasks, points, 1]``."""
    height = 0.1 + 4.9 * torch.rand(tasks, 1, 1, generator=generator)
    phase = torch.pi * torch.rand(tasks, 1, 1, generator=generator)
    x = 10 * torch.rand(tasks, 2 * POINTS, 1, generator=generator) - 5
    y = height * torch.sin(x + phase)
    return {"x": x[:, :POINTS], "y": y[:, :POINTS]}, {"x": x[:, POINTS:], "y": y[:, POINTS:]}


def adapted(model, start, log_lr, fit, judge):
    """Mean error on ``judge`` after steps on ``fit``, each task from the one start: a value like any other."""
    own = {name: p.expand(len(fit["x"]), *p.shape) for name, p in start.items()}
    error = stacked(lambda params, coupling, batch: (model(params, batch["x"]) - batch["y"]).square().mean())
    rule = sgd(log_lr.exp())
    total = after_training(error, error, own, optimizer=rule, steps=STEPS, batches=fit, outer_batch=judge)
    return total / len(fit["x"])


def main(iterations=200):
    torch.manual_seed(0)
    generator = torch.Generator().manual_seed(1)
    model = FunctionalModel(nn.Sequential(nn.Linear(1, 40), nn.Tanh(), nn.Linear(40, 40), nn.Tanh(), nn.Linear(40, 1)))
    start, log_lr, new = model.params, torch.tensor(-4.0, requires_grad=True), waves(generator, 200)
    with torch.no_grad():
        before = float(adapted(model, start, log_lr, *new))
    optimizer = torch.optim.Adam([*start.values(), log_lr], lr=5e-3)
    for _ in range(iterations):
        optimizer.zero_grad()
        adapted(model, start, log_lr, *waves(generator)).backward()
        optimizer.step()
    with torch.no_grad():
        after = float(adapted(model, start, log_lr, *new))
    print(f"error on new waves after {STEPS} steps: {before:.2f} from a random start, {after:.2f} from the learned one")
    return before, after


if __name__ == "__main__":
    main()
