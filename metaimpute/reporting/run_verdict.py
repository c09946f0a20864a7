"""What one finished run says, in sentences: how much is wrong, how sure that is, what it learnt from, what it cost, what next."""

from __future__ import annotations

from ..rundir.measure import FEW, PERCENT, interval_of
from ..rundir.result import Result
from ..terminal import argument
from .comparison import Compared
from .console import error_shown, system_name, uneven, unit_of
from .verdict import Verdict, duration, said_amount
from .warned import warnings_of


def run_verdict(result: Result, folder: str | None = None) -> Verdict:
    """Sentences about one run.

    Args:
        folder: of the run, for the command to type next.
    """
    lines = [_tested(result)]
    expected = result.expected
    if expected is not None and expected["error"] is not None:
        said = error_shown(expected, unit_of(result))
        of = (
            f"Of the labels it imputes expect {said} wrong"
            if unit_of(result)
            else f"Expect its values to be off by {said}"
        )
        lines.append(f"{of}, measured on labels held out.")
    guess = _guess(result)
    if guess is not None:
        lines.append(f"The most frequent class alone would be {guess:.1f}% wrong.")
    if uneven(result):
        assert result.balanced_accuracy is not None
        lines.append(f"Classes are uneven: in the mean over classes {100 - result.balanced_accuracy:.1f}% are wrong.")
    count = f"{result.labels:,} labelled and {result.unlabelled:,} unlabelled rows"
    lines.append(f"It learnt from {count} in {result.steps:,} steps, {duration(result.training_seconds)}.")
    warned = warnings_of(result)
    if warned:
        more = f" (and {len(warned) - 1} more)" if len(warned) > 1 else ""
        lines.append(f"It warned: {warned[0]}{more}.")
    return Verdict(None, tuple(lines), _next(result, folder))


def _tested(result: Result) -> str:
    name, rows, error = system_name(result), result.test_examples, result.test_last
    if error is None or not rows:
        return f"{name} on {result.source}: trained, and not tested, since there is no test set."
    interval = interval_of(result)
    if result.metric == PERCENT:
        wrong, sure = round(error * rows / 100), _interval(interval, "%")
        if rows < FEW:
            return f"{name}: {wrong} of {rows} test rows wrong{sure}; that is too few to tell more."
        return f"{name}: {error:.1f}% of {rows:,} test rows wrong{sure}."
    percent = "%" if result.metric.endswith("%") else ""
    few = "; that is too few to tell more" if rows < FEW else ""
    return f"{name}: {said_amount(error, result.metric)} over {rows:,} test rows{_interval(interval, percent)}{few}."


def _interval(found: tuple[float, float] | None, unit: str) -> str:
    if found is None:
        return ""
    low, high = (f"{end:.0f}" if unit and end >= 10 else f"{end:.3g}" for end in found)
    return f" (95% interval {low} to {high}{unit})"


def _guess(result: Result) -> float | None:
    """Error in percent of the most frequent class on the test rows; None where nothing counts them."""
    counts = [sum(row) for row in result.confusion or ()]
    return 100 * (1 - max(counts) / sum(counts)) if sum(counts) else None


def _next(result: Result, folder: str | None) -> str:
    if result.expected is not None:
        return f"metaimpute impute {argument(folder)} writes the labels" if folder else "impute the labels"
    return "run other seeds: which rows are labelled can matter more than the method"


def said_of(compared: Compared) -> Verdict:
    """Of a single run its own verdict, else that of the comparison."""
    runs = [run for seeds in compared.systems.values() for run in seeds]
    return run_verdict(runs[0].result, str(runs[0].folder)) if len(runs) == 1 else compared.verdict
