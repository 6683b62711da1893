from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from seqdomains.errors import ConfigError
from seqdomains.strict_yaml import dump_yaml, load_yaml


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("yes", "yes"),
        ("no", "no"),
        ("on", "on"),
        ("1:30", "1:30"),
        ("2024-01-01", "2024-01-01"),
        ("0x10", "0x10"),
        (".inf", ".inf"),
        ("true", True),
        ("false", False),
        ("~", None),
        ("1e-4", 1e-4),
        ("-3", -3),
        ("1_000", 1000),
        ("0", 0),
        ("0.5", 0.5),
        ("5.", 5.0),
        ("[1, two]", [1, "two"]),
    ],
)
def test_scalars_are_what_they_look_like(text, value):
    loaded = load_yaml(f"key: {text}", origin="x.yaml")["key"]
    assert loaded == value
    assert type(loaded) is type(value)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("a: 1\nb:\n  c: 1\n  c: 2\n", ["x.yaml, line 4", "'c' stands twice"]),
        ("a: 012", ["x.yaml", "012 begins with a zero"]),
        ("1: 2", ["key 1 is not text"]),
        ("a: &n 1\nb: *n", ["line 2", "aliases"]),
        ("a: !!python/object/apply:os.system [ls]", ["tags"]),
        ("a: !!str 1", ["tags"]),
        ("a: [1, 2", ["expected"]),
        ("a: 1\n---\nb: 2", ["single document"]),
        ("a: \x00", ["not allowed"]),
        ("[" * 100_000, ["nested over 50 deep"]),
        ("a: " * 60_000, ["characters; expected less than"]),
        ("a: " + "9" * 5000, ["4300 digits"]),
        ('a: "\\UFFFFFFFF"', ["x.yaml"]),
        ('"\\ud800": 1', ["x.yaml", "surrogate"]),
        ("%YAML " + "9" * 5000 + ".1\n---\na: 1", ["x.yaml"]),
    ],
)
def test_refused_documents_name_the_place(text, words):
    with pytest.raises(ConfigError) as caught:
        load_yaml(text, origin="x.yaml")
    for word in words:
        assert word in str(caught.value)


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
        max_leaves=6,
    )
)
@example("012")
@example("1e-4")
@example("no")
@example("<<")
@example("1_000")
def test_what_is_written_is_read_back(value):
    assert load_yaml(dump_yaml(value), origin="dump") == value
