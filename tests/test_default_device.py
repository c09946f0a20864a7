"""What torch.set_default_device says is the user's: the package's own new tensors name their device, or follow another tensor's."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "metaimpute"
FACTORIES = {
    "rand", "randn", "randint", "randperm", "normal", "zeros", "ones", "empty", "full", "arange", "linspace", "eye", "tensor",
    "as_tensor", "Generator",
}  # fmt: skip
# what a user's own program calls inside its loop; the rest runs inside as_usual(), under which the default is the CPU
EVERYWHERE = ("batches", "engine", "inference", "methods", "problems", "testing", "training")


def without_device(text: str) -> list[tuple[int, bool]]:
    """Lines of calls of torch's factories that name no device, and whether a generator is drawn from."""
    found = []
    for node in ast.walk(ast.parse(text)):
        if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)):
            continue
        names = {keyword.arg for keyword in node.keywords}
        of_torch = isinstance(node.func.value, ast.Name) and node.func.value.id == "torch"
        if of_torch and node.func.attr in FACTORIES and "device" not in names:
            found.append((node.lineno, "generator" in names or node.func.attr == "Generator"))
    return found


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("*.py")), ids=lambda p: str(p.relative_to(PACKAGE)))
def test_a_new_tensor_names_its_device(path: Path) -> None:
    everywhere = path.relative_to(PACKAGE).parts[0] in EVERYWHERE
    lines = [line for line, drawn in without_device(path.read_text()) if everywhere or drawn]
    assert not lines, f"{path.relative_to(PACKAGE.parent)}: name device= in lines {lines}"


def test_a_call_without_a_device_is_seen() -> None:
    text = "torch.randn(3, generator=rng)\ntorch.zeros(2, device=d)\ntorch.Generator()\nnp.zeros(2)\ntorch.ones(1)"
    assert without_device(text) == [(1, True), (3, True), (5, False)]
