"""The rows of Arrow tables, which Parquet files and data sets of the hub are, as Python's objects."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pyarrow

Decoder = Callable[[Any], Any]


def iterate_rows(table: pyarrow.Table) -> Iterator[dict[str, Any]]:
    """Yield the rows of a table, of which a value of mixed types is what its text says.

    Such values are Arrow's extension type `arrow.json`; `datasets` (5.2, its feature Json) writes a
    column so where rows differ, as those of verl do in `reward_model` and `extra_info`.
    """
    decoders: dict[str, Decoder] = {}
    for field in table.schema:
        decode = _make_decoder(field.type)
        if decode is not None:
            decoders[field.name] = decode
    for row in _round_times(table).to_pylist():
        for name, decode in decoders.items():
            row[name] = decode(row[name])
        yield row


def _make_decoder(kind: pyarrow.DataType) -> Decoder | None:
    """Return what reads the JSON texts in a value of that type; None where it has none."""
    import pyarrow

    if isinstance(kind, pyarrow.JsonType):
        return read_json_value
    if isinstance(kind, pyarrow.ListType | pyarrow.LargeListType | pyarrow.FixedSizeListType):
        return _make_list_decoder(kind.value_type)
    if pyarrow.types.is_struct(kind):
        return _make_struct_decoder(kind)
    return None


def _make_list_decoder(item_type: pyarrow.DataType) -> Decoder | None:
    decode = _make_decoder(item_type)
    if decode is None:
        return None
    return lambda items: None if items is None else list(map(decode, items))


def _make_struct_decoder(kind: pyarrow.StructType) -> Decoder | None:
    decoders: dict[str, Decoder] = {}
    for field in kind:
        decode = _make_decoder(field.type)
        if decode is not None:
            decoders[field.name] = decode
    if not decoders:
        return None

    def decode_struct(row: Mapping[str, Any] | None) -> dict[str, Any] | None:
        if row is None:
            return None
        read = dict(row)
        for name, decode in decoders.items():
            read[name] = decode(read[name])
        return read

    return decode_struct


def read_json_value(text: str | None) -> Any:
    """Return what a JSON text says where it is an object, a list or a text in quotes, else the text.

    `datasets` writes a text beside numbers without quotes, so that 0.10 and 007 would lose digits,
    and a gold that is the word null would be none.

    >>> [read_json_value(text) for text in ('{"a": 1}', '"7"', "0.10", "null", "1/2")]
    [{'a': 1}, '7', '0.10', 'null', '1/2']
    """
    if text is None or not text.lstrip().startswith(("{", "[", '"')):
        return text
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return text


def _round_times(table: pyarrow.Table) -> pyarrow.Table:
    """Return a table without nanoseconds, which Python's times do not have."""
    import pyarrow

    for index, field in enumerate(table.schema):
        if pyarrow.types.is_timestamp(field.type) and field.type.unit == "ns":
            microseconds = pyarrow.timestamp("us", field.type.tz)
            rounded = table.column(index).cast(microseconds, safe=False)
            table = table.set_column(index, field.name, rounded)
    return table
