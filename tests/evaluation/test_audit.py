"""The audit finds what was planted, and nothing in clean sets."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image, ImageOps
from scipy.ndimage import gaussian_filter

import actial.audit.__main__
from actial.core.errors import UserError
from actial.evaluation.audit import image_matches
from actial.evaluation.audit.certificate import audit_sets
from actial.evaluation.audit.image_matches import describe, matching_images
from actial.evaluation.audit.items import (
    AuditItem,
    AuditSet,
    open_audit_set,
    open_audit_sets,
    read_identifiers,
)
from actial.evaluation.audit.text_shortcuts import blind_solver


def picture(generator, size=(160, 120)):
    """A picture with structure at several scales, unlike any other."""
    height, width = size[1], size[0]
    layers = [
        gaussian_filter(generator.normal(size=(height, width, 3)), (s, s, 0))
        for s in (3, 9, 20)
    ]
    field = sum(layer / layer.std() for layer in layers)
    return Image.fromarray(np.clip(127 + 40 * field, 0, 255).astype(np.uint8))


def encoded(image, form="PNG", **options):
    buffer = io.BytesIO()
    image.save(buffer, form, **options)
    return buffer.getvalue()


def crop(image, left, top, right, bottom):
    width, height = image.size
    box = (left * width, top * height, right * width, bottom * height)
    return image.crop(tuple(round(edge) for edge in box))


COPIES = {
    "exact": lambda image: encoded(image),
    "resized": lambda image: encoded(image.resize((101, 77))),
    "re-encoded": lambda image: encoded(image, "JPEG", quality=40),
    "mirrored": lambda image: encoded(ImageOps.mirror(image)),
    "cropped on one side": lambda image: encoded(crop(image, 0.1, 0, 1, 1)),
    "cropped all around": lambda image: encoded(crop(image, 0.05, 0.05, 0.95, 0.95)),
    "cropped in a corner": lambda image: encoded(crop(image, 0, 0.1, 0.9, 1)),
    "mirrored and small": lambda image: encoded(
        ImageOps.mirror(image).resize((80, 60)), "JPEG"
    ),
}


def image_set(name, pictures):
    items = tuple(AuditItem(uid=f"{name}/{i}") for i in range(len(pictures)))
    return AuditSet(name, items, lambda i: [pictures[i]])


def test_planted_copies_are_found_and_no_others():
    generator = np.random.default_rng(0)
    originals = [picture(generator) for _ in range(160)]
    others = [encoded(picture(generator)) for _ in range(160)]
    kinds = list(COPIES)
    copies = [COPIES[kinds[i % len(kinds)]](image) for i, image in enumerate(originals)]
    train = image_set("train", [encoded(image) for image in originals])
    test = image_set("test", copies + others)
    matches = matching_images(describe(train, 2, crops=True), describe(test, 2, crops=True))
    pairs = {(match.uid, match.other_uid) for match in matches}
    planted = {(f"train/{i}", f"test/{i}") for i in range(160)}
    assert len(pairs & planted) >= 0.99 * len(planted), sorted(planted - pairs)[:5]
    assert len(pairs & planted) >= 0.99 * len(pairs), sorted(pairs - planted)[:5]


def matches_of(one, other):
    """Pairs of positions of images that two lists of encoded images share."""
    described = [
        describe(image_set(name, images), 2, crops=True)
        for name, images in (("a", one), ("b", other))
    ]
    return {(m.uid, m.other_uid) for m in matching_images(*described)}


def test_images_of_other_colors_are_no_copies_but_gray_ones_are():
    original = picture(np.random.default_rng(2))
    luma, blue, red = original.convert("YCbCr").split()
    recolored = Image.merge("YCbCr", (luma, blue.point(lambda v: 255 - v // 2), red))
    gray = original.convert("L")
    others = [encoded(recolored.convert("RGB")), encoded(gray, "JPEG")]
    assert matches_of([encoded(original)], others) == {("a/0", "b/1")}


def test_blocks_of_images_find_what_one_block_finds(monkeypatch):
    generator = np.random.default_rng(5)
    originals = [picture(generator, (60, 45)) for _ in range(12)]
    one = [encoded(image) for image in originals]
    other = [encoded(ImageOps.mirror(image)) for image in originals[::-1]]
    whole = matches_of(one, other)
    assert whole == {(f"a/{i}", f"b/{11 - i}") for i in range(12)}
    monkeypatch.setattr(image_matches, "BLOCK", 5)
    monkeypatch.setattr(image_matches, "CHUNK", 4)
    assert matches_of(one, other) == whole


def test_flat_images_and_empty_sets_match_nothing():
    flat = [encoded(Image.new("RGB", (40, 40), "red"))] * 2
    assert matches_of(flat, flat) == set()
    assert matches_of([], flat) == set()


def questions(count, answer, options=("left", "right", "front"), seed=0):
    generator = np.random.default_rng(seed)
    items = []
    for i in range(count):
        order = tuple(generator.permutation(options))
        color = ("red", "blue", "green", "black")[generator.integers(4)]
        items.append(
            AuditItem(
                uid=f"q{i}",
                question=f"Where is the {color} cup in scene {i}?",
                options=order,
                answer_index=answer(generator, order, color),
                group=f"g{i}",
                kind="relation",
            )
        )
    return AuditSet("set", tuple(items), lambda i: [])


def verdicts(audited):
    return {check.name: check.clean for check in audit_sets([audited]).checks}


def first_option(generator, order, color):
    return 0


def test_a_clean_set_passes():
    audited = questions(600, lambda generator, order, color: int(generator.integers(3)))
    assert verdicts(audited) == {
        "answer position": True,
        "template prior": True,
        "blind solver": True,
    }


def test_a_favored_position_is_found():
    audited = questions(600, lambda generator, order, color: int(generator.random() < 0.5))
    assert not verdicts(audited)["answer position"]


def test_an_answer_template_is_found():
    def mostly_left(generator, order, color):
        return order.index("left") if generator.random() < 0.6 else int(generator.integers(3))

    assert not verdicts(questions(600, mostly_left))["template prior"]


def test_the_blind_solver_learns_from_words_of_the_question():
    def by_color(generator, order, color):
        return order.index({"red": "left", "blue": "right"}.get(color, "front"))

    assert not verdicts(questions(600, by_color))["blind solver"]


def test_a_set_of_one_scene_leaves_nothing_to_learn_from_and_is_guessed():
    items = tuple(replace(item, group="one") for item in questions(9, first_option).items)
    shortcut = blind_solver(items)
    assert (shortcut.n, shortcut.accuracy) == (9, shortcut.chance)
    assert verdicts(AuditSet("one scene", items, lambda i: []))["blind solver"]


def test_scenes_and_questions_that_two_sets_share_are_found(tmp_path):
    names = (
        "scans/scene0011_00/1.jpg",
        "co3d/106_12650_23736/2.jpg",
        "lab-7/a.jpg",
        "x/3.jpg",
    )
    texts = [f"what stands beside object {i}?" for i in range(4)]
    one, other = (
        AuditSet(
            name,
            tuple(
                AuditItem(
                    uid=f"{name}{i}",
                    names=(path,),
                    question=text,
                    options=("a", "b"),
                    answer_index=0,
                )
                for i, (path, text) in enumerate(
                    zip((*names[:3], f"{name}.jpg"), texts, strict=True)
                )
            ),
            lambda i: [],
        )
        for name in ("one", "other")
    )
    (tmp_path / "ids.txt").write_text("lab-7\n\n")
    certificate = audit_sets([one, other], read_identifiers(str(tmp_path / "ids.txt")))
    by_name = {check.name: check for check in certificate.checks}
    assert {example[0] for example in by_name["shared scenes"].examples} == {
        "scene0011_00",
        "106_12650_23736",
        "lab-7",
    }
    assert by_name["shared questions"].figures["pairs"] == 4
    assert not certificate.clean


def test_the_command_writes_a_certificate_and_a_page(tmp_path, monkeypatch, capsys):
    generator = np.random.default_rng(1)
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
    shared = picture(generator)
    shared.save(tmp_path / "a" / "1.png")
    shared.resize((90, 70)).save(tmp_path / "b" / "copy <b>.jpg")
    picture(generator).save(tmp_path / "b" / "2.png")
    words = [str(tmp_path / "a"), str(tmp_path / "b"), f"out={tmp_path / 'out'}"]
    monkeypatch.setattr(sys, "argv", ["actial.audit", *words])
    actial.audit.__main__.main()
    assert "leaks" in capsys.readouterr().out
    certificate = json.loads((tmp_path / "out/certificate.json").read_text())
    (images,) = [c for c in certificate["checks"] if c["name"] == "near-duplicate images"]
    assert images["examples"] == [["1.png", "copy <b>.jpg"]]
    leaked = (tmp_path / "out/leaked_images.tsv").read_text().splitlines()
    assert [line.split("\t")[:4] for line in leaked[1:]] == [
        ["a", "b", "1.png", "copy <b>.jpg"]
    ]
    assert "copy &lt;b&gt;.jpg" in (tmp_path / "out/audit.html").read_text()


def test_a_folder_s_name_is_printed_as_it_is(tmp_path):
    generator = np.random.default_rng(2)
    words = ["sö, [x]=1/images", "x[/y]/images"]
    for word in words:
        (tmp_path / word).mkdir(parents=True)
        picture(generator).save(tmp_path / word / "0.png")
    command = [sys.executable, "-m", "actial.audit", *words, "out=out"]
    environment = os.environ | {"COLUMNS": "200", "PYTHONUTF8": "1"}
    ended = subprocess.run(
        command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=True
    )
    assert all(word in ended.stdout for word in words)


@pytest.mark.parametrize("encoding", ["latin-1", "utf-16", "utf-16-le"])
def test_identifiers_in_another_encoding_are_refused(tmp_path, encoding):
    path = tmp_path / "ids.txt"
    path.write_bytes("Café\n".encode(encoding))
    with pytest.raises(UserError, match=r"identifiers=.*ids\.txt is no text in UTF-8"):
        read_identifiers(str(path))
    path.write_bytes("Café\n".encode("utf-8-sig"))
    assert read_identifiers(str(path)) == {"Café"}


def test_what_is_no_set_is_refused(tmp_path):
    with pytest.raises(UserError, match="is no set"):
        open_audit_set(str(tmp_path / "nothing"))
    for word in ("", ":train"):
        with pytest.raises(UserError, match=f"the set '{word}' names no folder"):
            open_audit_set(word)
    with pytest.raises(UserError, match="holds no image"):
        open_audit_set(str(tmp_path))


def test_what_systems_leave_beside_images_is_not_audited(tmp_path):
    picture(np.random.default_rng(1)).save(tmp_path / "0.png")
    for stray in ("._0.png", "__MACOSX/0.png", "@eaDir/0.png/SYNOPHOTO_THUMB_M.jpg"):
        (tmp_path / stray).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / stray).write_bytes(b"\0\5\x16\7")
    assert [item.uid for item in open_audit_set(str(tmp_path)).items] == ["0.png"]


def test_folders_of_one_name_are_two_sets(tmp_path):
    """By their own name alone one would stand for both, and match itself."""
    generator = np.random.default_rng(3)
    words = [str(tmp_path / name / "images") for name in "ab"]
    for word in words:
        (tmp_path / word).mkdir(parents=True)
        picture(generator).save(f"{word}/0.png")
    certificate = audit_sets(open_audit_sets(words))
    assert certificate.clean
    assert list(certificate.sets) == words
    with pytest.raises(UserError, match="is given twice"):
        open_audit_sets(words[:1] * 2)
