"""A policy that is a plain function: it sees what a model would see and returns text. Token ids are
the text's bytes.
"""

from collections.abc import Callable

import numpy as np

from actial.core.records import (
    AnswerMode,
    Completion,
    Example,
    FinishReason,
    Prompt,
    Question,
    SamplingParams,
)
from actial.inference.samplers import SynchronousSampler


class ByteRenderer:
    def prompt(self, example: Example, question: Question) -> Prompt:
        ids = list(question.text.encode())
        return Prompt(uid=question.uid, engine_ids=ids, input_ids=ids, images=example.images)

    def decode(self, token_ids: list[int]) -> str:
        return bytes(token_ids).decode()


class FunctionSampler:
    """answer(images, question text) -> completion text; counts its calls in `prompts`."""

    def __init__(self, answer: Callable[[list[np.ndarray], str], str]) -> None:
        self.answer = answer
        self.prompts = 0

    def generate(
        self, prompts: list[Prompt], n: int, params: SamplingParams
    ) -> list[list[Completion]]:
        self.prompts += len(prompts)
        texts = [self.answer(p.images, bytes(p.engine_ids).decode()) for p in prompts]
        finish = [
            FinishReason.LENGTH if len(t) > params.max_tokens else FinishReason.STOP
            for t in texts
        ]
        ids = [list(t.encode())[: params.max_tokens] for t in texts]
        return [
            [Completion(token_ids=i, logprobs=[0.0] * len(i), finish=f)] * n
            for i, f in zip(ids, finish, strict=True)
        ]


def letter_of(text: str, option: str) -> str:
    """The letter shown before `option` in a rendered question."""
    return text[text.index(f": {option}") - 1]


def question(
    uid="q",
    text="Which?",
    options=("left", "right", "none"),
    answer_index=0,
    kind="ego_translation",
) -> Question:
    rendered = (
        text
        + "\n"
        + " ".join(f"{letter}: {o}" for letter, o in zip("ABCDEF", options, strict=False))
    )
    return Question(
        uid=uid,
        type=kind,
        text=rendered,
        options=tuple(options),
        answer_index=answer_index,
        mode=AnswerMode.DIRECT,
    )


class ScriptedSampler(SynchronousSampler):
    """Token ids of the i-th sample of a prompt are `script(prompt, i)`; log-probabilities are 0."""

    def __init__(self, script, stop_ids):
        self.script = script
        self.stop_ids = tuple(stop_ids)

    def generate(self, prompts, n, params):
        return [
            [
                self._completion(self.script(prompt, member)[: params.max_tokens])
                for member in range(n)
            ]
            for prompt in prompts
        ]

    def _completion(self, ids):
        finish = FinishReason.STOP if ids and ids[-1] in self.stop_ids else FinishReason.LENGTH
        return Completion(token_ids=ids, logprobs=[0.0] * len(ids), finish=finish)
