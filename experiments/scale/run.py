"""How the build's cost grows with the number of objects: a synthetic tree in MVImgNet's layout,
then the command itself, measured.

    python experiments/scale/run.py WORK_FOLDER --objects 100 1000 10800

Each object has its own poses, points and tracks (random arc, similarity and noise); its photos are
hard links to 30 shared files, so the tree needs no disk and no rendering while every read, decode,
resize and encode of the build is real.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import resource
import shutil
import struct
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image
from scipy.spatial.transform import Rotation

from actial.core.process import spawn_pool

KIB = 120  # of a stored picture of 960 x 540
FRAMES, POINTS, CLASSES, SIZE, FOCAL = 30, 200, 200, (128, 96), 120.0


def poses(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """R (n, 3, 3), t (n, 3) and points (m, 3) of one hand-held walk around an object, under a
    random similarity.
    """
    a = np.radians(
        np.linspace(0, rng.uniform(120, 330), FRAMES)
        + rng.normal(0, 1.5, FRAMES)
        + rng.uniform(0, 360)
    )
    elevation = np.radians(rng.uniform(5, 35) + rng.normal(0, 2, FRAMES))
    rho = 4 * np.exp(rng.normal(0, 0.05, FRAMES))
    center = rho[:, None] * np.stack([np.sin(a), -np.cos(a), np.tan(elevation)], axis=1)
    forward = Rotation.from_rotvec(rng.normal(0, 0.03, (FRAMES, 3))).apply(
        -center / np.linalg.norm(center, axis=1, keepdims=True)
    )
    right = np.cross(forward, [0, 0, 1.0])
    right /= np.linalg.norm(right, axis=1, keepdims=True)
    R = np.stack([right, np.cross(forward, right), forward], axis=1)
    turn, scale, shift = (
        Rotation.random(rng=rng).as_matrix(),
        float(np.exp(rng.uniform(-2, 2))),
        rng.normal(0, 5, 3),
    )
    R, center = R @ turn.T, scale * center @ turn.T + shift
    return (
        R,
        -np.einsum("nij,nj->ni", R, center),
        scale * rng.uniform(-0.4, 0.4, (POINTS, 3)) @ turn.T + shift,
    )


def triple(rng: np.random.Generator) -> dict[str, bytes]:
    """COLMAP's three files: every point seen by every photo."""
    R, t, world = poses(rng)
    local = np.einsum("nij,mj->nmi", R, world) + t[:, None]
    pixels = (
        FOCAL * local[..., :2] / local[..., 2:]
        + np.array(SIZE) / 2
        + rng.normal(0, 0.3, (FRAMES, POINTS, 2))
    )
    seen = np.zeros((FRAMES, POINTS), dtype=[("xy", "<f8", 2), ("point", "<i8")])
    seen["xy"], seen["point"] = pixels, np.arange(1, POINTS + 1)
    quaternions = np.roll(Rotation.from_matrix(R).as_quat(), 1, axis=1)
    images = [struct.pack("<Q", FRAMES)]
    for i in range(FRAMES):
        head = struct.pack("<i7di", i + 1, *quaternions[i], *t[i], 1)
        images.append(
            head
            + f"{i:03d}.jpg".encode()
            + b"\0"
            + struct.pack("<Q", POINTS)
            + seen[i].tobytes()
        )
    track = np.zeros((FRAMES, 2), dtype="<i4")
    track[:, 0] = np.arange(1, FRAMES + 1)
    points = [struct.pack("<Q", POINTS)]
    for k in range(POINTS):
        track[:, 1] = k
        points.append(
            struct.pack("<Q3d3BdQ", k + 1, *world[k], 90, 90, 90, 0.3, FRAMES)
            + track.tobytes()
        )
    cameras = struct.pack("<QiiQQ4d", 1, 1, 2, *SIZE, FOCAL, SIZE[0] / 2, SIZE[1] / 2, 0.0)
    return {
        "cameras.bin": cameras,
        "images.bin": b"".join(images),
        "points3D.bin": b"".join(points),
    }


