"""Client: a server's answers in Python, as the nouns that a predictor on this machine returns."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from eachmask.structures import RLE, Category, Instances, UserError

ImageContent = str | Path | bytes | NDArray[np.uint8]
"""A file, its content, or an array (H, W, 3) of RGB."""


class ServerError(UserError):
    """The server did not do what it was asked; :attr:`status` is HTTP's."""

    def __init__(self, status: int, sentence: str) -> None:
        super().__init__(f"the server answered {status}: {sentence}")
        self.status = status


class Client:
    """One server.

    Args:
        url: http://127.0.0.1:8000
        key: what ``eachmask serve`` printed, or one of its file of keys.
        seconds: how long an answer may take.
    """

    def __init__(self, url: str, key: str, *, seconds: float = 90.0) -> None:
        headers = {"Authorization": f"Bearer {key}"}
        self._http = httpx.Client(base_url=url, headers=headers, timeout=seconds)

    def models(self) -> list[dict[str, Any]]:
        """The served models, what they find, and the formats of their results."""
        found: list[dict[str, Any]] = self._send("GET", "/models").json()
        return found

    def predict(
        self, image: ImageContent, *, model: str | None = None, score: float | None = None, classes: Sequence[str] = ()
    ) -> Instances:
        """The objects of an image, for models that find objects.

        Raises:
            ServerError: the server refused.
        """
        return instances_of(self._predict(image, "json", model, score, classes).json())

    def predict_as(
        self,
        image: ImageContent,
        kind: str,
        *,
        model: str | None = None,
        score: float | None = None,
        classes: Sequence[str] = (),
    ) -> bytes:
        """The same of any model in one of the model's formats: json, overlay, labels ...

        Raises:
            ServerError: the server refused.
        """
        return self._predict(image, kind, model, score, classes).content

    def look_at(self, image: ImageContent, *, model: str | None = None) -> RemoteSession:
        """Have a model look at an image once, to ask about it as often as one likes.

        Raises:
            ServerError: the server refused, or serves no model that takes prompts.
        """
        about = self._send("POST", "/sessions", params=_given(model=model), content=content_of(image)).json()
        return RemoteSession(self, about["session"], (about["height"], about["width"]), model)

    def close(self) -> None:
        """Let the connection go."""
        self._http.close()

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _predict(
        self, image: ImageContent, kind: str, model: str | None, score: float | None, classes: Sequence[str]
    ) -> httpx.Response:
        wishes = _given(format=kind, model=model, score=score, classes=list(classes) or None)
        return self._send("POST", "/predict", params=wishes, content=content_of(image))

    def _send(self, method: str, path: str, **parts: Any) -> httpx.Response:
        try:
            found = self._http.request(method, path, **parts)
        except httpx.HTTPError as error:
            raise ServerError(0, f"{self._http.base_url} cannot be reached ({error})") from None
        if found.is_success:
            return found
        try:
            sentence = found.json().get("error") or found.json().get("detail")
        except (ValueError, AttributeError):
            sentence = found.reason_phrase
        raise ServerError(found.status_code, str(sentence))


class RemoteSession:
    """An image that a model on a server has looked at; see :meth:`Client.look_at`."""

    def __init__(self, client: Client, key: str, image_size: tuple[int, int], model: str | None) -> None:
        self._client, self._key, self._model = client, key, model
        self.image_size = image_size
        """(height, width), px."""

    def predict(
        self,
        points: Sequence[Sequence[float]] = (),
        signs: Sequence[bool] | None = None,
        boxes: Sequence[Sequence[float]] = (),
        *,
        alternatives: bool = False,
        score: float | None = None,
    ) -> Instances:
        """The objects that are meant, in the image's own pixels; see :class:`~eachmask.structures.Prompts`.

        Raises:
            ServerError: the server refused, or has forgotten the image (404).
        """
        question = _given(
            points=[list(p) for p in points], boxes=[list(b) for b in boxes], alternatives=alternatives,
            signs=None if signs is None else list(signs),
        )  # fmt: skip
        path = f"/sessions/{self._key}/predict"
        found = self._client._send("POST", path, params=_given(model=self._model, score=score), json=question)
        return instances_of(found.json())


def instances_of(content: dict[str, Any]) -> Instances:
    """The objects of a COCO file about one image, as a server sends it."""
    (image,), rows = content["images"], content["annotations"]
    size = (image["height"], image["width"])
    categories = tuple(Category(c["id"], c["name"], c.get("supercategory", "")) for c in content["categories"])
    places = {category.id: place for place, category in enumerate(categories)}
    x, y, width, height = torch.tensor([row["bbox"] for row in rows], dtype=torch.float32).reshape(-1, 4).unbind(1)
    masks = (
        RLE.from_coco([row["segmentation"] for row in rows], size) if all("segmentation" in r for r in rows) else None
    )
    return Instances(
        size,
        torch.stack([x, y, x + width, y + height], 1),
        labels=torch.tensor([places[row["category_id"]] for row in rows], dtype=torch.int64),
        scores=torch.tensor([row["score"] for row in rows], dtype=torch.float32),
        masks=masks,
        categories=categories,
    )


def content_of(image: ImageContent) -> bytes:
    """A file's content; arrays become PNG."""
    if isinstance(image, bytes):
        return image
    if isinstance(image, str | Path):
        try:
            return Path(image).read_bytes()
        except OSError as error:
            raise UserError(f"{image} cannot be read ({error.strerror})") from None
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "PNG", compress_level=1)
    return buffer.getvalue()


def _given(**values: Any) -> dict[str, Any]:
    """Those that are not None."""
    return {name: value for name, value in values.items() if value is not None}
