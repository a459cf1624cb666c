"""Chains of thought by a teacher: pairs out, verified chains back, over faults and kills.

Every reply is appended to out/replies.jsonl as it comes, under a key of
everything that was asked. That file is the cache and the ledger: a second run
asks only what is missing, and the chains it writes are those of a run that was
never interrupted.
"""

from __future__ import annotations

import asyncio
import json
import os
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from hashlib import blake2b, sha256
from pathlib import Path
from typing import Any

from actial.config import ChainsConfig
from actial.core.atomic_io import lock_file, well_formed, write_json
from actial.core.errors import UserError
from actial.core.json_lines import (
    append_lines,
    json_line,
    parse_json,
    read_complete_lines,
    write_lines,
)
from actial.core.progress import Progress
from actial.core.records import Question
from actial.core.seeding import hash_int
from actial.core.set_records import ViewPair
from actial.data.shards import ShardSet
from actial.inference.openai_retries import (
    RetryPolicy,
    send_with_retries,
    silence_request_logs,
)
from actial.teacher.prompt import SHORT, STAGES, chat_request, read_reply, read_template
from actial.teacher.subjects import Subject, drawn_subjects
from actial.viewpoint.rationale_verifier import contradictions
from actial.viewpoint.rationales import THINK

REPLIES, CHAINS, REJECTED, LEDGER = (
    "replies.jsonl",
    "chains.jsonl",
    "rejected.jsonl",
    "ledger.json",
)
FAILURES_IN_A_ROW = 5  # requests given up one after another that mean the server is gone


@dataclass(slots=True, frozen=True, kw_only=True)
class Reply:
    """One answer of the teacher's server, as replies.jsonl holds it."""

    key: str  # hash of everything that was asked
    uid: str  # of the question
    attempt: int
    text: str
    finish: str  # "stop", "length", ...
    prompt_tokens: int
    completion_tokens: int


class Replies:
    """replies.jsonl: append-only, every line durable; a line torn by a kill is cut off."""

    def __init__(self, path: Path) -> None:
        self.path = path
        path.parent.mkdir(parents=True, exist_ok=True)
        self._lock = lock_file(
            path,
            f"out={path.parent} is being written by another run: wait for it, or give another "
            "folder.",
        )
        self.by_key: dict[str, Reply] = {}
        for number, line in enumerate(read_complete_lines(path, repair=True), 1):
            try:
                reply = Reply(**parse_json(line))
            except (ValueError, TypeError) as error:
                self.close()
                raise UserError(
                    f"{path} line {number} is damaged ({error}): remove that line, and run the "
                    "same command again to ask for it anew."
                ) from error
            self.by_key[reply.key] = reply
        self.prompt_tokens = sum(reply.prompt_tokens for reply in self.by_key.values())
        self.completion_tokens = sum(reply.completion_tokens for reply in self.by_key.values())

    def add(self, reply: Reply) -> None:
        """Write a reply to disk."""
        append_lines(self.path, [json_line(asdict(reply))])
        self.by_key[reply.key] = reply
        self.prompt_tokens += reply.prompt_tokens
        self.completion_tokens += reply.completion_tokens

    def close(self) -> None:
        """Release the folder for other runs."""
        self._lock.close()


