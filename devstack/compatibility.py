"""Whether data written with one Avro schema can be read with another (Avro 1.12 specification, "Schema Resolution")."""

from typing import Any

_PROMOTIONS = {
    "int": {"long", "float", "double"},
    "long": {"float", "double"},
    "float": {"double"},
    "string": {"bytes"},
    "bytes": {"string"},
}
Named = dict[str, dict[str, Any]]


def problems(reader: Any, writer: Any) -> list[str]:
    """Why ``reader`` cannot read what ``writer`` wrote; empty where it can."""
    reader_names: Named = {}
    writer_names: Named = {}
    _collect(reader, reader_names)
    _collect(writer, writer_names)
    return _Check(reader_names, writer_names).compare(reader, writer, "")


def _collect(schema: Any, names: Named) -> None:
    if isinstance(schema, list):
        for branch in schema:
            _collect(branch, names)
    elif isinstance(schema, dict):
        if schema.get("type") in ("record", "enum", "fixed"):
            names[_short(schema["name"])] = schema
        for part in (schema.get("type"), schema.get("items"), schema.get("values")):
            if isinstance(part, dict | list):
                _collect(part, names)
        for field in schema.get("fields", []):
            _collect(field["type"], names)


def _short(name: str) -> str:
    """Names match without their namespace, as the specification's resolution says."""
    return name.rpartition(".")[2]


class _Check:
    def __init__(self, reader_names: Named, writer_names: Named) -> None:
        self._reader_names, self._writer_names = reader_names, writer_names
        self._open: set[tuple[str, str]] = set()  # records being compared: schemas may be recursive

    def compare(self, reader: Any, writer: Any, where: str) -> list[str]:
        reader, writer = _resolve(reader, self._reader_names), _resolve(writer, self._writer_names)
        if isinstance(writer, list):
            return [problem for branch in writer for problem in self.compare(reader, branch, where)]
        if isinstance(reader, list):
            fits = any(not self.compare(branch, writer, where) for branch in reader)
            return [] if fits else [f"{where or 'schema'}: {_kind(writer)} is in no branch of the union"]
        return self._same_kind(reader, writer, where)

    def _same_kind(self, reader: Any, writer: Any, where: str) -> list[str]:
        kinds = _kind(reader), _kind(writer)
        if kinds[0] != kinds[1]:
            promoted = kinds[0] in _PROMOTIONS.get(kinds[1], ())
            return [] if promoted else [f"{where or 'schema'}: {kinds[1]} cannot be read as {kinds[0]}"]
        parts = {
            "record": lambda: self._record(reader, writer, where),
            "enum": lambda: self._enum(reader, writer, where),
            "fixed": lambda: self._fixed(reader, writer, where),
            "array": lambda: self.compare(reader["items"], writer["items"], f"{where}[]"),
            "map": lambda: self.compare(reader["values"], writer["values"], f"{where}{{}}"),
        }
        return parts[kinds[0]]() if kinds[0] in parts else []

    def _record(self, reader: Any, writer: Any, where: str) -> list[str]:
        found = self._name(reader, writer, where)
        pair = (reader["name"], writer["name"])
        if found or pair in self._open:
            return found
        self._open.add(pair)
        written = {field["name"]: field for field in writer["fields"]}
        for field in reader["fields"]:
            names = [field["name"], *field.get("aliases", [])]
            source = next((written[name] for name in names if name in written), None)
            path = f"{where}/{field['name']}"
            if source is not None:
                found += self.compare(field["type"], source["type"], path)
            elif "default" not in field:
                found.append(f"{path}: the new field has no default")
        self._open.discard(pair)
        return found

    def _enum(self, reader: Any, writer: Any, where: str) -> list[str]:
        gone = [s for s in writer["symbols"] if s not in reader["symbols"]]
        lost = f"{where}: symbols {gone} are gone and there is no default"
        return self._name(reader, writer, where) + ([lost] if gone and "default" not in reader else [])

    def _fixed(self, reader: Any, writer: Any, where: str) -> list[str]:
        same = reader["size"] == writer["size"]
        return self._name(reader, writer, where) + ([] if same else [f"{where}: another size"])

    @staticmethod
    def _name(reader: Any, writer: Any, where: str) -> list[str]:
        known = [_short(name) for name in (reader["name"], *reader.get("aliases", []))]
        same = _short(writer["name"]) in known
        return [] if same else [f"{where or 'schema'}: {writer['name']} is not {reader['name']}"]


def _resolve(schema: Any, names: Named) -> Any:
    while isinstance(schema, dict) and isinstance(schema.get("type"), dict | list):
        schema = schema["type"]
    if isinstance(schema, str) and _short(schema) in names:
        return names[_short(schema)]
    return schema


def _kind(schema: Any) -> str:
    return str(schema["type"] if isinstance(schema, dict) else schema)
