"""``metaimpute impute`` and ``metaimpute predict``."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ..progress import phase
from .errors import plain_errors
from .options import imports, results
from .output import done, echo, in_json, next_step, note, print_json, result, screen, working

if TYPE_CHECKING:
    from ..inference import Given, Imputed, Predictions, Predictor
    from ..tasks.contents import Contents

SHOWN = 10
KINDS = ("csv", "parquet", "label-studio", "doccano", "cleanlab")
DATA = "The run's data, where it is no longer where the run found it: its file, or its folder of images."


def labelling(command: Callable[..., Any]) -> Callable[..., Any]:
    """What both commands ask for beside the run."""
    truth = "Table with columns id and label (or value), to print the error of the labels against."
    sets = "Add the set of classes that holds the true one with this probability, e.g. 0.9."
    content = "Add what each row holds: its text, the path of its image, the cells of its row."
    for option in (
        imports,
        results,
        click.option("--device", default="auto", show_default=True),
        click.option("--data", type=click.Path(path_type=Path, exists=True), help=DATA),
        click.option("--truth", type=click.Path(path_type=Path, exists=True, dir_okay=False), help=truth),
        click.option("--min-confidence", type=click.FloatRange(0, 1), help="Leave out labels that are less probable."),
        click.option("--sets", type=click.FloatRange(0, 1, min_open=True, max_open=True), help=sets),
        click.option("--with-content", is_flag=True, help=content),
        click.option("--format", "kind", type=click.Choice(KINDS), help="What the file is for; default csv."),
    ):
        command = option(command)
    return command


@click.command()
@click.argument("run", type=click.Path(path_type=Path))
@click.option(
    "--out", type=click.Path(path_type=Path), help="File of labels; default RUN/labels.csv, or what --format needs."
)
@click.option(
    "--with-given", is_flag=True, help="Add the rows that had a label, with it and a column that tells them apart."
)
@labelling
def impute(
    run: Path, out: Path | None, with_given: bool, min_confidence: float | None, truth: Path | None, device: str,
    data: Path | None, sets: float | None, with_content: bool, kind: str | None,
) -> None:  # fmt: skip
    """Write labels for the unlabelled examples that RUN was trained on, the least sure ones ranked first.

    A row of the file: id, label, confidence, rank (1 is the least sure), runner-up, whether the label is doubtful, and the
    probability of every class. Doubtful are the fewest rows that together hold three quarters of the expected errors.
    """
    with plain_errors():
        from ..inference import given_of, held_out_of, imputed
        from ..inference.predictions import check_truth
        from ..rundir.files import refuse_input
        from ..rundir.layout import PREDICTED
        from ..tasks.contents import contents_of

        check_truth(truth)
        with working():
            made = imputed(run, device, data)
        found = made.found if sets is None else made.predictor.with_sets(made.found, sets)
        target = _target(out, kind, run / PREDICTED)
        refuse_input(target, truth, *made.task.files_read())
        given, contents = None, None
        if with_given or kind == "cleanlab":
            given = given_of(made, held_out_of(run, made))
        if with_content or kind in ("label-studio", "doccano"):
            contents = contents_of(made.task, made.unlabelled)
            for pool in made.given if given is not None else ():
                more = contents_of(made.task, pool)
                contents = contents.joined(more) if contents is not None and more is not None else None
        _warn_of_sign(made)
        _finish(found, made.predictor, target, min_confidence, truth, kind, contents, given, with_content, run)


@click.command()
@click.argument("run", type=click.Path(path_type=Path))
@click.argument("inputs", type=click.Path(path_type=Path, exists=True), required=False)
@click.option("--out", type=click.Path(path_type=Path), help="File of labels; without it, a table is printed.")
@labelling
def predict(
    run: Path, inputs: Path | None, out: Path | None, min_confidence: float | None, truth: Path | None, device: str,
    data: Path | None, sets: float | None, with_content: bool, kind: str | None,
) -> None:  # fmt: skip
    """Labels for new INPUTS (a file or a folder) by the network of RUN; --data is another way to name them."""
    with plain_errors():
        from ..inference import load
        from ..inference.predictions import check_truth
        from ..rundir.files import refuse_input
        from ..tasks.contents import contents_in

        if (inputs is None) == (data is None):
            raise click.UsageError("Name INPUTS to label, a file or a folder, once.")
        source = inputs or data
        assert source is not None
        if out is None and (kind is not None or with_content):
            raise click.UsageError("--format and --with-content are of a file: name it with --out.")
        check_truth(truth)
        if out is not None:
            out = _target(out, kind, out)
            refuse_input(out, source, truth)
        with working():
            with phase("loading the run"):
                predictor = load(run, device)
            found = predictor.predict(source)
        found = found if sets is None else predictor.with_sets(found, sets)
        for line in predictor.task.read_warnings:
            echo(f"warning: {line}", err=True)
        wanted = with_content or kind in ("label-studio", "doccano")
        contents = contents_in(predictor.task, source, found.ids) if wanted else None
        _finish(found, predictor, out, min_confidence, truth, kind, contents, None, with_content)
        if out is None:
            from ..terminal import argument

            next_step(f"metaimpute predict {argument(run)} {argument(source)} --out labels.csv")


def _warn_of_sign(made: Imputed) -> None:
    from ..inference.doubt import beyond_zero
    from ..tasks.own_data import OwnData

    if not isinstance(made.task, OwnData) or made.found.values is None:
        return
    given = [value for pool in made.given for value in made.task.given_values(pool) or ()]
    if line := beyond_zero(made.found.values[:, 0], [float(value) for value in given]):
        echo(f"warning: {line}", err=True)


def _target(out: Path | None, kind: str | None, usual: Path) -> Path:
    """The file to write, its ending that of the format.

    Raises:
        UsageError: where a name and a format do not fit.
    """
    from ..inference.formats import SUFFIXES

    if kind is None:
        return out or usual
    suffix = SUFFIXES[kind]
    if out is None:
        return usual.with_suffix(suffix) if kind in ("csv", "parquet") else usual.with_name(f"{kind}{suffix}")
    if out.suffix.lower() != suffix:
        raise click.UsageError(f"--format {kind} writes a {suffix} file; name it so with --out.")
    return out


def _finish(
    found: Predictions, predictor: Predictor, out: Path | None, least: float | None, truth: Path | None,
    kind: str | None = None, contents: Contents | None = None, given: Given | None = None, with_content: bool = False,
    run: Path | None = None,
) -> None:  # fmt: skip
    """Writes or prints the labels, and says what there is to say about them; ``run``: whose unlabelled rows they are of."""
    from ..inference.formats import Labels, write_as
    from ..inference.predictions import first_few

    kept = found
    if least is not None:
        places = found.places_at_least(least)
        kept = found.take(places)
        if contents is not None:
            contents = contents.take([*places, *range(len(found), len(contents.rows))])
    files: list[Path] = []
    if out is not None:
        plain = kind or "csv"
        labels = Labels(kept, contents, given, f"metaimpute {run.resolve().name}" if run is not None else "metaimpute")
        files = write_as(plain, out, labels, with_content=with_content, with_given=given is not None)
        and_given = f" and {len(given):,} given ones" if given is not None and kind != "cleanlab" else ""
        done(f"wrote {len(kept):,} labels{and_given} to {' and '.join(map(str, files))}")
    elif not in_json():
        _print(kept)
    against = None if truth is None or not len(kept) else kept.against(truth, predictor.task.output)
    if in_json():
        print_json(_document(kept, files, against, truth))
    if least is not None:
        result(f"left out {len(found) - len(kept):,} of {len(found):,} below confidence {least:g}")
    if kept.probabilities is not None and len(kept):
        counts = [f"{name} {count:,}" for name, count in kept.counts().items()]
        shown = ", ".join(counts[:SHOWN]) + (f" and {len(counts) - SHOWN} more classes" if len(counts) > SHOWN else "")
        result(f"labels: {shown}; mean confidence {float(kept.probabilities.max(-1).values.mean()):.2f}")
    if kept.sets is not None and len(kept):
        sizes = kept.sets.sum(1).double()
        result(
            f"sets: {float(sizes.mean()):.1f} classes in the mean; {float((sizes == 1).double().mean()):.0%} hold one alone"
        )
    if kept.values is not None and len(kept):
        for line in _ranges(kept):
            result(line)
    if truth is not None and against is None:
        result(f"no label is left to compare with {truth}")
    if truth is not None and against is not None:
        error, known = against
        unit = "%" if kept.probabilities is not None else " (root mean squared)"
        result(f"error against {truth}: {error:.2f}{unit} of {known:,} labels")
        strangers = kept.strangers(truth)
        if strangers:
            names = first_few(dict.fromkeys(strangers))
            echo(f"{len(strangers):,} of {known:,} true labels are no class of this network: {names}", err=in_json())
    if run is not None and out is not None and len(kept) and kept.doubt is not None:
        _advise(kept, run, out, kind or "csv", least is None)


def _document(
    kept: Predictions, files: list[Path], against: tuple[float, int] | None, truth: Path | None
) -> dict[str, Any]:
    """The labels as JSON has them: rows by column where no file holds them, counts, and the error against true labels."""
    found: dict[str, Any] = {"count": len(kept), "files": files}
    if kept.probabilities is not None:
        found["labels"] = kept.counts()
    if against is not None:
        found["against"] = {"truth": truth, "error": against[0], "labels": against[1]}
    if not files:
        found["rows"] = [dict(zip(kept.header, row, strict=True)) for row in kept.rows()]
    return found


def _advise(kept: Predictions, run: Path, out: Path, kind: str, whole: bool) -> None:
    from ..inference.doubt import advice, confirmed, seldom
    from ..rundir.result import Result
    from ..terminal import argument

    assert kept.doubt is not None
    of_classes, ranked = kept.probabilities is not None, kind in ("csv", "parquet")
    expected = Result.expected_of(run)
    if whole and kept.probabilities is not None and confirmed(expected):
        for one in seldom(kept.probabilities, kept.names):
            note(one.said(ranked))
    note(f"next: {advice(kept.doubt, str(out), of_classes, ranked, expected=expected)}")
    note(
        f"metaimpute review {argument(run)} shows them on a page; metaimpute suggest {argument(run)} names rows to label next"
    )


def _print(found: Predictions) -> None:
    from rich.table import Table

    from ..terminal import cell

    table = Table()
    header, rows = found.brief(SHOWN)
    for name in header:
        table.add_column(cell(name))
    for row in rows:
        table.add_row(*map(cell, row))
    screen(soft_wrap=True).print(table)
    if len(found) > SHOWN:
        note(f"and {len(found) - SHOWN:,} more; --out FILE writes all")


def _ranges(found: Predictions) -> list[str]:
    """Count, mean and range of predicted values, a line for each of the first few outputs."""
    assert found.values is not None
    columns = found.values.double().T
    names = ["values"] if len(columns) == 1 else found.names
    lines = [
        f"{name}: {len(found):,}, mean {float(column.mean()):.4g}, from {float(column.min()):.4g} to {float(column.max()):.4g}"
        for name, column in zip(names[:SHOWN], columns, strict=False)
    ]
    return lines + ([f"and {len(columns) - SHOWN} more values of each row"] if len(columns) > SHOWN else [])
