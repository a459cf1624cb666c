"""A model is asked under its own image limits, prompt and token limit, or it is refused."""

from __future__ import annotations

import base64
import io
import json
import re
import shlex
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import hydra
import pytest
from PIL import Image
from support import benchmark_files, tiny_world
from support.fake_server import FakeServer

from actial.config import EvaluateConfig, register
from actial.config.command_line import parse_command_line
from actial.config.hydra_app import typed
from actial.core.errors import UserError
from actial.core.paths import ASSETS, CONF
from actial.evaluate import evaluate
from actial.evaluation.pass_rates import measure_pass_rates
from actial.modeling.saved_settings import SavedSettings, with_saved_settings

ROOT = CONF.parent
PHOTO = (1024, 768)
PAPER_SIZE = (840, 616)  # multiples of 28, at most 518,400 pixels, nearest to 4 : 3


@pytest.fixture(scope="module", autouse=True)
def schemas() -> None:
    register()


def compose(command: str, *words: str) -> Any:
    overrides = list(parse_command_line(words).overrides)
    with hydra.initialize_config_dir(str(CONF), version_base="1.3"):
        return typed(hydra.compose(command, overrides))


@pytest.fixture
def photos(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """CV-Bench in its published form, with photos of 1024 x 768 pixels."""
    small = benchmark_files.picture
    monkeypatch.setattr(benchmark_files, "picture", lambda level=0: small(level, PHOTO))
    benchmark_files.WRITERS["cv_bench"](tmp_path / "cv_bench")
    return tmp_path / "cv_bench"


def sizes(body: dict[str, Any]) -> list[tuple[int, int]]:
    """Sizes in pixels of the images in a chat request, as they arrive."""
    parts = body["messages"][-1]["content"]
    urls = [part["image_url"]["url"] for part in parts if part["type"] == "image_url"]
    return [
        Image.open(io.BytesIO(base64.b64decode(url.partition(",")[2]))).size for url in urls
    ]


def checkpoint(folder: Path, **changes: Any) -> Path:
    """The tiny base model, saved as one that was trained under other settings."""
    shutil.copytree(ASSETS / "tiny_base", folder)
    settings = json.loads((folder / "actial.json").read_text()) | changes
    (folder / "actial.json").write_text(json.dumps(settings))
    return folder


def test_named_model_is_asked_with_photos_of_the_papers_size(
    photos: Path, tmp_path: Path
) -> None:
    with FakeServer() as server:
        words = (f"server.url={server.url}", "server.model=m", "model=qwen2_5_vl_7b")
        out = f"out={tmp_path / 'out'}"
        evaluate(
            compose("evaluate", "benchmark=cv_bench", f"benchmark.root={photos}", *words, out)
        )
    assert {size for body in server.bodies for size in sizes(body)} == {PAPER_SIZE}
    assert {body["max_tokens"] for body in server.bodies} == {4096}


def test_served_checkpoint_s_template_counts_as_said(photos: Path, tmp_path: Path) -> None:
    folder = checkpoint(tmp_path / "model")
    template = folder / "chat_template.jinja"
    start = "<|im_start|>assistant\\n"
    assert start in template.read_text()
    template.write_text(template.read_text().replace(start, f"{start}<think>\\n"))
    (folder / "SHA256SUMS").unlink(missing_ok=True)
    with FakeServer(content="so\n</think>\n<answer>A</answer>") as server:
        words = (f"server.url={server.url}", "server.model=m", f"model.path={folder}")
        out = tmp_path / "out"
        words += (f"benchmark.root={photos}", f"out={out}")
        evaluate(compose("evaluate", "benchmark=cv_bench", *words))
    logs = [log.read_text() for log in out.rglob("predictions.jsonl")]
    lines = [json.loads(line) for line in "".join(logs).splitlines()]
    texts = {line["text"] for line in lines if "text" in line}
    assert texts == {"<think>\nso\n</think>\n<answer>A</answer>"}


@pytest.mark.parametrize(
    ("prompt", "own", "base"),
    [
        ("clean", False, False),
        ("none", False, True),
        ("file", True, False),
        ("text:Look.", False, False),
    ],
)
def test_report_has_the_papers_rows_only_under_their_prompt(
    prompt: str, own: bool, base: bool, photos: Path, tmp_path: Path
) -> None:
    (tmp_path / "prompt.txt").write_text("Actial: <think> it </think> <answer> it </answer>")
    prompt = f"file:{tmp_path / 'prompt.txt'}" if prompt == "file" else prompt
    with FakeServer() as server:
        words = (f"server.url={server.url}", "server.model=m", "model=qwen2_5_vl_7b")
        words += (f"out={tmp_path / 'out'}", f"prompt.system_prompt={prompt}")
        evaluate(compose("evaluate", "benchmark=cv_bench", f"benchmark.root={photos}", *words))
    results = json.loads((tmp_path / "out/results.json").read_text())
    rows = results["paper"]["cv_bench"]["rows"]
    assert ("Actial-7B" in rows, "Qwen2.5-VL-7B-Instruct" in rows) == (own, base)
    assert "GPT-4o" in rows


def test_served_checkpoint_is_asked_under_its_saved_settings(
    photos: Path, tmp_path: Path
) -> None:
    folder = checkpoint(tmp_path / "model", max_pixels=100_352, system_prompt="Look.")
    with FakeServer() as server:
        words = (f"server.url={server.url}", "server.model=m", f"model.path={folder}")
        out = f"out={tmp_path / 'out'}"
        evaluate(
            compose("evaluate", "benchmark=cv_bench", f"benchmark.root={photos}", *words, out)
        )
    areas = {width * height for body in server.bodies for width, height in sizes(body)}
    assert max(areas) <= 100_352
    assert min(areas) > 80_000
    assert {body["messages"][0]["content"] for body in server.bodies} == {"Look."}


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (
            ("server.url=http://127.0.0.1:1/v1", "server.model=m"),
            "server.model=m has unknown image limits and prompt: add model=NAME",
        ),
        ((), "no model is named: add model=NAME"),
        (("model.path=Qwen/Qwen2-VL-2B-Instruct",), "Qwen2-VL-2B-Instruct has no actial.json"),
    ],
)
def test_model_of_unknown_settings_is_refused(words: tuple[str, ...], sentence: str) -> None:
    config = compose("evaluate", "benchmark=blink", "out=x", *words)
    with pytest.raises(UserError, match=re.escape(sentence)):
        with_saved_settings(config)


