"""Artefacts, official checkpoints and training checkpoints: config.json, manifests and safetensors."""

from __future__ import annotations

import hashlib
import json
import struct
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from documents import DEEP, edited
from hypothesis import strategies as st
from mutations import Draw, mutated
from target import Target

from seqdomains.backbone import MambaConfig, MambaLM, SequenceClassifier, from_pretrained, save_pretrained
from seqdomains.backbone.official import load_official
from seqdomains.estimators import SequenceClassifier as Estimator
from seqdomains.pipelines.checkpoint import load_latest, save_checkpoint

CONFIG, WEIGHTS = "config.json", "model.safetensors"
DTYPES = ("F32", "F16", "BF16", "F64", "I64", "BOOL", "U8", "U16", "C64", "F8_E4M3", "F8_E8M0", "F4", "F6_E2M3", "X")
SIZES = (0, 1, 3, 8, 1 << 31, 1 << 63, 1 << 64, -1, 10**30, 1.5, "1", None)


def _folder(write: Callable[[Path], object]) -> dict[str, bytes]:
    with tempfile.TemporaryDirectory() as name:
        write(Path(name) / "model")
        root = Path(name) / "model"
        return {str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*") if path.is_file()}


def split(data: bytes) -> tuple[dict[str, Any], bytes]:
    """Return the header and the values of a safetensors file."""
    length = struct.unpack("<Q", data[:8])[0]
    return json.loads(data[8 : 8 + length]), data[8 + length :]


def join(header: object, values: bytes, *, length: int | None = None) -> bytes:
    """Write a safetensors file, on request with a header length that lies."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + values


torch.manual_seed(0)
_SMALL = MambaConfig(d_model=8, n_layer=2, d_state=3)
ARTEFACT = _folder(
    lambda path: save_pretrained(
        SequenceClassifier(_SMALL, classes=("a", "b"), pooling="mean"), path, signature={"domain": "genomics"}
    )
)
ESTIMATOR = _folder(lambda path: Estimator(d_model=8, n_layer=1, steps=1).fit(["ACGT", "TTTT"], ["a", "b"]).save(path))
OFFICIAL = {
    CONFIG: b'{"model_type": "mamba", "hidden_act": "silu", "layer_norm_epsilon": 1e-05}',
    WEIGHTS: _folder(lambda path: MambaLM(_SMALL).save_pretrained(path, signature={}))[WEIGHTS],
}
CHECKPOINT = _folder(
    lambda path: save_checkpoint(
        path, 3, {"model": {"w": torch.ones(4), "n": torch.ones(2, dtype=torch.int64)}}, {"a": 1}
    )
)
_AT = "step-00000003/"
LAST = f"{_AT}model.safetensors"


@st.composite
def weights(draw: Draw, data: bytes) -> bytes:
    """Make the header lie about offsets, shapes, types, names and its own length."""
    header, values = split(data)
    for _ in range(draw(st.integers(0, 3))):
        name = draw(st.sampled_from(sorted(header)))
        entry = header[name]
        kind = draw(st.sampled_from(("offsets", "shape", "dtype", "name", "drop", "swap", "any", "meta")))
        if kind == "meta":
            header["__metadata__"] = draw(st.sampled_from(({}, {"a": "\x1b[31m"}, {"a": 1}, [], {"format": "np"})))
        elif kind == "drop":
            del header[name]
        elif kind == "name":
            odd = draw(st.sampled_from(("", "../canary", "/etc/passwd", "\x1b[31m", "x" * 5000, "\ud800")) | st.text())
            header[odd] = header.pop(name)
        elif kind == "any" or not isinstance(entry, dict) or "shape" not in entry:
            header[name] = draw(st.sampled_from(([], {}, None, 1, "x", {"dtype": "F32"})))
        elif kind == "offsets":
            entry["data_offsets"] = draw(
                st.lists(st.sampled_from((*SIZES, *(entry.get("data_offsets") or ()))), max_size=3)
            )
        elif kind == "shape":
            entry["shape"] = draw(st.lists(st.sampled_from((*SIZES, *(entry["shape"] or ()))), max_size=4))
        elif kind == "dtype":
            entry["dtype"] = draw(st.sampled_from(DTYPES))
        else:  # overlapping tensors
            other = header[draw(st.sampled_from(sorted(header)))]
            entry["data_offsets"] = other.get("data_offsets") if isinstance(other, dict) else None
        if not header:
            break
    text = draw(st.just(json.dumps(header).encode()) | mutated(json.dumps(header).encode(), most=2))
    length = draw(st.sampled_from((None, None, None, None, 0, 7, 1 << 31, 1 << 63, (1 << 64) - 1)))
    if draw(st.integers(0, 3)) == 0:
        bits = draw(st.sampled_from((b"\x00\x00\xc0\x7f", b"\x00\x00\x80\xff")))  # NaN, minus infinity
        values = values[:-4] + bits
    return draw(mutated(join(text, values, length=length), most=draw(st.sampled_from((0, 0, 2)))))


@st.composite
def _json(draw: Draw, data: bytes) -> bytes:
    tree = json.loads(data)
    return draw(mutated(json.dumps(draw(edited(tree)), indent=1).encode(), most=draw(st.sampled_from((0, 0, 3)))))


@st.composite
def _model(draw: Draw, files: dict[str, bytes], changed: str) -> dict[str, bytes]:
    change = _json if changed == CONFIG else weights
    return {changed: draw(change(files[changed]))}


def sealed(files: dict[str, bytes]) -> dict[str, bytes]:
    """Write the manifest anew, so that a changed file gets behind the hashes."""
    manifest = json.loads(CHECKPOINT[f"{_AT}manifest.json"])
    for name in manifest["files"]:
        data = files.get(_AT + name, CHECKPOINT[_AT + name])
        manifest["files"][name] = {"size": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    return {**files, f"{_AT}manifest.json": json.dumps(manifest).encode()}


@st.composite
def _checkpoint(draw: Draw) -> dict[str, bytes]:
    kind = draw(st.sampled_from(("manifest", "entry", "state", "tensors")))
    name = f"{_AT}{'manifest' if kind in ('manifest', 'entry') else 'state'}.json"
    if kind == "entry":
        manifest = json.loads(CHECKPOINT[name])
        entry = {"size": 6, "sha256": hashlib.sha256(b"canary").hexdigest()}
        odd = (
            st.sampled_from(("..", ".", "", "../../canary", "/etc/passwd", "a\x00b", "\ud800", "x" * 5000)) | st.text()
        )
        manifest["files"][draw(odd)] = draw(st.sampled_from((entry, {}, [], None, {"size": 1 << 70})))
        return {name: json.dumps(manifest).encode()}
    if kind == "manifest":
        return {name: draw(_json(CHECKPOINT[name]))}
    if kind == "state":
        return sealed({name: draw(_json(CHECKPOINT[name]))})
    return sealed({LAST: draw(weights(CHECKPOINT[LAST]))})


def _many_blocks(count: int) -> dict[str, bytes]:
    config = json.loads(ARTEFACT[CONFIG])
    config["model"]["n_layer"] = count
    empty = {f"a{number}": {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]} for number in range(count)}
    return {CONFIG: json.dumps(config).encode(), WEIGHTS: join(empty, b"")}


def _with_config(**model: object) -> dict[str, bytes]:
    config = json.loads(ARTEFACT[CONFIG])
    config["model"] |= model
    return {CONFIG: json.dumps(config).encode()}


_DEEP_FILES = (
    *DEEP,
    b'{"format_version": ' + b"9" * 5000 + b"}",
    b'{"a":' * 5000 + b"1" + b"}" * 5000,
    b"NaN",
    b"\xff",
    b"",
)
_HEADERS = (
    b"",
    bytes(8),
    join(b"{}", b""),
    join(b"{", b""),
    join(b"[" * 100_000, b""),
    join(b'{"a":' * 100_000, b""),
    join(b"{}", b"", length=(1 << 64) - 1),
    join(b" " * (4 << 20), b""),
    join({"x" * (1 << 20): {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}, bytes(4)),
    join({"x": {"dtype": "F32", "shape": [1 << 62, 4], "data_offsets": [0, 4]}}, bytes(4)),
)

TARGETS = (
    Target(
        "config.json",
        _model(ARTEFACT, CONFIG),
        from_pretrained,
        where=r"IN/config\.json|IN/model\.safetensors",
        valid=ARTEFACT,
        base=ARTEFACT,
        worst=(
            *({CONFIG: content} for content in _DEEP_FILES),
            *(
                _with_config(**{key: size})
                for key in ("d_model", "d_state", "vocab_size", "expand", "dt_rank")
                for size in (1 << 40, 10**30, 10**400)
            ),
            _with_config(n_layer=10**400),
            _with_config(n_layer=1000),
        ),
    ),
    Target(
        "safetensors",
        _model(ARTEFACT, WEIGHTS),
        from_pretrained,
        where=r"IN/config\.json|IN/model\.safetensors",
        valid=ARTEFACT,
        base=ARTEFACT,
        worst=(*({WEIGHTS: content} for content in _HEADERS), _many_blocks(40_000)),
    ),
    Target(
        "saved estimator",
        _json(ESTIMATOR["estimator.json"]).map(lambda data: {"estimator.json": data}),
        Estimator.load,
        where=r"IN",
        valid=ESTIMATOR,
        base=ESTIMATOR,
        worst=(
            *({"estimator.json": content} for content in DEEP),
            *(
                {"estimator.json": json.dumps(json.loads(ESTIMATOR["estimator.json"]) | changes).encode()}
                for changes in (
                    {"dtype": "<U9999"},
                    {"dtype": "<i8"},
                    {"dtype": "|O"},
                    {"classes": ["a"] * 200_000},
                    {"classes": [True, 1, 1.5, "b"]},
                    {"window": 10**400},
                    {"parameters": {"d_model": 10**400, "pretrained": "/etc/passwd"}},
                )
            ),
        ),
    ),
    Target(
        "official checkpoint",
        _model(OFFICIAL, CONFIG) | _model(OFFICIAL, WEIGHTS),
        load_official,
        where=r"IN/config\.json|IN/model\.safetensors",
        valid=OFFICIAL,
        base=OFFICIAL,
        worst=(
            *({CONFIG: content} for content in _DEEP_FILES),
            *({WEIGHTS: content} for content in _HEADERS),
            *(
                {CONFIG: b'{"model_type": "mamba", "layer_norm_epsilon": %s}' % value}
                for value in (b'"x"', b"[]", b"1e999", b"-1")
            ),
        ),
    ),
    Target(
        "checkpoint",
        _checkpoint(),
        load_latest,
        where=r"IN/step-00000003",
        valid=CHECKPOINT,
        base=CHECKPOINT,
        worst=(
            *({f"{_AT}manifest.json": content} for content in _DEEP_FILES),
            *(sealed({f"{_AT}state.json": content}) for content in (*_DEEP_FILES, b"{}", b'{"step": "x", "state": 1}')),
            *(sealed({LAST: content}) for content in _HEADERS),
            *(
                sealed(
                    {
                        **CHECKPOINT,
                        LAST: join({"a": {"dtype": kind, "shape": [8], "data_offsets": [0, size]}}, bytes(size)),
                    }
                )
                for kind, size in (
                    ("F4", 4),
                    ("F8_E8M0", 8),
                    ("F8_E4M3", 8),
                    ("C64", 64),
                    ("BF16", 16),
                    ("F6_E2M3", 6),
                    ("U64", 64),
                )
            ),
        ),
    ),
)
