"""A learning rate for every parameter tensor of the inner steps, learned by its hypergradient.

Li, Zhou, Chen and Li ("Meta-SGD", 2017) learn one for every entry, Antoniou, Edwards and Storkey ("How to train your MAML",
ICLR 2019, section 4) one per layer, Baydin et al. (ICLR 2018) one for all:

    theta_{t+1} = theta_t - exp(a_l) eta grad_l C_inner(theta_t)      a: moved so that C_H(theta_k) falls

What is learned acts on the network through its own step, which is one with the learned rates on the base method's loss: the outer
optimiser's rates stay behind, so ``train.optimizer`` should be sgd without momentum at ``problem.inner.lr``.
"""
