"""Pi-model: agree with oneself under other noise and another view (Laine and Aila, ICLR 2017)."""

from __future__ import annotations

from torch import Tensor

from ..engine.losses import squared_error_of_outputs
from ..ranges import NonNegative, Share
from .base import Method, register_method


@register_method("pi_model")
class PiModel(Method):
    """Squared difference between two passes of the network over two weak views, the first of them without gradient.

    Each pass draws its own view and dropout noise. Settings are those of the comparison script in MixMatch's released code
    (Berthelot et al., NeurIPS 2019), which runs a weight of 20 (the default of its flag is 10). Under a bilevel problem psi
    is the network itself.

    Args:
        weight: lambda. ramp: fraction of training over which lambda grows linearly.
    """

    row_wise = True
    weight: NonNegative = 20.0
    ramp: Share = 0.4

    @squared_error_of_outputs
    def consistency(self, raw: Tensor, labels: Tensor) -> Tensor:
        return self.output.squared_error(raw, labels)
