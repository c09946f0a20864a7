"""How members are combined: by what they predicted of labelled rows that they had not been fitted to."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

LEAST = 1e-3  # probability that a member is held to have given at least; less where classes are many
SHARPNESS = np.exp(np.linspace(-1.2, 1.2, 25))
SHRINKAGE = (
    0.1  # of the evidence against a member; 1 would be Bayes' rule for rows that are independent, which folds are not
)
HOPELESS = 1.5  # a regressor's error by which it is left out, relative to the best one's
NEGLIGIBLE = 0.01  # weight below which a member is left out
RESAMPLED = 500


@dataclass(frozen=True)
class Combination:
    """Weights of members, and the power that each one's probabilities are raised to (1 for values).

    Attributes:
        names: of the members, ``k`` of them. weights: ``[k]``, of sum 1. powers: ``[k]``. power: of the mean.
    """

    names: tuple[str, ...]
    weights: np.ndarray
    powers: np.ndarray
    power: float = 1.0

    def __call__(self, predictions: dict[str, np.ndarray]) -> np.ndarray:
        """Probabilities ``[n, classes]`` or values ``[n]`` from each member's."""
        parts = [predictions[name] for name in self.names]
        if parts[0].ndim == 1:
            return np.asarray(self.weights @ np.stack(parts))
        sharp = [sharpened(part, power) for part, power in zip(parts, self.powers, strict=True)]
        return sharpened(np.tensordot(self.weights, np.stack(sharp), 1), self.power)

    def without_negligible(self) -> Combination:
        """The same of the members whose weight matters, without the work of the others."""
        kept = [place for place, weight in enumerate(self.weights) if weight >= min(NEGLIGIBLE, self.weights.max())]
        weights = self.weights[kept]
        return Combination(tuple(self.names[at] for at in kept), weights / weights.sum(), self.powers[kept], self.power)


def sharpened(probabilities: np.ndarray, power: float) -> np.ndarray:
    """Probabilities raised to a power, of sum 1 again (a temperature of ``1 / power``)."""
    least = min(LEAST, 0.1 / probabilities.shape[1])
    found = np.exp(power * np.log(np.maximum(probabilities, least)))
    return np.asarray(found / found.sum(1, keepdims=True))


def log_losses(probabilities: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Of each row, ``[n]``."""
    return np.asarray(-np.log(np.maximum(probabilities[np.arange(len(labels)), labels], LEAST)))


def best_power(probabilities: np.ndarray, labels: np.ndarray) -> float:
    """The power with the lowest log-loss, drawn towards 1 by as much as a row or two of evidence."""
    costs = [log_losses(sharpened(probabilities, power), labels).sum() + np.log(power) ** 2 for power in SHARPNESS]
    return float(SHARPNESS[int(np.argmin(costs))])


def combine_classes(
    held_out: dict[str, np.ndarray], labels: np.ndarray, priors: Mapping[str, float] | None = None
) -> Combination:
    """Weights by log-loss on rows held out, shrunk towards the prior ones.

    Args:
        held_out: probabilities ``[n, classes]`` of each member for rows it was not fitted to. labels: class numbers ``[n]``.
        priors: of each member, relative; equal ones where there are none.
    """
    names = tuple(held_out)
    powers = np.array([best_power(held_out[name], labels) for name in names])
    sharp = {name: sharpened(held_out[name], power) for name, power in zip(names, powers, strict=True)}
    losses = np.array([log_losses(sharp[name], labels).sum() for name in names])
    prior = np.array([(priors or {}).get(name, 1.0) for name in names])
    weights = prior * np.exp(-SHRINKAGE * (losses - losses.min()))
    weights /= weights.sum()
    mean = Combination(names, weights, powers).without_negligible()
    return replace(mean, power=best_power(mean(held_out), labels))


def combine_values(held_out: dict[str, np.ndarray], labels: np.ndarray) -> Combination:
    """Equal weights of all members but those whose squared error on rows held out is far above the best one's."""
    names = tuple(held_out)
    errors = np.array([np.sqrt(np.mean((held_out[name] - labels) ** 2)) for name in names])
    errors = np.maximum(
        errors, 1e-9
    )  # of standardised values: one that is exact leaves the others no weight, and no zero
    weights = np.where(errors <= HOPELESS * errors.min(), (errors.min() / errors) ** 4, 0.0)
    return Combination(names, weights / weights.sum(), np.ones(len(names))).without_negligible()


def best_alone(held_out: dict[str, np.ndarray], labels: np.ndarray, classes: int) -> Combination:
    """The one member with the lowest loss on rows held out."""
    name = min(held_out, key=lambda one: _losses(held_out[one], labels, classes).mean())
    power = best_power(held_out[name], labels) if classes else 1.0
    return Combination((name,), np.ones(1), np.array([power]))


def _losses(found: np.ndarray, labels: np.ndarray, classes: int) -> np.ndarray:
    """What a member is picked by, of each row ``[n]``: log-loss, sharpened as well as it may be, or the squared error."""
    return log_losses(sharpened(found, best_power(found, labels)), labels) if classes else (found - labels) ** 2


def picking_bias(held_out: dict[str, np.ndarray], labels: np.ndarray, classes: int, seed: int = 0) -> float:
    """How much larger the error of a picked member is than it looks on the rows that it was picked on: a share of wrong
    classes, or a mean square.

    Members are picked on rows drawn with replacement and judged on the others (Tsamardinos et al., 2018).
    """
    names, count, rng = list(held_out), len(labels), np.random.default_rng(seed)
    losses = np.stack([_losses(held_out[name], labels, classes) for name in names])
    errors = np.stack([held_out[name].argmax(1) != labels if classes else losses[at] for at, name in enumerate(names)])
    picked, judged = [], []
    for _ in range(RESAMPLED):
        times = np.bincount(rng.integers(count, size=count), minlength=count)
        out = times == 0
        if out.any():
            best = int((losses @ times).argmin())
            picked.append(float(errors[best] @ times) / count)
            judged.append(float(errors[best][out].mean()))
    return max(float(np.mean(judged) - np.mean(picked)), 0.0) if judged else 0.0
