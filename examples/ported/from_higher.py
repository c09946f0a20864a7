"""MAML on sine waves with a learned inner rate, as one writes it with ``higher`` (Grefenstette et al., 2019).

There the task's loop is::

    with higher.innerloop_ctx(model, inner_sgd, copy_initial_weights=False, override={"lr": [log_lr.exp()]}) as (fast, rule):
        for _ in range(STEPS):
            rule.step(mse_loss(fast(x), y))
        mse_loss(fast(x_new), y_new).backward()

    python examples/ported/from_higher.py
"""

import torch
from torch import nn
from torch.nn.functional import mse_loss

from metaimpute import inner

TASKS, POINTS, STEPS = 4, 10, 2


def waves(generator, tasks=TASKS):
    """Sines of random height and phase: for each task points to fit and points to be judged by, ``[points, 1]`` each."""
    found = []
    for _ in range(tasks):
        height, phase = 0.1 + 4.9 * torch.rand(1, generator=generator), torch.pi * torch.rand(1, generator=generator)
        x = 10 * torch.rand(2 * POINTS, 1, generator=generator) - 5
        y = height * torch.sin(x + phase)
        found.append((x[:POINTS], y[:POINTS], x[POINTS:], y[POINTS:]))
    return found


def meta_loss(model, inner_sgd, log_lr, tasks):
    """Mean error on new points after the steps; its gradient reaches the model's own weights and the rate."""
    total = 0.0
    for x, y, x_new, y_new in tasks:
        with inner(model, inner_sgd, override={"lr": log_lr.exp()}) as block:
            for _ in range(STEPS):
                block.step(mse_loss(model(x), y))
            total = total + mse_loss(model(x_new), y_new) / len(tasks)
    return total


def main(iterations=300):
    torch.manual_seed(0)
    generator = torch.Generator().manual_seed(1)
    model = nn.Sequential(nn.Linear(1, 40), nn.Tanh(), nn.Linear(40, 40), nn.Tanh(), nn.Linear(40, 1))
    log_lr, new = torch.tensor(-4.0, requires_grad=True), waves(generator, 100)
    inner_sgd = torch.optim.SGD(model.parameters(), lr=1.0)  # its rate is overridden
    with torch.no_grad():
        before = float(meta_loss(model, inner_sgd, log_lr, new))
    optimizer = torch.optim.Adam([*model.parameters(), log_lr], lr=5e-3)
    for _ in range(iterations):
        optimizer.zero_grad()
        meta_loss(model, inner_sgd, log_lr, waves(generator)).backward()
        optimizer.step()
    with torch.no_grad():
        after = float(meta_loss(model, inner_sgd, log_lr, new))
    print(f"error on new waves after {STEPS} steps: {before:.2f} from a random start, {after:.2f} from the learned one")
    return before, after


if __name__ == "__main__":
    main()
