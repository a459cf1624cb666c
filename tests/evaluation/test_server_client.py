"""The server runner against a real HTTP server on loopback that misbehaves in every way it must survive."""

import base64
import io
import json
import threading
import time
from collections import Counter

import numpy as np
import pytest
from PIL import Image
from support.fake_server import FakeServer, completion
from support.scripted import question

from actial.core.errors import UserError
from actial.core.records import Example, SamplingParams
from actial.evaluation.server_client import Server, evaluate_on_server
from actial.grading.predictions import PredictionLog, read_predictions

PARAMS = SamplingParams(temperature=0.0, max_tokens=16)


def examples(n=12):
    def image(i):
        return np.arange(12 * 8 * 3, dtype=np.uint8).reshape(8, 12, 3) + np.uint8(i)

    return [
        Example(
            uid=f"e{i}",
            images=[image(i), image(i + 1)],
            questions=[question(f"q{i}", f"item {i}", answer_index=i % 3)],
            task="benchmark",
        )
        for i in range(n)
    ]


def ask(server, log, n=12, **options):
    settings = {
        "url": server if isinstance(server, str) else server.url,
        "model": "m",
        "first_wait_s": 0.01,
        "concurrency": 4,
    } | options
    return evaluate_on_server(Server(**settings), examples(n), PARAMS, log=log)


def test_answers_prompts_and_exact_pixels(tmp_path):
    with FakeServer() as fake:
        rows = ask(fake, PredictionLog(tmp_path, {}), system_prompt="Look.")
    assert [p.uid for p in rows] == [f"q{i}" for i in range(12)]
    assert [p.score for p in rows] == [float(i % 3 == 1) for i in range(12)]
    assert (rows[0].tokens, rows[0].finish) == (2, "stop")
    body = next(b for b in fake.bodies if "item 7" in b["messages"][1]["content"][-1]["text"])
    assert body["messages"][0] == {"role": "system", "content": "Look."}
    assert (body["max_tokens"], body["temperature"]) == (16, 0.0)
    for part, image in zip(body["messages"][1]["content"], examples()[7].images, strict=False):
        head, data = part["image_url"]["url"].split(",")
        assert head == "data:image/png;base64"
        assert (np.asarray(Image.open(io.BytesIO(base64.b64decode(data)))) == image).all()


def test_no_more_requests_are_under_way_than_the_concurrency(tmp_path):
    """Though more examples are made ready meanwhile."""
    lock, under_way, most = threading.Lock(), 0, 0

    def slow(_, body):
        nonlocal under_way, most
        with lock:
            under_way += 1
            most = max(most, under_way)
        time.sleep(0.02)
        with lock:
            under_way -= 1

    with FakeServer(slow) as fake:
        assert len(ask(fake, PredictionLog(tmp_path, {}), n=24, concurrency=3)) == 24
    assert most == 3


@pytest.mark.parametrize(
    "trouble",
    [
        (429, b'{"error": {"message": "slow down"}}', "application/json"),
        (500, b"oops", "text/plain"),
        (200, b'{"choices": [', "application/json"),
        (200, b"<html>proxy</html>", "text/html"),
        (200, b'{"choices": []}', "application/json"),
    ],
    ids=["429", "500", "cut JSON", "not JSON", "no choices"],
)
def test_passing_trouble_is_retried(tmp_path, trouble):
    with FakeServer(lambda n, body: trouble if n % 3 == 1 else None) as fake:
        rows = ask(fake, PredictionLog(tmp_path, {}))
    assert [p.uid for p in rows] == [f"q{i}" for i in range(12)]
    assert len(fake.bodies) > 12
    assert len(read_predictions(tmp_path / "predictions.jsonl")) == 12


def test_answer_of_100k_characters(tmp_path):
    with FakeServer(content="<think>" + "so " * 33_333 + "</think><answer>C</answer>") as fake:
        rows = ask(fake, PredictionLog(tmp_path, {}))
    assert {p.letter for p in rows} == {"C"}
    assert {len(p.text) for p in read_predictions(tmp_path / "predictions.jsonl")} == {
        7 + 99_999 + 8 + 18
    }


