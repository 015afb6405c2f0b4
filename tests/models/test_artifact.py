import contextlib
import hashlib
import json
import os
import re
import resource
import shutil
import stat
import struct
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from models import artifact
from models.artifact import CARD, CONFIG, METADATA, WEIGHTS, Config, Model, Trained
from models.layout import Layout, Scaling
from models.network import build_network
from models.network_size import NetworkSize
from models.samples import History
from schemas.contract import Contract
from schemas.errors import ArtifactError, InputError, MismatchError
from schemas.fingerprint import fingerprint
from tests import contracts
from tests.models.conftest import events

VERSION = "tft_model_20260101_000000"
SMALL = NetworkSize(hidden_size=8, attention_head_size=2, hidden_continuous_size=4)
RICH = contracts.rich(known=["hour", "season_lag"])
Edit = Callable[[dict[str, Any]], object]
Damage = Callable[[Path], object]


def plain_scaling(layout: Layout) -> Scaling:
    ones = dict.fromkeys(layout.targets, 1.0)
    covariates = dict.fromkeys(layout.covariates, (0.5, 2.0))
    return Scaling(floor=dict.fromkeys(layout.targets, 0.01), level=ones, spread=ones, covariates=covariates)


def trained(contract: Contract, size: NetworkSize = SMALL, seed: int = 0) -> Trained:
    torch.manual_seed(seed)
    layout = Layout(contract)
    scaling = plain_scaling(layout)
    unseen = {"state": ["down"]} if contract is RICH else {}
    return Trained(build_network(layout, scaling, size), layout, scaling, size, unseen, {"note": "test"})


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return artifact.save(tmp_path_factory.mktemp("models"), VERSION, trained(RICH), card="# A card: ü")


@pytest.fixture
def folder(kept: Path, tmp_path: Path) -> Path:
    """A copy of a saved model, to be damaged."""
    return Path(shutil.copytree(kept, tmp_path / VERSION))


def refused(
    folder: Path, *words: str, contract: Contract | None = None, kind: type[MismatchError] = MismatchError
) -> str:
    """The words of the refusal, with exit code 3."""
    with pytest.raises(kind) as caught:
        artifact.load(folder, contract)
    told = str(caught.value)
    assert caught.value.exit_code == 3
    assert [word for word in words if word not in told] == [], told
    return told


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
        changed = json.loads((folder / CONFIG).read_text())
        change(changed)
        seal(folder, *read_header(folder), changed)

    return damage


def header(change: Edit) -> Damage:
    """A change of the table of tensors."""

    def damage(folder: Path) -> None:
        table, body = read_header(folder)
        change(table)
        seal(folder, table, body, json.loads((folder / CONFIG).read_text()))

    return damage


def tensors(change: Callable[[dict[str, torch.Tensor]], object]) -> Damage:
    """A change of tensors, written as safetensors itself would."""

    def damage(folder: Path) -> None:
        changed = safetensors.torch.load_file(folder / WEIGHTS)
        change(changed)
        safetensors.torch.save_file(changed, folder / WEIGHTS)
        seal(folder, *read_header(folder), json.loads((folder / CONFIG).read_text()))

    return damage


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


def outputs(model: Model | Trained) -> np.ndarray:
    """Forecasts of some windows."""
    contract = model.layout.contract
    history = History(contract, events(contract, servers=3, steps=20))
    return model.runtime().forecast(history.windows(history.samples)).values


def test_saved_and_loaded_forecasts_bit_for_bit(kept: Path) -> None:
    """A loaded model, rebuilt from its files alone, gives exactly the numbers of the network that was saved."""
    original = trained(RICH)
    model = artifact.load(kept)
    before = outputs(original)

    assert np.array_equal(outputs(model), before)
    assert np.ptp(before, axis=0).max() > 0
    assert model.scaling == original.scaling
    assert (model.version, model.fingerprint, model.metadata) == (VERSION, fingerprint(RICH), {"note": "test"})


