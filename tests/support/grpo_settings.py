"""Small GRPO settings that several tests share."""

from __future__ import annotations

from actial.config import (
    RewardConfig,
    RewardTerm,
)
from support.rollout_world import WORDS
from support.tiny_models import EOS, VOCAB

ALLOWED = [*[i for i in WORDS if i < 20], EOS]


BANNED = [i for i in range(VOCAB) if i not in ALLOWED]


ACCURACY = RewardConfig(terms={"accuracy": RewardTerm(kind="accuracy", weight=1.0)})
