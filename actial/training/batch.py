"""The batch of one optimizer step as a loader hands it over, and its file form for a crash."""

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
    """What one rank trains on in one step.

    Prefix groups refer to `images` by index; an image that groups share stands once.
    """

    prefix_groups: list[PrefixGroup]
    images: list[np.ndarray]  # uint8 (H, W, 3), at the size the model sees
    # One per continuation, in order: the loss is logged by tag. May be empty.
    tags: list[str] = field(default_factory=list)

    def save(self, folder: Path) -> None:
        """Write images.safetensors and batch.json, from which `load` restores the batch."""
        folder.mkdir(parents=True, exist_ok=True)
        images = {str(i): np.ascontiguousarray(image) for i, image in enumerate(self.images)}
        save_file(images, folder / "images.safetensors")
        names = [item.name for item in fields(self) if item.name != "images"]
        write_json(
            folder / "batch.json", {name: _plain(getattr(self, name)) for name in names}
        )

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Return the batch that `save` wrote."""
        values: dict[str, Any] = json.loads((folder / "batch.json").read_text())
        prefix_groups = [_prefix_group(group) for group in values.pop("prefix_groups")]
        by_index = load_file(folder / "images.safetensors")
        images = [by_index[str(i)] for i in range(len(by_index))]
        return cls(prefix_groups=prefix_groups, images=images, **values)


def _prefix_group(values: dict[str, Any]) -> PrefixGroup:
    continuations = [Continuation(**one) for one in values["continuations"]]
    return PrefixGroup(**{**values, "continuations": continuations})


def _plain(value: Any) -> Any:
    return [_plain_item(item) for item in value] if isinstance(value, list) else value


def _plain_item(item: Any) -> Any:
    return asdict(item) if is_dataclass(item) and not isinstance(item, type) else item
