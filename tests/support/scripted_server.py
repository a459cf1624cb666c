"""A process that speaks the part of vLLM's server which ServerEngine uses: python
scripted_server.py PORT FOLDER.

Its samples depend on the request alone. Files in FOLDER steer it: `die` = end by SIGKILL during the
next generation (and remove the file), `sleep` = answer generations after so many seconds; `together` = answer none
before 150 are in flight; every path asked for is appended to `asked`.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

PORT, FOLDER = int(sys.argv[1]), Path(sys.argv[2])
VERSION = ["default"]  # of the weights, as vLLM's own at its start
TOGETHER = threading.Barrier(150)


def set_version(body: dict) -> dict:
    VERSION[0] = body["new_version"]
    return {"success": True}


def generate(body: dict) -> dict:
    sampling = body["sampling_params"]
    if (FOLDER / "die").exists():
        (FOLDER / "die").unlink()
        os.kill(os.getpid(), signal.SIGKILL)
    if (FOLDER / "together").exists():
        TOGETHER.wait(timeout=20)
    if (FOLDER / "sleep").exists():
        time.sleep(float((FOLDER / "sleep").read_text()))
    seed = sampling["seed"] % 97
    listed = list(dict.fromkeys([seed, *sampling.get("logprob_token_ids", [])]))[
        : max(1, sampling.get("logprobs", 0))
    ]  # as vLLM cuts it
    top = [{"token_id": token, "logprob": -float(token)} for token in listed]
    content = [
        {"token_id": seed + step, "logprob": -0.5 - step, "top_logprobs": top}
        for step in range(2)
    ]
    spans = [{"version": VERSION[0], "start": 0}]
    choices = [
        {
            "index": member,
            "token_ids": [seed, seed + 1],
            "finish_reason": "stop",
            "logprobs": {"content": content},
            "weight_versions": spans,
        }
        for member in range(sampling["n"])
    ]
    return {"prompt_token_ids": body["token_ids"], "choices": choices}


ANSWERS = {
    "/health": lambda _: {},
    "/v1/models": lambda _: {"data": [{"max_model_len": 128}]},
    "/inference/v1/generate": generate,
    "/weight_checker": lambda _: {
        "checksums": {"dp0:pp0:pcp0:tp0:visual.merger.ln_q.weight": "x"}
    },
    "/collective_rpc": lambda _: {"results": []},
    "/reset_prefix_cache": lambda _: {"success": True},
    "/reset_encoder_cache": lambda _: {},
    "/reset_mm_cache": lambda _: {},
    "/update_weight_version": set_version,
}


class Handler(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.reply({})

    def do_POST(self) -> None:
        self.reply(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))

    def reply(self, body: dict) -> None:
        if self.path != "/health":
            with (FOLDER / "asked").open("a") as file:
                file.write(json.dumps([self.path, body.get("kwargs")]) + "\n")
        raw = json.dumps(ANSWERS[self.path](body)).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(raw)))
        self.end_headers()
        self.wfile.write(raw)

    def log_message(self, *_: object) -> None:
        pass


class Server(ThreadingHTTPServer):
    request_queue_size = 256  # connections that wait to be taken


Server(("127.0.0.1", PORT), Handler).serve_forever()