def test_settings_of_the_command_win_over_saved_ones() -> None:
    path = f"model.path={ASSETS / 'tiny_base'}"
    config = compose(
        "evaluate", "out=x", path, "model.max_pixels=4096", "benchmark.max_tokens=9"
    )
    resolved = with_saved_settings(config)
    assert (resolved.model.min_pixels, resolved.model.max_pixels) == (256, 4096)
    assert resolved.benchmark.max_tokens == 9
    assert resolved.prompt.system_prompt.startswith("text:Reason inside")


def test_checkpoint_without_the_file_is_read_from_the_config_of_its_run(
    tmp_path: Path,
) -> None:
    sample = next((ROOT / "notebooks" / "sample").glob("*seed=1"))
    (tmp_path / "grpo" / "model").mkdir(parents=True)
    shutil.copy(sample / "config.yaml", tmp_path)
    saved, base = (
        SavedSettings.read(folder)
        for folder in (tmp_path / "grpo/model", ASSETS / "tiny_base")
    )
    assert saved is not None
    assert base is not None
    assert saved == replace(base, max_tokens=112)


def test_pass_rates_use_the_checkpoints_token_limit(tmp_path: Path) -> None:
    tiny_world.write_questions(tmp_path / "sat", 3)
    with FakeServer(content="<answer>A</answer>") as server:
        config = compose(
            "passrates",
            "set=sat",
            "samples=2",
            f"data.sets.sat.root={tmp_path / 'sat'}",
            f"server.url={server.url}",
            "server.model=m",
            "server.multiple=16",
            f"model.path={checkpoint(tmp_path / 'model', max_tokens=77)}",
            f"out={tmp_path / 'out'}",
        )
        measure_pass_rates(config)
    assert {body["max_tokens"] for body in server.bodies} == {77}


def test_answers_under_another_precision_are_not_continued(tmp_path: Path) -> None:
    benchmark_files.WRITERS["mmsi"](tmp_path / "mmsi")
    words = ["model=tiny", "benchmark=mmsi", f"benchmark.root={tmp_path / 'mmsi'}"]
    words += ["benchmark.max_tokens=2", "benchmark.controls=0", f"out={tmp_path / 'out'}"]
    evaluate(compose("evaluate", *words, "model.precision=fp32"))
    with pytest.raises(UserError, match="made with precision=fp32, now precision=bf16"):
        evaluate(compose("evaluate", *words, "model.precision=bf16"))


def documented_commands() -> list[str]:
    """The evaluation commands of README.md and docs/, one line each."""
    commands = []
    for page in [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]:
        for block in re.findall(r"```sh\n(.*?)```", page.read_text(), re.DOTALL):
            lines = block.replace("\\\n", " ").splitlines()
            commands += [
                line for line in lines if line.startswith("python -m actial.evaluate ")
            ]
    return commands


@pytest.mark.parametrize("command", documented_commands())
def test_documented_command_names_or_finds_its_models_settings(
    command: str, tmp_path: Path
) -> None:
    """Photos of a published set arrive at the size of the paper for checkpoints of the 7B runs."""
    words = shlex.split(command, comments=True)[3:]
    given = dict(word.split("=", 1) for word in words if word != "-m")
    given["benchmark"] = given.get("benchmark", "world").partition(",")[0]
    folder = checkpoint(tmp_path / "model", max_pixels=518_400)
    for model in given.pop("+paper_model", "").split(","):
        choice = [f"+paper_model={model}"] if model else []
        config: EvaluateConfig = compose(
            "evaluate", *choice, *[f"{key}={value}" for key, value in given.items()]
        )
        if "model.path" in given or config.model.path.startswith("runs/"):
            config = replace(config, model=replace(config.model, path=str(folder)))
        resolved = with_saved_settings(config)
        assert resolved.model.max_pixels == 518_400
        assert resolved.benchmark.max_tokens >= 128
