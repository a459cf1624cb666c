"""Chains by a teacher: pairs out, verified chains back, whatever the server or a kill does in between.

Every reply is appended to out/replies.jsonl as it comes, under a key of everything that was asked. That file is the cache and the ledger:
a second run asks only what is missing, and the chains it writes are those of a run that was never interrupted.
"""

from __future__ import annotations

import asyncio
import fcntl
import json
import os
from collections import Counter
from collections.abc import Iterator
from hashlib import blake2b
from pathlib import Path
from typing import Any

from actial.config import ChainsConfig
from actial.core.atomic_io import atomic, write_json
from actial.core.errors import UserError
from actial.core.progress import Progress
from actial.core.records import AnswerMode, Question, ViewPair
from actial.core.seeding import hash_int, hash_unit
from actial.data.shards import ShardSet, json_line
from actial.teacher.prompt import STAGES, chat_request, read_reply
from actial.viewpoint.questions import question_types, viewpoint_question
from actial.viewpoint.rationale_verifier import contradictions
from actial.viewpoint.rationales import THINK

REPLIES, CHAINS, REJECTED, LEDGER = "replies.jsonl", "chains.jsonl", "rejected.jsonl", "ledger.json"
FAILURES_IN_A_ROW = 5  # requests given up one after another that mean the server is gone


