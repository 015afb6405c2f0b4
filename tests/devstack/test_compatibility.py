from typing import Any

import pytest

from devstack.compatibility import problems


def record(*fields: Any, name: str = "R", **more: Any) -> dict[str, Any]:
    return {"type": "record", "name": name, "fields": list(fields), **more}


def field(kind: Any, name: str = "f", **more: Any) -> dict[str, Any]:
    return {"name": name, "type": kind, **more}


def enum(*symbols: str, **more: Any) -> dict[str, Any]:
    return {"type": "enum", "name": "E", "symbols": list(symbols), **more}


def fixed(size: int, name: str = "F", **more: Any) -> dict[str, Any]:
    return {"type": "fixed", "name": name, "size": size, **more}


def tree(leaf: str) -> dict[str, Any]:
    return record(field(["null", "R"], "next", default=None), field(leaf, "leaf"))


SHORT = record(field(record(field("int"), name="a.X"), "one"), field(record(field("string"), name="b.X"), "two"))
PROMOTIONS = {
    "int": {"long", "float", "double"},
    "long": {"float", "double"},
    "float": {"double"},
    "string": {"bytes"},
    "bytes": {"string"},
}
PRIMITIVES = ["null", "boolean", "int", "long", "float", "double", "bytes", "string"]


@pytest.mark.parametrize("writer", PRIMITIVES)
@pytest.mark.parametrize("reader", PRIMITIVES)
def test_primitives(reader: str, writer: str) -> None:
    """A primitive is read as itself or as what the specification promotes it to, and as nothing else."""
    readable = reader == writer or reader in PROMOTIONS.get(writer, ())

    assert problems(reader, writer) == ([] if readable else [f"schema: {writer} cannot be read as {reader}"])


@pytest.mark.parametrize(
    ("reader", "writer"),
    [
        (record(field("int")), record(field("int"), field("int", "gone"))),
        (record(field("int"), field(["null", "int"], "new", default=None)), record(field("int"))),
        (record(field("long")), record(field("int"))),
        (record(field("int", "new", aliases=["old"])), record(field("int", "old"))),
        (record(name="n.New", aliases=["n.Old"]), record(name="n.Old")),
        (record(name="New", namespace="n", aliases=["Old"]), record(name="n.Old")),
        (record(name="one.R"), record(name="two.R")),
        (record(field({"type": "long", "logicalType": "timestamp-millis"})), record(field("long"))),
        (record(field("int", fleetcast={"role": "target"})), record(field("int"))),
        (enum("A", "B"), enum("A")),
        (enum("A", default="A"), enum("A", "B")),
        (enum("B", "A"), enum("A", "B")),
        (fixed(4), fixed(4)),
        (fixed(4, "New", aliases=["F"]), fixed(4)),
        ({"type": "array", "items": "long"}, {"type": "array", "items": "int"}),
        ({"type": "map", "values": "long"}, {"type": "map", "values": "int"}),
        (["null", "int"], "int"),
        (["null", "long"], ["null", "int"]),
        ("int", ["int"]),
        (tree("long"), tree("int")),
        (SHORT, SHORT),
    ],
)
def test_readable(reader: Any, writer: Any) -> None:
    """What the specification's resolution allows gives no problem."""
    assert problems(reader, writer) == []


@pytest.mark.parametrize(
    ("reader", "writer", "why"),
    [
        (record(field("int"), field("int", "new")), record(field("int")), "/new: the new field has no default"),
        (record(field(["null", "int"], "new")), record(), "/new: the new field has no default"),
        (record(field("int")), record(field("string")), "/f: string cannot be read as int"),
        (record(field("int")), record(field(["null", "int"])), "/f: null cannot be read as int"),
        (record(name="New"), record(name="Old"), "schema: Old is not New"),
        (record(name="m.New", aliases=["Old"]), record(name="n.Old"), "schema: n.Old is not m.New"),
        (enum("A"), enum("A", "B", "C"), "schema: symbols B, C are gone and the enum has no default"),
        (fixed(4), fixed(8), "schema: size 8 cannot be read as size 4"),
        (fixed(4, "G"), fixed(4), "schema: F is not G"),
        (fixed(4), "bytes", "schema: bytes cannot be read as fixed"),
        (record(), {"type": "map", "values": "int"}, "schema: map cannot be read as record"),
        ({"type": "array", "items": "int"}, {"type": "array", "items": "long"}, "[]: long cannot be read as int"),
        ({"type": "map", "values": "int"}, {"type": "map", "values": "long"}, "{}: long cannot be read as int"),
        (["null", "int"], "string", "schema: string is in no branch of the union"),
        ("int", ["int", "string"], "schema: string cannot be read as int"),
        (["null", enum("A")], enum("A", "B"), "schema: symbols B are gone and the enum has no default"),
        (tree("int"), tree("long"), "/leaf: long cannot be read as int"),
        (
            SHORT,
            record(field(record(field("int"), name="a.X"), "one"), field(record(field("int"), name="b.X"), "two")),
            "/two/f: int cannot be read as string",
        ),
        (
            record(field({"type": "array", "items": ["null", record(field("int"), name="X")]}, "list")),
            record(field({"type": "array", "items": record(field("bytes"), name="X")}, "list")),
            "/list[]/f: bytes cannot be read as int",
        ),
    ],
)
def test_unreadable(reader: Any, writer: Any, why: str) -> None:
    """What resolution does not allow gives the place and the reason."""
    assert problems(reader, writer) == [why]


def test_all_problems_are_told() -> None:
    """Each field that does not fit has its own sentence."""
    reader = record(field("int", "a"), field("int", "b"), field("int", "c"))
    writer = record(field("string", "a"), field("string", "b"))

    assert problems(reader, writer) == [
        "/a: string cannot be read as int",
        "/b: string cannot be read as int",
        "/c: the new field has no default",
    ]
