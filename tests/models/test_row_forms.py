"""Further forms of a table's rows: of classes every input varies as much, of values they are as the task has them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas
import pytest
import torch

from metaimpute.models.row_forms import Inputs, More
from metaimpute.tasks.base import TaskData
from metaimpute.tasks.own_table import OwnTable


def loaded(folder: Path, values: bool) -> tuple[OwnTable, TaskData]:
    rng = np.random.default_rng(0)
    towns = ["".join(rng.choice(list("abcdefgh"), 6)) for _ in range(50)]
    frame = pandas.DataFrame(
        {
            "size": rng.normal(size=200).round(3),
            "town": rng.choice(towns, 200),
            "colour": np.where(rng.random(200) < 0.03, "red", "blue"),
            "target": rng.normal(size=200).round(4) if values else rng.choice(["a", "b"], 200),
        }
    ).astype({"target": object})
    frame.loc[60:, "target"] = None
    frame.to_csv(folder / "rows.csv", index=False)
    task = OwnTable(file=str(folder / "rows.csv"))
    task.check()
    return task, task.load(0)


def test_of_classes_an_input_that_marks_a_rare_word_varies_as_much_as_a_number(tmp_path: Path) -> None:
    task, data = loaded(tmp_path, values=False)
    pools = (data.labelled, data.unlabelled)
    form, plain = More(task, "spelling"), Inputs(task)
    form.fit(pools)
    rows = np.concatenate([form(pool) for pool in pools])
    assert rows.shape[1] == 1 + 2 + 30
    np.testing.assert_allclose(rows.std(0), 1, rtol=1e-4)
    assert np.concatenate([plain(pool) for pool in pools])[:, -1].std() < 0.3
    again = More(task, "spelling")
    again.restore(form.learnt)
    np.testing.assert_array_equal(again(pools[0]), form(pools[0]))
    assert len(form(data.labelled.subset(torch.arange(0)))) == 0
    with pytest.raises(ValueError, match="standard deviations"):
        again.restore({"scale": 1.0})


def test_of_values_and_in_runs_that_keep_no_scale_inputs_are_as_the_task_has_them(tmp_path: Path) -> None:
    task, data = loaded(tmp_path, values=True)
    form = More(task, "spelling")
    form.fit((data.labelled,))
    assert form.learnt is None
    raw = torch.as_tensor(data.labelled.inputs)
    np.testing.assert_array_equal(form(data.labelled), task.in_form(raw, "spelling").double().numpy())
