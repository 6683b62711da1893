"""Presets and run folders: YAML, JSON and JSON lines."""

from __future__ import annotations

import json
from pathlib import Path

from hypothesis import strategies as st
from mutations import Draw, mutated
from target import Target

from seqdomains.cli.config import resolve
from seqdomains.cli.run_config import RunConfig
from seqdomains.pipelines.metrics import read_metrics
from seqdomains.pipelines.run_folder import RunFolder, flatten

PRESET = RunConfig().model_dump(mode="json")
_VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.sampled_from((10**30, 10**400, -1, 0))
    | st.floats()
    | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)
YAML_TRICKS = (
    b"a: &a [x,x,x,x,x,x,x,x,x]\n"
    + b"".join(b"%c: &%c [%s]\n" % (98 + i, 98 + i, b"*%c," % (97 + i) * 9) for i in range(9)),
    b"a: &a [*a]\n",
    b"<<: {train: {steps: 3}}\n",
    b"train: !!python/object/apply:os.system [touch canary]\n",
    b"train: !!python/name:os.system\n",
    b"!<tag:yaml.org,2002:python/module:os> x\n",
    b"train: {steps: 1}\ntrain: {steps: 2}\n",
    b"? [train]\n: 1\n",
    b"? {a: 1}\n: 1\n",
    b'model: {"a\\nb": 1, "c:": 1}\n',
    b'train: "\\UFFFFFFFF"\n',
    b'train: "\\ud800"\n',
    b'train: {"\\x1b[31m": 1}\n',
    b"%YAML 9" + b"9" * 5000 + b".1\n---\na: 1\n",
    b"%TAG ! tag:x,2000:\n--- !y\na: 1\n",
    b"train: |9\n x\n",
    b"train: " + b"9" * 5000,
    b"train: {steps: 1e999, lr: .nan}\n",
    b"---\na: 1\n---\nb: 2\n",
    b"\xff\xfet\x00r\x00",
)
DEEP = (b"[" * 100_000, b"{a: " * 100_000, b"- " * 100_000, b"? " * 100_000, b'{"a":' * 100_000)


def as_yaml(tree: object) -> bytes:
    """Write a tree as JSON, which is YAML too, over lines."""
    return json.dumps(tree, indent=1).encode("utf-8", errors="replace")


@st.composite
def edited(draw: Draw, tree: dict[str, object], *, most: int = 3) -> dict[str, object]:
    """Put other values, keys and types into a tree."""
    tree = json.loads(json.dumps(tree))
    for _ in range(draw(st.integers(0, most))):
        place = tree
        while True:
            inner = [key for key, value in place.items() if isinstance(value, dict) and value]
            if not inner or draw(st.booleans()):
                break
            place = place[draw(st.sampled_from(inner))]
        key = draw(st.sampled_from([*sorted(place), "unknown"]) | st.text(max_size=6))
        if draw(st.integers(0, 4)) == 0:
            place.pop(key, None)
        else:
            place[key] = draw(_VALUES)
    return tree


@st.composite
def _yaml(draw: Draw) -> bytes:
    kind = draw(st.integers(0, 3))
    if kind == 0:
        return draw(mutated(draw(st.sampled_from(YAML_TRICKS))))
    text = as_yaml(draw(edited(PRESET)))
    if kind == 1:
        return draw(mutated(text))
    plain = b"train:\n  steps: 3\n  lr: 1e-4\ndata: {window: 8}\nmodel:\n- a\n# end\n"
    return draw(mutated(draw(st.sampled_from(YAML_TRICKS))[:200] + plain if kind == 2 else plain))


def _resolve(folder: Path) -> None:
    resolve(RunConfig, preset=str(folder / "x.yaml")).as_yaml(sources=True)


RUN = {
    "config.yaml": as_yaml(PRESET),
    "environment.json": b'{"sessions": [{"python": "3.11", "threads": 2}]}\n',
    "evaluation.json": b'{"accuracy": 0.5, "confusion": [[1, 0], [0, 1]]}\n',
    "metrics.jsonl": b'{"step": 1, "loss": 2.0}\n{"step": 2, "loss": 1.5}\n{"st',
}


@st.composite
def _run_folder(draw: Draw) -> dict[str, bytes]:
    name = draw(st.sampled_from(sorted(RUN)))
    return {name: draw(_yaml() if name == "config.yaml" else mutated(RUN[name]))}


def _read_run(folder: Path) -> None:
    run = RunFolder(folder)
    flatten(run.read_config())
    run.sessions()
    run.read_evaluation()
    read_metrics(run.metrics)


TARGETS = (
    Target(
        "preset",
        _yaml().map(lambda data: {"x.yaml": data}),
        _resolve,
        # a file and line, or a dotted key
        where=r"IN/x\.yaml|^.+: ",
        valid={"x.yaml": b"train: {steps: 3}\n"},
        worst=tuple(
            {"x.yaml": content}
            for content in (
                *DEEP,
                *YAML_TRICKS,
                b"a: [" + b"1, " * 500_000,
                b"x" * (4 << 20),
                b"a: {" + b"a," * 64_000,
                b"".join(b"a%d: 1\n" % n for n in range(12_000)),
            )
        ),
    ),
    Target(
        "run folder",
        _run_folder(),
        _read_run,
        where=r"IN",
        valid=RUN,
        base=RUN,
        worst=(
            *({"config.yaml": content} for content in (*DEEP, *YAML_TRICKS)),
            *({name: DEEP[0]} for name in RUN),
            *({name: b'{"step": ' + b"9" * 5000 + b"}\n"} for name in RUN),
            {"environment.json": b"{}"},
            {"environment.json": b'{"sessions": 1}'},
            {"metrics.jsonl": b'{"step": 1e999}\n{"step": 1}\n'},
            {"metrics.jsonl": b"[]\n{}\n"},
        ),
    ),
)
