"""The whole build: from folders of photos to a finished set, whatever is wrong with some of them and whoever interrupts it."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from posed_captures import arc, random_similarity, write_capture

import actial.build
from actial.build import build
from actial.config import BuildConfig, GateConfig, ImageConfig, ImageFormat, PairConfig, SourceConfig, SourceKind
from actial.data.shards import ShardSet
from actial.errors import UserError


def config(root: Path, out: Path, **changes) -> BuildConfig:
    settings = {
        "source": SourceConfig(kind=SourceKind.mvimgnet, root=str(root), licence="CC0"),
        "pairs": PairConfig(val_fraction=0.0, test_fraction=0.3),
        "image": ImageConfig(max_pixels=32 * 32, multiple=8, format=ImageFormat.png),
        "out": str(out),
        "groups_per_shard": 2,
        "workers": 1,
    }
    return BuildConfig(**{**settings, **changes})


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """Eight good captures of two classes."""
    root = tmp_path_factory.mktemp("world")
    for i in range(8):
        write_capture(root / str(i % 2) / f"{i:08x}", arc(14, span=160.0, **random_similarity(np.random.default_rng(i))))
    return root


@pytest.fixture(scope="module")
def finished(world, tmp_path_factory):
    out = tmp_path_factory.mktemp("built") / "set"
    build(config(world, out))
    return out


def content(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def test_a_build_leaves_a_finished_set_and_nothing_else(finished):
    assert {"manifest.json", "index.jsonl", "rejects.json", "audit.html"} <= set(content(finished))
    assert all(name.endswith(".tar") for name in set(content(finished)) - {"manifest.json", "index.jsonl", "rejects.json", "audit.html"})
    train, test = ShardSet(finished, "train"), ShardSet(finished, "test")
    assert len(train) + len(test) == 8 * 12
    assert not {row["group"] for row in train.rows} & {row["group"] for row in test.rows}
    first, second = train.images(train.rows[0])
    assert first.shape == second.shape == (24, 40, 3)
    assert train.manifest["licence"] == "CC0"
    rejects = json.loads((finished / "rejects.json").read_text())
    assert rejects["captures"] == {"accepted": 8, "seen": 8}
    assert rejects["pairs"]["written"] == 96
    assert rejects["pairs"]["judged"] == 8 * 14 * 13 / 2


def test_the_pictures_in_a_shard_are_the_frames_the_row_names(world, finished):
    from actial.data.captures import decode
    from actial.data.pictures import decode_bytes, encode

    train = ShardSet(finished, "train")
    row = train.rows[-1]
    for name, pixels in zip(row["frame_names"], train.images(row), strict=True):
        original = decode(world / row["class_id"] / row["object_id"] / "images" / name)
        assert np.array_equal(pixels, decode_bytes(encode(original, config(world, finished).image)))


def test_several_processes_and_smaller_chunks_write_the_same_bytes(world, finished, tmp_path, monkeypatch):
    monkeypatch.setattr(actial.build, "CHUNK", 3)
    build(config(world, tmp_path / "set", workers=2))
    assert content(tmp_path / "set") == content(finished)


def test_the_audit_page_is_one_file_with_sheets(finished):
    page = (finished / "audit.html").read_text()
    assert page.count("data:image/jpeg;base64,") == 2  # two classes
    assert "http" not in page
    assert "ego_rotation" in page


COMMAND = (
    "source=mvimgnet",
    "pairs.val_fraction=0",
    "pairs.test_fraction=0.3",
    "image.max_pixels=1024",
    "image.multiple=8",
    "image.format=png",
)
REST = ("pairs.max_per_class=0", "groups_per_shard=2", "workers=1", "source.licence=CC0")


def command(root: Path, out: Path, *more: str) -> list[str]:
    return [sys.executable, "-m", "actial.build", f"source.root={root}", f"out={out}", *COMMAND, *REST, *more]


def test_a_killed_build_resumes_to_the_same_bytes(world, finished, tmp_path):
    out = tmp_path / "set"
    process = subprocess.Popen(command(world, out), stderr=subprocess.PIPE)
    while not list(out.glob("*.tar")) and process.poll() is None:
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not (out / "manifest.json").exists(), "the build ended before it could be killed"
    (out / ".train-000009.tar.77.tmp").write_bytes(b"half a shard")  # what a kill during a write leaves
    kept = {path: path.stat().st_mtime_ns for path in out.glob("*.tar")}
    assert subprocess.run(command(world, out), check=False).returncode == 0
    assert all(path.stat().st_mtime_ns == kept[path] for path in kept if (path.name != max(kept).name))
    assert content(out) == content(finished)


def test_finished_sets_are_kept_and_other_configurations_refused(world, finished, tmp_path, capsys):
    before = content(finished)
    build(config(world, finished))
    assert "already built" in capsys.readouterr().out
    with pytest.raises(UserError, match="finished with another configuration"):
        build(config(world, finished, pairs=PairConfig(per_object=3)))
    assert content(finished) == before
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("...")
    with pytest.raises(UserError, match="holds other files"):
        build(config(world, tmp_path / "mine"))
    assert [p.name for p in (tmp_path / "mine").iterdir()] == ["thesis.txt"]


def test_unfinished_builds_of_another_configuration_or_source_are_refused(world, tmp_path, monkeypatch):
    monkeypatch.setattr(actial.build, "write_part", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        build(config(world, tmp_path / "set"))
    with pytest.raises(UserError, match="unfinished with another configuration"):
        build(config(world, tmp_path / "set", gates=GateConfig(max_roll=9.0)))
    other = tmp_path / "other"
    shutil.copytree(world / "0", other / "0")
    with pytest.raises(UserError, match="other captures"):
        build(config(other, tmp_path / "set"))


def test_bad_captures_cost_only_themselves(world, tmp_path):
    root = tmp_path / "world"
    shutil.copytree(world, root)
    shutil.rmtree(root / "0" / "00000000" / "sparse")
    huge = (2**60).to_bytes(8, "little")
    images = root / "0" / "00000002" / "sparse" / "0" / "images.bin"
    images.write_bytes(huge + images.read_bytes()[8:])
    write_capture(root / "0" / "00000009", arc(14), size=(64, 96))
    for photo in (root / "0" / "00000004" / "images").iterdir():
        shutil.copy(root / "0" / "00000009" / "images" / "000.jpg", photo)  # every size disagrees with the camera
    cut = root / "1" / "00000001" / "images" / "005.jpg"
    cut.write_bytes(cut.read_bytes()[:-300])
    build(config(root, tmp_path / "set"))
    rejects = json.loads((tmp_path / "set" / "rejects.json").read_text())
    assert rejects["captures"]["no_sparse"] == rejects["captures"]["sparse_corrupt"] == rejects["captures"]["few_registered"] == 1
    assert rejects["examples"]["no_sparse"] == ["0/00000000"]
    assert rejects["frames"]["frame_size"] == 14
    assert rejects["frames"]["frame_unreadable"] == 1
    assert rejects["pairs"]["photo_unreadable"] > 0
    rows = [json.loads(line) for line in (tmp_path / "set" / "index.jsonl").read_text().splitlines()]
    assert len(rows) == rejects["pairs"]["written"] == rejects["pairs"]["chosen"] - rejects["pairs"]["photo_unreadable"]
    assert not [row for row in rows if row["object_id"] == "00000001" and "005.jpg" in row["frame_names"]]


def test_nothing_to_build_is_one_sentence_with_the_reasons(tmp_path):
    write_capture(tmp_path / "world" / "0" / "0000000a", arc(14, span=30))
    with pytest.raises(UserError, match=r"no pair could be made from the 1 captures .* up_short_arc 1 times"):
        build(config(tmp_path / "world", tmp_path / "set"))
    assert not (tmp_path / "set").exists()


def test_class_caps_keep_the_same_pairs_in_any_chunking(world, tmp_path, monkeypatch):
    pairs = PairConfig(val_fraction=0.0, test_fraction=0.0, max_per_class=10)
    build(config(world, tmp_path / "a", pairs=pairs))
    monkeypatch.setattr(actial.build, "CHUNK", 2)
    build(config(world, tmp_path / "b", pairs=pairs))
    assert content(tmp_path / "a") == content(tmp_path / "b")
    rows = ShardSet(tmp_path / "a", "train").rows
    assert sorted(row["class_id"] for row in rows) == ["0"] * 10 + ["1"] * 10


def test_a_full_disk_is_one_sentence_and_leaves_nothing_half_written(world, tmp_path):
    disk = tmp_path / "disk"
    disk.mkdir()
    if os.geteuid() != 0 or subprocess.run(["mount", "-t", "tmpfs", "-o", "size=192k", "tmpfs", str(disk)], capture_output=True).returncode:
        pytest.skip("mounting a tiny disk needs root")
    try:
        ended = subprocess.run(command(world, disk / "set"), capture_output=True, text=True)
        assert ended.returncode == 1
        assert "the disk is full" in ended.stderr.splitlines()[-1]
        assert "Traceback" not in ended.stderr
        assert not list((disk / "set").glob(".*.tmp"))
        assert not (disk / "set" / "manifest.json").exists()
        subprocess.run(["mount", "-o", "remount,size=8m", str(disk)], check=True)
        assert subprocess.run(command(world, disk / "set"), check=False).returncode == 0
        assert (disk / "set" / "manifest.json").exists()
    finally:
        subprocess.run(["umount", str(disk)], check=True)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["gates.min_angle=120"], "gates.min_angle=120.0"),
        (["pairs.per_object=0"], "pairs.per_object=0"),
        (["image.max_pixels=10"], "image.max_pixels=10"),
        (["pairs.per_objct=3"], "per_object"),
    ],
)
def test_bad_settings_are_one_sentence(world, tmp_path, arguments, sentence):
    ended = subprocess.run(command(world, tmp_path / "set", *arguments), capture_output=True, text=True)
    assert ended.returncode == 1
    assert sentence in ended.stderr
    assert len(ended.stderr.strip().splitlines()) == 1
    assert not (tmp_path / "set").exists()


REAL = Path(os.environ.get("ACTIAL_CAPTURES") or Path(__file__).parents[2] / "shared" / "captures")


@pytest.mark.skipif(not REAL.is_dir(), reason="no real captures here: set ACTIAL_CAPTURES to their folder")
def test_real_photographs(tmp_path):
    """Turntables, a hand-held walk and flash photos yield pairs; the one held at any roll is turned away by that name."""
    source = SourceConfig(kind=SourceKind.colmap, root=str(REAL), ordered=False)
    build(config(REAL, tmp_path / "set", source=source, pairs=PairConfig(val_fraction=0.0, test_fraction=1.0)))
    rows = ShardSet(tmp_path / "set", "test").rows
    found = {row["class_id"] for row in rows}
    assert len(found) == 7
    assert len(rows) == 84
    rejects = json.loads((tmp_path / "set" / "rejects.json").read_text())
    assert rejects["examples"] == {"up_rolled": ["buddha_head"]}
