import json
import shutil
import struct
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch

from models import artifact
from models.artifact import CONFIG, METADATA, WEIGHTS, Model, Trained
from models.layout import Layout, Scaling
from models.network import NetworkSize, build_network
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


def plain_scaling(layout: Layout) -> Scaling:
    ones = dict.fromkeys(layout.targets, 1.0)
    covariates = dict.fromkeys(layout.covariates, (0.5, 2.0))
    return Scaling(floor=dict.fromkeys(layout.targets, 0.01), level=ones, spread=ones, covariates=covariates)


def trained(contract: Contract, size: NetworkSize = SMALL, seed: int = 0) -> Trained:
    torch.manual_seed(seed)
    layout = Layout(contract)
    scaling = plain_scaling(layout)
    return Trained(build_network(layout, scaling, size), layout, scaling, size, {"state": ["down"]}, {"note": "test"})


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return artifact.save(tmp_path_factory.mktemp("models"), VERSION, trained(RICH), card="# A card: ü")


@pytest.fixture
def folder(kept: Path, tmp_path: Path) -> Path:
    """A copy of a saved model, to be damaged."""
    return Path(shutil.copytree(kept, tmp_path / VERSION))


def refused(folder: Path, *words: str, contract: Contract | None = None) -> str:
    """The words of the refusal, with exit code 3."""
    with pytest.raises(MismatchError) as caught:
        artifact.load(folder, contract)
    told = str(caught.value)
    assert caught.value.exit_code == 3
    assert [word for word in words if word not in told] == [], told
    return told


def edit(folder: Path, change: Edit) -> None:
    path = folder / CONFIG
    config = json.loads(path.read_text())
    change(config)
    path.write_text(json.dumps(config))


def reweigh(folder: Path, change: Callable[[dict[str, torch.Tensor]], object], **metadata: str) -> None:
    """Rewrite the tensors as safetensors itself would."""
    path = folder / WEIGHTS
    with safetensors.safe_open(path, "pt") as file:
        kept = {**file.metadata(), **metadata}
    tensors = safetensors.torch.load_file(path)
    change(tensors)
    safetensors.torch.save_file(tensors, path, metadata=kept)


def outputs(model: Model) -> np.ndarray:
    """Forecasts of some windows."""
    history = History(model.contract, events(model.contract, servers=3, steps=20))
    return model.runtime().forecast(history.windows(history.samples)).values


def test_saved_and_loaded_forecasts_bit_for_bit(kept: Path) -> None:
    """A loaded model, rebuilt from its files alone, gives exactly the numbers of the network that was saved."""
    original = trained(RICH)
    model = artifact.load(kept)
    before = outputs(replace(model, network=original.network, scaling=original.scaling, layout=original.layout))

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


CONFIG_EDITS: dict[str, tuple[Edit, list[str]]] = {
    "contract edited": (lambda c: c["contract"]["fleetcast"].update(step_seconds=60), ["fingerprint"]),
    "contract nonsense": (lambda c: c["contract"].update(fields=[]), ["contract", "'key'"]),
    "input's name": (lambda c: c["contract"]["fields"][2].update(name="relative_time_idx"), ["relative_time_idx"]),
    "fingerprint edited": (lambda c: c.update(contract_fingerprint="0" * 64), ["fingerprint", "0000"]),
    "format": (lambda c: c.update(format=2), ["format", "2"]),
    "version": (lambda c: c.update(model_version="../../etc"), ["model_version"]),
    "unknown attribute": (lambda c: c.update(pickled=True), ["pickled"]),
    "attribute gone": (lambda c: c.pop("scaling"), ["scaling", "missing"]),
    "vocabulary": (lambda c: c["vocabulary"]["state"].pop(), ["vocabulary"]),
    "stages": (lambda c: c.update(stages=["denormalise"]), ["stages", "denormalise"]),
    "floor gone": (lambda c: c["scaling"]["floor"].pop("load"), ["scaling.floor", "load"]),
    "floor zero": (lambda c: c["scaling"]["floor"].update(load=0), ["load", "0"]),
    "level nan": (lambda c: c["scaling"]["level"].update(load=float("nan")), ["scaling.level", "nan"]),
    "spread infinite": (lambda c: c["scaling"]["spread"].update(load=float("inf")), ["scaling.spread", "inf"]),
    "covariate": (lambda c: c["scaling"]["covariates"].update(requests=[0, 0]), ["requests", "0"]),
    "constant": (lambda c: c["scaling"].update(constant=["nothing"]), ["nothing"]),
    "hidden size": (lambda c: c["network"].update(hidden_size=16), ["tensor", "the network needs"]),
    "no heads": (lambda c: c["network"].update(attention_head_size=0), ["attention_head_size", "0"]),
    "too many heads": (lambda c: c["network"].update(attention_head_size=9), ["attention_head_size 9"]),
    "no layers": (lambda c: c["network"].update(lstm_layers=0), ["lstm_layers", "0"]),
    "huge": (lambda c: c["network"].update(hidden_size=10**9), ["hidden_size"]),
}


