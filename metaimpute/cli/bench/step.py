"""``bench step``: what a training step costs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from ..errors import plain_errors
from ..output import note, working
from .options import names, placed, sized, written
from .showing import finish, show


@click.command()
@click.option(
    "--method",
    "methods",
    callback=names,
    default="mean_teacher:1,fixmatch:7",
    show_default=True,
    help="METHOD:MU, unlabelled batches per labelled one.",
)
@sized
@click.option("--speed", is_flag=True, help="The same steps in bf16, fp16, channels last, fused and compiled instead.")
@click.option(
    "--ways",
    callback=names,
    default="float32,bf16,fp16,channels_last,fused,compiled",
    show_default=True,
    help="With --speed: which of them; float32 is always one.",
)
@click.option("--side", default=32, show_default=True, type=click.IntRange(8), help="With --speed: pixels of an image.")
@click.option("--repeats", default=5, show_default=True, type=click.IntRange(1))
@placed
@written
def step(
    methods: tuple[str, ...], batch: int, speed: bool, ways: tuple[str, ...], side: int, repeats: int, threads: int, device: str,
    out: Path | None,
) -> None:  # fmt: skip
    """Cost of one training step of WRN-16-2 against the limit of counting passes."""
    with plain_errors():
        import torch

        from ...bench import speed as in_ways
        from ...bench import step as kinds
        from ...environment import NoDevice, pick_device

        pairs = []
        for text in methods:
            name, _, mu = text.partition(":")
            if name not in ("mean_teacher", "fixmatch") or not (mu or "1").isdigit():
                raise click.UsageError(f"'{text}': write mean_teacher:1 or fixmatch:7")
            pairs.append((name, int(mu or 1)))
        torch.set_num_threads(threads)
        try:
            where = str(pick_device(device))
        except NoDevice as error:
            raise click.UsageError(str(error)) from None
        unknown = [way for way in ways if way not in in_ways.WAYS]
        if unknown:
            raise click.UsageError(f"--ways: '{unknown[0]}' is none; write some of {', '.join(in_ways.WAYS)}")
        work: Any = in_ways if speed else kinds
        chosen: dict[str, Any] = {"ways": tuple(dict.fromkeys(("float32", *ways))), "side": side} if speed else {}
        with working():
            result = work.sweep(pairs, batch=batch, repeats=repeats, device=where, say=note, **chosen)
        show(work.table, result)
        finish(result, out)