def test_stopped_and_continued_without_loss_or_repeat(tmp_path):
    with (
        FakeServer(lambda n, body: (503, b"", "text/plain") if n > 5 else None) as fake,
        pytest.raises(UserError, match="did not answer"),
    ):
        ask(fake, PredictionLog(tmp_path, {}), retries=0)
    saved = {p.uid for p in read_predictions(tmp_path / "predictions.jsonl")}
    assert 0 < len(saved) <= 5
    with FakeServer() as fake:
        rows = ask(fake, PredictionLog(tmp_path, {}))
    assert Counter(fake.names()) == Counter(str(i) for i in range(12) if f"q{i}" not in saved)
    assert sorted(p.uid for p in read_predictions(tmp_path / "predictions.jsonl")) == sorted(
        f"q{i}" for i in range(12)
    )
    assert [p.uid for p in rows] == [f"q{i}" for i in range(12)]


def test_refused_questions_do_not_stop_the_others(tmp_path):
    def too_long(n, body):
        if "item 3" in body["messages"][-1]["content"][-1]["text"]:
            return (
                400,
                b'{"error": {"message": "prompt is longer than the context"}}',
                "application/json",
            )
        return None

    with (
        FakeServer(too_long) as fake,
        pytest.raises(
            UserError, match=r"refused 1 questions, the first q3 .*longer than the context"
        ),
    ):
        ask(fake, PredictionLog(tmp_path, {}))
    assert len(read_predictions(tmp_path / "predictions.jsonl")) == 11
    assert len(fake.bodies) == 12


@pytest.mark.parametrize(
    ("status", "match"),
    [
        (401, "does not accept the key"),
        (403, "does not accept the key"),
        (404, "has no model m"),
    ],
)
def test_wrong_key_and_model_end_at_once(tmp_path, status, match):
    with FakeServer(
        lambda n, body: (status, b'{"error": {"message": "no"}}', "application/json")
    ) as fake:
        with pytest.raises(UserError, match=match):
            ask(fake, PredictionLog(tmp_path, {}))
        assert (
            len(fake.bodies) <= 2 * 4
        )  # those under way, and those that took their places before the first failure was seen


def test_dead_server_is_named(tmp_path):
    with pytest.raises(
        UserError,
        match=r"http://127\.0\.0\.1:9/v1 did not answer q\d+ in 2 tries \(.*Cannot connect",
    ):
        ask("http://127.0.0.1:9/v1", PredictionLog(tmp_path, {}), retries=1, concurrency=1)


SAID = "The camera moves.\n</think>\n\n<answer>B</answer>"


def message_of(**message):
    """A server's misbehaviour: each answer is a message of these fields."""
    status, raw, kind = completion("")
    whole = json.loads(raw)
    whole["choices"][0]["message"] |= message
    return lambda n, body: (status, json.dumps(whole).encode(), kind)


@pytest.mark.parametrize(
    ("message", "opened", "answer"),
    [
        ({"content": SAID}, "<think>\n", f"<think>\n{SAID}"),
        ({"content": SAID}, None, f"<think>\n{SAID}"),  # the template is not known
        ({"content": SAID}, "", SAID),  # the template opens nothing
        ({"content": f"<think>{SAID}"}, "<think>\n", f"<think>{SAID}"),
        ({"content": "I think"}, "<think>\n", "<think>\nI think"),  # cut short
        ({"content": "B"}, "<think>\n\n</think>\n\n", "<think>\n\n</think>\n\nB"),
        ({"content": "B"}, None, "B"),
        *(
            (
                {"content": "\n\n<answer>B</answer>", name: "The camera moves.\n"},
                opened,
                f"<think>\n{SAID}",
            )
            for name in ("reasoning", "reasoning_content")
            for opened in ("<think>\n", None)
        ),
        ({"content": None, "reasoning": "I think"}, "<think>\n", "<think>\nI think\n"),
    ],
)
def test_a_thought_begun_by_the_template_or_sent_apart_is_part_of_the_answer(
    tmp_path, message, opened, answer
):
    with FakeServer(message_of(**message)) as fake:
        (row,) = ask(fake, PredictionLog(tmp_path, {}), n=1, opened=opened)
    assert row.text == answer