class Replies:
    """replies.jsonl: append-only, every line durable; a line torn by a kill is cut off."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self.found: dict[str, dict] = {}
        self._file = path.open("a+b")
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise UserError(
                f"out={path.parent} is being written by another run: wait for it, or give another folder."
            ) from error
        self._file.seek(0)
        whole = 0
        for line in self._file:
            if not line.endswith(b"\n"):
                break
            whole += len(line)
            reply = json.loads(line)
            self.found[reply["key"]] = reply
        self._file.truncate(whole)
        self.prompt_tokens = sum(reply["prompt_tokens"] for reply in self.found.values())
        self.completion_tokens = sum(reply["completion_tokens"] for reply in self.found.values())

    def add(self, reply: dict) -> None:
        self._file.write(json_line(reply))
        self._file.flush()
        os.fsync(self._file.fileno())
        self.found[reply["key"]] = reply
        self.prompt_tokens += reply["prompt_tokens"]
        self.completion_tokens += reply["completion_tokens"]

    def close(self) -> None:
        self._file.close()


class Teacher:
    """The requests of one run."""

    def __init__(self, config: ChainsConfig, replies: Replies) -> None:
        from openai import AsyncOpenAI

        self.config, self.replies = config, replies
        self.failed: Counter[str] = Counter()
        self._failures_in_a_row = 0
        key = os.environ.get(config.key_variable) or "none"
        self._client = AsyncOpenAI(
            base_url=config.url, api_key=key, max_retries=0, timeout=config.timeout_s
        )

    def cost(self) -> float:
        return (
            self.replies.prompt_tokens * self.config.price_in
            + self.replies.completion_tokens * self.config.price_out
        ) / 1e6

    def key(self, question: Question, digests: list[str], attempt: int) -> str:
        c = self.config
        asked = (
            STAGES,
            c.teacher,
            question.uid,
            question.text,
            digests,
            c.max_tokens,
            c.temperature,
            c.seed,
            attempt,
        )
        return blake2b(json.dumps(asked).encode(), digest_size=16).hexdigest()

    async def reply(
        self, pair: ViewPair, question: Question, images: list[bytes], attempt: int
    ) -> dict | None:
        """The reply to one request, from the cache or the server; None when it was given up after all retries."""
        key = self.key(question, [image.sha256 for image in pair.images], attempt)
        if key in self.replies.found:
            return self.replies.found[key]
        answer = await self._ask(chat_request(pair, question, images), key)
        if answer is None:
            self._failures_in_a_row += 1
            if self._failures_in_a_row >= FAILURES_IN_A_ROW:
                why = ", ".join(f"{name} {n} times" for name, n in self.failed.most_common(2))
                raise UserError(
                    f"url={self.config.url} gives no answer ({why}): see that it runs, then run the same command to resume."
                )
            return None
        self._failures_in_a_row = 0
        usage, choice = answer.usage, answer.choices[0]
        reply = {
            "key": key,
            "uid": question.uid,
            "attempt": attempt,
            "text": choice.message.content or "",
            "finish": choice.finish_reason,
            "prompt_tokens": usage.prompt_tokens if usage else 0,
            "completion_tokens": usage.completion_tokens if usage else 0,
        }
        self.replies.add(reply)
        return reply

    async def _ask(self, asked: list[dict], key: str) -> Any:
        import openai

        c = self.config
        for trial in range(c.retries + 1):
            try:
                return await self._client.chat.completions.create(
                    model=c.teacher,
                    messages=asked,  # type: ignore[arg-type]
                    max_tokens=c.max_tokens,
                    temperature=c.temperature,
                    seed=hash_int(c.seed, key) % 2**31,
                )
            except openai.APIStatusError as error:
                # the server's own words stay out: some repeat a part of the key
                if error.status_code not in (408, 409, 429) and error.status_code < 500:
                    raise UserError(
                        f"url={c.url} refused the request with status {error.status_code}: "
                        f"check teacher={c.teacher} and the key in {c.key_variable}."
                    ) from None
                self.failed[f"status {error.status_code}"] += 1
                wait = _retry_after(error.response.headers.get("retry-after"))
            except openai.APIConnectionError as error:  # a timeout is one, too
                self.failed[type(error).__name__] += 1
                wait = None
            except (openai.APIResponseValidationError, json.JSONDecodeError):
                self.failed["malformed reply"] += 1
                wait = None
            if trial < c.retries:
                backoff = min(c.backoff_s * 2**trial, c.max_backoff_s) * (
                    0.5 + 0.5 * hash_unit(key, trial)
                )
                await asyncio.sleep(backoff if wait is None else min(wait, c.max_backoff_s))
        return None


def _retry_after(value: str | None) -> float | None:
    try:
        return None if value is None else max(0.0, float(value))
    except ValueError:
        return None  # a date; our own pause does


# ---------------------------------------------------------------- one pair


def faults(pair: ViewPair, question: Question, reply: dict) -> tuple[str, list[dict]]:
    """The chain of a reply, and why it is rejected; no reason accepts it."""
    chain, letter = read_reply(reply["text"])
    if reply["finish"] == "length":
        return chain, [{"reason": "cut", "claim": ""}]
    if letter is None or not chain:
        return chain, [{"reason": "no_answer", "claim": ""}]
    return chain, [
        {"reason": c.reason, "claim": c.claim}
        for c in contradictions(chain, pair, letter, question)
    ]


def drawn_pairs(data: ShardSet, config: ChainsConfig) -> list[ViewPair]:
    """Return the pairs that a teacher writes about, drawn by hash, in the order of the set."""
    pairs = data.view_pairs()
    by_draw = sorted(pairs, key=lambda pair: hash_int("chains", config.seed, pair.uid))
    drawn = {pair.uid for pair in by_draw[: config.limit]}
    return [pair for pair in pairs if pair.uid in drawn]


async def _teach_pair(
    teacher: Teacher, data: ShardSet, pair: ViewPair
) -> tuple[dict | None, list[dict]]:
    """The accepted chain, if any, and the rejected ones."""
    question = viewpoint_question(pair, question_types(pair, 1)[0], AnswerMode.THINK)
    rejected: list[dict] = []
    for attempt in range(teacher.config.attempts):
        reply = await teacher.reply(pair, question, data.encoded(pair), attempt)
        if reply is None:
            return None, [
                *rejected,
                {
                    "uid": pair.uid,
                    "question": question.uid,
                    "attempt": attempt,
                    "reasons": [{"reason": "given_up"}],
                },
            ]
        chain, reasons = faults(pair, question, reply)
        if not reasons:
            known = {
                "uid": pair.uid,
                "question": question.uid,
                "type": question.type,
                "chain": chain,
            }
            return {
                **known,
                "target": THINK.format(chain=chain, letter=question.answer),
                "attempt": attempt,
            }, rejected
        rejected.append(
            {
                "uid": pair.uid,
                "question": question.uid,
                "attempt": attempt,
                "reasons": reasons,
                "chain": chain,
            }
        )
    return None, rejected


# ---------------------------------------------------------------- the run


def teach(config: ChainsConfig) -> None:
    """Ask for all chains that are missing and write the files; raises UserError when the server refuses or is gone."""
    out = Path(config.out)
    data = ShardSet(config.pairs, config.split)
    pairs = drawn_pairs(data, config)
    replies = Replies(out / REPLIES)
    teacher = Teacher(config, replies)
    try:
        results = asyncio.run(_all(teacher, data, pairs))
    except BaseExceptionGroup as group:  # of the workers; the first is what went wrong
        raise group.exceptions[0] from None
    finally:
        replies.close()
    accepted = [result[0] for pair in pairs if (result := results.get(pair.uid)) and result[0]]
    rejected = [entry for pair in pairs if pair.uid in results for entry in results[pair.uid][1]]
    for name, entries in ((CHAINS, accepted), (REJECTED, rejected)):
        with atomic(out / name) as file:
            file.writelines(map(json_line, entries))
    write_json(out / LEDGER, _ledger(teacher, len(pairs), len(accepted), rejected))
    print(
        f"{out}: {len(accepted)} chains for {len(pairs)} pairs, {len(rejected)} rejected, cost {teacher.cost():.2f}"
    )


async def _all(
    teacher: Teacher, data: ShardSet, pairs: list[ViewPair]
) -> dict[str, tuple[dict | None, list[dict]]]:
    results: dict[str, tuple[dict | None, list[dict]]] = {}
    waiting: Iterator[ViewPair] = iter(pairs)
    limit = teacher.config.max_cost

    async def work(progress: Progress) -> None:
        for (
            pair
        ) in waiting:  # shared by all workers: as many requests in flight as there are workers
            if limit and teacher.cost() >= limit:
                return
            results[pair.uid] = await _teach_pair(teacher, data, pair)
            progress.advance()

    with Progress("chains", total=len(pairs), unit="pairs") as progress:
        async with asyncio.TaskGroup() as group:
            for _ in range(min(teacher.config.concurrency, len(pairs))):
                group.create_task(work(progress))
    return results


def _ledger(teacher: Teacher, pairs: int, accepted: int, rejected: list[dict]) -> dict[str, Any]:
    return {
        "model": teacher.config.teacher,
        "pairs": pairs,
        "accepted": accepted,
        "rejected_replies": len(rejected),
        "rejected_by": dict(
            sorted(Counter(r["reason"] for entry in rejected for r in entry["reasons"]).items())
        ),
        "replies": len(teacher.replies.found),
        "prompt_tokens": teacher.replies.prompt_tokens,
        "completion_tokens": teacher.replies.completion_tokens,
        "cost": round(teacher.cost(), 6),
    }
