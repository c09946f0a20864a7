"""An objective of one's own: Meta-Weight-Net (Shu et al., NeurIPS 2019) for the unlabelled loss.

A small network looks at an example's consistency loss and says how much the example should count. It is learned so that
a training step with those weights lowers the loss on held-out labels.

    metaimpute run examples/meta_weight_net.yaml --import examples/meta_weight_net.py
"""

import torch

from metaimpute import BilevelProblem, register_problem


@register_problem("my_weight_net")
class MetaWeightNet(BilevelProblem):
    """Weights of the unlabelled examples as a learned function of their losses.

    Args:
        width: hidden units of the function.
    """

    width: int = 16

    def init_meta(self, sizes):
        return {
            "in": torch.randn(1, self.width) * 0.5,
            "bias": torch.zeros(self.width),
            "out": torch.randn(self.width, 1) * 0.5,
        }

    def weights(self, meta, losses):
        """In (0, 1), one for each loss ``[n]``."""
        hidden = torch.relu(losses[:, None] @ meta["in"] + meta["bias"])
        return (hidden @ meta["out"])[:, 0].sigmoid()

    def inner_loss(self, params, meta, batch):  # couple() is the identity: the inner loss depends on meta itself
        student = self.predict(params, batch.unlabelled.strong)
        losses = self.method.consistency(student, batch.imputation.labels)
        return self.supervised(params, batch.labelled) + (self.weights(meta, losses.detach()) * losses).mean()

    def measure(self, meta):
        """Logged with every step: the weight of an example with a small and with a large loss."""
        small, large = self.weights(meta, torch.tensor([0.0, 2.0]).to(meta["in"]))
        return {"weight_at_loss_0": float(small), "weight_at_loss_2": float(large)}
