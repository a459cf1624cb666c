"""docs/fidelity.md, the groups fidelity=paper and fidelity=recommended, and the table agree."""

from __future__ import annotations

import math
import re
from typing import Any

import hydra
import pytest
from omegaconf import OmegaConf
from transformers.models.qwen2_vl.image_processing_qwen2_vl import smart_resize

from actial.config import ImageConfig, TrainConfig, register
from actial.config.fidelity import (
    FIDELITIES,
    PAIR_VALUES,
    VALUES,
    Value,
    deviations,
    markdown_table,
    settings_of,
)
from actial.config.hydra_app import typed
from actial.core.errors import UserError
from actial.core.paths import CONF
from actial.data.build.settings import fixed_settings
from actial.data.images import fitted_size
from actial.pipeline.preflight import check_chains

PAGE = CONF.parent / "docs" / "fidelity.md"


@pytest.fixture(scope="module", autouse=True)
def schemas() -> None:
    register()


def compose(*overrides: str) -> TrainConfig:
    with hydra.initialize_config_dir(str(CONF), version_base="1.3"):
        config: Any = typed(hydra.compose("train", ["+experiment=actial_7b", *overrides]))
    assert isinstance(config, TrainConfig)
    return config


@pytest.mark.parametrize("fidelity", FIDELITIES)
def test_composed_experiment_has_the_values_of_the_table(fidelity: str) -> None:
    config = compose(f"fidelity={fidelity}")
    assert config.fidelity == fidelity
    assert not list(deviations(config, fidelity))


@pytest.mark.parametrize(("mark", "values"), [("table", VALUES), ("pairs", PAIR_VALUES)])
def test_page_holds_the_tables(mark: str, values: tuple[Value, ...]) -> None:
    page = PAGE.read_text()
    table = re.search(rf"<!-- {mark} -->\n(.*?)\n<!-- /{mark} -->", page, re.DOTALL)
    assert table, f"docs/fidelity.md has no table {mark}"
    assert table[1] == markdown_table(values)


@pytest.mark.parametrize(
    ("fidelity", "dataset"),
    [("paper", "viewpoint_100k_paper"), ("recommended", "viewpoint_100k")],
)
def test_composed_data_sets_have_the_values_of_the_table(fidelity: str, dataset: str) -> None:
    with hydra.initialize_config_dir(str(CONF), version_base="1.3"):
        words = ["source=mvimgnet", f"dataset={dataset}", "source.root=x", "out=x"]
        config: Any = typed(hydra.compose("build", words))
    settings = OmegaConf.create(fixed_settings(config))
    for value in PAIR_VALUES:
        assert OmegaConf.select(settings, value.key) == value.of(fidelity), value.key


def test_every_changed_value_has_a_reason() -> None:
    for value in (*VALUES, *PAIR_VALUES):
        assert bool(value.why) == (value.paper != value.recommended), value.key


def test_deviation_names_the_setting_the_value_and_the_papers() -> None:
    config = compose("fidelity=paper", "grpo.kl.beta=0.1")
    assert list(deviations(config)) == ["grpo.kl.beta: 0.1 (paper: 0.01)"]


def test_recommended_deviates_from_the_paper_where_the_table_says_so() -> None:
    keys = {line.partition(":")[0] for line in deviations(compose())}
    assert keys == {value.key for value in VALUES if value.paper != value.recommended}


def test_values_of_the_table_are_settings() -> None:
    assert all(value is not None for value in settings_of(compose()).values())


def released_size(width: int, height: int, most: int = 518_400) -> tuple[int, int]:
    """The release's two resizes: floored sides within the area, then the processor's."""
    factor = min(1.0, math.sqrt(most / (width * height)))
    floored = int(height * factor), int(width * factor)
    rows, columns = smart_resize(*floored, factor=28, min_pixels=3136, max_pixels=12_845_056)
    return columns, rows


@pytest.mark.parametrize(
    "photo",
    [
        (1024, 768),
        (4032, 3024),
        (1920, 1080),
        (1080, 1920),
        (1500, 1000),
        (640, 480),
        (336, 336),
    ],
)
def test_common_photos_get_the_size_of_the_release(photo: tuple[int, int]) -> None:
    assert fitted_size(*photo, ImageConfig()) == released_size(*photo)


def test_the_page_names_a_photo_that_gets_another_size() -> None:
    sizes = fitted_size(1000, 1000, ImageConfig()), released_size(1000, 1000)
    ours, theirs = (f"{width} x {height}" for width, height in sizes)
    assert f"1000 x 1000 becomes {ours}, in the release {theirs}" in PAGE.read_text()


def test_paper_wants_a_teachers_file_and_says_which_command_writes_it() -> None:
    config = compose("fidelity=paper", "cold_start.source=/none/chains/chains.jsonl")
    with pytest.raises(UserError) as refused:
        check_chains(config)
    assert "python -m actial.chains pairs=data/viewpoint_100k " in str(refused.value)
    assert "out=/none/chains" in str(refused.value)
    check_chains(compose())  # recommended writes them from the poses
