"""The index of runs finds what is on disk, however it changes, and reads only what changed."""

from __future__ import annotations

from pathlib import Path

import pytest

from actial.core.atomic_io import write_json
from actial.pipeline import key_index
from actial.pipeline.key_index import INDEX, runs_with_key


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the run folders whose provenance is read."""
    names: list[str] = []
    read = key_index.read_provenance

    def counted(folder: Path):
        names.append(folder.name)
        return read(folder)

    monkeypatch.setattr(key_index, "read_provenance", counted)
    return names


def add_run(
    folder: Path, key: str, answers: str = "none", name: str = "provenance.json"
) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / name, {"sft": {"key": key}, "answers": {"m/s": answers}})


def test_runs_are_found_by_stage_and_by_answers_at_any_depth(tmp_path, reads):
    add_run(tmp_path / "one", "a", "x")
    add_run(tmp_path / "sweep" / "0", "a", "y")
    add_run(tmp_path / "old", "b", "x", name="passport.json")
    assert [f.name for f in runs_with_key(tmp_path, "a")] == ["one", "0"]
    assert [f.name for f in runs_with_key(tmp_path, "x")] == ["old", "one"]
    assert runs_with_key(tmp_path, "c") == []
    assert sorted(reads) == ["0", "old", "one"]  # each once


def test_a_changed_and_a_deleted_run_are_noticed(tmp_path, reads):
    add_run(tmp_path / "one", "a")
    add_run(tmp_path / "two", "a")
    assert len(runs_with_key(tmp_path, "a")) == 2
    add_run(tmp_path / "one", "b")
    (tmp_path / "two" / "provenance.json").unlink()
    reads.clear()
    assert runs_with_key(tmp_path, "a") == []
    assert [f.name for f in runs_with_key(tmp_path, "b")] == ["one"]
    assert reads == ["one"]


def test_a_damaged_index_is_built_anew_and_run_folders_are_not_entered(tmp_path, reads):
    add_run(tmp_path / "one", "a")
    add_run(tmp_path / "one" / "checkpoints" / "inner", "a")
    (tmp_path / INDEX).write_text("{")
    assert [f.name for f in runs_with_key(tmp_path, "a")] == ["one"]
    assert reads == ["one"]


def test_a_folder_that_does_not_exist_has_no_runs(tmp_path):
    assert runs_with_key(tmp_path / "none", "a") == []
    assert not (tmp_path / "none").exists()
