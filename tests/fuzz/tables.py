"""Parquet tables that are nearly right, behind their checksums."""

from __future__ import annotations

import io
from contextlib import suppress

import pyarrow as pa
import pyarrow.parquet as pq
from hypothesis import strategies as st
from mutations import Draw, mutated

ODD_TEXT = ("", "..", "../../canary", "/etc/passwd", "a\x00b", "\ud800", "\udcff", "\x1b[31m", "x" * 5000, "a\tb\n")
ODD_NUMBERS = (None, -1, 0, 1, 2, 3, (1 << 31) - 1, -(1 << 31), (1 << 63) - 1, -(1 << 63))
TYPES = (
    pa.string(),
    pa.large_string(),
    pa.binary(),
    pa.int8(),
    pa.int32(),
    pa.int64(),
    pa.uint64(),
    pa.float16(),
    pa.float32(),
    pa.float64(),
    pa.bool_(),
    pa.timestamp("ns", "UTC"),
    pa.decimal128(30, 2),
    pa.dictionary(pa.int32(), pa.string()),
    pa.list_(pa.int64()),
    pa.null(),
)


def parquet(table: pa.Table, **options: object) -> bytes:
    """Write a table as the shards and the plan are written."""
    out = io.BytesIO()
    pq.write_table(table, out, **{"compression": "zstd", "write_page_checksum": True, **options})
    return out.getvalue()


@st.composite
def _cells(draw: Draw, table: pa.Table) -> pa.Table:
    """Change one thing; what Arrow cannot hold is an exception."""
    at = draw(st.integers(0, table.num_columns - 1))
    name, column = table.column_names[at], table.column(at)
    kind = draw(st.sampled_from(("value", "value", "type", "drop", "name", "twice", "order", "rows", "none")))
    if kind == "value" and len(table):
        values = column.to_pylist()
        odd = st.sampled_from((*ODD_NUMBERS, *ODD_TEXT, 1.5, float("nan"), float("inf"), [], [None, 1.0]))
        values[draw(st.integers(0, len(values) - 1))] = draw(odd)
        column = pa.array(values, column.type)
    elif kind == "type":
        column = column.cast(draw(st.sampled_from(TYPES)))
    elif kind == "drop":
        return table.remove_column(at)
    elif kind == "name":
        name = draw(st.sampled_from(("", "input", "x", "\x1b[31m")))
    elif kind == "twice":
        return table.append_column(name, column)
    elif kind == "order":
        return table.select(draw(st.permutations(range(table.num_columns))))
    elif kind == "rows":
        return table.take(draw(st.lists(st.integers(0, max(0, len(table) - 1)), max_size=12 if len(table) else 0)))
    elif kind == "none":
        column = pa.nulls(len(table), column.type)
    return table.set_column(at, name, column)


@st.composite
def edited_table(draw: Draw, data: bytes) -> pa.Table:
    """Put other values, types, columns and rows into a Parquet file's table; its metadata stay."""
    table = pq.read_table(io.BytesIO(data), use_threads=False)
    metadata = table.schema.metadata
    for _ in range(draw(st.integers(0, 3))):
        with suppress(pa.ArrowException, UnicodeEncodeError, TypeError, OverflowError):
            table = draw(_cells(table))
        if not table.num_columns:
            break
    return table.replace_schema_metadata(metadata)


@st.composite
def odd_parquet(draw: Draw, table: pa.Table, fallback: bytes) -> bytes:
    """Write a table one of the ways there are; then, often, damage it."""
    data = fallback
    options = {
        "compression": draw(st.sampled_from(("zstd", "none", "snappy", "gzip"))),
        "use_dictionary": draw(st.booleans()),
        "data_page_version": draw(st.sampled_from(("1.0", "2.0"))),
        "write_page_checksum": draw(st.booleans()),
        "store_schema": draw(st.booleans()),
        "row_group_size": draw(st.sampled_from((1, 3, 1000))),
    }
    with suppress(pa.ArrowException, TypeError, ValueError):
        data = parquet(table, **options)
    return draw(mutated(data, most=draw(st.sampled_from((0, 0, 1, 3))), grow=draw(st.booleans())))
