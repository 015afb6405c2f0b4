"""Ways to damage a saved model: each takes its folder and changes what lies there."""

import contextlib
import hashlib
import json
import re
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import safetensors.torch
import torch

from models.artifact import CONFIG, WEIGHTS, Config

Edit = Callable[[dict[str, Any]], object]
Damage = Callable[[Path], object]


def read_config(folder: Path) -> dict[str, Any]:
    """What config.json holds."""
    return json.loads((folder / CONFIG).read_text())


def read_header(folder: Path) -> tuple[dict[str, Any], bytes]:
    """The weights' header, and what follows it."""
    data = (folder / WEIGHTS).read_bytes()
    end = 8 + struct.unpack("<Q", data[:8])[0]
    return json.loads(data[8:end]), data[end:]


def seal(folder: Path, header: dict[str, Any], body: bytes, config: dict[str, Any]) -> None:
    """Write both files with hashes that are right: those tell damage, not intent."""
    with contextlib.suppress(ValueError):  # else refused before anyone looks at the weights
        header["__metadata__"] = Config.model_validate(config).origin()
    text = json.dumps(header).encode()
    (folder / WEIGHTS).write_bytes(data := struct.pack("<Q", len(text)) + text + body)
    (folder / CONFIG).write_text(json.dumps({**config, "weights_sha256": hashlib.sha256(data).hexdigest()}))


def config(change: Edit) -> Damage:
    """A change of config.json."""

    def damage(folder: Path) -> None:
        changed = read_config(folder)
        change(changed)
        seal(folder, *read_header(folder), changed)

    return damage


def header(change: Edit) -> Damage:
    """A change of the table of tensors."""

    def damage(folder: Path) -> None:
        table, body = read_header(folder)
        change(table)
        seal(folder, table, body, read_config(folder))

    return damage


def tensors(change: Callable[[dict[str, torch.Tensor]], object]) -> Damage:
    """A change of tensors, written as safetensors itself would."""

    def damage(folder: Path) -> None:
        changed = safetensors.torch.load_file(folder / WEIGHTS)
        change(changed)
        safetensors.torch.save_file(changed, folder / WEIGHTS)
        seal(folder, *read_header(folder), read_config(folder))

    return damage


def replacing(old: str, new: str) -> Damage:
    """Words of config.json replaced, and no hash put right."""
    return lambda folder: (folder / CONFIG).write_text(re.sub(old, new, (folder / CONFIG).read_text()))


def instead(name: str, make: Damage) -> Damage:
    """Something else in a file's place."""

    def damage(folder: Path) -> None:
        (folder / name).rename(folder.parent / "aside")
        make(folder / name)

    return damage


def holding(name: str, content: bytes) -> Damage:
    return lambda folder: (folder / name).write_bytes(content)


def nested(depth: int) -> list[Any]:
    return [] if depth == 0 else [nested(depth - 1)]


def first(tensors: dict[str, torch.Tensor]) -> torch.Tensor:
    return tensors[min(tensors)]


def at(table: dict[str, Any], place: int) -> dict[str, Any]:
    """The entry of the tensor that lies at a place of the file."""
    table.pop("__metadata__")
    return sorted(table.values(), key=lambda entry: entry["data_offsets"])[place]


def move(entry: dict[str, Any], by: int) -> None:
    entry["data_offsets"] = [offset + by for offset in entry["data_offsets"]]
