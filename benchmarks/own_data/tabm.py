"""TabM as a system beside the others of ``choose``, registered when this module is imported.

Its weights are kept as arrays, so that a run's folder can hold them.
"""

from __future__ import annotations

from typing import ClassVar

import numpy as np
import torch
from tabm import TabM

from metaimpute.ensemble.members import Rows, register_member

STEPS, RATE, DECAY = 80, 2e-3, 3e-4  # AdamW, on all labelled rows at once
TOGETHER = 500


@register_member("tabm")
class TabMMember:
    """An ensemble of 32 networks in one that shares most of its weights (Gorishniy et al., ICLR 2025)."""

    for_classes: ClassVar[bool] = True
    for_values: ClassVar[bool] = True
    takes_sparse: ClassVar[bool] = False
    most: ClassVar[int] = 2000
    prior: ClassVar[float] = 1.0
    once: ClassVar[bool] = True

    def _network(self) -> TabM:
        torch.manual_seed(self.seed)
        return TabM.make(n_num_features=self.width, d_out=self.classes or 1, dropout=0.1, n_blocks=2, d_block=256)

    def fit(self, rows: Rows) -> None:
        self.seed, self.width, self.classes = rows.seed, rows.labelled.shape[1], rows.classes
        network = self._network().train()
        optimizer = torch.optim.AdamW(network.parameters(), lr=RATE, weight_decay=DECAY)
        inputs = torch.tensor(rows.labelled, dtype=torch.float32)
        labels = torch.tensor(rows.labels, dtype=torch.long if rows.classes else torch.float32)
        for _ in range(STEPS):
            found = network(x_num=inputs)  # [n, networks, outputs]
            if rows.classes:
                every = labels.repeat_interleave(found.shape[1])
                loss = torch.nn.functional.cross_entropy(found.flatten(0, 1), every)
            else:
                loss = (found[..., 0] - labels[:, None]).square().mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        self.weights = {name: value.numpy() for name, value in network.state_dict().items()}

    def predict(self, rows: np.ndarray) -> np.ndarray:
        network = self._network().eval()
        network.load_state_dict({name: torch.from_numpy(value) for name, value in self.weights.items()})
        with torch.no_grad():
            parts = torch.tensor(np.asarray(rows), dtype=torch.float32).split(TOGETHER)
            found = torch.cat([network(x_num=part) for part in parts])
        mean = found.softmax(-1).mean(1) if self.classes else found[..., 0].mean(1)
        return np.asarray(mean.double().numpy())