class Teacher:
    """Sends the requests of one run; replies that are on disk are not asked for again."""

    def __init__(self, config: ChainsConfig, replies: Replies) -> None:
        from openai import AsyncOpenAI

        self.config, self.replies = config, replies
        self.template = read_template(config.template)
        self.failed: Counter[str] = Counter()
        self._failures_in_a_row = 0
        key = os.environ.get(config.key_variable) or "none"
        self._client = AsyncOpenAI(
            base_url=config.url, api_key=key, max_retries=0, timeout=config.timeout_s
        )

    def cost(self) -> float:
        """Return what all replies have cost, in the currency of price_in and price_out."""
        replies, config = self.replies, self.config
        prompts = replies.prompt_tokens * config.price_in
        completions = replies.completion_tokens * config.price_out
        total: float = (prompts + completions) / 1e6
        return total

    def key(self, question: Question, digests: list[str], attempt: int) -> str:
        """Return the hash of everything that a request depends on."""
        c = self.config
        # The short template is identified by its head, so that older replies are still found.
        template = STAGES if self.template == SHORT else self.template
        identity: tuple[Any, ...] = (
            template,
            c.teacher,
            question.uid,
            question.text,
            digests,
            c.max_tokens,
            c.temperature,
            c.seed,
            attempt,
        )
        if c.request:
            identity += (c.request,)
        return blake2b(json.dumps(identity).encode(), digest_size=16).hexdigest()

    async def reply(
        self, pair: ViewPair, question: Question, images: list[bytes], attempt: int
    ) -> Reply | None:
        """Return the reply to one request, from the cache or the server.

        None when it was given up after all retries. Raises UserError when so many requests were
        given up one after another that the server must be gone.
        """
        key = self.key(question, [image.sha256 for image in pair.images], attempt)
        if key in self.replies.by_key:
            return self.replies.by_key[key]
        request = chat_request(pair, question, images, self.template)
        answer = await self._request(request, key)
        if answer is None:
            self._count_failure()
            return None
        self._failures_in_a_row = 0
        usage, choice = answer.usage, answer.choices[0]
        reply = Reply(
            key=key,
            uid=question.uid,
            attempt=attempt,
            text=well_formed(choice.message.content or ""),
            finish=choice.finish_reason,
            prompt_tokens=usage.prompt_tokens if usage else 0,
            completion_tokens=usage.completion_tokens if usage else 0,
        )
        self.replies.add(reply)
        return reply

    def _count_failure(self) -> None:
        self._failures_in_a_row += 1
        if self._failures_in_a_row >= FAILURES_IN_A_ROW:
            causes = ", ".join(f"{name} {n} times" for name, n in self.failed.most_common(2))
            raise UserError(
                f"url={self.config.url} gives no answer ({causes}): see that it runs, then run the "
                "same command to resume."
            )

    async def _request(self, request: list[dict[str, Any]], key: str) -> Any:
        """Return the server's completion, or None after all retries."""
        import openai

        c = self.config
        body = {
            "max_tokens": c.max_tokens,
            "temperature": c.temperature,
            "seed": hash_int(c.seed, key) % 2**31,
            **c.request,
        }

        async def send() -> Any:
            completion = await self._client.chat.completions.create(
                model=c.teacher,
                messages=request,  # type: ignore[arg-type]
                extra_body={name: v for name, v in body.items() if v is not None},
            )
            choices = getattr(completion, "choices", None)
            if not choices or choices[0].message is None:
                raise ValueError("no choices in the reply")
            return completion

        def count(problem: str) -> None:
            self.failed[problem.partition(":")[0]] += 1

        policy = RetryPolicy(c.retries, c.backoff_s, c.max_backoff_s)
        try:
            return await send_with_retries(send, policy, key=key, on_problem=count)
        except openai.APIStatusError as error:
            # The server's own words stay out: some repeat a part of the key.
            raise UserError(
                f"url={c.url} refused the request with status {error.status_code}: "
                f"check teacher={c.teacher} and the key in {c.key_variable}."
            ) from None


# ---------------------------------------------------------------- one pair


@dataclass(slots=True)
class PairResult:
    """What came back for one pair: an entry of chains.jsonl, and entries of rejected.jsonl."""

    accepted: dict[str, Any] | None
    rejected: list[dict[str, Any]]


def reasons_to_reject(subject: Subject, reply: Reply) -> tuple[str, list[dict[str, str]]]:
    """Return the chain of thought of a reply, and why it is rejected; no reason accepts it."""
    chain, answer = read_reply(reply.text)
    if reply.finish == "length":
        return chain, [{"reason": "cut", "claim": ""}]
    if answer is None or not chain:
        return chain, [{"reason": "no_answer", "claim": ""}]
    denied = contradictions(
        chain,
        subject.pair,
        answer,
        subject.question,
        degrees_tolerance=subject.degrees_tolerance,
        all_axes=True,
    )
    return chain, [{"reason": claim.reason, "claim": claim.claim} for claim in denied]


