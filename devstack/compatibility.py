"""Whether data written with one Avro schema can be read with another (Avro 1.12 specification, "Schema Resolution")."""

from typing import Any

import fastavro

_PROMOTIONS = {  # what a writer's type may be read as
    "int": {"long", "float", "double"},
    "long": {"float", "double"},
    "float": {"double"},
    "string": {"bytes"},
    "bytes": {"string"},
}


def problems(reader: Any, writer: Any) -> list[str]:
    """Why ``reader`` cannot read what ``writer`` wrote, each with its path; empty where it can.

    Args:
        reader: a valid Avro schema as JSON gives it.
        writer: likewise.
    """
    reader_names: dict[str, Any] = {}
    writer_names: dict[str, Any] = {}
    # Parsing spells every name out with its namespace.
    reader = fastavro.parse_schema(reader, named_schemas=reader_names)
    writer = fastavro.parse_schema(writer, named_schemas=writer_names)
    return _Check(reader_names, writer_names).compare(reader, writer, "")


class _Check:
    def __init__(self, reader_names: dict[str, Any], writer_names: dict[str, Any]) -> None:
        self._reader_names, self._writer_names = reader_names, writer_names
        # A pair of records is compared once: schemas may be recursive.
        self._seen: dict[tuple[str, str], list[str]] = {}

    def compare(self, reader: Any, writer: Any, where: str) -> list[str]:
        reader, writer = _resolve(reader, self._reader_names), _resolve(writer, self._writer_names)
        if isinstance(writer, list):
            return [problem for branch in writer for problem in self.compare(reader, branch, where)]
        if isinstance(reader, list):
            return self._union(reader, writer, where)
        kinds = _kind(reader), _kind(writer)
        if kinds[0] == kinds[1]:
            return self._same_kind(kinds[0], reader, writer, where)
        promoted = kinds[0] in _PROMOTIONS.get(kinds[1], ())
        return [] if promoted else [f"{_at(where)}: {kinds[1]} cannot be read as {kinds[0]}"]

    def _union(self, reader: list[Any], writer: Any, where: str) -> list[str]:
        found = [self.compare(branch, writer, where) for branch in reader]
        if not all(found):
            return []
        alike = [
            reasons
            for branch, reasons in zip(reader, found, strict=True)
            if _kind(_resolve(branch, self._reader_names)) == _kind(writer)
        ]
        return alike[0] if len(alike) == 1 else [f"{_at(where)}: {_kind(writer)} is in no branch of the union"]

    def _same_kind(self, kind: str, reader: Any, writer: Any, where: str) -> list[str]:
        parts = {
            "record": lambda: self._record(reader, writer, where),
            "enum": lambda: self._enum(reader, writer, where),
            "fixed": lambda: self._fixed(reader, writer, where),
            "array": lambda: self.compare(reader["items"], writer["items"], f"{where}[]"),
            "map": lambda: self.compare(reader["values"], writer["values"], f"{where}{{}}"),
        }
        return parts[kind]() if kind in parts else []

    def _record(self, reader: Any, writer: Any, where: str) -> list[str]:
        pair = (reader["name"], writer["name"])
        if pair not in self._seen:
            self._seen[pair] = []  # while it is compared: what refers back to it adds nothing
            self._seen[pair] = _name(reader, writer, where) or self._fields(reader, writer, where)
        return self._seen[pair]

    def _fields(self, reader: Any, writer: Any, where: str) -> list[str]:
        found: list[str] = []
        written = {field["name"]: field for field in writer["fields"]}
        for field in reader["fields"]:
            names = [field["name"], *field.get("aliases", [])]
            source = next((written[name] for name in names if name in written), None)
            path = f"{where}/{field['name']}"
            if source is not None:
                found += self.compare(field["type"], source["type"], path)
            elif "default" not in field:
                found.append(f"{path}: the new field has no default")
        return found

    @staticmethod
    def _enum(reader: Any, writer: Any, where: str) -> list[str]:
        gone = [symbol for symbol in writer["symbols"] if symbol not in reader["symbols"]]
        lost = f"{_at(where)}: symbols {', '.join(gone)} are gone and the enum has no default"
        return _name(reader, writer, where) + ([lost] if gone and "default" not in reader else [])

    @staticmethod
    def _fixed(reader: Any, writer: Any, where: str) -> list[str]:
        same = reader["size"] == writer["size"]
        other = f"{_at(where)}: size {writer['size']} cannot be read as size {reader['size']}"
        return _name(reader, writer, where) + ([] if same else [other])


def _name(reader: Any, writer: Any, where: str) -> list[str]:
    """Named types match by their unqualified names, or by an alias of the reader's."""
    namespace = reader["name"].rpartition(".")[0]
    aliases = [name if "." in name or not namespace else f"{namespace}.{name}" for name in reader.get("aliases", [])]
    same = _unqualified(reader["name"]) == _unqualified(writer["name"]) or writer["name"] in aliases
    return [] if same else [f"{_at(where)}: {writer['name']} is not {reader['name']}"]


def _unqualified(name: str) -> str:
    return name.rpartition(".")[2]


def _resolve(schema: Any, names: dict[str, Any]) -> Any:
    while isinstance(schema, dict) and isinstance(schema.get("type"), dict | list):
        schema = schema["type"]
    return names.get(schema, schema) if isinstance(schema, str) else schema


def _kind(schema: Any) -> str:
    return str(schema["type"] if isinstance(schema, dict) else schema)


def _at(where: str) -> str:
    return where or "schema"
