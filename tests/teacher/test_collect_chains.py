"""Chains by a teacher, against a real HTTP server that speaks OpenAI's chat format and breaks in
every way a server does.
"""

import base64
import json
import logging
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest
from support.records import view_pair
from support.released import write_release
from support.teacher import truthful

import actial.chains as command_line
from actial.build import build
from actial.config import (
    BuildConfig,
    ChainsConfig,
    ColdStartConfig,
    DataConfig,
    ImageConfig,
    ImageFormat,
    PairConfig,
    SetConfig,
    SourceConfig,
    SourceKind,
    Task,
)
from actial.core.errors import UserError
from actial.core.image_codec import decode_bytes
from actial.core.records import AnswerMode
from actial.core.set_records import PAPER_QUESTIONS, MotionLabels
from actial.data.datasets import ViewpointSet, open_set
from actial.data.images import encode
from actial.data.shards import Sample, ShardSet, write_set
from actial.teacher.collect import teach
from actial.teacher.prompt import read_reply
from actial.viewpoint.rationale_verifier import contradictions

PAIRS = 12
KEY = "sk-secret-of-the-test"


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    root = tmp_path_factory.mktemp("pairs") / "set"
    samples = []
    for i in range(PAIRS):
        rng = np.random.default_rng(i)
        image = ImageConfig(max_pixels=1024, multiple=8, format=ImageFormat.png)
        images = {
            f"f{k}.png": encode(rng.integers(0, 256, (32, 32, 3), dtype=np.uint8), image)
            for k in range(2)
        }
        side, other = ("right", "left") if i % 2 else ("left", "right")
        alpha = (40.0 + i) * (1 if side == "right" else -1)
        labels = MotionLabels(
            ego_translation=side,
            object_translation=other,
            ego_rotation=other,
            ego_rotation_deg=40.0 + i,
        )
        pair = view_pair(
            alpha,
            None,
            uid=f"pair{i}",
            class_name="mug",
            labels=labels,
            question_type=PAPER_QUESTIONS[i % 3],
            attributes={},
        )
        row = pair.to_json() | {"images": ["f0.png", "f1.png"]}
        samples.append(Sample(key=f"k{i}", images=images, rows=[row]))
    write_set(root, {"train": samples}, 4, {"licence": "none"})
    return root


class Server(ThreadingHTTPServer):
    """Replies by `says`; before that, each prompt meets the faults of `plan` one after the
    other.
    """

    daemon_threads = True

    def __init__(self, plan=(), says=truthful, delay=0.0):
        super().__init__(("127.0.0.1", 0), Handler)
        self.plan, self.says, self.delay = plan, says, delay
        self.bodies, self.seen, self.headers_seen = [], Counter(), []
        self.busy = self.most_busy = 0
        self.lock = threading.Lock()
        threading.Thread(target=self.serve_forever, daemon=True).start()

    @property
    def url(self):
        return f"http://127.0.0.1:{self.server_address[1]}/v1"

    def handle_error(self, *_):
        """A dropped connection is meant."""


class Handler(BaseHTTPRequestHandler):
    def log_message(self, *_):
        pass

    def send(self, status, body, **headers):
        self.send_response(status)
        for name, value in {
            "Content-Type": "application/json",
            "Content-Length": str(len(body)),
            **headers,
        }.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        self.wfile.write(body)

    def do_POST(self):
        server = self.server
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        prompt = body["messages"][0]["content"][-1]["text"]
        with server.lock:
            server.bodies.append(body)
            server.headers_seen.append(
                {name.lower(): value for name, value in self.headers.items()}
            )
            turn = server.seen[prompt]
            server.seen[prompt] += 1
            server.busy += 1
            server.most_busy = max(server.most_busy, server.busy)
        time.sleep(server.delay)
        with server.lock:
            server.busy -= 1
        fault = server.plan[turn] if turn < len(server.plan) else None
        if fault == "drop":
            self.connection.close()
        elif fault == "garbage":
            self.send(200, b"<html>not json</html>")
        elif fault == "empty":
            self.send(200, b'{"id": "1", "object": "chat.completion", "choices": []}')
        elif fault:
            said = json.dumps(
                {"error": {"message": f"Incorrect API key provided: {KEY}"}}
            ).encode()
            self.send(fault, said, **({"Retry_After": "0"} if fault == 429 else {}))
        else:
            text = (
                server.says(prompt)
                if server.says.__code__.co_argcount == 1
                else server.says(prompt, turn)
            )
            message = {"role": "assistant", "content": text}
            usage = {"prompt_tokens": 100, "completion_tokens": 10, "total_tokens": 110}
            choice = {"index": 0, "message": message, "finish_reason": "stop"}
            self.send(
                200,
                json.dumps(
                    {
                        "id": "1",
                        "object": "chat.completion",
                        "created": 1,
                        "model": "m",
                        "choices": [choice],
                        "usage": usage,
                    }
                ).encode(),
            )


