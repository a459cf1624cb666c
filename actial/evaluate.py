"""Ask a model the questions of a set and keep every answer: the one evaluation loop, for training runs, benchmarks and servers."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any, Protocol

from actial.cli import hydra_command
from actial.config import EvaluateConfig
from actial.files import write_json
from actial.predictions import PredictionLog, predict
from actial.progress import Progress
from actial.scoring import Prediction
from actial.types import Completion, Example, Prompt, Question, SamplingParams

BATCH_BYTES = 1 << 30  # of pictures; two batches are in memory at a time


class Sampler(Protocol):
    def generate(self, prompts: list[Prompt], n: int, params: SamplingParams) -> list[list[Completion]]: ...


class Renderer(Protocol):
    def prompt(self, example: Example, question: Question) -> Prompt: ...

    def decode(self, token_ids: list[int]) -> str: ...


def evaluate_examples(
    sampler: Sampler,
    renderer: Renderer,
    examples: Sequence[Example],
    params: SamplingParams,
    *,
    log: PredictionLog | None = None,
    batch_size: int = 128,
    label: str = "evaluating",
) -> list[Prediction]:
    """One answer per question, in the order of the examples.

    Args:
        examples: may load lazily; each is read once, and only its unanswered questions are asked.
        log: where answers are kept and resumed from; without it nothing is written.
        batch_size: prompts handed to the sampler at once, at least, unless pictures take BATCH_BYTES; the next ones are read meanwhile.
    """
    done = dict(log.done) if log else {}
    asked: list[str] = []
    batches = _batches(examples, batch_size)
    with Progress(label, total=len(examples), unit="examples") as progress, ThreadPoolExecutor(1) as reader:
        reading = reader.submit(next, batches, None)
        while batch := reading.result():
            reading = reader.submit(next, batches, None)
            pairs = [(example, question) for example in batch for question in example.questions]
            asked += [question.uid for _, question in pairs]
            if unanswered := [(example, question) for example, question in pairs if question.uid not in done]:
                fresh = _ask(sampler, renderer, unanswered, params)
                if log:
                    log.append(fresh)
                done |= {p.uid: p for p in fresh}
            progress.advance(len(batch))
    return [done[uid] for uid in asked]


def _ask(sampler: Sampler, renderer: Renderer, pairs: list[tuple[Example, Question]], params: SamplingParams) -> list[Prediction]:
    prompts = [renderer.prompt(example, question) for example, question in pairs]
    completions = [group[0] for group in sampler.generate(prompts, 1, params)]
    return [
        predict(example, question, renderer.decode(c.token_ids), c.finish, len(c.token_ids))
        for (example, question), c in zip(pairs, completions, strict=True)
    ]


def _batches(examples: Sequence[Example], size: int) -> Iterator[list[Example]]:
    """Examples in order, each list with at least `size` questions or BATCH_BYTES of pictures, except the last."""
    batch: list[Example] = []
    questions = pixels = 0
    for example in examples:
        batch.append(example)
        questions += len(example.questions)
        pixels += sum(image.nbytes for image in example.images)
        if questions >= size or pixels >= BATCH_BYTES:
            yield batch
            batch, questions, pixels = [], 0, 0
    if batch:
        yield batch


# ---------------------------------------------------------------- the command


def evaluate(config: EvaluateConfig) -> None:
    """Answer a benchmark, or named sets, and write predictions.jsonl, scores.json, results.json and report.html into `config.out`.

    Raises:
        UserError: the benchmark's files, the model or the server are not what the config says.
    """
    from actial.benchmarks.runners import open_runner  # torch comes in only once the config is known to be right
    from actial.benchmarks.tasks import open_tasks
    from actial.diagnostics import diagnose
    from actial.report import sample_answers, set_results, write_report

    out = Path(config.out)
    runner = open_runner(config)
    scores: dict[str, Any] = {}
    results: dict[str, Any] = {key: {} for key in ("sets", "chance", "diagnostics", "examples", "paper")}
    for task in open_tasks(config, runner.limits):
        folder = out if config.benchmark.name else out / task.name
        settings = runner.settings | task.settings
        predictions = runner.ask(task.examples, f"{runner.name} on {task.name}", PredictionLog(folder, settings))
        scores[task.name] = task.score(predictions) | {"settings": settings}
        results["sets"][task.name] = {runner.name: set_results(predictions)}
        if task.chance:
            results["chance"][task.name] = task.chance
        results["paper"][task.name] = task.paper(scores[task.name])
        results["examples"][task.name] = sample_answers(out, task.name, task.examples, {runner.name: predictions})
        if count := config.benchmark.diagnostics:
            probes = PredictionLog(folder / "diagnostics", settings)
            ask = partial(runner.ask, label=f"diagnostics of {runner.name}", log=probes)
            results["diagnostics"][task.name] = {runner.name: diagnose(ask, task.examples[:count], score=runner.score)}
    results |= {
        "models": [runner.name],
        "set_names": list(scores),
        "meta": {"title": f"{runner.name} on {', '.join(scores)}"} | runner.settings,
    }
    write_json(out / "scores.json", scores[config.benchmark.name] if config.benchmark.name else scores)
    write_json(out / "results.json", results)
    print(f"finished: {write_report(out)}")


@hydra_command("evaluate", folder_key="out")
def main(config: EvaluateConfig) -> None:
    """python -m actial.evaluate benchmark=NAME model=NAME [model.path=DIR] [server.url=URL server.model=NAME] out=DIR [key=value ...]

    Scores a checkpoint, or whatever an OpenAI-compatible server serves; the same command again goes on where it stopped.
    """
    evaluate(config)


if __name__ == "__main__":
    main()
