"""Tests that need a CUDA device; what they measure is written to experiments/gpu/."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

OUT = Path(__file__).parents[2] / "experiments" / "gpu"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    skip = pytest.mark.skip(reason="torch sees no CUDA device")
    for item in items:
        if Path(__file__).parent in item.path.parents and not torch.cuda.is_available():
            item.add_marker(skip)


@pytest.fixture(scope="session")
def measured() -> Iterator[dict[str, float | str]]:
    """Figures by name; written to results.json and results.md when all tests are done."""
    figures: dict[str, float | str] = {
        "device": torch.cuda.get_device_name(0),
        "torch": torch.__version__,
    }
    yield figures
    OUT.mkdir(parents=True, exist_ok=True)
    (OUT / "results.json").write_text(json.dumps(figures, indent=1) + "\n")
    lines = ["| figure | value |", "|---|---|"]
    for name, value in figures.items():
        text = value if isinstance(value, str) else f"{value:.4g}"
        lines.append(f"| {name} | {text} |")
    (OUT / "results.md").write_text("\n".join(lines) + "\n")
