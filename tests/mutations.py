"""Hypothesis strategies that damage YAML: trees with keys and values out of place, and texts cut, tangled and overwritten."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import yaml
from hypothesis import strategies as st

from metaimpute.recipes.optim import OptimizerSpec, ScheduleSpec
from metaimpute.recipes.schema import InnerSpec, ProblemSpec, TrainSpec

Keys = tuple[Any, ...]

NASTY: list[Any] = [
    None, True, False, 0, -1, 1, 2, 7, 10**9, 10**18, 10**30, -(10**30), 2**62, 2**63, 0.5, 1.0, -0.0, 1e-320, 1e308, 1e40,
    float("nan"), float("inf"), float("-inf"), "", " ", "none", "null", "exact", "l2i", "store", "auto", "nan", "1e400", "-1",
    "ü", "\u202e", "\x85", "a\nb", "日本", "\U0001f4a5", "x" * 5000, "../..", "/", "/dev/null", "a.b=c", "%s %d {0}", "[bold]", "\x1b[31m",
    "truncated(0)", "truncated(999999999999999999999)", "truncated(nan)", "neumann(-1)", "forward_gradient(1e9)", "cg()", "exact(",
    "checkpoint(99999999999999999999)", "revolve(0)", "auto(0MB)", "auto(1e999GB)", "auto(999999999999999999999999GB)",
    "relative(1e999)", "relative(.)", "relative(-1)", "cuda:99", "cpu:1", "meta", "mps", "1:2", "!!python/object:os.system x",
    [], {}, [[]], [{}], [None], [1, 2], [0.1, 0.2], ["a"], {"name": None}, {"name": []}, {"name": {}}, {"name": "x"},
    {None: None}, {1: 2}, {True: False}, {1.5: "x"}, {"": ""}, {"a": {"b": {"c": [{"d": None}]}}}, {"name": "sgd", "lr": "x"},
    {"name": "exact", "backend": 3}, {"name": "head", "parameters": 3}, b"\xff\x00", {"a", "b"}, [0.5] * 300,
]  # fmt: skip
SNIPPETS = [
    "\t", "\t- x\n", "\n\t\n", "&a ", "*a", "*nowhere", "<<: *x\n", "<<: {a: 1}\n", "<<: 3\n", "? [a, b]\n: 1\n", "? a\n", "---\n",
    "...\n", "--- \n--- \n", "%YAML 9.9\n---\n", "%TAG ! x\n", "!!python/object/apply:os.system ['true']", "!!python/name:os.system ",
    "!!binary xyz", "!!int abc", "!!float abc", "!!timestamp abc", "!!set {a, b}", "!!omap [a: 1]", "!!pairs [a: 1]", "!!bool x",
    "!local x", "!<tag:x> y", "2026-13-45", "2026-01-01", "1:99:99", "0x", "0b2", "0o9", ".inf", "-.INF", ".nan", "1_000", "1e", "+",
    "{", "}", "[", "]", ",", ":", ": ", "- ", "#", "|", ">\n", "'", '"', "\\", "@", "`", "%", "~", "=", "\0", "\x07", "\x85",
    "\u2028", "\ufeff", "\ud7ff", "\U0001f4a5", "[" * 3000, "{a: " * 1500, "- " * 3000, "9" * 5000, "x" * 20000, "a: &x [*x]\n", "b: &y {c: *y}\n",
    "&l1 [x,x,x,x,x,x,x,x,x]", '"\\ud800"', '"\\x00"', '"\\U00110000"', "key: 1\nkey: 2\n", "task: {}\n", "train: {steps: 1}\n", "1: 2\n",
    "null: 1\n", "[a]: 1\n", "{a: 1}: 1\n", "profiles: {paper: 3}\n", "about: {overrides: 3}\n", "about: {paper: [{table: 11}]}\n",
]  # fmt: skip
LAUGHS = "".join(f"l{n}: &l{n} [{', '.join([f'*l{n - 1}'] * 9)}]\n" for n in range(1, 12))
BOMB = f"l0: &l0 [lol]\n{LAUGHS}"
BYTES = [b"\xff\xfe", b"\x00", b"\xc3", b"\xed\xa0\x80", b"\x80" * 9, b"\x1f\x8b\x08", b"\xef\xbb\xbf"]


SECTIONS = ("task", "model", "method", "problem", "train")
OPTIONS = [
    *(f"train.{key}" for key in TrainSpec.model_fields), *(f"train.optimizer.{key}" for key in OptimizerSpec.model_fields),
    *(f"train.schedule.{key}" for key in ScheduleSpec.model_fields), *(f"problem.{key}" for key in ProblemSpec.model_fields),
    *(f"problem.inner.{key}" for key in InnerSpec.model_fields), *(f"problem.outer.{key}" for key in OptimizerSpec.model_fields),
    *(f"problem.inner.{key}" for key in ("optimizer", "momentum", "betas", "eps", "amsgrad", "nesterov", "no_such")),
    *(f"train.optimizer.{key}" for key in ("eps", "amsgrad", "dampening", "foreach", "no_such")),
    *(f"{section}.name" for section in SECTIONS), "task.labels", "task.label_share", "task.validation", "task.file", "task.test",
    "task.kind", "task.id", "task.ignore", "task.test_share", "model.width", "model.depth", "model.dropout", "method.weight",
    "method.threshold", "method.temperature", "method.ramp", "about.title", "about.overrides", "about.paper", "profiles.sample",
]  # fmt: skip


def paths(tree: Any, at: Keys = ()) -> list[Keys]:
    """Every place of a tree but its root."""
    inside = tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, list) else ()
    return [found for key, value in inside for found in [(*at, key), *paths(value, (*at, key))]]


def at(tree: Any, place: Keys) -> Any:
    for key in place:
        tree = tree[key]
    return tree


def _renamed(mapping: dict[Any, Any], old: Any, new: Any) -> None:
    items = [(new if key == old else key, value) for key, value in mapping.items()]
    mapping.clear()
    mapping.update(items)


words = st.one_of(st.sampled_from(["name", "nme", "lr", "steps", "", "a.b", "0", "<<"]), st.text(max_size=6))
values = st.one_of(
    st.sampled_from(NASTY),
    st.integers(),
    st.floats(),
    st.text(max_size=12),
    st.recursive(st.none() | st.booleans() | st.integers(-3, 3) | st.text(max_size=3),
                 lambda below: st.lists(below, max_size=3) | st.dictionaries(words, below, max_size=3), max_leaves=6),
)  # fmt: skip


def damaged_tree(draw: Callable[..., Any], tree: Any) -> Any:
    """A copy of a tree after one to three mishaps: keys deleted, misspelt or added, values replaced, wrapped or swapped."""
    tree = copy.deepcopy(tree)
    for _ in range(draw(st.integers(1, 3))):
        places = paths(tree)
        if not places:
            break
        place = draw(st.sampled_from(places))
        parent, key = at(tree, place[:-1]), place[-1]
        mishap = draw(st.sampled_from(["replace", "replace", "replace", "delete", "rename", "add", "wrap", "swap"]))
        if mishap == "replace":
            parent[key] = copy.deepcopy(draw(values))
        elif mishap == "delete":
            del parent[key]
        elif mishap == "rename" and isinstance(parent, dict):
            misspelt = str(key)[1:] + str(key)[:1]
            _renamed(parent, key, draw(st.one_of(words, st.just(misspelt), st.sampled_from([None, 1, True, 0.5]))))
        elif mishap == "add" and isinstance(parent, dict):
            parent[draw(st.one_of(words, st.sampled_from([key.rpartition(".")[2] for key in OPTIONS])))] = (
                copy.deepcopy(draw(values))
            )
        elif mishap == "wrap":
            parent[key] = draw(st.sampled_from([[parent[key]], {"name": parent[key]}, {key: parent[key]}]))
        else:
            parent[key] = copy.deepcopy(at(tree, draw(st.sampled_from(places))))
    return tree


def damaged_text(draw: Callable[..., Any], text: str) -> bytes:
    """A text's bytes after one to three mishaps."""
    raw = text.encode()
    for _ in range(draw(st.integers(1, 3))):
        spot = draw(st.integers(0, len(raw)))
        lines = raw.split(b"\n")
        line = draw(st.integers(0, len(lines) - 1))
        mishap = draw(
            st.sampled_from(
                ["insert", "insert", "append", "drop", "double", "cut", "bytes", "indent", "bomb", "overwrite"]
            )
        )
        if mishap == "insert":
            raw = raw[:spot] + draw(st.sampled_from(SNIPPETS)).encode() + raw[spot:]
        elif mishap == "append":
            lines[line] += draw(st.sampled_from(SNIPPETS)).encode()
            raw = b"\n".join(lines)
        elif mishap == "drop":
            raw = b"\n".join(lines[:line] + lines[line + 1 :])
        elif mishap == "double":
            raw = b"\n".join([*lines[: line + 1], *lines[line:]])
        elif mishap == "cut":
            raw = raw[:spot]
        elif mishap == "bytes":
            raw = raw[:spot] + draw(st.sampled_from(BYTES)) + raw[spot:]
        elif mishap == "indent":
            lines[line] = draw(st.sampled_from([b" ", b"   ", b"\t", b"- "])) + lines[line]
            raw = b"\n".join(lines)
        elif mishap == "bomb":
            raw = raw + b"\n" + BOMB.encode()
        else:
            raw = raw[:spot] + draw(st.binary(min_size=1, max_size=4)) + raw[spot + 4 :]
    return raw