def test_what_lies_in_the_folder(kept: Path) -> None:
    """Safetensors, JSON and text, nothing pickled; the fingerprint stands in both, and no hidden file is left."""
    assert sorted(p.name for p in kept.iterdir()) == sorted([WEIGHTS, CONFIG, METADATA, "MODEL_CARD.md"])
    for path in kept.iterdir():
        head = path.read_bytes()[:16]
        assert not head.startswith((b"\x80", b"PK")), f"{path.name} looks like a pickle or a zip"
    config = json.loads((kept / CONFIG).read_text())
    with safetensors.safe_open(kept / WEIGHTS, "pt") as file:
        assert file.metadata()["contract_fingerprint"] == config["contract_fingerprint"] == fingerprint(RICH)
    assert config["contract"] == RICH.schema
    assert [p.name for p in kept.parent.iterdir()] == [VERSION]


def test_tied_tensors_are_stored_once(kept: Path) -> None:
    """Parameters that the network shares between names lie in the file once, and are shared again when loaded."""
    network = artifact.load(kept).network
    names = network.state_dict(keep_vars=True)
    tied = len(names) - len({id(t) for t in names.values()})

    assert tied > 0
    assert len(safetensors.torch.load_file(kept / WEIGHTS)) == len(names) - tied


def test_the_shapes_of_the_default_model(tmp_path: Path) -> None:
    """With the shipped contract and the default sizes, the status embedding is [8, 5] and the selection [10, 149]."""
    contract = Contract.load()
    path = artifact.save(tmp_path, VERSION, trained(contract, NetworkSize()), card="")
    tensors = safetensors.torch.load_file(path / WEIGHTS)

    assert list(tensors["input_embeddings.embeddings.status.weight"].shape) == [8, 5]
    assert list(tensors["encoder_variable_selection.flattened_grn.fc1.weight"].shape) == [10, 149]
    artifact.load(path, contract)


