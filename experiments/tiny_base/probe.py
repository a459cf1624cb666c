"""Ask a tiny base model what it should know: `probe.py MODEL [--static SET] [--scenes SET]`.

Static facts of new scenes (a set of `actial.synthetic.base_scenes`), rules in text alone, and the
questions of the quickstart's scenes. Each line has the share of right answers, the share in form,
and both for the chains of thought that begin with a fact.
"""

from __future__ import annotations

import argparse
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import replace

from actial.config import (
    ColdStartConfig,
    DataConfig,
    ModelConfig,
    PromptConfig,
    SetConfig,
    Task,
)
from actial.core.records import AnswerMode, Example, SamplingParams
from actial.data.datasets import open_set
from actial.evaluation.loop import evaluate_examples
from actial.grading.metrics import Prediction
from actial.inference.samplers import HFSampler
from actial.modeling.policy import Policy
from actial.modeling.prompt_renderer import PromptRenderer
from actial.viewpoint.questions import multiple_choice_text
from actial.viewpoint.scene_rules import rule_question


def examples_of(config: SetConfig, split: str, limit: int) -> Iterator[Example]:
    """Yield the first examples of a set, each of its questions asked to think first."""
    examples = open_set(
        config, split, DataConfig(), ColdStartConfig(), supervised=False, mode=AnswerMode.THINK
    )
    for i in range(min(limit, len(examples))):
        yield examples.example(i, 0)


def static_kind(text: str) -> str:
    kinds = {
        "to the left or to the right": "left or right of",
        "on the left or on the right": "left or right half",
        "closer": "which is closer",
        "how many": "how many",
        "which side": "which side",
    }
    return next(name for words, name in kinds.items() if words in text)


def static_examples(root: str, limit: int) -> Iterator[Example]:
    config = SetConfig(task=Task.qa, root=root, types=["static"])
    for example in examples_of(config, "train", limit):
        kind = static_kind(example.questions[0].text)
        yield replace(example, questions=[replace(example.questions[0], type=kind)])


def rule_examples(count: int) -> Iterator[Example]:
    for i in range(count):
        question = rule_question(f"probe/{i}")
        wording = "\n".join(question.text.split("\n")[:2])
        text = multiple_choice_text(wording, question.options, AnswerMode.THINK)
        question = replace(question, text=text, mode=AnswerMode.THINK, target=None)
        yield Example(uid=question.uid, images=[], questions=[question], task="rules")


def report(name: str, predictions: list[Prediction]) -> None:
    """Print a line for each type of question."""
    by_type: dict[str, list[Prediction]] = defaultdict(list)
    for prediction in predictions:
        by_type[prediction.type].append(prediction)
    for kind, answers in sorted(by_type.items()):
        stating = [p for p in answers if p.text.startswith("<think>\nthe")]
        print(
            f"{name:8} {kind:22} n={len(answers):4d} right={share(answers):.2f}"
            f" form={sum(p.format_ok for p in answers) / len(answers):.2f}"
            f" readable={share([p for p in answers if p.letter]):.2f}"
            f" facts first: n={len(stating)} right={share(stating):.2f}",
            flush=True,
        )


def share(answers: list[Prediction]) -> float:
    return sum(p.score for p in answers) / len(answers) if answers else float("nan")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model")
    parser.add_argument("--static", help="built set of actial.synthetic.base_scenes")
    parser.add_argument(
        "--scenes", help="built set of the quickstart's scenes, such as data/sat"
    )
    parser.add_argument("--split", default="val")
    parser.add_argument("--limit", type=int, default=600)
    parser.add_argument("--rules", type=int, default=300)
    parser.add_argument("--temperature", type=float, default=0.0)
    options = parser.parse_args()
    model = ModelConfig(path=options.model, min_pixels=256, max_pixels=16384)
    policy, renderer = Policy.load(model), PromptRenderer.load(model, PromptConfig())
    sampler = HFSampler(policy, stop_ids=renderer.stop_ids, banned_ids=renderer.banned_ids)
    params = SamplingParams(temperature=options.temperature, max_tokens=112, seed=0)

    def ask(name: str, examples: Iterator[Example]) -> None:
        example_list = list(examples)
        report(name, evaluate_examples(sampler, renderer, example_list, params, label=name))

    if options.static:
        ask("static", static_examples(options.static, options.limit))
    if options.rules:
        ask("text", rule_examples(options.rules))
    if options.scenes:
        config = SetConfig(task=Task.qa, root=options.scenes)
        ask("scenes", examples_of(config, options.split, options.limit))


if __name__ == "__main__":
    main()
