import signal
import subprocess
import sys
from pathlib import Path

import pytest

from consumer.instance import Instance
from schemas.errors import InputError

HOLD = """
import sys, time
from pathlib import Path
from consumer.instance import Instance
instance = Instance("group", None, Path(sys.argv[1]))
instance.remember("member-of-the-dead")
print(instance.id, flush=True)
time.sleep(60)
"""


def test_each_process_of_a_host_has_a_slot(tmp_path: Path) -> None:
    """The lowest free one; a freed slot is taken again; other groups count for themselves."""
    first, second = Instance("group", folder=tmp_path), Instance("group", folder=tmp_path)
    assert (first.id[-2:], second.id[-2:]) == ("-0", "-1")
    assert Instance("other", folder=tmp_path).id == first.id
    first.close()

    assert Instance("group", folder=tmp_path).id == first.id


def test_a_killed_process_frees_its_slot_and_is_known_to_be_dead(tmp_path: Path) -> None:
    """Its successor has the same id, and learns what the group knew it by; after an orderly end there is nothing."""
    with subprocess.Popen([sys.executable, "-c", HOLD, str(tmp_path)], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout
        name = process.stdout.readline().strip()
        assert Instance("group", folder=tmp_path).id != name
        process.send_signal(signal.SIGKILL)
        process.wait()

    heir = Instance("group", folder=tmp_path)
    assert (heir.id, heir.former_member) == (name, "member-of-the-dead")
    heir.remember("")
    heir.close()
    assert Instance("group", folder=tmp_path).former_member is None


def test_a_given_id_is_used_by_one_process(tmp_path: Path) -> None:
    """An id that lives on this host is refused, with its name."""
    assert Instance("group", "mine/1", tmp_path).id == "mine/1"
    held = Instance("group", "mine", tmp_path)

    with pytest.raises(InputError, match="--instance-id: a process of this host runs as mine"):
        Instance("group", "mine", tmp_path)
    held.close()


def test_a_folder_that_cannot_be_used_is_named(tmp_path: Path) -> None:
    """The message says which folder, and what sets it."""
    file = tmp_path / "file"
    file.touch()

    with pytest.raises(InputError, match=r"file.*XDG_CACHE_HOME"):
        Instance("group", folder=file)
