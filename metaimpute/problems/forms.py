"""The forms that L2I's look-ahead takes in the paper, in its released code and here, each as one word of a recipe.

With n unlabelled rows, D outputs, imputed labels z, predictions p, confidence mask m and lambda(t) of the base method:

    ours        C_T + lambda(t) 1/n sum_i m_i d(p_i, z_i)         d: the base method's distance
    paper       sum_T l + lambda(t) sum_i m_i |p_i - z_i|^2        Algorithm 1, lines 7 and 8, with the distance of A.2
    released    sum_i m_i |p_i - z_i|^2                            no C_T, no lambda

The squared norm is a sum over the outputs, where ``ours`` takes their mean. So with a squared error ``released`` is
nD / lambda(t) times as steep in the labels as ``ours``, at the same inner learning rate.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

Reduction = Literal["mean", "sum"]
InnerWeight = Literal["lambda", "one"]
Distance = Literal["method", "squared_error"]
Mask = Literal["kept", "recomputed"] | bool
Trained = Literal["inner", "all", "unlabelled"]
FormName = Literal["ours", "paper", "released"]


@dataclass(frozen=True)
class Form:
    """What a form says where a recipe says nothing else.

    Attributes:
        inner_loss: ``all``: C_T is part of the look-ahead; ``unlabelled``: it is not.
        reduction: of C_T and C_U: means, or sums over rows and, where a distance takes the mean over outputs, over these.
        inner_weight: factor of C_U: ``lambda``, the base method's lambda(t), or ``one``.
        distance: d: the base method's own, or the squared error of activated outputs.
        mask: the base step's confidence mask, ``recomputed`` by the network after the base step (line 7), or none (False).
        sharpened: whether psi sharpens where the base method does; the paper's A.2 takes the softmax.
        trained: what learnable labels train in their second step: ``inner``, the look-ahead's own loss; ``all``,
            C_T + lambda C_U; ``unlabelled``, the mean squared error to them alone.
    """

    inner_loss: Literal["all", "unlabelled"]
    reduction: Reduction
    inner_weight: InnerWeight
    distance: Distance
    mask: Mask
    sharpened: bool
    trained: Trained


FORMS: dict[FormName, Form] = {
    "ours": Form("all", "mean", "lambda", "method", "kept", True, "inner"),
    "paper": Form("all", "sum", "lambda", "squared_error", "recomputed", False, "all"),
    "released": Form("unlabelled", "sum", "one", "squared_error", "kept", False, "unlabelled"),
}
assert set(FORMS) == set(get_args(FormName))
