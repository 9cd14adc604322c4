"""An OpenAI-compatible server for tests: real HTTP on a free port, answers as it is told."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import h11

Answer = Callable[[dict[str, Any]], tuple[int, dict[str, Any]]]


def says(text: str, *, model: str = "stub-1", prompt_tokens: int = 7, completion_tokens: int = 5) -> Answer:
    """Answers every chat with `text`."""

    def answer(request: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        return 200, {
            "id": "chatcmpl-1",
            "object": "chat.completion",
            "created": 0,
            "model": model,
            "choices": [{"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": text}}],
            "usage": {
                "prompt_tokens": prompt_tokens,
                "completion_tokens": completion_tokens,
                "total_tokens": prompt_tokens + completion_tokens,
            },
        }

    return answer


def fails(status: int, **error: Any) -> Answer:
    """Answers every chat with an error."""
    return lambda request: (status, {"error": {"message": "no", **error}})


class StubLanguageModel:
    """What the server answers, and what it was asked."""

    def __init__(self) -> None:
        self.answers: list[Answer] = []
        """used up one by one before `answer`."""
        self.answer: Answer = says("An answer.")
        self.requests: list[dict[str, Any]] = []
        self.url = ""
        self.window: int | None = None
        """context window told by /v1/models, as llama.cpp does; None for a server that tells none."""
        self.breaks_off_after: int | None = None
        """words after which an answer that comes word by word ends without its end."""
        self.gate: asyncio.Event | None = None
        """when set, chats wait for it."""
        self._writers: list[asyncio.StreamWriter] = []
        self._asked = asyncio.Event()

    async def wait_for_prompt(self, words: str) -> None:
        """Waits until a chat has come whose newest message holds the words."""
        while not any(words in prompt for prompt in self.prompts()):
            self._asked.clear()
            await self._asked.wait()

    def prompts(self) -> list[str]:
        """The newest message of every chat."""
        return [request["messages"][-1]["content"] for request in self.requests]

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writers.append(writer)
        connection = h11.Connection(h11.SERVER)
        path, body = "", b""
        try:
            while True:
                event = connection.next_event()
                if event is h11.NEED_DATA:
                    connection.receive_data(await reader.read(65536))
                elif isinstance(event, h11.Request):
                    path, body = event.target.decode(), b""
                elif isinstance(event, h11.Data):
                    body += bytes(event.data)
                elif isinstance(event, h11.EndOfMessage):
                    status, answer = await self._answer(path, body)
                    kind, raw, whole = _on_the_wire(status, answer, body, self.breaks_off_after)
                    headers = [("content-type", kind), ("content-length", str(len(raw) + (not whole)))]
                    if not whole:
                        writer.write(connection.send(h11.Response(status_code=status, headers=headers)) or b"")
                        writer.write(connection.send(h11.Data(data=raw)) or b"")
                        await writer.drain()
                        return
                    for part in (h11.Response(status_code=status, headers=headers), h11.Data(data=raw), h11.EndOfMessage()):
                        writer.write(connection.send(part) or b"")
                    await writer.drain()
                    connection.start_next_cycle()
                else:
                    return
        except (OSError, h11.ProtocolError):
            return
        finally:
            writer.close()

    async def _answer(self, path: str, body: bytes) -> tuple[int, dict[str, Any]]:
        if path == "/v1/models":
            meta = {} if self.window is None else {"meta": {"n_ctx": self.window}}
            model = {"id": "stub-1", "object": "model", "created": 0, "owned_by": "tests", **meta}
            return 200, {"object": "list", "data": [model]}
        request = json.loads(body)
        self.requests.append(request)
        self._asked.set()
        if self.gate is not None:
            await self.gate.wait()
        return (self.answers.pop(0) if self.answers else self.answer)(request)


def _on_the_wire(status: int, answer: dict[str, Any], request: bytes, words: int | None) -> tuple[str, bytes, bool]:
    """An answer as it was asked for: as a whole, or word by word as server-sent events, and whether that is all of it."""
    if status != 200 or "choices" not in answer or not json.loads(request).get("stream"):
        return "application/json", json.dumps(answer).encode(), True
    common = {"id": answer["id"], "object": "chat.completion.chunk", "created": 0, "model": answer["model"]}
    pieces: list[dict[str, Any]] = [{"role": "assistant"}]
    for choice in answer["choices"]:
        pieces += [{"content": word} for word in re.findall(r"\s*\S+\s*", choice["message"]["content"])]
    chunks = [{**common, "choices": [{"index": 0, "delta": piece, "finish_reason": None}]} for piece in pieces]
    chunks.append({**common, "choices": [], "usage": answer["usage"]})
    lines = [f"data: {json.dumps(chunk)}\n\n" for chunk in chunks]
    if words is not None:
        return "text/event-stream", "".join(lines[: words + 1]).encode(), False
    return "text/event-stream", ("".join(lines) + "data: [DONE]\n\n").encode(), True


@asynccontextmanager
async def stub_language_model() -> AsyncIterator[StubLanguageModel]:
    """Runs the server; `url` ends in /v1."""
    stub = StubLanguageModel()
    server = await asyncio.start_server(stub._serve, "127.0.0.1", 0)
    stub.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1"
    try:
        yield stub
    finally:
        server.close()
        for writer in stub._writers:
            writer.close()