async def _teach_pair(teacher: Teacher, data: ShardSet, subject: Subject) -> PairResult:
    """Ask about a pair until a chain of thought is accepted or the attempts are used up."""
    pair, question = subject.pair, subject.question
    rejected: list[dict[str, Any]] = []
    for attempt in range(teacher.config.attempts):
        entry = {"uid": pair.uid, "question": question.uid, "attempt": attempt}
        reply = await teacher.reply(pair, question, data.encoded(pair), attempt)
        if reply is None:
            rejected.append(entry | {"reasons": [{"reason": "given_up"}]})
            break
        chain, reasons = reasons_to_reject(subject, reply)
        if not reasons:
            accepted = {
                "uid": pair.uid,
                "question": question.uid,
                "type": question.type,
                "chain": chain,
                "target": THINK.format(chain=chain, letter=question.answer),
                "attempt": attempt,
            }
            return PairResult(accepted, rejected)
        rejected.append(entry | {"reasons": reasons, "chain": chain})
    return PairResult(None, rejected)


# ---------------------------------------------------------------- the run


def teach(config: ChainsConfig) -> None:
    """Ask for all chains that are missing and write the files.

    Raises UserError when the server refuses or is gone, or when `out` is in use.
    """
    silence_request_logs()
    out = Path(config.out)
    data = ShardSet(config.pairs, config.split)
    pairs = drawn_subjects(data, config)
    replies = Replies(out / REPLIES)
    teacher = Teacher(config, replies)
    try:
        by_uid = asyncio.run(_teach_all(teacher, data, pairs))
    except BaseExceptionGroup as group:  # of the workers; the first is what went wrong
        raise group.exceptions[0] from None
    finally:
        replies.close()
    results = [by_uid[pair.uid] for pair in pairs if pair.uid in by_uid]
    accepted = [result.accepted for result in results if result.accepted is not None]
    rejected = [entry for result in results for entry in result.rejected]
    write_lines(out / CHAINS, accepted)
    write_lines(out / REJECTED, rejected)
    write_json(out / LEDGER, _ledger(teacher, len(pairs), len(accepted), rejected))
    print(
        f"{out}: {len(accepted)} chains for {len(pairs)} pairs, {len(rejected)} rejected, "
        f"cost {teacher.cost():.2f}"
    )
    cut = sum(reason["reason"] == "cut" for entry in rejected for reason in entry["reasons"])
    if cut:
        print(
            f"{cut} replies were cut at max_tokens={config.max_tokens}: a teacher that thinks "
            "first needs more."
        )


async def _teach_all(
    teacher: Teacher, data: ShardSet, pairs: list[Subject]
) -> dict[str, PairResult]:
    """Return pair id -> result, of the pairs that were asked about before the cost limit."""
    results: dict[str, PairResult] = {}
    waiting: Iterator[Subject] = iter(pairs)
    limit = teacher.config.max_cost

    async def work(progress: Progress) -> None:
        # All workers share `waiting`: as many requests are in flight as there are workers.
        for pair in waiting:
            if limit and teacher.cost() >= limit:
                return
            results[pair.uid] = await _teach_pair(teacher, data, pair)
            progress.advance()

    with Progress("chains", total=len(pairs), unit="pairs") as progress:
        async with asyncio.TaskGroup() as group:
            for _ in range(min(teacher.config.concurrency, len(pairs))):
                group.create_task(work(progress))
    return results


def _ledger(
    teacher: Teacher, pairs: int, accepted: int, rejected: list[dict[str, Any]]
) -> dict[str, Any]:
    """Return the content of ledger.json."""
    reasons = Counter(reason["reason"] for entry in rejected for reason in entry["reasons"])
    return {
        "model": teacher.config.teacher,
        "template": teacher.config.template,
        "template_sha256": sha256(teacher.template.encode()).hexdigest(),
        "pairs": pairs,
        "accepted": accepted,
        "rejected_replies": len(rejected),
        "rejected_by": dict(sorted(reasons.items())),
        "replies": len(teacher.replies.by_key),
        "prompt_tokens": teacher.replies.prompt_tokens,
        "completion_tokens": teacher.replies.completion_tokens,
        "cost": round(teacher.cost(), 6),
    }
