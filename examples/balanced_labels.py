"""A method of one's own: imputed labels in which every class is equally frequent.

On few labels a network tends to give most unlabelled examples one class. Here each batch's predictions are divided by
their mean and scaled back to probabilities, the first half-step of Sinkhorn's algorithm and what distribution alignment
does with a uniform target (Berthelot et al., "ReMixMatch", ICLR 2020).

    metaimpute run examples/balanced_labels.yaml --import examples/balanced_labels.py
"""

from metaimpute import Method, register_method


@register_method("balanced_labels")
class BalancedLabels(Method):
    """Cross-entropy of a strong view to the weak view's prediction, classes balanced over the batch.

    The imputer is a differentiable function of the network, so every bilevel problem can learn through it.
    """

    strong = "strong"

    def psi(self, predict, params, unlabelled):
        predicted = super().psi(predict, params, unlabelled)
        balanced = predicted / predicted.mean(0)
        return balanced / balanced.sum(-1, keepdim=True)
