"""The prompts that a GRPO step samples from, rendered from the stream of examples."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Protocol

from actial.config import GRPOConfig
from actial.core.records import Example, Prompt, Question
from actial.core.seeding import hash_choice
from actial.core.set_records import Record
from actial.rl.experimental import counterfactual


class Renderer(Protocol):
    """What rollouts need of a PromptRenderer."""

    banned_ids: list[int]

    def prompt(self, example: Example, question: Question) -> Prompt: ...

    def decode(self, token_ids: list[int]) -> str: ...


@dataclass(slots=True, kw_only=True)
class PromptRequest:
    """One prompt to sample from; those of one `position` of the stream are about the same
    images.
    """

    position: int
    prompt: Prompt
    question: Question
    record: Record | None
    images_reversed: bool = False


class PromptRequests:
    """Renders the prompts of positions of the stream, on request or in the background.

    Which questions an example is asked depends on the seed and its position alone.
    """

    def __init__(
        self,
        example: Callable[[int], Example],
        renderer: Renderer,
        config: GRPOConfig,
        *,
        seed: int,
    ) -> None:
        self.example = example
        self.renderer = renderer
        self.config = config
        self.seed = seed
        self._background = ThreadPoolExecutor(1)
        self._prepared: tuple[range, Future[list[PromptRequest]]] | None = None

    def prepare(self, positions: range) -> None:
        """Render the prompts of these positions in the background, for the next `at`."""
        self._prepared = positions, self._background.submit(self._render, positions)

    def at(self, positions: range) -> list[PromptRequest]:
        """Return the prompts of these positions, in order."""
        if self._prepared is not None:
            prepared_positions, future = self._prepared
            if prepared_positions == positions:
                return future.result()
        return self._render(positions)

    def of(self, positions: Sequence[int]) -> list[PromptRequest]:
        """Return the prompts of any positions; rendered behind what is being prepared."""
        return self._background.submit(self._render, positions).result() if positions else []

    def _render(self, positions: Sequence[int]) -> list[PromptRequest]:
        return [request for position in positions for request in self._of_position(position)]

    def _of_position(self, position: int) -> Iterator[PromptRequest]:
        """Yield one question drawn by hash or all of them, each twice under grpo.counterfactual."""
        example = self.example(position)
        questions = example.questions
        if not self.config.all_questions:
            questions = [hash_choice(questions, "rollout", self.seed, position)]
        for question in questions:
            yield self._request(example, question, position)
            if self.config.counterfactual:
                turned, turned_question, reversed_images = counterfactual(example, question)
                request = self._request(turned, turned_question, position)
                yield replace(request, images_reversed=reversed_images)

    def _request(self, example: Example, question: Question, position: int) -> PromptRequest:
        prompt = self.renderer.prompt(example, question)
        # The position makes the uid, and so the sampler's randomness, distinct for an example that
        # the stream gives twice.
        prompt = replace(prompt, uid=f"{question.uid}@{position}")
        return PromptRequest(
            position=position, prompt=prompt, question=question, record=example.record
        )