def written(tree: Any) -> bytes:
    """A tree as YAML; what YAML has no words for is written as Python's text of it."""
    try:
        return yaml.safe_dump(tree, allow_unicode=True, sort_keys=False).encode("utf-8", "replace")
    except yaml.YAMLError:
        return repr(tree).encode("utf-8", "replace")


def damaged_file(texts: list[str]) -> st.SearchStrategy[tuple[int, bytes]]:
    """The number of one of the texts, and it damaged as a tree or as a text."""

    @st.composite
    def build(draw: Callable[..., Any]) -> tuple[int, bytes]:
        which = draw(st.integers(0, len(texts) - 1))
        if draw(st.integers(0, 2)):
            return which, written(damaged_tree(draw, yaml.safe_load(texts[which])))
        return which, damaged_text(draw, texts[which])

    return build()


def assignments(trees: list[Any]) -> st.SearchStrategy[tuple[int, list[str]]]:
    """The number of one of the trees, and one to three ``key=value`` texts, most of them of keys that it has."""

    @st.composite
    def build(draw: Callable[..., Any]) -> tuple[int, list[str]]:
        which = draw(st.integers(0, len(trees) - 1))
        known = [".".join(map(str, place)) for place in paths(trees[which]) if place[0] in SECTIONS]
        found = []
        for _ in range(draw(st.sampled_from([1, 1, 2]))):
            key = draw(st.sampled_from(known + OPTIONS) if draw(st.integers(0, 5)) else words)
            plain = st.one_of(
                values.map(lambda value: written(value).decode().removesuffix("...\n").strip()),
                st.sampled_from(SNIPPETS),
                st.text(max_size=10),
            )
            found.append(
                draw(st.sampled_from(["{}={}"] * 9 + ["{}.x={}", "{}", "{}=={}", " {} = {} "])).format(key, draw(plain))
            )
        return which, found

    return build()