CONTRACTS: dict[str, tuple[dict[str, Any], list[str]]] = {
    "wrong statuses": (
        contracts.schema(*(f if f["name"] != "state" else contracts.field(
            "state", contracts.enum("State", "up", "down", "busy", "draining"), "category")
            for f in contracts.RICH_FIELDS), known=["hour", "season_lag"]),
        ["state: model was trained with 3 symbols, contract has 4: + 'draining'"],
    ),
    "renamed column": (
        contracts.schema(*({**f, "name": "load1"} if f["name"] == "load" else f for f in contracts.RICH_FIELDS),
                         known=["hour", "season_lag"]),
        ["'load' is in the model but not in the contract", "'load1' is in the contract but not in the model"],
    ),
    "other cadence": (
        contracts.schema(*contracts.RICH_FIELDS, known=["hour", "season_lag"], step_seconds=60, season_steps=8640),
        ["step_seconds: the model was trained with 10, the contract has 60"],
    ),
    "other encoder": (
        contracts.schema(*contracts.RICH_FIELDS, known=["hour", "season_lag"], encoder_steps=7),
        ["encoder_steps: the model was trained with 6, the contract has 7"],
    ),
    "other horizon": (
        contracts.schema(*contracts.RICH_FIELDS, known=["hour", "season_lag"], horizon_steps=9),
        ["horizon_steps", "4", "9"],
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", CONTRACTS)
def test_a_contract_that_does_not_fit(folder: Path, name: str) -> None:
    """Other statuses, a renamed column, another cadence or encoder length: refused with the difference in words."""
    schema, words = CONTRACTS[name]

    refused(folder, VERSION, *words, contract=Contract(schema))


def test_what_may_differ_is_taken_from_the_contract(folder: Path) -> None:
    """Thresholds and lateness may differ from training: the model loads and serves the contract given."""
    given = contracts.rich(known=["hour", "season_lag"], allowed_lateness_seconds=1)
    model = artifact.load(folder, given)

    assert model.contract is given
    assert np.array_equal(outputs(model), outputs(artifact.load(folder)))


def first(tensors: dict[str, torch.Tensor]) -> torch.Tensor:
    return tensors[min(tensors)]


def at(table: dict[str, Any], place: int) -> dict[str, Any]:
    """The entry of the tensor that lies at a place of the file."""
    table.pop("__metadata__")
    return sorted(table.values(), key=lambda entry: entry["data_offsets"])[place]


def move(entry: dict[str, Any], by: int) -> None:
    entry["data_offsets"] = [offset + by for offset in entry["data_offsets"]]


def replacing(old: str, new: str) -> Damage:
    """Words of config.json replaced, and no hash put right."""
    return lambda folder: (folder / CONFIG).write_text(re.sub(old, new, (folder / CONFIG).read_text()))


HOSTILE: dict[str, tuple[str, Damage, str]] = {
    "contract edited": (CONFIG, config(lambda c: c["contract"]["fleetcast"].update(step_seconds=60)), "fingerprint"),
    "contract nonsense": (CONFIG, config(lambda c: c["contract"].update(fields=[])), "no field has the role 'key'"),
    "deep type": (CONFIG, config(lambda c: c["contract"]["fields"][2].update(type=nested(400))), "32 levels"),
    "deep text": (CONFIG, config(lambda c: c["contract"].update(doc=nested(30))), "32 levels"),
    "endless encoder": (CONFIG, config(lambda c: c["contract"]["fleetcast"].update(encoder_steps=10**9)), "1000000000"),
    "many quantiles": (CONFIG, config(lambda c: c["contract"]["fleetcast"].update(
        quantiles=[i / 1000 for i in range(1, 1000)])), "999 quantiles"),
    "many symbols": (CONFIG, config(lambda c: c["contract"]["fields"][6]["type"].update(
        symbols=[f"s{i}" for i in range(200_000)])), "200003 symbols"),
    "many inputs": (CONFIG, config(lambda c: c["contract"]["fields"].extend(
        contracts.field(f"f{i}", "double", "covariate") for i in range(5_000))), "5005 inputs"),
    "input's name": (CONFIG, config(lambda c: c["contract"]["fields"][2].update(name="type")), "fingerprint"),
    "fingerprint edited": (CONFIG, config(lambda c: c.update(contract_fingerprint="0" * 64)), "fingerprint is 0000"),
    "another format": (CONFIG, config(lambda c: c.update(format=2)), "format"),
    "version with a path": (CONFIG, config(lambda c: c.update(model_version="../../etc")), "model_version"),
    "another version": (WEIGHTS, replacing(VERSION, "tft_model_20260101_000001"), "its model_version is"),
    "a digit of a scaler": (WEIGHTS, replacing('"load": 1.0', '"load": 1.5'), "its config_sha256 is"),
    "another hash": (WEIGHTS, replacing('weights_sha256": ".*"', f'weights_sha256": "{"0" * 64}"'), "its SHA-256"),
    "unknown attribute": (CONFIG, config(lambda c: c.update(pickled=True)), "pickled"),
    "attribute gone": (CONFIG, config(lambda c: c.pop("scaling")), "scaling is missing"),
    "a terminal's escape": (CONFIG, config(lambda c: c.update({"\x1b[31m": 1})), "\\x1b[31m"),
    "half a character": (CONFIG, config(lambda c: c.update({"\ud800": 1})), "\\ud800"),
    "a long quote": (CONFIG, config(lambda c: c.update(stages=["x" * 10**6])), "..."),
    "vocabulary": (CONFIG, config(lambda c: c["vocabulary"]["state"].pop()), "vocabulary"),
    "unseen symbols": (CONFIG, config(lambda c: c.update(unseen_symbols={"state": ["?"]})), "unseen_symbols"),
    "unseen variable": (CONFIG, config(lambda c: c.update(unseen_symbols={"?": ["up"]})), "unseen_symbols"),
    "stages": (CONFIG, config(lambda c: c.update(stages=["denormalise"])), "stages ['denormalise']"),
    "floor gone": (CONFIG, config(lambda c: c["scaling"]["floor"].pop("load")), "scaling.floor"),
    "floor zero": (CONFIG, config(lambda c: c["scaling"]["floor"].update(load=0)), "load is 0.0"),
    "floor too small": (CONFIG, config(lambda c: c["scaling"]["floor"].update(load=1e-50)), "load is 1e-50"),
    "level nan": (CONFIG, config(lambda c: c["scaling"]["level"].update(load=float("nan"))), "scaling.level.load"),
    "level huge": (CONFIG, config(lambda c: c["scaling"]["level"].update(load=-1e39)), "load is -1e+39"),
    "spread infinite": (CONFIG, config(lambda c: c["scaling"]["spread"].update(load=float("inf"))), "spread.load"),
    "spread negative": (CONFIG, config(lambda c: c["scaling"]["spread"].update(load=-1)), "load is -1.0"),
    "covariate": (CONFIG, config(lambda c: c["scaling"]["covariates"].update(requests=[0, 0])), "requests is 0.0"),
    "constant": (CONFIG, config(lambda c: c["scaling"].update(constant=["nothing"])), "nothing"),
    "hidden size": (WEIGHTS, config(lambda c: c["network"].update(hidden_size=16)), "the network needs"),
    "no heads": (CONFIG, config(lambda c: c["network"].update(attention_head_size=0)), "attention_head_size"),
    "too many heads": (CONFIG, config(lambda c: c["network"].update(attention_head_size=9)), "attention_head_size 9"),
    "no layers": (CONFIG, config(lambda c: c["network"].update(lstm_layers=0)), "lstm_layers"),
    "huge": (CONFIG, config(lambda c: c["network"].update(hidden_size=10**9)), "hidden_size"),
    **{f"config {text[:9]!r}": (CONFIG, holding(CONFIG, text), word) for text, word in (
        (b"", "JSON"), (b"null", "dictionary"), (b"[]", "dictionary"), (b"1" * 5_000, "JSON"), (b"[" * 100_000, "JSON"),
        (b"\xef\xbb\xbf{}", "JSON"), (b'{"format": 1', "JSON"), (b'{"format": "\xe9"}', "utf-8"), (b"\0" * 99, "JSON"),
        (b'{"format": 1, "format": 1}', "'format' stands twice"), (b" " * (4 << 20) + b" ", "larger"))},
    "metadata no object": (METADATA, holding(METADATA, b"[1]"), "no JSON object"),
    "metadata twice": (METADATA, holding(METADATA, b'{"a": {"b": 1, "b": 2}}'), "'b' stands twice"),
    **{f"{what} as {name}": (name, instead(name, make), word) for name in (WEIGHTS, CONFIG, METADATA)
        for what, make, word in (
            ("pipe", os.mkfifo, "no regular file"), ("folder", Path.mkdir, "no regular file"),
            ("socket", lambda path: os.mknod(path, stat.S_IFSOCK | 0o600), "no regular file"),
            ("link outside", lambda path: path.symlink_to(path.parent.parent / "aside"), "out of the model's folder"),
            ("link to a device", lambda path: path.symlink_to("/dev/zero"), "out of the model's folder"),
            ("link to itself", lambda path: path.symlink_to(path), "cannot read"),
            ("link to nothing", lambda path: path.symlink_to("nothing"), "No such file"))},
    "oversized weights": (WEIGHTS, lambda folder: os.truncate(folder / WEIGHTS, (1 << 30) + 1), "larger"),
    "one byte more": (WEIGHTS, lambda folder: os.truncate(
        folder / WEIGHTS, (folder / WEIGHTS).stat().st_size + 1), "too long"),
    **{f"weights {head[:12]!r}": (WEIGHTS, holding(WEIGHTS, head), word) for head, word in (
        (struct.pack("<Q", 2**63), "truncated"), (struct.pack("<Q", 1 << 40) + b"{}", "truncated"),
        (struct.pack("<Q", 2) + b"[]", "table"), (struct.pack("<Q", 8) + b'{"a": 1}', "table"),
        (struct.pack("<Q", 5_000) + b"1" * 5_000, "JSON"), (struct.pack("<Q", 100_000) + b"[" * 100_000, "JSON"),
        (struct.pack("<Q", 21) + b'{"__metadata__":"no"}', "table"), (struct.pack("<Q", 2) + b"\xff{", "utf-8"),
        (struct.pack("<Q", 2) + b"{}", "two models"), (struct.pack("<Q", 15) + b'{"a":{},"a":{}}', "'a' stands twice"),
        (b"\x80\x04\x95" + b"\0" * 40, "truncated"), (b"PK\x03\x04" + b"\0" * 40, "truncated"))},
    "overlapping": (WEIGHTS, header(lambda h: move(at(h, 1), -4)), "begins at byte"),
    "out of range": (WEIGHTS, header(lambda h: move(at(h, -1), 1 << 40)), "begins at byte"),
    "before the start": (WEIGHTS, header(lambda h: move(at(h, 0), -4)), "begins at byte -4"),
    "of another size": (WEIGHTS, header(lambda h: at(h, 0).update(data_offsets=[0, 1 << 50])), "not its size"),
    "three offsets": (WEIGHTS, header(lambda h: at(h, 0).update(data_offsets=[0, 1, 2])), "not its size"),
    "no offsets": (WEIGHTS, header(lambda h: at(h, 0).pop("data_offsets")), "not its size"),
    "offset in words": (WEIGHTS, header(lambda h: at(h, 0).update(data_offsets=["0", "4"])), "not its size"),
    "negative shape": (WEIGHTS, header(lambda h: at(h, 0).update(shape=[-1])), "the network needs"),
    "huge shape": (WEIGHTS, header(lambda h: at(h, 0).update(shape=[1 << 40, 1 << 40])), "the network needs"),
    "unknown type": (WEIGHTS, header(lambda h: at(h, 0).update(dtype="F31")), "holds F31"),
    "no type": (WEIGHTS, header(lambda h: at(h, 0).pop("dtype")), "holds None"),
    "nan": (WEIGHTS, tensors(lambda t: first(t).view(-1)[0].fill_(float("nan"))), "finite"),
    "infinite": (WEIGHTS, tensors(lambda t: t[max(t)].view(-1)[-1].fill_(float("inf"))), "finite"),
    "half": (WEIGHTS, tensors(lambda t: t.update({min(t): first(t).half()})), "finite torch.float32"),
    "integers": (WEIGHTS, tensors(lambda t: t.update({min(t): first(t).int()})), "finite torch.float32"),
    "shape": (WEIGHTS, tensors(lambda t: t.update({min(t): first(t).flatten()[:1].clone()})), "the network needs"),
    "gone": (WEIGHTS, tensors(lambda t: t.pop(min(t))), "missing"),
    "renamed": (WEIGHTS, tensors(lambda t: t.update(surprise=t.pop(min(t)))), "missing"),
    "one more": (WEIGHTS, tensors(lambda t: t.update(surprise=torch.ones(2))), "surprise"),
}  # fmt: skip


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_artifact_is_refused(folder: Path, name: str) -> None:
    """Whatever is wrong with a file, it is refused in a short sentence that names the file and what is wrong."""
    file, damage, word = HOSTILE[name]
    damage(folder)
    told = refused(folder, str(folder / file), word, kind=ArtifactError)

    assert told.isprintable()
    assert len(told) < 600 + len(str(folder))


@pytest.mark.parametrize("name", [WEIGHTS, CONFIG, METADATA])
def test_a_missing_file(folder: Path, name: str) -> None:
    """A missing file is refused by its name."""
    (folder / name).unlink()

    refused(folder, name, "No such file")


@pytest.mark.parametrize("name", [WEIGHTS, CONFIG])
def test_truncated_at_any_place(folder: Path, name: str) -> None:
    """A file that ends early is refused wherever it was cut: in its header, between tensors, at the last byte."""
    path = folder / name
    whole = path.read_bytes()
    cuts = {0, 1, 7, 8, 9, len(whole) // 3, len(whole) // 2, len(whole) - 3}
    if name == WEIGHTS:
        length = struct.unpack("<Q", whole[:8])[0]
        header = json.loads(whole[8 : 8 + length])
        header.pop("__metadata__")
        ends = sorted(entry["data_offsets"][1] for entry in header.values())
        cuts |= {8 + length - 1, 8 + length, 8 + length + 1, len(whole) - 1}
        cuts |= {8 + length + end for end in (ends[0], ends[len(ends) // 2], ends[-2])}
    for cut in sorted(cuts):
        path.write_bytes(whole[:cut])
        refused(folder, name)


def test_files_of_two_models(tmp_path: Path) -> None:
    """Weights of another model are refused, even where contract and shapes are the same."""
    a = artifact.save(tmp_path, VERSION, trained(RICH), card="")
    b = artifact.save(tmp_path, "tft_model_20260102_000000", trained(RICH, seed=1), card="")
    (a / WEIGHTS).rename(tmp_path / "aside")
    (b / WEIGHTS).rename(a / WEIGHTS)
    (tmp_path / "aside").rename(b / WEIGHTS)

    refused(a, "two models", VERSION, b.name)
    refused(b, "two models")


def test_weights_of_another_contract(folder: Path, tmp_path: Path) -> None:
    """Weights trained under another contract are refused by their fingerprint."""
    other = artifact.save(tmp_path / "other", VERSION, trained(contracts.rich()), card="")
    shutil.copy(other / WEIGHTS, folder / WEIGHTS)

    refused(folder, "two models", "contract_fingerprint")


def test_no_folder(folder: Path, tmp_path: Path) -> None:
    """A path that does not exist, or is a file, is refused by its name."""
    refused(tmp_path / "nothing", "nothing")
    refused(folder / CONFIG, CONFIG)


def test_latest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """'latest' is the newest by name in ./models, files and half-written folders aside; else the shipped one."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(artifact, "SHIPPED", tmp_path / "shipped")
    with pytest.raises(InputError, match="fleetcast train"):
        artifact.find("latest")

    (tmp_path / "shipped" / "tft_model_20990101_000000").mkdir(parents=True)
    assert artifact.find("latest") == tmp_path / "shipped" / "tft_model_20990101_000000"

    for name in (
        "tft_model_20260101_000000",
        "tft_model_20260201_000000",
        ".tft_model_20270101_000000.x",
        "tft_model_x",
    ):
        (tmp_path / "models" / name).mkdir(parents=True)
    (tmp_path / "models" / "tft_model_20280101_000000").write_text("a file")
    assert artifact.find("latest") == tmp_path / "models" / "tft_model_20260201_000000"
    assert artifact.find("some/where") == Path("some/where")


def test_huge_shapes_take_no_memory(folder: Path) -> None:
    """A config of gigabytes of weights, with a header to match, is refused without memory being taken for them."""
    size = NetworkSize(hidden_size=4096, hidden_continuous_size=4096)
    with torch.device("meta"):
        network = build_network(Layout(RICH), plain_scaling(Layout(RICH)), size)
    end, table = 0, {}
    for name, tensor in {id(t): (n, t) for n, t in reversed(network.state_dict(keep_vars=True).items())}.values():
        begin, end = end, end + 4 * tensor.numel()
        table[name] = {"dtype": "F32", "shape": list(tensor.shape), "data_offsets": [begin, end]}
    changed = json.loads((folder / CONFIG).read_text())
    changed["network"] = size.model_dump()
    seal(folder, table, b"", changed)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    refused(folder, WEIGHTS, f"its tensors take {end} bytes, it has 0")

    assert end > 4 << 30
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 64 << 10


@settings(max_examples=60, deadline=None)
@given(
    name=st.sampled_from([WEIGHTS, CONFIG, METADATA]), place=st.floats(0, 1, exclude_max=True), bit=st.integers(0, 8)
)
def test_any_flipped_bit_and_any_cut(
    kept: Path, tmp_path_factory: pytest.TempPathFactory, name: str, place: float, bit: int
) -> None:
    """One bit flipped or the rest cut off, anywhere: refused, or the very same config and weights are loaded."""
    folder = Path(shutil.copytree(kept, tmp_path_factory.getbasetemp() / "flipped", dirs_exist_ok=True))
    data = bytearray((folder / name).read_bytes())
    position = int(place * len(data))
    if bit < 8:
        data[position] ^= 1 << bit
    else:
        del data[position:]
    (folder / name).write_bytes(data)
    try:
        model = artifact.load(folder)
    except ArtifactError as error:
        assert name in str(error) or WEIGHTS in str(error)  # noqa: PT017 -- it may load, too
    else:
        assert name != WEIGHTS
        assert model.config == artifact.load(kept).config


def test_links_within_the_folder(folder: Path) -> None:
    """A link that stays in the model's folder is followed: Kubernetes mounts files so."""
    (folder / "..data").mkdir()
    for name in (WEIGHTS, CONFIG, METADATA):
        (folder / name).rename(folder / "..data" / name)
        (folder / name).symlink_to(Path("..data") / name)

    assert artifact.load(folder).version == VERSION


def test_files_beside_the_card(tmp_path: Path) -> None:
    """Pictures are saved beside the card, whatever they hold, readable by all; loading looks at none of them."""
    files = {"fan_charts.png": b"\x89PNG", "notes": b""}
    folder = artifact.save(tmp_path, VERSION, trained(RICH), card="", files=files)

    assert {name: (folder / name).read_bytes() for name in files} == files
    assert all(path.stat().st_mode & 0o444 == 0o444 for path in folder.iterdir())
    artifact.load(folder)


@pytest.mark.parametrize(
    "name", ["", ".", "..", "../x.png", "/x.png", "a/b.png", ".hidden", "x\n", "x\0", CONFIG, CARD]
)
def test_files_with_paths(tmp_path: Path, name: str) -> None:
    """A file whose name is a path, hidden, or one of the artifact's own is not saved, and nothing else either."""
    with pytest.raises(InputError, match="no name for a file"):
        artifact.save(tmp_path, VERSION, trained(RICH), card="", files={name: b""})

    assert list(tmp_path.iterdir()) == []


def test_a_model_is_not_overwritten(folder: Path) -> None:
    """Saving under a name that exists is refused, and what is there stays."""
    before = (folder / WEIGHTS).read_bytes()
    with pytest.raises(InputError, match="exists"):
        artifact.save(folder.parent, VERSION, trained(RICH, seed=5), card="")

    assert (folder / WEIGHTS).read_bytes() == before


def test_a_failed_save_leaves_nothing(tmp_path: Path) -> None:
    """A save that fails half way leaves no folder behind, under no name."""
    broken = replace(trained(RICH), metadata={"not": object()})
    with pytest.raises(TypeError):
        artifact.save(tmp_path, VERSION, broken, card="")

    assert list(tmp_path.iterdir()) == []


def test_refusals_are_of_two_kinds() -> None:
    """A damaged artifact is a mismatch too: whoever handles the one handles both."""
    assert issubclass(ArtifactError, MismatchError)
