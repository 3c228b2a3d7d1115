"""Google Cloud Storage's JSON API, as much of it as TensorStore uses, over objects held in memory."""

import json
import threading
import urllib.parse
from collections.abc import Iterator, MutableMapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

Objects = MutableMapping[str, bytes]  # "bucket/name" → content


class InFileSystem(MutableMapping[str, bytes]):
    """The files of an fsspec `MemoryFileSystem` as objects, so that both doors lead to one store."""

    def __init__(self, system: Any) -> None:
        self.system = system()

    def __getitem__(self, key: str) -> bytes:
        return self.system.store[f"/{key}"].getvalue()

    def __setitem__(self, key: str, data: bytes) -> None:
        self.system.pipe_file(f"/{key}", data)

    def __delitem__(self, key: str) -> None:
        del self.system.store[f"/{key}"]

    def __iter__(self) -> Iterator[str]:
        return (path.lstrip("/") for path in list(self.system.store))

    def __len__(self) -> int:
        return len(self.system.store)


def handler_of(objects: Objects, served: list[str]) -> type[BaseHTTPRequestHandler]:
    """A handler over `objects`; every request's method and object name is appended to `served`."""
    generations: dict[str, int] = {}

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_) -> None:
            """Nothing: requests are in `served`."""

        def reply(self, status: int, body: bytes = b"", **headers: str) -> None:
            self.send_response(status)
            for name, value in {"Content-Length": str(len(body)), **headers}.items():
                self.send_header(name.replace("_", "-"), value)
            self.end_headers()
            self.wfile.write(body)

        def asked(self) -> tuple[str, str, dict[str, str]]:
            """(bucket, object or "", query)."""
            url = urllib.parse.urlsplit(self.path)
            query = dict(urllib.parse.parse_qsl(url.query))
            bucket, _, rest = url.path.partition("/b/")[2].partition("/o")
            name = urllib.parse.unquote(rest.removeprefix("/"))
            served.append(f"{self.command} {name or query.get('name') or 'list'}")
            return bucket, name, query

        def described(self, key: str) -> dict[str, str]:
            bucket, _, name = key.partition("/")
            generation = str(generations.setdefault(key, 1))
            return {"bucket": bucket, "name": name, "size": str(len(objects[key])), "generation": generation}

        def do_GET(self) -> None:
            bucket, name, query = self.asked()
            if not name:
                return self.listed(bucket, query)
            key = f"{bucket}/{name}"
            if key not in objects:
                return self.reply(404)
            data, generation = objects[key], str(generations.setdefault(key, 1))
            if query.get("alt") != "media":
                return self.reply(200, json.dumps(self.described(key)).encode())
            if query.get("ifGenerationNotMatch") == generation:
                return self.reply(304)
            first, last = 0, len(data) - 1
            if wanted := self.headers.get("Range"):
                start, _, end = wanted.removeprefix("bytes=").partition("-")
                first = int(start) if start else max(len(data) - int(end), 0)
                last = min(int(end), last) if start and end else last
            part = data[first : last + 1]
            headers = {"x_goog_generation": generation, "Content_Type": "application/octet-stream"}
            if wanted:
                headers["Content_Range"] = f"bytes {first}-{last}/{len(data)}"
            return self.reply(206 if wanted else 200, part, **headers)

        def listed(self, bucket: str, query: dict[str, str]) -> None:
            start, end = query.get("startOffset", ""), query.get("endOffset")
            names = sorted(key.partition("/")[2] for key in list(objects) if key.partition("/")[0] == bucket)
            names = [
                n for n in names if n.startswith(query.get("prefix", "")) and n >= start and not (end and n >= end)
            ]
            items = [self.described(f"{bucket}/{name}") for name in names]
            self.reply(200, json.dumps({"items": items}).encode())

        def do_POST(self) -> None:
            bucket, _, query = self.asked()
            key = f"{bucket}/{query['name']}"
            data = self.rfile.read(int(self.headers["Content-Length"]))
            there = generations.get(key, 1) if key in objects else 0
            if "ifGenerationMatch" in query and int(query["ifGenerationMatch"]) != there:
                return self.reply(412)
            objects[key], generations[key] = data, generations.get(key, 1) + 1
            return self.reply(200, json.dumps(self.described(key)).encode())

        def do_DELETE(self) -> None:
            bucket, name, _ = self.asked()
            self.reply(204 if objects.pop(f"{bucket}/{name}", None) is not None else 404)

    return Handler


@contextmanager
def serving(objects: Objects) -> Iterator[tuple[str, list[str]]]:
    """(URL, requests so far) of a server in a thread."""
    served: list[str] = []
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler_of(objects, served))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", served
    finally:
        server.shutdown()
        server.server_close()
