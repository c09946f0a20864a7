"""Weight decay of every pixel, learned while a classifier trains, as one writes it with Betty (Choe et al., ICLR 2023).

There two problems alternate, one step of the upper one to ``unroll_steps`` of the lower one::

    class Classifier(ImplicitProblem):
        def training_step(self, batch):
            return cross_entropy(self.module(x), y) + (self.decay() * self.module.weight.square()).sum()

    class Decay(ImplicitProblem):
        def training_step(self, batch):
            return cross_entropy(self.classifier(x_val), y_val)

    Engine(problems=[decay, classifier], dependencies={"u2l": {decay: [classifier]}, "l2u": {classifier: [decay]}}).run()

    python examples/ported/from_betty.py
"""

import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.nn.functional import cross_entropy

from metaimpute import inner

UNROLL = 5


def digits():
    """60 training, 300 validation and 1,437 test digits beside 64 pixels of noise, as ``(images, labels)``."""
    generator = torch.Generator().manual_seed(0)
    images, labels = (torch.tensor(array) for array in load_digits(return_X_y=True))
    images = torch.cat([images.float() / 16, torch.rand(len(labels), 64, generator=generator)], 1)
    rows = torch.randperm(len(labels), generator=generator).split([60, 300, len(labels) - 360])
    return [(images[r], labels[r]) for r in rows]


def training_loss(classifier, log_decay, batch):
    return cross_entropy(classifier(batch[0]), batch[1]) + (log_decay.exp() * classifier.weight.square()).sum()


def alternate(classifier, log_decay, train, validation, rounds):
    """Rounds of ``UNROLL`` training steps, which go on from one another, and one step of the decay through them."""
    lower = torch.optim.Adam(classifier.parameters(), lr=0.02)
    upper = torch.optim.Adam([log_decay], lr=0.1)
    with inner(classifier, lower) as block:
        for _ in range(rounds):
            for _ in range(UNROLL):
                block.step(training_loss(classifier, log_decay, train))
            upper.zero_grad()
            cross_entropy(classifier(validation[0]), validation[1]).backward()
            upper.step()
            block.detach()  # the next round begins here
    block.write_back()


def main(rounds=300):
    train, validation, test = digits()
    accuracies = []
    for learned in (False, True):
        torch.manual_seed(0)
        classifier, log_decay = nn.Linear(128, 10), torch.full((128,), -7.0, requires_grad=learned)
        if learned:
            alternate(classifier, log_decay, train, validation, rounds)
        else:
            lower = torch.optim.Adam(classifier.parameters(), lr=0.02)
            for _ in range(rounds * UNROLL):
                lower.zero_grad()
                training_loss(classifier, log_decay, train).backward()
                lower.step()
        with torch.no_grad():
            accuracies.append(float((classifier(test[0]).argmax(1) == test[1]).float().mean()))
    fixed, learned = accuracies
    noise, pixels = log_decay.detach()[64:].exp().median(), log_decay.detach()[:64].exp().median()
    print(f"test accuracy: {fixed:.1%} with one weight decay, {learned:.1%} with learned ones")
    print(f"median decay of a pixel {pixels:.1e}, of noise {noise:.1e}")
    return fixed, learned, float(pixels), float(noise)


if __name__ == "__main__":
    main()
