"""Whatever befalls a table, it is read into finite inputs, or refused in one line."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest
import torch

from metaimpute.tasks import OwnTable, OwnText, TaskError

PIECES = ('"', ",", ";", "\t", "\n", "\r", "\x00", "é", "\ufeff", " ", "?", "inf", "1e999", "1e200", "NA", "-1", "nan", '""', "=",
          "\u2028", "9" * 25, "0x1", "1_0", "\u0661", "1,5", "True", "-", "id", "label", ".")  # fmt: skip
CHOICES: dict[str, tuple[Any, ...]] = {
    "id": ("", "id"), "missing_values": (None, ["?", "-1"], [], {"z": ["inf"]}), "kind": ("auto", "classes", "values"),
    "words": ([], ["z"]), "keep": ([], ["z"]),
}  # fmt: skip


def damaged(rng: random.Random) -> bytes:
    separator = rng.choice(",;\t")
    rows = [("id", "label", "grade", "z")]
    rows += [
        (f"r{i}", ("no", "yes")[i % 2] if i < 20 else "", ("mid", "low")[i % 2], f"{i * 7 % 13 / 4:.2f}")
        for i in range(40)
    ]
    text = "\n".join(separator.join(row) for row in rows)
    for _ in range(rng.randint(0, 2)):
        at = rng.randrange(len(text))
        text = text[:at] + rng.choice(PIECES) + text[at + rng.choice((0, 0, 1, 3)) :]
    return text.encode(rng.choice(("utf-8", "utf-8", "utf-8", "utf-16")), "replace")


def look(table: OwnTable, other: Path) -> None:
    data = table.load(0)
    for pool in (data.labelled, data.unlabelled, data.test):
        assert torch.isfinite(pool.inputs).all()  # type: ignore[arg-type]
    names, rows = table.read(other)
    assert torch.isfinite(rows).all() and len(names) == len(rows)


@pytest.mark.parametrize("seed", range(4))
def test_a_damaged_table_is_read_or_refused_in_one_line(seed: int, tmp_path: Path) -> None:
    rng, refusals = random.Random(seed), []
    path, other = tmp_path / "t.csv", tmp_path / "u.csv"
    for _ in range(60):
        path.write_bytes(damaged(rng))
        other.write_bytes(damaged(rng))
        options = {name: rng.choice(values) for name, values in CHOICES.items()} | {
            "test": rng.choice(("", str(other)))
        }
        try:
            OwnText(file=str(path), text="grade", id=options["id"]).gather()
            look(OwnTable(file=str(path), target="label", unlabelled_includes_labelled=True, **options), other)
        except TaskError as error:
            refusals.append(str(error))
    assert 10 < len(refusals) < 58 and not [said for said in refusals if "\n" in said or len(said) > 700]
