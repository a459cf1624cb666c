"""Plant copies of training images in a test set and count what `python -m actial.audit` finds.

    python experiments/audit/run.py WORK_FOLDER [IMAGES]     100,000 images: about 1 GB in WORK_FOLDER

Makes a training and a test folder of images (19 : 1), a fifth of the test images copies of training
images, runs the audit, and writes results.json beside this file. Images that are there are used.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from io import BytesIO
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

HERE = Path(__file__).resolve().parent
SIZE = (256, 192)
GRIDS = ((3, 1.5), (6, 1.0), (14, 0.7), (40, 0.45))  # rows of random colors, and their weight
COPIES = ("exact", "resized", "re-encoded", "mirrored", "cropped", "cropped and re-encoded")
FOLDER = 1000  # images per folder
BUFFERS = np.zeros((2, SIZE[1], SIZE[0], 3), np.float32)  # used again: new memory takes longer


def photo(number: int) -> Image.Image:
    """Return an image with structure at several scales, unlike any other."""
    generator = np.random.default_rng(number)
    field, layer = BUFFERS
    field[:] = 0
    for rows, weight in GRIDS:
        grid = generator.integers(0, 256, (rows, rows * 4 // 3, 3), dtype=np.uint8)
        large = Image.fromarray(grid).resize(SIZE, Image.Resampling.BICUBIC)
        np.subtract(np.asarray(large), np.float32(127.5), out=layer)
        np.multiply(layer, np.float32(weight), out=layer)
        field += layer
    np.multiply(field, np.float32(0.7), out=field)
    np.add(field, np.float32(127), out=field)
    return Image.fromarray(np.clip(field, 0, 255, out=field).astype(np.uint8))


def crop_a_tenth(image: Image.Image, corner: int) -> Image.Image:
    width, height = image.size
    left = round(0.1 * width * (corner % 3) / 2)
    top = round(0.1 * height * (corner // 3 % 3) / 2)
    return image.crop((left, top, left + round(0.9 * width), top + round(0.9 * height)))


def copy_of(number: int, kind: str) -> bytes:
    """Return a training image's copy, encoded."""
    original = encoded(photo(number), quality=90)
    if kind == "exact":
        return original
    image = Image.open(BytesIO(original)).convert("RGB")
    if kind == "resized":
        return encoded(image.resize((150, 110), Image.Resampling.LANCZOS), quality=90)
    if kind == "mirrored":
        return encoded(ImageOps.mirror(image), quality=90)
    if kind == "cropped":
        return encoded(crop_a_tenth(image, number), quality=90)
    if kind == "cropped and re-encoded":
        return encoded(crop_a_tenth(image, number), quality=40)
    return encoded(image, quality=30)


def encoded(image: Image.Image, quality: int) -> bytes:
    buffer = BytesIO()
    image.save(buffer, "JPEG", quality=quality)
    return buffer.getvalue()


def write_train(folder: Path, first: int, count: int) -> None:
    part = folder / f"{first // FOLDER:04d}"
    part.mkdir(parents=True, exist_ok=True)
    for number in range(first, first + count):
        path = part / f"{number}.jpg"
        if not path.exists():
            path.write_bytes(encoded(photo(number), quality=90))


def write_test(folder: Path, train: int, first: int, count: int) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(first, first + count):
        kind = COPIES[number // 5 % len(COPIES)] if number % 5 == 0 else ""
        source = number * 7919 % train
        name = f"{number} copy of {source} {kind}.jpg" if kind else f"{number}.jpg"
        if not (folder / name).exists():
            fresh = (
                copy_of(source, kind) if kind else encoded(photo(10**8 + number), quality=90)
            )
            (folder / name).write_bytes(fresh)


def make_images(work: Path, train: int, test: int) -> None:
    with ProcessPoolExecutor(os.cpu_count()) as pool:
        jobs = [
            pool.submit(write_train, work / "train", first, min(FOLDER, train - first))
            for first in range(0, train, FOLDER)
        ]
        jobs += [
            pool.submit(write_test, work / "test", train, first, min(FOLDER, test - first))
            for first in range(0, test, FOLDER)
        ]
        for job in jobs:
            job.result()


def measure(work: Path, train: int, test: int) -> dict[str, object]:
    """Run the audit and compare its matches with the planted copies."""
    started = time.perf_counter()
    words = [str(work / "train"), str(work / "test"), f"out={work / 'audit'}"]
    audit = subprocess.Popen([sys.executable, "-m", "actial.audit", *words])
    _, status, usage = os.wait4(audit.pid, 0)
    wall = time.perf_counter() - started
    if status:
        raise SystemExit("the audit failed")
    planted = {
        (f"{int(source) // FOLDER:04d}/{source}.jpg", path.name): kind
        for path in (work / "test").glob("* copy of *.jpg")
        for source, _, kind in [path.stem.partition(" copy of ")[2].partition(" ")]
    }
    lines = (work / "audit" / "leaked_images.tsv").read_text().splitlines()[1:]
    matches = {tuple(line.split("\t")[2:4]) for line in lines}
    by_kind = {
        kind: sum(planted[pair] == kind for pair in planted.keys() & matches)
        / sum(other == kind for other in planted.values())
        for kind in COPIES
    }
    correct = len(planted.keys() & matches)
    return {
        "images": train + test,
        "planted": len(planted),
        "recall": correct / len(planted),
        "precision": correct / max(1, len(matches)),
        "recall by kind": by_kind,
        "CPU seconds": round(usage.ru_utime + usage.ru_stime, 1),
        "seconds": round(wall, 1),
        "peak memory MB": round(usage.ru_maxrss / 1024),
    }


def main() -> None:
    work = Path(sys.argv[1])
    images = int(sys.argv[2]) if len(sys.argv) > 2 else 100_000
    test = images // 20
    make_images(work, images - test, test)
    figures = measure(work, images - test, test)
    print(json.dumps(figures, indent=1))
    path = HERE / "results.json"
    results = json.loads(path.read_text()) if path.exists() else {}
    path.write_text(json.dumps(results | {str(images): figures}, indent=1) + "\n")


if __name__ == "__main__":
    main()