@pytest.mark.parametrize("name", CONFIG_EDITS)
def test_an_edited_config_is_refused(folder: Path, name: str) -> None:
    """A config.json that does not agree with itself or its tensors is refused, naming what and the value."""
    change, words = CONFIG_EDITS[name]
    edit(folder, change)

    refused(folder, *words)


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


def test_something_behind_the_last_tensor(folder: Path) -> None:
    """Bytes left over after the last tensor are refused."""
    with (folder / WEIGHTS).open("ab") as file:
        file.write(b"\0")

    refused(folder, WEIGHTS)


@pytest.mark.parametrize(
    "head",
    [
        struct.pack("<Q", 2**63),
        struct.pack("<Q", 1 << 40) + b"{}",
        struct.pack("<Q", 2) + b"[]",
        struct.pack("<Q", 8) + b'{"a": 1}',
        struct.pack("<Q", 5_000) + b"1" * 5_000,
        struct.pack("<Q", 100_000) + b"[" * 100_000,
        struct.pack("<Q", 21) + b'{"__metadata__": "no"}',
        b"\x80\x04\x95" + b"\0" * 40,
        b"PK\x03\x04" + b"\0" * 40,
    ],
)
def test_a_header_that_is_none(folder: Path, head: bytes) -> None:
    """A huge length, a header that is no table of tensors, a pickle or a zip: refused, unread."""
    (folder / WEIGHTS).write_bytes(head)

    refused(folder, WEIGHTS)


@pytest.mark.parametrize("text", ["", "null", "[]", "1" * 5_000, "[" * 100_000, "\ufeff{}", '{"format": 1'])
def test_a_config_that_is_none(folder: Path, text: str) -> None:
    """A config.json that is no JSON object of ours is refused."""
    (folder / CONFIG).write_text(text, encoding="utf-8")

    refused(folder, CONFIG)


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


def rename_first(tensors: dict[str, torch.Tensor]) -> None:
    name = min(tensors)
    tensors["surprise"] = tensors.pop(name)


WEIGHT_EDITS: dict[str, tuple[Callable[[dict[str, torch.Tensor]], object], str]] = {
    "nan": (lambda t: t[min(t)].view(-1)[0].fill_(float("nan")), "finite"),
    "infinite": (lambda t: t[max(t)].view(-1)[-1].fill_(float("inf")), "finite"),
    "half": (lambda t: t.update({min(t): t[min(t)].half()}), "finite torch.float32"),
    "integers": (lambda t: t.update({min(t): t[min(t)].int()}), "finite torch.float32"),
    "shape": (lambda t: t.update({min(t): t[min(t)].flatten()[:1].clone()}), "the network needs"),
    "gone": (lambda t: t.pop(min(t)), "missing"),
    "renamed": (rename_first, "missing"),
    "one more": (lambda t: t.update(surprise=torch.ones(2)), "surprise"),
}


@pytest.mark.parametrize("name", WEIGHT_EDITS)
def test_tensors_that_do_not_fit(folder: Path, name: str) -> None:
    """NaN, infinity, another type, shape or name, a tensor missing or too many: refused, naming the tensor."""
    change, word = WEIGHT_EDITS[name]
    reweigh(folder, change)

    refused(folder, WEIGHTS, word)


def test_no_folder(folder: Path, tmp_path: Path) -> None:
    """A path that does not exist, or is a file, is refused by its name."""
    refused(tmp_path / "nothing", "nothing")
    refused(folder / CONFIG, CONFIG)


def test_directories_where_files_should_be(folder: Path) -> None:
    """A directory in a file's place is refused like a missing file."""
    (folder / WEIGHTS).unlink()
    (folder / WEIGHTS).mkdir()

    refused(folder, WEIGHTS)


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