def write_photos(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for i in range(FRAMES):
        coarse = np.random.default_rng(i).integers(
            0, 256, (SIZE[1] // 8, SIZE[0] // 8, 3), dtype=np.uint8
        )
        Image.fromarray(coarse).resize(SIZE, Image.Resampling.BICUBIC).save(
            folder / f"{i:03d}.jpg", quality=90
        )


def write_object(root: Path, photos: Path, index: int) -> None:
    folder = root / str(index % CLASSES) / f"{index:08x}"
    if folder.is_dir():
        return
    temporary = folder.with_name(f".{folder.name}")
    shutil.rmtree(temporary, ignore_errors=True)
    (temporary / "images").mkdir(parents=True)
    (temporary / "sparse" / "0").mkdir(parents=True)
    for i in range(FRAMES):
        os.link(photos / f"{i:03d}.jpg", temporary / "images" / f"{i:03d}.jpg")
    for name, data in triple(np.random.default_rng(index)).items():
        (temporary / "sparse" / "0" / name).write_bytes(data)
    os.replace(temporary, folder)


def measured(command: list[str]) -> tuple[float, float, str]:
    """(seconds, peak memory in MiB of the largest process, what it said) of a command."""
    begun = time.monotonic()
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    if ended.returncode:
        raise SystemExit(ended.stderr)
    return (
        time.monotonic() - begun,
        resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024,
        ended.stderr,
    )


def seconds_of(said: str, label: str) -> float:
    """Time of one pass from its last progress line: "labels: 9/9 captures, 80 captures/s, took
    1m02s".
    """
    took = next(
        line.rsplit("took ", 1)[1]
        for line in said.splitlines()
        if line.startswith(f"{label}:") and "took" in line
    )
    minutes, _, rest = took.rpartition("m")
    return 60 * float(minutes or 0) + float(rest.rstrip("s"))


def code_alone(photos: Path, count: int) -> float:
    """Pictures a second of decoding, resizing and encoding alone, in this process."""
    from actial.config import ImageConfig
    from actial.data.images import encode
    from actial.data.photos import decode

    begun = time.monotonic()
    for i in range(count):
        encode(decode(photos / f"{i % FRAMES:03d}.jpg")[0], ImageConfig())
    return count / (time.monotonic() - begun)


def full_size_ms() -> float:
    """Milliseconds of one process for a photo as phones take them: decode 1920 x 1080, shrink,
    encode for the default data set.
    """
    from actial.config import ImageConfig
    from actial.core.image_codec import decode_bytes
    from actial.data.images import encode

    coarse = np.random.default_rng(0).integers(0, 256, (68, 120, 3), dtype=np.uint8)
    photo = io.BytesIO()
    Image.fromarray(coarse).resize((1920, 1080), Image.Resampling.BICUBIC).save(
        photo, "JPEG", quality=90
    )
    begun = time.process_time()
    for _ in range(10):
        encode(decode_bytes(photo.getvalue()), ImageConfig())
    return 100 * (time.process_time() - begun)


def page(lines: list[dict], workers: int, photo_ms: float) -> str:
    """The table of a run, and its slopes carried on to MVImgNet and MVImgNet 2.0."""
    head = [
        "objects",
        "pairs",
        "labels s",
        "shards s",
        "whole s",
        "peak MiB of a process",
        "pictures / s",
        "of decode + resize + encode alone",
    ]
    rows = [head, ["---:"] * len(head)]
    for line in lines:
        alone = workers * line["decode_resize_encode_alone_per_s_per_process"]
        share = f"{line['pictures_per_s'] / alone:.2f}"
        times = [
            f"{line[key]:.0f}"
            for key in (
                "labels_s",
                "shards_s",
                "whole_s",
                "peak_mib_of_one_process",
                "pictures_per_s",
            )
        ]
        rows.append([f"{line['objects']:,}", f"{line['pairs']:,}", *times, share])
    table = "\n".join(f"| {' | '.join(row)} |" for row in rows)
    last, before = lines[-1], lines[-2] if len(lines) > 1 else dict.fromkeys(lines[-1], 0)
    more = last["objects"] - before["objects"]
    slope = {
        key: (last[key] - before[key]) / more for key in last
    }  # of one object more: starting costs fall out
    label_s, per_object = workers * slope["labels_s"], slope["pictures"]
    rest_s = slope["whole_s"] - slope["labels_s"] - slope["shards_s"]
    ahead = [
        [
            "source",
            "objects",
            "pairs",
            "label hours",
            "picture hours",
            "joining hours",
            "storage",
        ],
        ["---", *["---:"] * 6],
    ]
    for name, objects in (("MVImgNet", 219_188), ("MVImgNet 2.0", 300_000)):
        pictures = objects * per_object
        hours = [objects * label_s / 3600, pictures * photo_ms / 3.6e6]
        pairs = objects * slope["pairs"]
        ahead.append(
            [
                name,
                f"{objects:,}",
                f"{pairs / 1e6:.1f} M",
                *(f"{h:.1f}" for h in hours),
                f"{objects * rest_s / 3600:.1f}",
                f"{pictures * KIB / 2**20:.0f} GiB",
            ]
        )
    plan = "\n".join(f"| {' | '.join(row)} |" for row in ahead)
    return (
        f"{table}\n\nPhotos of 128 x 96 pixels, {workers} processes. The slope between the last two sizes carried on, without caps, to\n"
        f"photos of 1920 x 1080 shrunk to 960 x 540 ({photo_ms:.0f} ms each in one process, measured; {KIB} KiB each, an estimate):\n\n"
        f"{plan}\n\n"
        "Hours of one core; labels and pictures divide by the number of cores (build.num_shards), joining is one process.\n"
    )


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("work", type=Path)
    arguments.add_argument("--objects", type=int, nargs="+", default=[100, 1000, 10_800])
    arguments.add_argument("--workers", type=int, default=2)
    arguments.add_argument(
        "--keep",
        action="store_true",
        help="also write results.json and results.md beside this script",
    )
    given = arguments.parse_args()
    photos = given.work / "photos"
    write_photos(photos)
    lines = []
    for count in given.objects:
        root, out = given.work / f"tree-{count}", given.work / f"set-{count}"
        with spawn_pool(given.workers) as pool:
            list(pool.map(partial(write_object, root, photos), range(count), chunksize=64))
        shutil.rmtree(out, ignore_errors=True)
        words = [
            "source=mvimgnet",
            f"source.root={root}",
            f"out={out}",
            f"workers={given.workers}",
        ]
        whole, peak, said = measured([sys.executable, "-m", "actial.build", *words])
        manifest = json.loads((out / "manifest.json").read_text())
        with (out / "index.jsonl").open("rb") as index:
            pictures = len(
                {
                    (row["key"], place["name"])
                    for row in map(json.loads, io.BytesIO(index.read()))
                    for place in row["images"]
                }
            )
        labels, shards = seconds_of(said, "labels"), seconds_of(said, "shards")
        row = {
            "objects": count,
            "pairs": sum(manifest["rows"].values()),
            "pictures": pictures,
            "labels_s": labels,
            "shards_s": shards,
            "whole_s": round(whole, 1),
            "peak_mib_of_one_process": round(peak),
            "pictures_per_s": round(pictures / max(shards, 1e-9)),
            "decode_resize_encode_alone_per_s_per_process": round(code_alone(photos, 600)),
        }
        lines.append(row)
        print(json.dumps(row), flush=True)
    photo_ms = full_size_ms()
    for folder in (given.work, *([Path(__file__).parent] if given.keep else [])):
        (folder / "results.json").write_text(json.dumps(lines, indent=1) + "\n")
        (folder / "results.md").write_text(page(lines, given.workers, photo_ms))


if __name__ == "__main__":
    main()
