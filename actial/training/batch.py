"""The batch of one optimiser step as a loader hands it over, and its file form for steps that went wrong."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field, fields, is_dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
from safetensors.numpy import load_file, save_file

from actial.core.atomic_io import write_json
from actial.modeling.prefix_packing import Continuation, PrefixGroup


@dataclass(slots=True, kw_only=True)
class TrainBatch:
    """What one rank trains on in one step. Trunks refer to `images` by index; an image shared by trunks stands once."""

    prefix_groups: list[PrefixGroup]
    images: list[np.ndarray]  # uint8 (H, W, 3), at the size the model sees
    tags: list[str] = field(
        default_factory=list
    )  # one per branch, in order: losses are logged by tag; may be empty

    def save(self, folder: Path) -> None:
        """images.safetensors and batch.json; `load` gives the batch back."""
        folder.mkdir(parents=True, exist_ok=True)
        save_file(
            {str(i): np.ascontiguousarray(image) for i, image in enumerate(self.images)},
            folder / "images.safetensors",
        )
        write_json(
            folder / "batch.json",
            {f.name: _plain(getattr(self, f.name)) for f in fields(self) if f.name != "images"},
        )

    @classmethod
    def load(cls, folder: Path) -> Self:
        values: dict[str, Any] = json.loads((folder / "batch.json").read_text())
        prefix_groups = [
            PrefixGroup(**{**t, "continuations": [Continuation(**b) for b in t["continuations"]]})
            for t in values.pop("prefix_groups")
        ]
        images = load_file(folder / "images.safetensors")
        return cls(
            prefix_groups=prefix_groups,
            images=[images[str(i)] for i in range(len(images))],
            **values,
        )


def _plain(value: Any) -> Any:
    if isinstance(value, list):
        return [
            asdict(item) if is_dataclass(item) and not isinstance(item, type) else item
            for item in value
        ]
    return value
