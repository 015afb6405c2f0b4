from pathlib import Path

import pytest

from devstack import StackError, start_stack
from devstack.java import FOLDERS_VARIABLE, find_java
from tests.devstack.scripts import executable, java


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    """Java 21 in JAVA_HOME, on PATH and in the usual folders."""
    for name in ("home", "path", "folders/one"):
        java(tmp_path / name, "21.0.2")
    return {
        "JAVA_HOME": str(tmp_path / "home"),
        "PATH": str(tmp_path / "path" / "bin"),
        FOLDERS_VARIABLE: str(tmp_path / "folders" / "*"),
    }


def test_java_home_comes_first(tmp_path: Path, environment: dict[str, str]) -> None:
    """JAVA_HOME beats PATH and the folders."""
    assert find_java(21, environment).executable == tmp_path / "home/bin/java"


def test_path_comes_second(tmp_path: Path, environment: dict[str, str]) -> None:
    """PATH beats the folders."""
    del environment["JAVA_HOME"]

    assert find_java(21, environment).executable == tmp_path / "path/bin/java"


def test_folders_come_last(tmp_path: Path, environment: dict[str, str]) -> None:
    """Without JAVA_HOME and with nothing on PATH the folders are searched."""
    found = find_java(21, {FOLDERS_VARIABLE: environment[FOLDERS_VARIABLE], "PATH": ""})

    assert (found.executable, found.version) == (tmp_path / "folders/one/bin/java", 21)


def test_one_that_is_too_old_is_passed_over(tmp_path: Path, environment: dict[str, str]) -> None:
    """A Java of JAVA_HOME that is too old does not hide a newer one elsewhere."""
    java(tmp_path / "home", "17.0.1")

    assert find_java(21, environment).executable == tmp_path / "path/bin/java"


def test_one_that_does_not_run_is_passed_over(tmp_path: Path, environment: dict[str, str]) -> None:
    """A java that fails, or is missing where JAVA_HOME points, does not end the search."""
    executable(tmp_path / "path/bin/java", "#!/bin/sh\nexit 1\n")
    environment["JAVA_HOME"] = str(tmp_path / "nowhere")

    assert find_java(21, environment).executable == tmp_path / "folders/one/bin/java"


@pytest.mark.parametrize(
    ("reported", "major"), [("1.8.0_392", 8), ("17", 17), ("21.0.2", 21), ("25-ea", 25), ("25.0.1-LTS", 25)]
)
def test_versions_are_read(tmp_path: Path, reported: str, major: int) -> None:
    """Each way in which Javas have named their version gives the major version."""
    home = java(tmp_path / "home", reported)

    assert find_java(8, {"JAVA_HOME": str(home), FOLDERS_VARIABLE: ""}).version == major


def test_what_is_too_old_is_named(tmp_path: Path) -> None:
    """The error names the version that is needed, what was found and how old it is."""
    home = java(tmp_path / "home", "17.0.1")

    with pytest.raises(StackError, match=r"no Java 21 or newer .*home/bin/java \(version 17\)"):
        find_java(21, {"JAVA_HOME": str(home), FOLDERS_VARIABLE: ""})


def test_nothing_found_names_what_was_looked_for() -> None:
    """The error says which version is missing, where it was looked for, and what to do."""
    with pytest.raises(StackError, match=r"no Java 17 or newer in JAVA_HOME, on PATH or in .*install"):
        find_java(17, {FOLDERS_VARIABLE: ""})


def test_a_link_is_asked_once(tmp_path: Path) -> None:
    """One Java under several names is started once: asking takes a third of a second."""
    asked = tmp_path / "asked"
    home = java(tmp_path / "folders/real", "17")
    executable(home / "bin/java", f"#!/bin/sh\necho x >> {asked}\necho 'openjdk version \"17\"' >&2\n")
    (tmp_path / "folders/link").symlink_to(home)

    with pytest.raises(StackError):
        find_java(21, {"JAVA_HOME": str(home), FOLDERS_VARIABLE: str(tmp_path / "folders/*")})
    assert asked.read_text() == "x\n"


def test_auto_falls_back_to_the_embedded_pair(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a Java ``auto`` gives the embedded pair and says why; who insists gets the reason as an error."""
    monkeypatch.delenv("JAVA_HOME", raising=False)
    monkeypatch.setenv("PATH", "")
    monkeypatch.setenv(FOLDERS_VARIABLE, str(tmp_path))

    with start_stack() as stack:
        assert (stack.broker, stack.registry, stack.transactional) == ("embedded", "embedded", False)
        assert "no Java 17" in stack.description
        assert "no Java 21" in stack.description
    with pytest.raises(StackError, match="no Java 17"), start_stack(broker="apache", registry="embedded"):
        pass
    with pytest.raises(StackError, match="no Java 21"), start_stack(broker="embedded", registry="apicurio"):
        pass
