import json
import os
from pathlib import Path

import pytest

from devstack import StackError
from devstack.jars import APICURIO, KAFKA, cache_folder, intact, package_folder
from tests.devstack.scripts import maven


@pytest.fixture
def calls(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """One byte for each time that Maven was run."""
    file = tmp_path / "calls"
    monkeypatch.setenv("PATH", f"{maven(tmp_path / 'bin', file)}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("JAVA_HOME", str(tmp_path))
    return file


@pytest.fixture
def cached(tmp_path: Path, calls: Path) -> Path:
    """A package in a cache of its own, fetched by the Maven of ``calls``."""
    folder = package_folder(KAFKA, root=tmp_path / "cache")
    assert calls.read_text() == "x"
    return folder


def test_what_was_fetched_is_intact(cached: Path) -> None:
    """Files that are as they were fetched pass, sums included."""
    assert intact(KAFKA, cached)
    assert intact(KAFKA, cached, thorough=True)


def test_an_intact_package_is_not_fetched_again(tmp_path: Path, cached: Path, calls: Path) -> None:
    """Maven is asked once."""
    assert package_folder(KAFKA, thorough=True, root=tmp_path / "cache") == cached
    assert calls.read_text() == "x"


@pytest.mark.parametrize(
    "damage",
    [
        lambda folder: (folder / "some.jar").unlink(),
        lambda folder: (folder / "some.jar").write_bytes(b"jar"),
        lambda folder: (folder / "another.jar").write_bytes(b"jar"),
        lambda folder: (folder / "manifest.json").unlink(),
        lambda folder: (folder / "manifest.json").write_text('{"coor'),
        lambda folder: (folder / "manifest.json").write_text("[]"),
        lambda folder: (folder / "manifest.json").write_text('{"coordinates": [], "files": {}}'),
    ],
    ids=["missing", "truncated", "foreign", "no manifest", "half a manifest", "another manifest", "other versions"],
)
def test_a_damaged_package_is_fetched_again(tmp_path: Path, cached: Path, calls: Path, damage: object) -> None:
    """Whatever is missing, cut off or too much is found at each use, and mended."""
    assert callable(damage)
    damage(cached)

    assert not intact(KAFKA, cached)
    assert package_folder(KAFKA, root=tmp_path / "cache") == cached
    assert intact(KAFKA, cached, thorough=True)
    assert calls.read_text() == "xx"


def test_altered_bytes_are_found_by_the_thorough_check(tmp_path: Path, cached: Path, calls: Path) -> None:
    """A file of the same size with other bytes is found by its sum, and fetched again."""
    jar = cached / "some.jar"
    jar.write_bytes(b"J" + jar.read_bytes()[1:])

    assert intact(KAFKA, cached)
    assert not intact(KAFKA, cached, thorough=True)
    package_folder(KAFKA, thorough=True, root=tmp_path / "cache")
    assert (cached / "some.jar").read_bytes() == b"jar" * 1000
    assert calls.read_text() == "xx"


def test_leftovers_of_a_killed_fetch_are_removed(tmp_path: Path, cached: Path) -> None:
    """A fetch that was killed leaves half a package beside the cache; the next fetch clears it away."""
    left = cached.parent / f".{KAFKA.version}.abc"
    left.mkdir()
    (cached / "some.jar").unlink()
    package_folder(KAFKA, root=tmp_path / "cache")

    assert [path.name for path in cached.parent.iterdir()] == [KAFKA.version]


def test_the_manifest_names_the_artifacts(cached: Path) -> None:
    """Another version of an artifact makes another package, not a mixture."""
    assert json.loads((cached / "manifest.json").read_text())["coordinates"] == list(KAFKA.coordinates)
    assert not intact(APICURIO, cached)


def test_missing_maven_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without Maven the error names it, what it was to fetch, and what to do."""
    monkeypatch.setenv("PATH", str(tmp_path))

    with pytest.raises(StackError, match=rf"Maven \(mvn\), which fetches kafka {KAFKA.version}, .*install"):
        package_folder(KAFKA, root=tmp_path / "cache")


def test_a_failing_maven_is_quoted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Maven's own first error is passed on, and no half package stays."""
    monkeypatch.setenv("PATH", f"{maven(tmp_path / 'bin', tmp_path / 'calls', fails=True)}")
    monkeypatch.setenv("JAVA_HOME", str(tmp_path))

    with pytest.raises(StackError, match=r"could not fetch kafka .*no route to the repository"):
        package_folder(KAFKA, root=tmp_path / "cache")
    assert list((tmp_path / "cache" / "kafka").iterdir()) == []


def test_a_maven_that_brings_nothing_is_an_error(tmp_path: Path, calls: Path) -> None:
    """An archive that is not there is said, not cached as an empty package."""
    with pytest.raises(StackError, match="fetched no files of apicurio"):
        package_folder(APICURIO, root=tmp_path / "cache")
    assert calls.exists()


def test_a_cache_that_cannot_be_written_is_said(tmp_path: Path, calls: Path) -> None:
    """A cache folder that is in the way gives a sentence with its path."""
    (tmp_path / "cache").write_text("a file")

    with pytest.raises(StackError, match=r"kafka .* cannot be kept in .*cache"):
        package_folder(KAFKA, root=tmp_path / "cache")
    assert not calls.exists()


def test_the_cache_is_the_users(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """XDG_CACHE_HOME is heeded, ~/.cache is the default."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_folder().is_relative_to(tmp_path)

    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert cache_folder().is_relative_to(tmp_path / "home" / ".cache")
