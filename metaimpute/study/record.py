"""A study's files: ``study.json`` with everything, and its table as CSV, Markdown and LaTeX."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ..rundir.files import write_json, write_text
from .plan import Study
from .tables import Line, Outcomes, csv_table, markdown_table, numbers, tex_table, title, verdict_of, warnings_in

KEPT = ("test_last", "test_median", "validation_last", "test_checkpoints", "training_seconds")


def write_study(study: Study, outcomes: Outcomes, lines: Sequence[Line], out: Path) -> list[Path]:
    """Writes all four files; returns them."""
    name = title(study, outcomes)
    tables = {
        "csv": csv_table(lines),
        "md": markdown_table(study, lines, name, verdict_of(study, lines, outcomes)),
        "tex": tex_table(study, lines, name),
    }
    write_json(out / "study.json", record(study, outcomes, lines))
    for suffix, text in tables.items():
        write_text(out / f"table.{suffix}", text)
    return [out / "study.json", *(out / f"table.{suffix}" for suffix in tables)]


def record(study: Study, outcomes: Outcomes, lines: Sequence[Line]) -> dict[str, Any]:
    """Content of ``study.json``; the machine is that of the first finished run, each result has its own."""
    first: Mapping[str, Any] = next((o.result for o in outcomes.values() if o.result is not None), {})
    shared = ("task", "source", "labels", "unlabelled", "test_examples")
    return {
        "study": str(study.path),
        "recipe": str(study.recipe),
        "profile": study.profile,
        "profile_reason": study.why,
        "metric": study.metric,
        "unit": first.get("metric"),
        **{key: first.get(key) for key in shared},
        "seeds": list(study.seeds),
        "finished": all(outcome.status != "unfinished" for outcome in outcomes.values()),
        "warnings": study.warnings,
        "run_warnings": warnings_in(study, outcomes),
        "verdict": asdict(verdict_of(study, lines, outcomes)),
        "systems": [_system(study, line, outcomes) for line in lines],
        "machine": first.get("environment"),
    }


def _system(study: Study, line: Line, outcomes: Outcomes) -> dict[str, Any]:
    runs = []
    for seed in study.seeds:
        outcome = outcomes[line.row.name, seed]
        measured = {key: outcome.result.get(key) for key in KEPT} if outcome.result is not None else {}
        reason = {"reason": outcome.reason} if outcome.reason else {}
        folder = f"{line.row.folder}/seed{seed}"
        runs.append({"seed": seed, "folder": folder, "status": outcome.status, **reason, **measured})
    return {
        "name": line.row.name,
        "row": study.rows.index(line.row),
        "system": line.row.system,
        "point": line.row.point,
        "set": list(line.row.sets),
        "against": line.against,
        "best_point": line.best,
        **numbers(line),
        "differences": list(line.difference.differences) if line.difference is not None else None,
        "runs": runs,
    }
