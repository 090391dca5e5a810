"""A stand-in for vLLM and the like: ``python -m support.judge_server``; prints its port.

No real one can be installed by pip on every machine, and ``transformers serve`` refuses
log-probabilities. It speaks the OpenAI-compatible API in a process of its own. The model ``judge``
is the bundled judge: its own logits, of the images that arrive. Every other model is a way to fail.
``GET /seen`` tells which requests came in, and how many of them at once.
"""

from __future__ import annotations

import base64
import io
import json
import math
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

TESTS = Path(__file__).resolve().parents[1]
TOP = 20
LOCK = threading.Lock()
SEEN: dict[str, Any] = {"requests": 0, "at_once": 0, "most_at_once": 0, "keys": [], "bodies": []}


@contextmanager
def judge_server() -> Iterator[str]:
    """Run the server; yields the address that its API is below."""
    environment = os.environ | {"PYTHONPATH": str(TESTS), "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(
        [sys.executable, "-m", "support.judge_server"],
        **{"cwd": TESTS, "env": environment, "stdout": subprocess.PIPE, "text": True},
    )
    try:
        assert process.stdout is not None
        yield f"http://127.0.0.1:{int(process.stdout.readline())}/v1"
    finally:
        process.kill()
        process.wait()


class BundledJudge:
    """The bundled judge's likeliest tokens about what a request shows."""

    def __init__(self) -> None:
        import conftest  # loads the package

        del conftest
        import torch

        from onereward.reward.judge import JudgeConfig
        from onereward.reward.vlm.qwen_vl import QwenJudge

        self._judge = QwenJudge(JudgeConfig(), torch.device("cpu"))

    def top(self, content: list[dict[str, Any]]) -> list[tuple[str, float]]:
        """Return the likeliest tokens and the logarithms of their probabilities."""
        import numpy as np
        import torch
        from PIL import Image

        from onereward.reward.judge import PairQuestion

        class Asked:
            def question(self) -> str:
                return content[-1]["text"]

        images = []
        for part in content[:-1]:
            data = base64.b64decode(part["image_url"]["url"].partition("base64,")[2])
            pixels = np.array(Image.open(io.BytesIO(data)).convert("RGB"))
            images.append(torch.from_numpy(pixels).permute(2, 0, 1).float() / 255)
        with torch.no_grad():
            first, second = self._judge.encode_images(images)
            (logits,) = self._judge.answer_logits([PairQuestion(first, second, Asked())])
            best = logits.log_softmax(dim=-1).topk(TOP)
        words = [self._judge.tokenizer.decode([index]) for index in best.indices.tolist()]
        return list(zip(words, best.values.tolist(), strict=True))


JUDGE: list[BundledJudge] = []


def completion(*places: list[tuple[str, float]], finish: str = "stop") -> dict[str, Any]:
    """Return a chat completion; the first of a place's tokens is the one that was written."""
    content = [
        {
            **{"token": top[0][0], "logprob": top[0][1], "bytes": None},
            "top_logprobs": [{"token": t, "logprob": p, "bytes": None} for t, p in top],
        }
        for top in places
    ]
    message = {"role": "assistant", "content": "".join(top[0][0] for top in places)}
    choice = {"index": 0, "message": message, "finish_reason": finish}
    return {"object": "chat.completion", "choices": [choice | {"logprobs": {"content": content}}]}


YES = [("Yes", -0.1), ("No", -2.4)]
NEITHER = [("The", -0.1), ("A", -3.0)]
END = [("</think>", -0.1)]
SCORES = {"Image 1": -0.2, "4": math.log(0.5), "2": math.log(0.25), "9": math.log(0.1)}
COMPLETIONS: dict[str, dict[str, Any]] = {
    "yes": completion(YES),
    "neither": completion(NEITHER),
    "no-logprobs": {"choices": [{"message": {"content": "Yes"}, "logprobs": None}]},
    "no-choices": {"choices": []},
    "no-numbers": completion([("Yes", "x")]),  # type: ignore[list-item]
    "silent": {"choices": [{"message": {"content": ""}, "logprobs": {"content": []}}]},
    "reasons": completion(NEITHER, [("No", -0.3)], [(".", 0.0)], END, [("\n\n", 0.0)], YES),
    "cut-off": completion(NEITHER, [("Yes", 0.0)], finish="length"),
    "scores": completion(sorted(SCORES.items(), key=lambda entry: -entry[1])),
    "writes": completion([('{"reasoning": "good", "score": [20, 15]}', 0.0)]),
    "writes-nothing": completion([("", 0.0)]),
    "unclear": completion(YES, NEITHER, [("No", -0.1)]),
}


