"""Files of a data set, finished or not, that are cut, changed, deleted or left half written."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from support import tiny_world
from support.posed_captures import arc, write_capture
from torch.utils.data import DataLoader, Dataset

import actial.build
from actial.build import build
from actial.config import (
    BuildConfig,
    ImageConfig,
    ImageFormat,
    PairConfig,
    SourceConfig,
    SourceKind,
)
from actial.config.exit_codes import sentence
from actial.core.errors import UserError
from actial.data.build import build_pairs
from actial.data.shards import INDEX, MANIFEST, ShardSet

Damage = Callable[[Path], None]
FINISHED = (MANIFEST, INDEX, "train-000000.tar")


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def flip(path: Path) -> None:
    """One bit of what the file is for: of an image, of the index's checksum, else in the middle."""
    data = bytearray(path.read_bytes())
    position = len(data) // 2
    if path.suffix == ".tar":
        position = data.index(b"IDAT") + 20
    if path.name == MANIFEST:
        position = data.index(b'"index_sha256": "') + 20
    data[position] ^= 4
    path.write_bytes(bytes(data))


def delete(path: Path) -> None:
    path.unlink()


def leave_half_written(path: Path) -> None:
    """What a full disk leaves: zeros behind the first blocks."""
    size = path.stat().st_size
    path.write_bytes(path.read_bytes()[: size // 3] + bytes(size - size // 3))


DAMAGES = (cut, flip, delete, leave_half_written)


# ---------------------------------------------------------------- finished sets


@pytest.fixture(scope="module")
def questions(tmp_path_factory) -> Path:
    return Path(tiny_world.write_questions(tmp_path_factory.mktemp("damage") / "set", 12).root)


def read_all(root: Path) -> None:
    data = ShardSet(root, "train")
    for record in data.records:
        data.images(record)


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("name", FINISHED)
def test_a_damaged_file_of_a_finished_set_is_named_and_not_read(
    questions, tmp_path, name, damage
):
    root = tmp_path / "set"
    shutil.copytree(questions, root)
    damage(root / name)
    with pytest.raises(UserError, match=r"build (it|the set) again|build it first") as error:
        read_all(root)
    assert str(root) in str(error.value)


class OneImage(Dataset):
    def __init__(self, data: ShardSet) -> None:
        self.data = data

    def __len__(self) -> int:
        return 1

    def __getitem__(self, index: int) -> int:
        return len(self.data.images(self.data.records[-1]))


def test_damage_found_by_a_data_worker_is_the_same_sentence(questions, tmp_path):
    root = tmp_path / "set"
    shutil.copytree(questions, root)
    data = ShardSet(root, "train")
    delete(root / data.records[-1].shard)
    with pytest.raises(UserError) as error:
        list(DataLoader(OneImage(data), num_workers=1))
    assert "Traceback" in str(error.value)
    assert sentence(error.value) == (
        f"data set {root} lacks its shard {data.records[-1].shard}: build the set again."
    )


# ---------------------------------------------------------------- unfinished builds


def config(root: Path, out: Path) -> BuildConfig:
    return BuildConfig(
        source=SourceConfig(kind=SourceKind.mvimgnet, root=str(root)),
        out=str(out),
        workers=1,
        pairs=PairConfig(val_fraction=0.0, test_fraction=0.0),
        image=ImageConfig(max_pixels=1024, multiple=16, format=ImageFormat.png),
    )


@pytest.fixture(scope="module")
def world(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("captures")
    for number in range(3):
        write_capture(root / "0" / f"0000000{number}", arc(14))
    return root


def unfinished(world: Path, out: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A build that was killed before it wrote the index."""

    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(build_pairs, "_finish", killed)
        with pytest.raises(KeyboardInterrupt):
            build(config(world, out))
    return out / ".build"


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("name", ["labels-000000.jsonl", "train-000000.tar.jsonl"])
def test_damaged_work_of_a_killed_build_is_named_or_done_again(
    world, tmp_path, monkeypatch, name, damage
):
    build(config(world, tmp_path / "whole"))
    work = unfinished(world, tmp_path / "set", monkeypatch)
    damage(work / name)
    if damage is not delete:
        with pytest.raises(
            UserError, match=r"is damaged .*: remove it, and run the same command"
        ):
            build(config(world, tmp_path / "set"))
        (work / name).unlink()
    build(config(world, tmp_path / "set"))
    for path in (tmp_path / "whole").iterdir():
        assert (tmp_path / "set" / path.name).read_bytes() == path.read_bytes(), path.name


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_plan_is_made_anew(world, tmp_path, monkeypatch, damage):
    build(config(world, tmp_path / "whole"))
    work = unfinished(world, tmp_path / "set", monkeypatch)
    damage(work / "pair_plan.sqlite")
    build(config(world, tmp_path / "set"))
    assert (tmp_path / "set" / INDEX).read_bytes() == (tmp_path / "whole" / INDEX).read_bytes()


@pytest.mark.parametrize("damage", [cut, leave_half_written])
def test_a_damaged_claim_of_an_unfinished_build_is_named(world, tmp_path, monkeypatch, damage):
    work = unfinished(world, tmp_path / "set", monkeypatch)
    damage(work / "build.json")
    with pytest.raises(UserError, match=r"build.json is damaged .*: remove .* and build anew"):
        build(config(world, tmp_path / "set"))


@pytest.mark.parametrize("damage", DAMAGES)
def test_damaged_packed_images_are_named_and_the_remedy_helps(world, tmp_path, damage):
    build(config(world, tmp_path / "whole"))
    divided = config(world, tmp_path / "set")
    divided.build.num_shards = 2
    for shard in (0, 1):
        divided.build.shard = shard
        build(divided)
    index = tmp_path / "set" / ".build" / "pictures-000000.jsonl"
    damage(index.with_suffix(".bin"))
    with pytest.raises(
        UserError,
        match=r"pictures-000000\.jsonl is damaged \(.*pictures-000000\.bin .*\): remove it",
    ):
        build(config(world, tmp_path / "set"))
    index.unlink()
    build(config(world, tmp_path / "set"))
    assert (tmp_path / "set" / INDEX).read_bytes() == (tmp_path / "whole" / INDEX).read_bytes()


@pytest.mark.parametrize("content", ["", "{", "[]", '{"config_hash": 1}'])
def test_a_build_beside_a_damaged_manifest_says_so(world, tmp_path, content):
    build(config(world, tmp_path / "set"))
    (tmp_path / "set" / MANIFEST).write_text(content)
    with pytest.raises(UserError, match=r"remove"):
        actial.build.build(config(world, tmp_path / "set"))
    assert json.loads((tmp_path / "set" / "audit.json").read_text())
