"""A small stand-in for the studio's server: the page's contract over two images, in memory, on loopback."""

from __future__ import annotations

import io
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from PIL import Image
from skimage import data

PAGE = Path(__file__).parents[2] / "src" / "eachmask" / "studio" / "page"
TYPES = {".html": "text/html", ".js": "text/javascript", ".css": "text/css", ".svg": "image/svg+xml"}
POLICY = "default-src 'self'; img-src 'self' blob: data:"
TILE = 512


def square(x: float, y: float, half: float) -> list[float]:
    return [x - half, y - half, x + half, y - half, x + half, y + half, x - half, y + half]


class Studio:
    """The state: what each image's objects are, and their revision."""

    def __init__(self) -> None:
        self.images = [Image.fromarray(data.coins()).convert("RGB"), Image.fromarray(data.chelsea())]
        self.objects: list[dict[int, dict[str, Any]]] = [{}, {}]
        self.past: list[list[dict[int, dict[str, Any]]]] = [[], []]
        self.revisions = [0, 0]
        self.saved = 0
        self.actions: list[dict[str, Any]] = []
        self.jobs: list[dict[str, Any]] = []

    def project(self) -> dict[str, Any]:
        colors = {"coin": "#4f9dff", "cat": "#ff9f43"}
        categories = [{"id": i, "name": n, "parent": "", "color": c} for i, (n, c) in enumerate(colors.items())]
        models = [{"name": "nuclei"}, {"name": "clicks"}]
        about = {"name": "images", "count": 3, "format": "coco", "labels_path": "coco.json", "read_only": False}
        unsaved = sum(self.revisions) - self.saved
        return about | {"model": "nuclei", "unsaved": unsaved, "categories": categories, "models": models}

    def row(self, index: int) -> dict[str, Any]:
        broken = index == 2
        size = (None, None) if broken else self.images[index].size
        names = ["coins.png", "chelsea.png", "torn.png"]
        counts = {
            "objects": 0 if broken else len(self.objects[index]),
            "proposals": 0,
            "reviewed": False,
            "doubt": None,
        }
        about = {"index": index, "name": names[index], "width": size[0], "height": size[1]}
        return about | counts | {"problem": "torn.png is truncated; copy it again." if broken else None}

    def state(self, index: int) -> dict[str, Any]:
        return {"revision": self.revisions[index], "can_undo": bool(self.past[index]), "can_redo": False}

    def detail(self, index: int) -> dict[str, Any]:
        objects = {"objects": list(self.objects[index].values()), "proposals": [], "comment": "", "levels": 1} | {
            "span": [0, 255],
            "window": [0, 255],
            "bits": 8,
            "first": index,
            "counts": [],
            "channels": [],
        }
        return self.row(index) | self.state(index) | objects

    def act(self, index: int, action: dict[str, Any]) -> dict[str, Any]:
        self.actions.append(action)
        self.past[index].append(dict(self.objects[index]))
        before, now = self.objects[index], dict(self.objects[index])
        if action["kind"] == "add":
            made = self.made(max(now, default=0) + 1, action["category"], action["rings"])
            now[made["id"]] = made
        elif action["kind"] == "remove":
            now = {key: value for key, value in now.items() if key not in action["ids"]}
        elif action["kind"] == "change":
            now[action["id"]] = now[action["id"]] | {k: v for k, v in action.items() if k != "kind"}
        return self.become(index, before, now)

    def undo(self, index: int) -> dict[str, Any]:
        return self.become(index, self.objects[index], self.past[index].pop())

    def become(self, index: int, before: dict[int, Any], now: dict[int, Any]) -> dict[str, Any]:
        self.objects[index] = now
        self.revisions[index] += 1
        changed = [value for key, value in now.items() if before.get(key) != value]
        gone = [key for key in before if key not in now]
        return self.state(index) | {"objects": changed, "removed": gone, "proposals": None}

    @staticmethod
    def made(key: int, category: int, rings: list[list[float]]) -> dict[str, Any]:
        xs = [x for ring in rings for x in ring[::2]]
        ys = [y for ring in rings for y in ring[1::2]]
        box = [min(xs), min(ys), max(xs), max(ys)]
        area = int((box[2] - box[0]) * (box[3] - box[1]))
        about = {"id": key, "category": category, "crowd": False, "score": None, "source": "person"}
        return about | {"rings": rings, "box": box, "area": area, "track": 0, "comment": "", "attributes": {}}

    def answer(self, path: list[str], body: dict[str, Any]) -> tuple[int, Any]:
        match path:
            case ["project"]:
                return 200, self.project()
            case ["images"]:
                return 200, {"total": 3, "images": [self.row(i) for i in range(3)]}
            case ["images", "2"]:
                return 422, {"detail": "torn.png is truncated; copy it again."}
            case ["images", index]:
                return 200, self.detail(int(index))
            case ["images", index, "actions" | "undo"] if body["revision"] != self.revisions[int(index)]:
                return 409, {"detail": "changed in another tab"}
            case ["images", index, "actions"]:
                return 200, self.act(int(index), body["action"])
            case ["images", index, "undo"]:
                return 200, self.undo(int(index))
            case ["images", _, "look"]:
                return 200, {"ready": True}
            case ["images", _, "click"]:
                x, y = body["points"][0] if body["points"] else body["box"][:2]
                other = {"rings": [square(x, y, 30)], "score": 0.7}
                rings = [square(x, y, 20)] if x > 20 else []
                return 200, {"rings": rings, "score": 0.9, "alternatives": [other], "ms": 5}
            case ["save"]:
                self.saved = sum(self.revisions)
                return 200, {"path": "coco.json", "written": 1}
            case ["jobs"]:
                return 200, self.jobs
            case ["jobs", key, "stop"]:
                (job,) = (job for job in self.jobs if job["id"] == key)
                job["state"] = "stopped"
                return 200, job
            case ["measure"]:
                rows = [{"image": 0, "name": "coins.png", "matched": 3, "missed": 1, "invented": 0, "poor": 2}]
                return 200, {"rows": rows, "by_category": [], "by_size": [], "objects": [], "unit": "px"}
        return 404, {"detail": "There is nothing at this address."}


