"""SL: the loss on labels alone."""

from __future__ import annotations

from .base import Method, register_method


@register_method("supervised")
class Supervised(Method):
    """Supervised learning on the labelled examples alone.

    Under a bilevel problem the look-ahead still trains on imputed labels (cross-entropy or squared error to the network's
    own output on the weak view, weight ``weight``); the base step never does.
    """

    row_wise = True
    uses_unlabelled = False

    def weight_at(self, progress: float) -> float:
        return 0.0

    def lookahead_weight(self, progress: float) -> float:
        return self.weight