@pytest.fixture
def serve():
    started = []

    def start(**settings) -> Server:
        started.append(Server(**settings))
        return started[-1]

    yield start
    for server in started:
        server.shutdown()
        server.server_close()


def config(server: Server, data, out, **settings) -> ChainsConfig:
    known = {"teacher": "tutor", "backoff_s": 0.001, "concurrency": 4, "timeout_s": 5.0}
    return ChainsConfig(url=server.url, pairs=str(data), out=str(out), **{**known, **settings})


def lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def content(folder):
    return {
        name: (folder / name).read_bytes()
        for name in ("chains.jsonl", "rejected.jsonl", "ledger.json")
    }


@pytest.fixture(scope="module")
def uninterrupted(data, tmp_path_factory):
    out = tmp_path_factory.mktemp("plain") / "chains"
    server = Server()
    teach(config(server, data, out))
    server.shutdown()
    return out


def test_every_pair_gets_a_verified_chain(data, serve, tmp_path, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    server = serve(delay=0.05)
    teach(config(server, data, tmp_path / "out", price_in=2.0, price_out=10.0))
    chains = lines(tmp_path / "out" / "chains.jsonl")
    assert [chain["uid"] for chain in chains] == [f"pair{i}" for i in range(PAIRS)]
    rows = {row.uid: row for row in ShardSet(data, "train").records}
    for chain in chains:
        assert contradictions(chain["target"], rows[chain["uid"]]) == []
        assert "Answer:" not in chain["chain"]
        assert chain["target"].endswith("</answer>")
    ledger = json.loads((tmp_path / "out" / "ledger.json").read_text())
    assert (ledger["accepted"], ledger["prompt_tokens"], ledger["completion_tokens"]) == (
        PAIRS,
        100 * PAIRS,
        10 * PAIRS,
    )
    assert ledger["cost"] == pytest.approx(PAIRS * (100 * 2 + 10 * 10) / 1e6)
    assert 1 < server.most_busy <= 4
    sent = server.bodies[0]["messages"][0]["content"]
    pictures = [
        decode_bytes(base64.b64decode(part["image_url"]["url"].split(",")[1]))
        for part in sent[:2]
    ]
    assert any(
        all(
            np.array_equal(a, b)
            for a, b in zip(pictures, ShardSet(data, "train").images(row), strict=True)
        )
        for row in rows.values()
    )
    assert server.headers_seen[0]["authorization"] == f"Bearer {KEY}"
    assert not [
        path for path in (tmp_path / "out").iterdir() if KEY.encode() in path.read_bytes()
    ]


def test_requests_are_not_reported_one_by_one(data, serve, tmp_path, caplog):
    caplog.set_level(logging.INFO)
    for name in ("httpx", "httpx2"):
        logging.getLogger(name).setLevel(logging.NOTSET)
    teach(config(serve(), data, tmp_path / "out", limit=2))
    assert "HTTP Request" not in caplog.text


def test_faults_are_retried_to_the_same_chains(data, serve, tmp_path, uninterrupted):
    server = serve(plan=(500, 429, "garbage", "empty", "drop", 503))
    teach(config(server, data, tmp_path / "out", retries=6))
    assert content(tmp_path / "out") == content(uninterrupted)
    assert set(server.seen.values()) == {7}


def test_a_killed_run_resumes_to_the_same_chains_and_asks_nothing_twice(
    data, serve, tmp_path, uninterrupted
):
    server = serve(delay=0.3)
    out = tmp_path / "out"
    words = [
        f"pairs={data}",
        f"out={out}",
        f"url={server.url}",
        "teacher=tutor",
        "concurrency=2",
    ]
    process = subprocess.Popen(
        [sys.executable, "-m", "actial.chains", *words], stderr=subprocess.PIPE
    )
    replies = out / "replies.jsonl"
    while process.poll() is None and (
        not replies.is_file() or replies.read_bytes().count(b"\n") < 3
    ):
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    done = replies.read_bytes().count(b"\n")
    assert 3 <= done < PAIRS
    with replies.open("ab") as file:
        file.write(b'{"key": "torn')
    server.delay = 0.0
    teach(config(server, data, out))
    assert content(out) == content(uninterrupted)
    assert len(server.bodies) <= PAIRS + 2  # what was in flight at the kill
    num_requests = len(server.bodies)
    teach(config(server, data, out))
    assert len(server.bodies) == num_requests


def test_chains_that_contradict_the_geometry_are_rejected_with_the_reason(
    data, serve, tmp_path
):
    def slips(prompt, turn):
        said = truthful(prompt)
        swap = {"left": "right", "right": "left"}
        return (
            re.sub(r"(it went to the )(\w+)", lambda m: m.group(1) + swap[m.group(2)], said)
            if turn == 0
            else said
        )

    server = serve(says=slips)
    teach(config(server, data, tmp_path / "out", limit=5))
    assert len(lines(tmp_path / "out" / "chains.jsonl")) == 5
    rejected = lines(tmp_path / "out" / "rejected.jsonl")
    assert [[r["reason"] for r in entry["reasons"]] for entry in rejected] == [
        ["object_translation"]
    ] * 5
    assert json.loads((tmp_path / "out" / "ledger.json").read_text())["rejected_by"] == {
        "object_translation": 5
    }
    # Half a surrogate pair, which no file can hold, is a word like others.
    refuses = serve(says=lambda prompt: "I cannot say \ud83d.")
    teach(config(refuses, data, tmp_path / "none", limit=3))
    assert lines(tmp_path / "none" / "chains.jsonl") == []
    assert json.loads((tmp_path / "none" / "ledger.json").read_text())["rejected_by"] == {
        "no_answer": 6
    }


def test_a_refusal_is_one_sentence_without_the_key(data, serve, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("TEACHER_KEY", KEY)
    server = serve(plan=(401,) * 99)
    words = [
        f"pairs={data}",
        f"out={tmp_path / 'out'}",
        f"url={server.url}",
        "teacher=tutor",
        "key_variable=TEACHER_KEY",
    ]
    monkeypatch.setattr(sys, "argv", ["actial.chains", *words])
    with pytest.raises(SystemExit) as left:
        command_line.main()
    said = capsys.readouterr()
    assert left.value.code == 1
    assert "status 401" in said.err
    assert "TEACHER_KEY" in said.err
    assert KEY not in said.err + said.out
    assert len([line for line in said.err.splitlines() if line.startswith("error:")]) == 1


def test_a_server_that_is_gone_ends_the_run_with_one_sentence(data, serve, tmp_path):
    server = serve(plan=(503,) * 99)
    with pytest.raises(
        UserError, match=r"gives no answer \(status 503 .*run the same command to resume"
    ):
        teach(config(server, data, tmp_path / "out", retries=1))


def test_one_request_that_always_fails_costs_only_itself(data, serve, tmp_path):
    server = serve()
    server.says = lambda prompt: truthful(prompt) if "44 degrees" not in prompt else None
    teach(config(server, data, tmp_path / "out", attempts=1))
    assert len(lines(tmp_path / "out" / "chains.jsonl")) == PAIRS - 1


def test_asking_stops_at_the_cost_limit_and_a_higher_one_goes_on(data, serve, tmp_path):
    prices = {"price_in": 10_000.0, "concurrency": 1}
    teach(config(serve(), data, tmp_path / "out", max_cost=3.0, **prices))
    assert len(lines(tmp_path / "out" / "chains.jsonl")) == 3
    teach(config(serve(), data, tmp_path / "out", max_cost=5.0, **prices))
    assert len(lines(tmp_path / "out" / "chains.jsonl")) == 5


def test_chains_take_the_cold_start_s_share_of_the_draws(data, uninterrupted, tmp_path):
    shards = ShardSet(data, "train")
    few = tmp_path / "chains.jsonl"
    few.write_text(
        "".join((uninterrupted / "chains.jsonl").read_text().splitlines(keepends=True)[:3])
    )
    cold = ColdStartConfig(ratio=0.25, source=str(few))
    viewpoint = ViewpointSet(
        shards,
        DataConfig(questions_per_pair=3),
        cold,
        supervised=True,
        mode=None,
    )
    drawn = [viewpoint.example(i, epoch) for epoch in range(60) for i in range(PAIRS)]
    told = [example for example in drawn if example.questions[0].mode is AnswerMode.THINK]
    assert len(told) / len(drawn) == pytest.approx(0.25, abs=0.05)
    assert {example.uid for example in told} == {"pair0", "pair1", "pair2"}
    for example in told:
        (question,) = example.questions
        assert contradictions(question.target, example.record) == []
        assert question.target.endswith(
            f"<answer>{question.answer_letter}</answer>"
        )  # of this epoch's order of options
    with pytest.raises(UserError, match="does not exist"):
        ViewpointSet(
            shards,
            DataConfig(),
            ColdStartConfig(source=str(tmp_path / "none")),
            supervised=True,
            mode=None,
        )


def test_replies_are_read_in_any_dress():
    assert read_reply("It moved.\nAnswer: B") == ("It moved.", "B")
    assert read_reply("<think>It moved.</think>\n<answer>Answer: (c)</answer>") == (
        "It moved.",
        "C",
    )
    assert read_reply("It moved.\n**Answer:** A.") == ("It moved.", "A")
    assert read_reply("The answer: a matter of taste") == (
        "The answer: a matter of taste",
        None,
    )


TOY_CAR = view_pair(50.0, None, class_name="toy car")


@pytest.mark.parametrize(
    ("prose", "reasons"),
    [
        ("The camera shifted rightward around the car and panned left.", []),
        ("The camera has clearly moved towards its left.", ["ego_translation"]),
        ("From the car's perspective, the camera went left.", []),
        ("From the perspective of the object it moved to the right.", ["object_translation"]),
        ("In the second photo, it turned to its right by 50 degrees.", ["ego_rotation"]),
        ("The camera did not move to the left.", []),
        (
            "Seen from the toy, the camera moved to the left; from the camera it moved to the right.",
            [],
        ),
        (
            "The camera passes from the car's left side to its right side.",
            ["object_translation"],
        ),
        ("It went anticlockwise, about 50°, from 10 degrees of elevation.", []),
        ("The camera orbits clockwise.", ["turn"]),
        ("The camera turned left by 80 degrees.", ["degrees"]),
        ("The camera moved away from the car to the right.", []),
    ],
)
def test_the_verifier_reads_free_prose(prose, reasons):
    assert [c.reason for c in contradictions(prose, TOY_CAR)] == reasons


def test_no_environment_variable_is_needed_for_a_local_server(
    data, serve, tmp_path, monkeypatch
):
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    assert "OPENAI_API_KEY" not in os.environ
    teach(config(serve(), data, tmp_path / "out", limit=1))
    assert len(lines(tmp_path / "out" / "chains.jsonl")) == 1


# ---------------------------------------------------------------- the request


def test_the_template_is_a_file_and_the_ledger_names_it(data, serve, tmp_path):
    server = serve()
    path = tmp_path / "mine.md"
    path.write_text(
        "Think of {braces}. {answers}; Question: {question}\nEnd with the {closing}."
    )
    teach(config(server, data, tmp_path / "out", limit=2, template=f"file:{path}", attempts=1))
    prompt = server.bodies[0]["messages"][0]["content"][-1]["text"]
    assert prompt.startswith("Think of {braces}. seen from the camera, it moved: ")
    assert prompt.endswith("End with the letter of its option.")
    ledger = json.loads((tmp_path / "out" / "ledger.json").read_text())
    assert ledger["template"] == f"file:{path}"
    num_requests = len(server.bodies)
    path.write_text(path.read_text() + " Please.")
    teach(config(server, data, tmp_path / "out", limit=2, template=f"file:{path}", attempts=1))
    assert len(server.bodies) == 2 * num_requests  # another text is another request


def test_the_default_template_has_the_papers_sections_and_no_letters_in_its_answers(
    data, serve, tmp_path
):
    server = serve()
    teach(config(server, data, tmp_path / "out", limit=1))
    prompt = server.bodies[0]["messages"][0]["content"][-1]["text"]
    for section in (
        "Images",
        "Visual analysis",
        "Specific movements",
        "Trajectory",
        "Answer on",
    ):
        assert f". {section}" in prompt
    assert server.bodies[0]["max_tokens"] == 16_000  # room for a teacher that thinks first


@pytest.mark.parametrize(
    ("template", "reason"),
    [
        ("long", r"template=long is unknown: give sections, short"),
        ("file:/none.md", r"template=file:/none.md does not exist"),
        ("file:{folder}/bare.md", r"lacks \{answers\}, \{question\}, \{closing\}"),
    ],
)
def test_a_template_without_its_fields_is_refused(data, serve, tmp_path, template, reason):
    (tmp_path / "bare.md").write_text("Think.")
    setting = template.replace("{folder}", str(tmp_path))
    with pytest.raises(UserError, match=reason):
        teach(config(serve(), data, tmp_path / "out", template=setting))


def test_a_template_in_another_encoding_is_refused(data, serve, tmp_path):
    (tmp_path / "t.md").write_bytes("Café".encode("latin-1"))
    with pytest.raises(UserError, match=r"template=file:.* is no text in UTF-8"):
        teach(config(serve(), data, tmp_path / "out", template=f"file:{tmp_path}/t.md"))


def test_fields_of_a_request_can_be_added_and_left_out(data, serve, tmp_path):
    server = serve()
    request = {"max_tokens": None, "max_completion_tokens": 9000, "reasoning_effort": "high"}
    teach(config(server, data, tmp_path / "out", limit=1, request=request))
    body = server.bodies[0]
    assert "max_tokens" not in body
    assert (body["max_completion_tokens"], body["reasoning_effort"]) == (9000, "high")


def test_a_teacher_that_thinks_first_is_read_behind_its_thinking():
    thought = "<think>Let me see, left or right?</think>\n"
    chain = "The far side comes into view at the right edge, so the camera moved to its right."
    assert read_reply(f"{thought}{chain}\nAnswer: B") == (chain, "B")


# ---------------------------------------------------------------- released questions


def without_degrees(prompt: str) -> str:
    """What a good teacher says of a pair whose angle is not known: about 70 degrees, it guesses."""
    sides = re.search(
        r"it moved: (\w+); seen from the object, the camera moved: (\w+); the camera turned: (\w+)\.",
        prompt,
    )
    ego, seen, turn = sides.groups()
    question = re.search(r"Question: (.*?)\n(A: .*?)\n", prompt, re.S)
    side = ego
    if "turn" in question.group(1):
        side = turn
    elif "object's" in question.group(1):
        side = seen
    letter = re.search(rf"([A-C]): \w+ to the {side}", question.group(2)).group(1)
    return (
        f"The camera moved to its {ego} and turned to its {turn} by about 70 degrees. "
        f"From the object's point of view, it went to the {seen}.\n\nAnswer: {letter}"
    )


@pytest.fixture(scope="module")
def released(tmp_path_factory):
    """12 released questions with letters alone."""
    root = tmp_path_factory.mktemp("released")
    write_release(root / "release", "json", letters=12, chains=0, tests=0)
    build(
        BuildConfig(
            source=SourceConfig(
                kind=SourceKind.named, name="viewpoint_100k", root=str(root / "release")
            ),
            pairs=PairConfig(val_fraction=0.0),
            image=ImageConfig(max_pixels=1024, multiple=16, format=ImageFormat.png),
            out=str(root / "set"),
            workers=1,
        )
    )
    return root / "set"


def test_a_teacher_writes_about_released_questions_by_the_sides_that_their_answers_tell(
    released, serve, tmp_path
):
    out = tmp_path / "out"
    teach(config(serve(says=without_degrees), released, out, limit=6))
    chains = lines(out / "chains.jsonl")
    assert len(chains) == 6
    assert {chain["type"] for chain in chains} == {kind.value for kind in PAPER_QUESTIONS}
    cold = ColdStartConfig(ratio=0.25, source=str(out / "chains.jsonl"))
    source = SetConfig(task=Task.qa, root=str(released))
    task = open_set(source, "train", DataConfig(), cold, supervised=True)
    drawn = [task.example(i, epoch).questions[0] for epoch in range(60) for i in range(12)]
    taught = [question for question in drawn if question.mode is AnswerMode.THINK]
    assert len(taught) / len(drawn) == pytest.approx(0.25, abs=0.05)
    assert {question.uid for question in taught} == {chain["uid"] for chain in chains}
    assert all(
        f"<answer>{question.answer_letter}</answer>" in question.target for question in taught
    )
    other = ColdStartConfig(ratio=0.25, source=str(tmp_path / "none.jsonl"))
    with pytest.raises(UserError, match=rf"actial\.chains pairs={released} "):
        open_set(source, "train", DataConfig(), other, supervised=True)


def test_a_wrong_side_about_a_released_question_is_rejected(released, serve, tmp_path):
    def slips(prompt: str) -> str:
        swap = {"left": "right", "right": "left"}
        said = without_degrees(prompt)
        return re.sub(r"(turned to its )(\w+)", lambda m: m.group(1) + swap[m.group(2)], said)

    teach(config(serve(says=slips), released, tmp_path / "out", limit=3, attempts=1))
    ledger = json.loads((tmp_path / "out" / "ledger.json").read_text())
    assert (ledger["accepted"], ledger["rejected_by"]) == (0, {"ego_rotation": 3})
