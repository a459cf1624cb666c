"""The whole build: from folders of photos to a finished set, whatever is wrong with some of them
and whoever interrupts it.
"""

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
import yaml
from support.posed_captures import arc, random_similarity, write_capture

import actial.build
from actial.build import build
from actial.config import (
    BuildConfig,
    BuildShardConfig,
    ExifRule,
    GateConfig,
    ImageConfig,
    ImageFormat,
    PairConfig,
    SourceConfig,
    SourceKind,
)
from actial.core.errors import UserError
from actial.core.set_records import ViewPair
from actial.data.build import build_pairs
from actial.data.build.settings import config_hash, fixed_settings
from actial.data.shards import ShardSet

CAPS = {
    "train": 98_000,
    "val": 1000,
    "test": 1000,
    "test_unseen": 1000,
}  # of the default data set, far away here


def config(root: Path, out: Path, **changes) -> BuildConfig:
    settings = {
        "source": SourceConfig(kind=SourceKind.mvimgnet, root=str(root), license="CC0"),
        "pairs": PairConfig(val_fraction=0.0, test_fraction=0.3, max_rows=CAPS),
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
        write_capture(
            root / str(i % 2) / f"{i:08x}",
            arc(14, span=160.0, **random_similarity(np.random.default_rng(i))),
        )
    return root


@pytest.fixture(scope="module")
def finished(world, tmp_path_factory):
    out = tmp_path_factory.mktemp("built") / "set"
    build(config(world, out))
    return out


FILES = {"manifest.json", "index.jsonl", "rejects.json", "audit.html", "audit.json"}


def content(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def test_a_build_leaves_a_finished_set_and_nothing_else(finished):
    assert set(content(finished)) >= FILES
    assert all(name.endswith(".tar") for name in set(content(finished)) - FILES)
    train, test = ShardSet(finished, "train"), ShardSet(finished, "test")
    assert len(train) + len(test) == 8 * 12
    assert not {row.group for row in train.records} & {row.group for row in test.records}
    first, second = train.images(train.records[0])
    assert first.shape == second.shape == (24, 40, 3)
    assert train.manifest["licence"] == "CC0"
    rejects = json.loads((finished / "rejects.json").read_text())
    assert rejects["captures"] == {"accepted": 8, "seen": 8}
    assert rejects["pairs"]["written"] == 96
    assert rejects["pairs"]["judged"] == 8 * 14 * 13 / 2


def test_the_pictures_in_a_shard_are_the_frames_the_row_names(world, finished):
    from actial.core.image_codec import decode_bytes
    from actial.data.images import encode
    from actial.data.photos import decode

    train = ShardSet(finished, "train")
    row = train.records[-1]
    for name, pixels in zip(row.frame_names, train.images(row), strict=True):
        original, _ = decode(world / row.class_id / row.object_id / "images" / name)
        assert np.array_equal(
            pixels, decode_bytes(encode(original, config(world, finished).image))
        )


def test_several_processes_and_smaller_chunks_write_the_same_bytes(
    world, finished, tmp_path, monkeypatch
):
    monkeypatch.setattr(build_pairs, "CHUNK", 3)
    build(config(world, tmp_path / "set", workers=2))
    assert content(tmp_path / "set") == content(finished)


def test_the_audit_announces_what_leaks(finished):
    """The photos of this world are the same noise in every capture: each held-out one was seen in
    training, and names its place.
    """
    audit = json.loads((finished / "audit.json").read_text())
    assert audit["shared_groups"] == 0
    assert audit["shared_pictures"] > 10
    assert len(audit["warnings"]) == 3
    assert "images occur in more than one split" in audit["warnings"][0]
    assert sum(audit["right_letters"].values()) == 96
    assert audit["probes"]["answer"]["n"] == 3 * 96
    assert audit["warnings"][0] in (finished / "audit.html").read_text()


def test_the_audit_page_is_one_file_with_sheets(finished):
    page = (finished / "audit.html").read_text()
    assert page.count("data:image/jpeg;base64,") == page.count("<figcaption>") > 2
    assert "http" not in page
    assert "ego_rotation" in page


def run(*arguments: str) -> int:
    """Exit code of the command in this process: a start of its own costs seconds."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["actial.build", *arguments])
        try:
            actial.build.main()
        except SystemExit as left:
            return int(left.code or 0)
    return 0


COMMAND = (
    "source=mvimgnet",
    "pairs.val_fraction=0",
    "pairs.test_fraction=0.3",
    "image.max_pixels=1024",
    "image.multiple=8",
    "image.format=png",
)
REST = (
    "pairs.max_per_class=0",
    "pairs.unseen_class_fraction=0",
    "groups_per_shard=2",
    "workers=1",
    "source.license=CC0",
)


def command(root: Path, out: Path, *more: str) -> list[str]:
    return [f"source.root={root}", f"out={out}", *COMMAND, *REST, *more]


def test_a_killed_build_resumes_to_the_same_bytes(world, finished, tmp_path):
    out = tmp_path / "set"
    process = subprocess.Popen(
        [sys.executable, "-m", "actial.build", *command(world, out)], stderr=subprocess.PIPE
    )
    while not list(out.glob("*.tar")) and process.poll() is None:
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not (out / "manifest.json").exists(), "the build ended before it could be killed"
    (out / ".train-000009.tar.77.tmp").write_bytes(
        b"half a shard"
    )  # what a kill during a write leaves
    mtimes = {path: path.stat().st_mtime_ns for path in out.glob("*.tar")}
    assert run(*command(world, out)) == 0
    assert all(
        path.stat().st_mtime_ns == mtimes[path]
        for path in mtimes
        if (path.name != max(mtimes).name)
    )
    assert content(out) == content(finished)


def test_finished_sets_are_kept_and_other_configurations_refused(
    world, finished, tmp_path, capsys
):
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


def test_a_finished_set_stands_for_the_captures_it_was_built_from(
    world, finished, tmp_path, monkeypatch, capsys
):
    before = content(finished)
    moved = tmp_path / "moved"
    shutil.copytree(world, moved)
    monkeypatch.chdir(world.parent)
    for same in (f"{world}/", world.name, moved):
        build(config(same, finished))
        assert "already built" in capsys.readouterr().out
    photo = next(moved.rglob("*.jpg"))
    photo.write_bytes(photo.read_bytes() + b"another photo of the same name")
    fewer = tmp_path / "fewer"
    shutil.copytree(world / "0", fewer / "0")
    for other in (moved, fewer):
        with pytest.raises(UserError, match="set finished from other captures than those in"):
            build(config(other, finished))
    with pytest.raises(UserError, match="nowhere is not a folder"):
        build(config(tmp_path / "nowhere", finished))
    assert content(finished) == before


def test_a_root_inside_which_the_set_is_written_stays_the_same(world, tmp_path, capsys):
    root = tmp_path / "class" / "object"
    shutil.copytree(next((world / "0").iterdir()), root)
    for _ in range(2):
        build(config(root, root / "set", pairs=PairConfig(val_fraction=0, test_fraction=0)))
    assert "already built" in capsys.readouterr().out


def test_unfinished_builds_of_another_configuration_or_source_are_refused(
    world, tmp_path, monkeypatch
):
    monkeypatch.setattr(
        build_pairs, "write_part", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt)
    )
    with pytest.raises(KeyboardInterrupt):
        build(config(world, tmp_path / "set"))
    with pytest.raises(UserError, match="unfinished with another configuration"):
        build(config(world, tmp_path / "set", gates=GateConfig(max_roll=9.0)))
    other = tmp_path / "other"
    shutil.copytree(world / "0", other / "0")
    with pytest.raises(UserError, match="other captures"):
        build(config(other, tmp_path / "set"))


def index_of(folder: Path) -> list[ViewPair]:
    lines = (folder / "index.jsonl").read_text().splitlines()
    return [ViewPair.from_json(json.loads(line)) for line in lines]


def test_bad_captures_cost_only_themselves(world, tmp_path):
    root = tmp_path / "world"
    shutil.copytree(world, root)
    shutil.rmtree(root / "0" / "00000000" / "sparse")
    huge = (2**60).to_bytes(8, "little")
    images = root / "0" / "00000002" / "sparse" / "0" / "images.bin"
    images.write_bytes(huge + images.read_bytes()[8:])
    write_capture(root / "0" / "00000009", arc(14), size=(64, 96))
    for photo in (root / "0" / "00000004" / "images").iterdir():
        shutil.copy(
            root / "0" / "00000009" / "images" / "000.jpg", photo
        )  # every size disagrees with the camera
    cut = root / "1" / "00000001" / "images" / "005.jpg"
    cut.write_bytes(cut.read_bytes()[:-300])
    build(config(root, tmp_path / "set"))
    rejects = json.loads((tmp_path / "set" / "rejects.json").read_text())
    assert (
        rejects["captures"]["no_sparse"]
        == rejects["captures"]["sparse_corrupt"]
        == rejects["captures"]["few_registered"]
        == 1
    )
    assert rejects["examples"]["no_sparse"] == ["0/00000000"]
    causes = rejects["causes"]
    assert "no folder sparse/" in causes["no_sparse"]
    assert causes["few_registered"] == (
        "0/00000004: 0 photos can be used, gates.min_registered=12; 0% of 14 photos can be used, "
        "gates.min_registered_share=0.6; 0 cameras, gates.min_up_cameras=8"
    )
    assert "64x96 pixels, its camera has 96x64" in causes["frame_size"]
    assert causes["frame_unreadable"].startswith(f"1/00000001: {cut}: ")
    page = (tmp_path / "set" / "audit.html").read_text()
    assert "its camera has 96x64" in page
    assert rejects["frames"]["frame_size"] == 14
    assert rejects["frames"]["frame_unreadable"] == 1
    assert rejects["pairs"]["photo_unreadable"] > 0
    rows = index_of(tmp_path / "set")
    assert (
        len(rows)
        == rejects["pairs"]["written"]
        == rejects["pairs"]["chosen"] - rejects["pairs"]["photo_unreadable"]
    )
    assert not [
        row for row in rows if row.object_id == "00000001" and "005.jpg" in row.frame_names
    ]


def test_nothing_to_build_is_one_sentence_with_the_reasons(tmp_path):
    write_capture(tmp_path / "world" / "0" / "0000000a", arc(14, span=30))
    with pytest.raises(
        UserError, match=r"no pair could be made from the 1 captures .* up_short_arc 1 times"
    ):
        build(config(tmp_path / "world", tmp_path / "set"))
    assert not (tmp_path / "set").exists()


def test_nothing_to_build_names_what_is_wrong_with_frames_and_one_of_each(tmp_path):
    root = tmp_path / "world"
    write_capture(root / "0" / "0000000a", arc(14))
    images = root / "0" / "0000000a" / "images"
    for photo in images.iterdir():
        photo.write_bytes(b"no image")
    (images / "000.jpg").unlink()
    with pytest.raises(UserError) as error:
        build(config(root, tmp_path / "set"))
    message = str(error.value)
    assert "frame_unreadable 13 times, frame_missing 1 times" in message
    assert "0 photos can be used, gates.min_registered=12" in message
    assert f"{images / '001.jpg'}: no image of a known format (frame_unreadable)" in message
    assert f"0/0000000a: {images / '000.jpg'} (frame_missing)" in message
    assert message.count("gates.min_registered=12") == 1  # said once, for all of its reasons
    assert "frame_missing: the pose file names a photo that is not there" in message


def test_an_output_folder_that_cannot_be_made_is_the_user_s_to_mend(world, tmp_path, capsys):
    (tmp_path / "file").write_text("")
    for out in (tmp_path / "file", tmp_path / "file" / "set", tmp_path / ("n" * 300)):
        assert run(*command(world, out)) == 1
        message = capsys.readouterr().err
        assert "give another output folder" in message
        assert "Traceback" not in message


@pytest.mark.parametrize(
    "name", ["Möwe ü", "it's (a) {b} [c], d & #e!", "seed=1", "~x", '"q"']
)
def test_a_source_folder_may_have_any_name(world, tmp_path, name):
    root = tmp_path / name
    root.symlink_to(world)
    assert run(*command(root, tmp_path / f"{name} set")) == 0
    assert (tmp_path / f"{name} set" / "manifest.json").is_file()


def test_class_caps_keep_the_same_pairs_in_any_chunking(world, tmp_path, monkeypatch):
    pairs = PairConfig(val_fraction=0.0, test_fraction=0.0, max_per_class=10)
    build(config(world, tmp_path / "a", pairs=pairs))
    monkeypatch.setattr(build_pairs, "CHUNK", 2)
    build(config(world, tmp_path / "b", pairs=pairs))
    assert content(tmp_path / "a") == content(tmp_path / "b")
    rows = ShardSet(tmp_path / "a", "train").records
    assert sorted(row.class_id for row in rows) == ["0"] * 10 + ["1"] * 10


def test_a_full_disk_is_one_sentence_and_leaves_nothing_half_written(world, tmp_path, capsys):
    disk = tmp_path / "disk"
    disk.mkdir()
    if (
        os.geteuid() != 0
        or subprocess.run(
            ["mount", "-t", "tmpfs", "-o", "size=192k", "tmpfs", str(disk)],
            capture_output=True,
        ).returncode
    ):
        pytest.skip("mounting a tiny disk needs root")
    try:
        assert run(*command(world, disk / "set")) == 1
        said = capsys.readouterr().err
        assert "the disk is full" in said.splitlines()[-1]
        assert "Traceback" not in said
        assert not list((disk / "set").glob(".*.tmp"))
        assert not (disk / "set" / "manifest.json").exists()
        subprocess.run(["mount", "-o", "remount,size=8m", str(disk)], check=True)
        assert run(*command(world, disk / "set")) == 0
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
def test_bad_settings_are_one_sentence(world, tmp_path, arguments, sentence, capsys):
    assert run(*command(world, tmp_path / "set", *arguments)) == 1
    said = capsys.readouterr().err
    assert sentence in said
    assert len(said.strip().splitlines()) == 1
    assert not (tmp_path / "set").exists()


# ---------------------------------------------------------------- parts


def test_parts_joined_are_the_one_machine_build_to_the_byte(
    world, finished, tmp_path, monkeypatch, capsys
):
    """Three parts as the jobs of one Hydra multirun, in any order; a broken photo and the caps are
    counted alike.
    """
    monkeypatch.setattr(build_pairs, "CHUNK", 2)
    out = tmp_path / "set"
    assert run("-m", *command(world, out, "build.num_shards=3", "build.shard=2,0,1")) == 0
    assert not list(out.glob("*.tar"))
    assert (
        capsys.readouterr().out.count(
            "is done; the same command without build.shard and build.num_shards joins them"
        )
        == 3
    )
    monkeypatch.setattr(
        "actial.data.sources.colmap_folders.FolderSource.pixels", None
    )  # joining decodes nothing
    assert run(*command(world, out)) == 0
    assert content(out) == content(finished)


def test_joining_does_what_the_parts_left_undone(world, finished, tmp_path, monkeypatch):
    monkeypatch.setattr(build_pairs, "CHUNK", 2)
    out = tmp_path / "set"
    build(config(world, out, build=BuildShardConfig(shard=1, num_shards=3)))
    (out / ".build" / "pictures-000001.jsonl").unlink()  # as a kill would leave it
    build(config(world, out))
    assert content(out) == content(finished)


def test_broken_photos_are_counted_alike_in_parts(world, tmp_path):
    root = tmp_path / "world"
    shutil.copytree(world, root)
    cut = root / "1" / "00000001" / "images" / "005.jpg"
    cut.write_bytes(cut.read_bytes()[:-300])
    build(config(root, tmp_path / "whole"))
    build(config(root, tmp_path / "parts", build=BuildShardConfig(shard=0, num_shards=2)))
    build(config(root, tmp_path / "parts"))
    assert content(tmp_path / "whole") == content(tmp_path / "parts")
    assert (
        json.loads((tmp_path / "parts" / "rejects.json").read_text())["pairs"][
            "photo_unreadable"
        ]
        > 0
    )


def test_a_part_that_does_not_exist_is_one_sentence(world, tmp_path, capsys):
    assert run(*command(world, tmp_path / "set", "build.num_shards=2", "build.shard=2")) == 1
    assert "build.shard=2" in capsys.readouterr().err


# ---------------------------------------------------------------- caps


def test_split_caps_are_met_exactly_and_keep_angles_and_sides_even(world, tmp_path):
    pairs = PairConfig(val_fraction=0.0, test_fraction=0.3, max_rows={"train": 32, "test": 16})
    build(config(world, tmp_path / "set", pairs=pairs))
    rows = index_of(tmp_path / "set")
    for split, count in pairs.max_rows.items():
        mine = [row for row in rows if row.split == split]
        assert len(mine) == count
        sides = [row.labels.ego_translation for row in mine]
        assert (
            abs(sides.count("left") - sides.count("right")) <= 2
        )  # some cells of this small world run dry
        bins = np.bincount(
            [int((abs(row.geometry.alpha_deg) - 21) / 78 * 8) for row in mine], minlength=8
        )
        there = bins[bins > 0]  # steps of this walk leave one bin empty
        assert there.max() - there.min() <= 2
    assert (
        json.loads((tmp_path / "set" / "rejects.json").read_text())["pairs"]["over_cap"]
        == 96 - 48
    )


def test_the_paper_s_config_asks_for_its_numbers(world, tmp_path, capsys):
    assert (
        run(
            "source=mvimgnet",
            f"source.root={world}",
            f"out={tmp_path / 'set'}",
            "--cfg",
            "job",
        )
        == 0
    )
    shown = capsys.readouterr().out
    settings = yaml.safe_load(shown)
    caps = settings["pairs"]["max_rows"]
    assert caps["train"] + caps["val"] + caps["test"] == 100_000
    assert caps["test"] == caps["test_unseen"] == 1000
    assert settings["pairs"]["per_object"] == 12
    assert settings["pairs"]["unseen_class_fraction"] > 0


@pytest.mark.parametrize(
    "name",
    [
        "viewpoint_100k",
        "viewpoint_300k",
        "viewpoint_degrees",
        "viewpoint_6dof",
        "viewpoint_views",
    ],
)
def test_every_data_set_config_composes(name, tmp_path, capsys):
    assert (
        run(
            "source=mvimgnet",
            "source.root=.",
            f"out={tmp_path}",
            f"dataset={name}",
            "--cfg",
            "job",
        )
        == 0
    )
    assert "max_rows" in capsys.readouterr().out


def test_still_pairs_show_a_crop_of_the_same_photo(world, tmp_path):
    pairs = PairConfig(val_fraction=0.0, test_fraction=0.0, still_per_object=2)
    build(
        config(
            world,
            tmp_path / "set",
            pairs=pairs,
            image=ImageConfig(max_pixels=96 * 64, multiple=8, format=ImageFormat.png),
        )
    )
    train = ShardSet(tmp_path / "set", "train")
    still = [row for row in train.records if row.motion == "still"]
    assert len(still) == 16
    for row in still:
        first, second = (pixels.astype(int) for pixels in train.images(row))
        assert first.shape == second.shape == (64, 96, 3)
        assert (
            0 < np.abs(first - second).mean() < 40
        )  # noise pictures: unrelated ones differ by 85


REAL = Path(
    os.environ.get("ACTIAL_CAPTURES") or Path(__file__).parents[3] / "shared" / "captures"
)


@pytest.mark.skipif(
    not REAL.is_dir(), reason="no real captures here: set ACTIAL_CAPTURES to their folder"
)
def test_real_photographs(tmp_path):
    """Turntables, a hand-held walk and flash photos yield pairs; the one held at any roll is turned
    away by that name.
    """
    source = SourceConfig(kind=SourceKind.colmap, root=str(REAL), ordered=False)
    build(
        config(
            REAL,
            tmp_path / "set",
            source=source,
            pairs=PairConfig(val_fraction=0.0, test_fraction=1.0),
        )
    )
    rows = ShardSet(tmp_path / "set", "test").records
    class_ids = {row.class_id for row in rows}
    assert len(class_ids) == 7
    assert len(rows) == 84
    rejects = json.loads((tmp_path / "set" / "rejects.json").read_text())
    assert rejects["examples"] == {
        "up_rolled": ["buddha_head"],
        "up_disagreement": ["buddha_head"],
    }


def test_the_settings_of_earlier_versions_keep_their_names_and_hash(world, tmp_path):
    """A set of an earlier version is built, not another one, for the same command."""
    settings = fixed_settings(config(world, tmp_path))
    assert settings["source"]["licence"] == "CC0"
    assert settings["gates"]["max_centre_condition"] == 50.0
    assert {"exif", "axes", "root"}.isdisjoint(settings["source"])
    other = config(world, tmp_path)
    other.source.exif = ExifRule.stored
    assert fixed_settings(other)["source"]["exif"] == "stored"
    assert config_hash(other) != config_hash(config(world, tmp_path))