def jpeg(image: Image.Image) -> bytes:
    stream = io.BytesIO()
    image.save(stream, "JPEG", quality=90)
    return stream.getvalue()


@contextmanager
def running() -> Iterator[tuple[str, Studio]]:
    """The address of the page, and the state behind it."""
    studio = Studio()

    class Handler(BaseHTTPRequestHandler):
        def log_message(self, *_: Any) -> None: ...

        def send(self, status: int, body: bytes, kind: str) -> None:
            self.send_response(status)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(body)))
            self.send_header("Content-Security-Policy", POLICY)
            self.end_headers()
            self.wfile.write(body)

        def do_GET(self) -> None:
            path = urlsplit(self.path).path.strip("/").split("/")
            match path:
                case ["api", "images", index, "thumbnail"]:
                    small = studio.images[int(index)].copy()
                    small.thumbnail((160, 160))
                    self.send(200, jpeg(small), "image/jpeg")
                case ["api", "images", index, "tile", _, x, y]:
                    left, top = int(x) * TILE, int(y) * TILE
                    image = studio.images[int(index)]
                    right, bottom = min(left + TILE, image.width), min(top + TILE, image.height)
                    self.send(200, jpeg(image.crop((left, top, right, bottom))), "image/jpeg")
                case ["api", "events"]:
                    self.send(200, b": hello\n\n", "text/event-stream")
                case ["api", *rest]:
                    status, answer = studio.answer(rest, {})
                    self.send(status, json.dumps(answer).encode(), "application/json")
                case _:
                    file = PAGE / ("index.html" if path == [""] else "/".join(path))
                    self.send(200, file.read_bytes(), TYPES[file.suffix])

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            status, answer = studio.answer(self.path.strip("/").split("/")[1:], body)
            self.send(status, json.dumps(answer).encode(), "application/json")

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/", studio
    finally:
        server.shutdown()
        server.server_close()
