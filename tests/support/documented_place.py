"""A folder with all that the commands of README.md and docs/ read, at tiny scale."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import torch
from PIL import Image
from transformers import AutoModelForImageTextToText, AutoProcessor, Qwen3VLConfig

from actial.core.paths import ASSETS
from actial.evaluation.easi import SUITES
from support.benchmark_files import WRITERS
from support.documented import call
from support.released import write_release, write_texts
from support.tiny_models import tiny_config

BASES = ("Qwen/Qwen2.5-VL-7B-Instruct", "Qwen/Qwen2.5-VL-3B-Instruct")
QWEN3 = ("Qwen/Qwen3-VL-2B-Instruct", "Qwen/Qwen3-VL-4B-Instruct")
WORLD = "objects=12 unseen_objects=8 frames=12 size=64 scene_size=64"
QUESTIONS = "sat_train=24 sat_val=6 sat_test=12 workers=1"


def write_place(root: Path) -> None:
    """Fill `root`, the current folder: models, captures, scenes, benchmarks, the release.

    A folder of a model's hub name comes before the hub. The data sets of the quickstart are made
    as `make data` makes them; the others are left to the commands of the pages.
    """
    for name in BASES:
        shutil.copytree(ASSETS / "tiny_base", root / name)
    for name in QWEN3:
        write_qwen3(root / name)
    call("actial.world", "out=world", *WORLD.split(), *QUESTIONS.split())
    call("actial.synthetic.base_scenes", "out=world_scenes", "scenes=8", "size=64")
    scenes = ("source=sat", "dataset=world", "source.root=world_scenes", "out=data/scenes")
    call("actial.build", *scenes, "workers=1")
    captures = ("source=procedural", "dataset=world", "source.root=world/captures")
    call("actial.build", *captures, "out=data/pairs", "workers=1", "pairs.test_fraction=0.2")
    for name in {*SUITES["easi_8"], "cv_bench", "blink"}:
        WRITERS[name](root / "benchmarks" / name)
    write_release(
        root / "release" / "viewpoint_100k", "parquet", letters=24, chains=6, tests=6
    )
    write_conversations(root / "llava")
    write_texts(root)
    call("actial.import_release", "clone", "rows=rows.json", "out=release")


def write_conversations(folder: Path) -> None:
    """Write three questions on one photo each, in LLaVA's form."""
    folder.mkdir()
    rows = []
    for number, side in enumerate(("left", "right", "left")):
        Image.new("RGB", (32, 32), (80 * number, 0, 0)).save(folder / f"{number}.png")
        question = "<image>\nWhere is the cup?\nA. left\nB. right\nAnswer with the letter."
        turns = [("human", question), ("gpt", "A" if side == "left" else "B")]
        conversation = [{"from": who, "value": text} for who, text in turns]
        rows.append({"id": number, "image": f"{number}.png", "conversations": conversation})
    (folder / "rows.json").write_text(json.dumps(rows))


def write_qwen3(folder: Path) -> None:
    """Write an untrained Qwen3-VL with the words of the tiny base; images in multiples of 32."""
    base = AutoProcessor.from_pretrained(ASSETS / "tiny_base")
    words = json.loads((ASSETS / "tiny_base" / "config.json").read_text())
    config = tiny_config("qwen3_vl", patch=16)
    assert isinstance(config, Qwen3VLConfig)
    for name, value in words.items():
        if name.endswith("_token_id"):
            setattr(config, name, value)
    for name in ("vocab_size", "bos_token_id", "eos_token_id", "pad_token_id"):
        setattr(config.text_config, name, words["text_config"][name])
    base.image_processor.patch_size = base.video_processor.patch_size = 16
    torch.manual_seed(0)
    AutoModelForImageTextToText.from_config(config).save_pretrained(folder)
    base.save_pretrained(folder)
