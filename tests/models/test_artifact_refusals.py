"""What loading refuses: a contract that does not fit, files that are damaged, and files made to harm."""

import os
import resource
import shutil
import stat
import struct
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from models import artifact
from models.artifact import CONFIG, METADATA, WEIGHTS
from models.layout import Layout
from models.network import build_network
from models.network_size import NetworkSize
from schemas.contract import Contract
from schemas.errors import ArtifactError, MismatchError
from tests import contracts
from tests.models.damage import (
    Damage,
    at,
    config,
    first,
    header,
    holding,
    instead,
    move,
    nested,
    read_config,
    read_header,
    replacing,
    seal,
    tensors,
)
from tests.models.small import KNOWN, RICH, VERSION, plain_scaling, small_trained


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


CONTRACTS: dict[str, tuple[Contract, list[str]]] = {
    "wrong statuses": (
        Contract(contracts.schema(*(f if f["name"] != "state" else contracts.field(
            "state", contracts.enum("State", "up", "down", "busy", "draining"), "category")
            for f in contracts.RICH_FIELDS), known=KNOWN)),
        ["state: model was trained with 3 symbols, contract has 4: + 'draining'"],
    ),
    "renamed column": (
        Contract(contracts.schema(*({**f, "name": "load1"} if f["name"] == "load" else f
            for f in contracts.RICH_FIELDS), known=KNOWN)),
        ["'load' is in the model but not in the contract", "'load1' is in the contract but not in the model"],
    ),
    "other cadence": (
        contracts.rich(known=KNOWN, step_seconds=60, season_steps=8640),
        ["step_seconds: the model was trained with 10, the contract has 60"],
    ),
    "other encoder": (
        contracts.rich(known=KNOWN, encoder_steps=7),
        ["encoder_steps: the model was trained with 6, the contract has 7"],
    ),
    "other horizon": (contracts.rich(known=KNOWN, horizon_steps=9), ["horizon_steps", "4", "9"]),
}  # fmt: skip


@pytest.mark.parametrize("name", CONTRACTS)
def test_a_contract_that_does_not_fit(folder: Path, name: str) -> None:
    """Other statuses, a renamed column, another cadence or encoder length: refused with the difference in words."""
    contract, words = CONTRACTS[name]

    refused(folder, VERSION, *words, contract=contract)


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
        table, body = read_header(folder)
        table.pop("__metadata__")
        begin = len(whole) - len(body)
        ends = sorted(entry["data_offsets"][1] for entry in table.values())
        cuts |= {begin - 1, begin, begin + 1, len(whole) - 1}
        cuts |= {begin + end for end in (ends[0], ends[len(ends) // 2], ends[-2])}
    for cut in sorted(cuts):
        path.write_bytes(whole[:cut])
        refused(folder, name)


def test_files_of_two_models(tmp_path: Path) -> None:
    """Weights of another model are refused, even where contract and shapes are the same."""
    a = artifact.save(tmp_path, VERSION, small_trained(RICH), card="")
    b = artifact.save(tmp_path, "tft_model_20260102_000000", small_trained(RICH, seed=1), card="")
    (a / WEIGHTS).rename(tmp_path / "aside")
    (b / WEIGHTS).rename(a / WEIGHTS)
    (tmp_path / "aside").rename(b / WEIGHTS)

    refused(a, "two models", VERSION, b.name)
    refused(b, "two models")


def test_weights_of_another_contract(folder: Path, tmp_path: Path) -> None:
    """Weights trained under another contract are refused by their fingerprint."""
    other = artifact.save(tmp_path / "other", VERSION, small_trained(contracts.rich()), card="")
    shutil.copy(other / WEIGHTS, folder / WEIGHTS)

    refused(folder, "two models", "contract_fingerprint")


def test_no_folder(folder: Path, tmp_path: Path) -> None:
    """A path that does not exist, or is a file, is refused by its name."""
    refused(tmp_path / "nothing", "nothing")
    refused(folder / CONFIG, CONFIG)


def test_huge_shapes_take_no_memory(folder: Path) -> None:
    """A config of gigabytes of weights, with a header to match, is refused without memory being taken for them."""
    size = NetworkSize(hidden_size=4096, hidden_continuous_size=4096)
    with torch.device("meta"):
        network = build_network(Layout(RICH), plain_scaling(Layout(RICH)), size)
    end, table = 0, {}
    for name, tensor in {id(t): (n, t) for n, t in reversed(network.state_dict(keep_vars=True).items())}.values():
        begin, end = end, end + 4 * tensor.numel()
        table[name] = {"dtype": "F32", "shape": list(tensor.shape), "data_offsets": [begin, end]}
    changed = read_config(folder)
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


def test_refusals_are_of_two_kinds() -> None:
    """A damaged artifact is a mismatch too: whoever handles the one handles both."""
    assert issubclass(ArtifactError, MismatchError)
