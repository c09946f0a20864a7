"""A penalty for every feature of a lasso, learned through scikit-learn's own solver.

    python examples/lasso_path.py

Diabetes patients, and noise beside their features. ``implicit`` gives the solution of the weighted lasso the derivative of its
optimality condition on the features that are in, so that the validation error has a gradient in all penalties.
"""

from __future__ import annotations

import numpy as np
import torch
from sklearn.datasets import load_diabetes
from sklearn.linear_model import Lasso
from torch import Tensor

from metaimpute import implicit
from metaimpute.engine import nonzero

NOISE = 30


def patients() -> tuple[Tensor, Tensor]:
    rng = np.random.default_rng(0)
    x, y = load_diabetes(return_X_y=True)
    x = np.concatenate([x / x.std(0), rng.standard_normal((len(x), NOISE))], 1)
    order = rng.permutation(len(x))
    return torch.as_tensor(x[order]), torch.as_tensor((y - y.mean())[order] / y.std())


def fitted(x: Tensor, y: Tensor, log_penalties: Tensor, tol: float = 1e-8) -> Tensor:
    """The weighted lasso, which is a plain one in scaled features."""
    penalties = log_penalties.detach().exp()
    model = Lasso(alpha=1.0, fit_intercept=False, tol=tol, max_iter=100_000)
    w = torch.as_tensor(model.fit((x / penalties).numpy(), y.numpy()).coef_) / penalties

    def objective(w: Tensor, log_penalties: Tensor) -> Tensor:
        return (x @ w - y).square().mean() / 2 + (log_penalties.exp() * w.abs()).sum()

    return implicit(w, log_penalties, objective=objective, support=nonzero)


def main(iterations: int = 60) -> tuple[float, float, int]:
    """Test error before and after, and how many noise features are left in the model."""
    x, y = patients()
    log_penalties = torch.full((x.shape[1],), -3.0, dtype=torch.float64, requires_grad=True)
    outer, errors, left = torch.optim.Adam([log_penalties], 0.1), [0.0], 0
    for iteration in range(iterations):
        w = fitted(x[:150], y[:150], log_penalties)
        outer.zero_grad()
        (x[150:300] @ w - y[150:300]).square().mean().backward()
        outer.step()
        errors.append(float((x[300:] @ w.detach() - y[300:]).square().mean()))
        left = int((w[-NOISE:] != 0).sum())
        if iteration % 20 == 0:
            print(f"{iteration:3d}  test error {errors[-1]:.4f}, {left} noise features in the model")
    print(f"test error {errors[1]:.4f} before, {errors[-1]:.4f} after, {left} noise features left")
    return errors[1], errors[-1], left


if __name__ == "__main__":
    main()
