"""An OpenAI-compatible server that answers in a thread, or misbehaves as a test says."""

from __future__ import annotations

import json
import re
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


def completion(content: str) -> tuple[int, bytes, str]:
    """Status, raw bytes and content type of a chat completion."""
    choice = {
        "index": 0,
        "message": {"role": "assistant", "content": content},
        "finish_reason": "stop",
    }
    usage = {"prompt_tokens": 1, "completion_tokens": 2, "total_tokens": 3}
    good = {
        "id": "x",
        "object": "chat.completion",
        "created": 0,
        "model": "m",
        "choices": [choice],
        "usage": usage,
    }
    return 200, json.dumps(good).encode(), "application/json"


class FakeServer:
    """Answers "B" as a chat completion, unless `misbehave(n, body)` returns (status, raw bytes,
    content type).
    """

    def __init__(self, misbehave=lambda n, body: None, content="B"):
        outer = self
        self.bodies, self.lock = [], threading.Lock()

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self):
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                with outer.lock:
                    outer.bodies.append(body)
                    n = len(outer.bodies)
                status, raw, kind = misbehave(n, body) or completion(content)
                self.send_response(status)
                self.send_header("Content-Type", kind)
                self.send_header("Content-Length", str(len(raw)))
                self.end_headers()
                self.wfile.write(raw)

            def log_message(self, *_):
                pass

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.http.server_port}/v1"
        threading.Thread(target=self.http.serve_forever, daemon=True).start()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.http.shutdown()
        self.http.server_close()

    def names(self):
        """uid of every request, from its text."""
        return [
            re.search(r"item (\d+)", body["messages"][-1]["content"][-1]["text"])[1]
            for body in self.bodies
        ]
