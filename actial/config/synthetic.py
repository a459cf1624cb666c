"""The procedural world, the untrained tiny model, and the teacher's chains of thought."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from omegaconf import MISSING

from actial.config.validation import num, reject


@dataclass(kw_only=True, slots=True)
class WorldConfig:
    """`python -m actial.world`: write procedural object captures and SAT-format questions."""

    out: str = MISSING
    objects: int = num(1000, "[0, inf)")  # of the categories to train on
    unseen_objects: int = num(60, "[0, inf)")  # of the held-out categories
    frames: int = num(12, "[12, 200]")  # photos of each object; the gates want 12
    size: int = num(48, "[32, 512]")  # pixels, both sides, of a capture's photos
    # of the scenes' photos: their objects then look as large as a capture's
    scene_size: int = num(96, "[32, 512]")
    sat_train: int = num(2000, "[0, inf)")
    sat_val: int = num(400, "[0, inf)")
    sat_test: int = num(300, "[0, inf)")
    seed: int = 0
    workers: int = num(0, "[0, inf)")  # processes; 0 = one per core


@dataclass(kw_only=True, slots=True)
class BaseScenesConfig:
    """`python -m actial.synthetic.base_scenes`: write the scenes that the tiny base model reads."""

    out: str = MISSING
    scenes: int = num(10_000, "[1, inf)")
    size: int = num(96, "[32, 512]")  # pixels, both sides, of a photo
    seed: int = 0
    workers: int = num(0, "[0, inf)")  # processes; 0 = one per core

    def check(self, path: str) -> None:
        if self.size % 16:
            reject(f"{path}size", self.size, "a layout has cells of 16 pixels, so give n x 16")


@dataclass(kw_only=True, slots=True)
class SceneVisionConfig:
    """`python -m actial.synthetic.scene_vision`: teach a vision encoder what stands where."""

    start: str = MISSING  # folder of the model to go on from
    scenes: str = MISSING  # set of actial.synthetic.base_scenes
    pairs: str = MISSING  # pair set of the procedural world: photos of single objects
    out: str = MISSING
    steps: int = num(2600, "[1, inf)")
    batch_size: int = num(32, "[1, 4096]")  # scenes a step
    photo_batch: int = num(32, "[1, 4096]")  # photos of single objects a step
    lr: float = num(1e-3, "(0, 1]")
    # afterwards, of the attention of words in the first language layer
    grounding_steps: int = num(300, "[1, inf)")
    # at last, of the language model on pairs of things
    comparison_steps: int = num(400, "[1, inf)")
    seed: int = 0


@dataclass(kw_only=True, slots=True)
class TinyConfig:
    """`python -m actial.synthetic.tiny_model`: write a tiny model with a pretrained vision encoder.

    Its language model is random.
    """

    out: str = MISSING
    # pair set of the procedural world: photos for the vision encoder, words for the tokenizer
    pairs: str = MISSING
    sat: str = MISSING  # question set of the procedural world: words for the tokenizer
    vocab_size: int = num(900, "[300, 10000]")
    width: int = num(128, "[64, 1024]")
    layers: int = num(3, "[1, 32]")
    vision_width: int = num(96, "[32, 1024]")
    vision_layers: int = num(4, "[1, 32]")
    patch: int = num(8, "[2, 32]")
    vision_steps: int = num(2500, "[0, inf)")
    vision_batch: int = num(96, "[1, 4096]")
    vision_lr: float = num(1e-3, "(0, 1]")
    seed: int = 0


@dataclass(kw_only=True, slots=True)
class ChainsConfig:
    """`python -m actial.chains`: ask a teacher for chains of thought about the pairs of a built
    set.

    The teacher is any OpenAI-compatible server.
    """

    pairs: str = MISSING  # a set that actial.build wrote
    split: str = "train"
    out: str = MISSING
    url: str = "https://api.openai.com/v1"
    teacher: str = MISSING  # the model's name on that server
    # environment variable that holds the key; a local server needs none
    key_variable: str = "OPENAI_API_KEY"
    # text of the request: sections (ours, in the paper's sections, with an example), short, or
    # file:PATH with {answers}, {question} and {closing} (conf/teacher_template/sections.md)
    template: str = "sections"
    limit: int = num(1000, "[1, inf)")  # pairs, drawn by hash (paper: about 1,000)
    attempts: int = num(
        2, "[1, 100]"
    )  # requests for one pair until the verifier accepts an answer
    concurrency: int = num(8, "[1, 4096]")  # requests in flight
    retries: int = num(
        6, "[0, 100]"
    )  # of a request that met a fault of the server or the line
    backoff_s: float = num(1.0, "[0, 3600]")  # before the first retry; doubles each time
    max_backoff_s: float = num(60.0, "[0, 3600]")
    timeout_s: float = num(600.0, "(0, 1e6]")
    # of a reply, with the teacher's own thinking before it
    max_tokens: int = num(16_000, "[1, 1e6]")
    temperature: float = num(0.7, "[0, 10]")
    # further fields of a request, and null to leave one out, such as
    # {max_tokens: null, max_completion_tokens: 16000, reasoning_effort: high}
    request: dict[str, Any] = field(default_factory=dict)
    # per million prompt tokens, in any currency; for the ledger
    price_in: float = num(0.0, "[0, inf)")
    price_out: float = num(0.0, "[0, inf)")
    max_cost: float = num(0.0, "[0, inf)")  # stop asking beyond it; 0 = no limit
    seed: int = 0