class Handler(BaseHTTPRequestHandler):
    """Answers as the model's name says."""

    def handle(self) -> None:
        """Answer; who asked may have gone."""
        with suppress(ConnectionError):
            super().handle()

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing."""

    def do_GET(self) -> None:
        """Tell what came in."""
        if self.path == "/stolen":
            SEEN["keys"].append("redirected")
        self._send(200, json.dumps(SEEN))

    def do_POST(self) -> None:
        """Answer a chat completion."""
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        with LOCK:
            SEEN["requests"] += 1
            SEEN["keys"].append(self.headers.get("Authorization"))
            SEEN["bodies"].append({k: v for k, v in body.items() if k != "messages"})
            SEEN["messages"] = body["messages"]
        self._answer(body["model"], body)

    def _answer(self, model: str, body: dict[str, Any]) -> None:
        key = self.headers.get("Authorization") or ""
        message = json.dumps({"error": {"message": f"no such thing, {key}, here " + "x" * 900}})
        if model == "judge":
            with LOCK:
                if not JUDGE:
                    JUDGE.append(BundledJudge())
                top = JUDGE[0].top(body["messages"][0]["content"])
            self._send(200, json.dumps(completion(top)))
        elif model in COMPLETIONS:
            self._send(200, json.dumps(COMPLETIONS[model]))
        elif model == "pauses":
            with LOCK:
                SEEN["at_once"] += 1
                SEEN["most_at_once"] = max(SEEN["most_at_once"], SEEN["at_once"])
            time.sleep(0.2)
            with LOCK:
                SEEN["at_once"] -= 1
            self._send(200, json.dumps(COMPLETIONS["yes"]))
        elif model == "busy-twice":
            is_ready = SEEN["requests"] % 3 == 0
            self._send(
                200 if is_ready else 429, json.dumps(COMPLETIONS["yes"]), ("Retry-After", "0")
            )
        elif model == "tires":
            with LOCK:
                SEEN["before_rest"] = SEEN.get("before_rest", 60) - 1
            status = 200 if SEEN["before_rest"] >= 0 or SEEN["before_rest"] < -1 else 503
            self._send(status, json.dumps(COMPLETIONS["yes"]))
        elif model in ("hangs", "drips", "hangs-up"):
            self._stall(model)
        else:
            status, text, header = {
                "html": (200, "<html>Welcome</html>", None),
                "empty": (200, "", None),
                "array": (200, "[1]", None),
                "fails": (500, "out of memory", None),
                "wait-an-hour": (503, "", ("Retry-After", "3600")),
                "redirects": (307, "", ("Location", "/stolen")),
                "refuses-key": (401, message, None),
                "refuses": (400, message, None),
            }.get(model, (404, json.dumps({"detail": f"the model {model} does not exist"}), None))
            self._send(status, text, header)

    def _stall(self, how: str) -> None:
        if how == "hangs-up":
            self.connection.close()
            return
        if how == "drips":
            self.send_response(200)
            self.send_header("Content-Length", "100000")
            self.end_headers()
        for _ in range(600):
            time.sleep(0.05)
            if how == "drips":
                self.wfile.write(b" " * 8)

    def _send(self, status: int, text: str, header: tuple[str, str] | None = None) -> None:
        self.send_response(status)
        if header:
            self.send_header(*header)
        self.send_header("Content-Length", str(len(text.encode())))
        self.end_headers()
        self.wfile.write(text.encode())


def main() -> None:
    """Serve until killed."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    sys.stdout.write(f"{server.server_port}\n")
    sys.stdout.flush()
    server.serve_forever()


if __name__ == "__main__":
    main()
