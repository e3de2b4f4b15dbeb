"""Words in, masks out: a detector that understands words finds boxes, and a model that answers prompts draws what is
in them.

Grounded SAM (Ren et al., arXiv 2401.14159): Grounding DINO (Liu et al., arXiv 2303.05499) and any
:class:`~eachmask.inference.prompt_predictor.PromptPredictor`. With a captioner (BLIP: Li et al., arXiv 2201.12086) in
front nobody has to name anything: caption, tags, boxes, masks. The networks come from ``transformers`` (extra
``text``) and are imported when they are used.

Shapes: Q boxes that the detector offers, T tokens of the text, N objects.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from eachmask.inference.hub import import_transformers
from eachmask.inference.prompt_predictor import PromptPredictor
from eachmask.models.promptable.fastsam import TextEncoder, by_text
from eachmask.structures import Category, DecodeOptions, Instances, Prompts, UserError
from eachmask.structures import boxes as box_ops

DETECTOR = "IDEA-Research/grounding-dino-tiny"
CAPTIONER = "Salesforce/blip-image-captioning-base"
ENCODER = "openai/clip-vit-base-patch32"
"""What is fetched from the Hugging Face hub unless another name or folder is given."""
MISSING = "words need the package transformers: pip install 'eachmask[text]'"
NO_TAGS = frozenset(
    "a an the of in on at by with and or to from for is are was were be there this that these those it its his her "
    "their two three four five some many several next front back top side close up large small big little".split()
)


class Found(NamedTuple):
    """What a detector says of one image."""

    boxes: Tensor  # (N, 4) xyxy, px
    labels: Tensor  # (N,) number of the word
    scores: Tensor  # (N,) 0..1


def _fetched(role: str, model: str, processor: str, name: str, device: str) -> tuple[Any, Any]:
    """A network and what prepares its inputs, from the hub or a folder.

    Args:
        role: what it is called where it is not there.
        model, processor: classes of transformers.
    """
    found = import_transformers(MISSING)
    try:
        network = getattr(found, model).from_pretrained(name)
        return network.eval().to(device), getattr(found, processor).from_pretrained(name)
    except OSError as error:
        reason = str(error).split("\n")[0]
        raise UserError(
            f"the {role} {name} is not within reach ({reason}): name another, or a folder of one"
        ) from error


# Grounding DINO -------------------------------------------------------------------------------------------------------


def as_text(words: Sequence[str]) -> str:
    """``bench``, ``red cup`` -> ``bench. red cup.``, as Grounding DINO has learnt it: lower case, each with a dot.

    Raises:
        UserError: there is no word.
    """
    cleaned = [re.sub(r"[\s.?]+", " ", word).strip().lower() for word in words]
    if not cleaned or not all(cleaned):
        raise UserError("there is an empty word: say what is meant, such as bench")
    return " ".join(f"{word}." for word in cleaned)


def spans(tokens: Sequence[int], delimiters: Sequence[int] = (1012, 1029), edges: Sequence[int] = (101, 102)) -> Tensor:
    """(T,) the number of the phrase that each token belongs to, -1 for those that part phrases or frame the text."""
    result, number = [], 0
    for token in tokens:
        apart = token in delimiters
        result.append(-1 if apart or token in edges else number)
        number += apart
    return torch.tensor(result)


def choose(logits: Tensor, boxes: Tensor, size: tuple[int, int], threshold: float) -> tuple[Tensor, Tensor, Tensor]:
    """The boxes one of whose tokens scores more than the threshold, in the detector's order.

    Args:
        logits: (Q, T), minus infinity where there is no token; boxes: (Q, 4) center, width and height in 0..1.
        size: (height, width) of the image.

    Returns:
        scores (N,), boxes (N, 4) xyxy in px, which may leave the image, and probabilities of the tokens (N, T).
    """
    probabilities = logits.sigmoid()
    scores = probabilities.amax(1)
    kept = scores > threshold
    x, y, w, h = boxes[kept].unbind(1)
    corners = torch.stack([x - w / 2, y - h / 2, x + w / 2, y + h / 2], 1)
    height, width = size
    return scores[kept], corners * corners.new_tensor([width, height, width, height]), probabilities[kept]


@dataclass
class WordDetector:
    """Grounding DINO: an image and words -> a box for each thing that one of them names.

    Args:
        model: transformers' ``GroundingDinoForObjectDetection``.
        processor: its ``GroundingDinoProcessor``, or what is called as that is.
        threshold: score from which a box counts.
        nms_threshold: of two boxes of one word that overlap more than this IoU, the lower-scoring one goes.
    """

    model: Any
    processor: Any
    threshold: float = 0.35
    nms_threshold: float = 0.8

    @staticmethod
    def load(name: str = DETECTOR, device: str = "cpu") -> WordDetector:
        """From the hub, or from a folder.

        Raises:
            UserError: transformers is not installed, or there is no such model within reach.
        """
        return WordDetector(*_fetched("detector", "AutoModelForZeroShotObjectDetection", "AutoProcessor", name, device))

    @torch.inference_mode()
    def __call__(self, image: NDArray[np.uint8], words: Sequence[str]) -> Found:
        """Boxes of the things that are named.

        Args:
            image: (H, W, 3) RGB.

        Raises:
            UserError: there is no word, or they are more than the detector reads at a time.
        """
        inputs = self.processor(images=image, text=as_text(words), return_tensors="pt").to(self.model.device)
        said = self.model(**inputs)
        tokens = inputs["input_ids"][0].tolist()
        size = (image.shape[0], image.shape[1])
        return self.found(said.logits[0].float().cpu(), said.pred_boxes[0].float().cpu(), tokens, size)

    def found(self, logits: Tensor, boxes: Tensor, tokens: Sequence[int], size: tuple[int, int]) -> Found:
        """What the network's answer (Q, T), (Q, 4) means; a box is of the word that one of its tokens fits best.

        Raises:
            UserError: there are more tokens than the network has read.
        """
        from eachmask.accel.lazy_dynamo import torchvision

        phrase = spans(tokens)
        if len(phrase) > logits.shape[1]:
            raise UserError(
                f"the words are {len(phrase)} tokens, but the detector reads {logits.shape[1]}: name fewer at a time"
            )
        named = logits[:, : len(phrase)].masked_fill(phrase < 0, -torch.inf)
        scores, corners, probabilities = choose(named, boxes, size, self.threshold)
        labels = phrase[probabilities.argmax(1)] if len(scores) else torch.zeros(0, dtype=torch.int64)
        corners = box_ops.clip(corners, size)
        kept = torchvision().ops.batched_nms(corners, scores, labels, self.nms_threshold)
        kept = kept[box_ops.area(corners[kept]) > 0]
        return Found(corners[kept], labels[kept], scores[kept])


def segment_words(
    image: NDArray[np.uint8], words: Sequence[str], detector: WordDetector, predictor: PromptPredictor
) -> Instances:
    """Masks of the things that words name, best first, with the words as categories.

    Args:
        image: (H, W, 3) RGB.
        predictor: draws what is in a box; any model that answers boxes.

    Raises:
        UserError: there is no word, or the predictor cannot see boxes.
    """
    size = (image.shape[0], image.shape[1])
    categories = named(words)
    found = detector(image, words)
    if not len(found.boxes):
        return replace(Instances.empty(size), categories=categories)
    drawn = predictor.predict(image, Prompts(size, boxes=found.boxes))
    assert drawn.track_ids is not None
    rows = drawn.track_ids
    things = replace(drawn, labels=found.labels[rows], scores=found.scores[rows], track_ids=None, categories=categories)
    best_first: Instances = things[torch.argsort(found.scores[rows], descending=True, stable=True)]
    return best_first


class WordedPredictor(PromptPredictor):
    """A prompt predictor that finds what words name, so that all that takes predictors takes it.

    Args:
        predictor: draws what is in a box; any model that answers boxes.
        words: the categories of what is found.
        detector: what understands them.
    """

    finds_everything = True

    def __init__(self, predictor: PromptPredictor, words: Sequence[str], detector: WordDetector) -> None:
        self.__dict__.update(predictor.__dict__)
        self.drawer, self.words, self.detector = predictor, tuple(words), detector
        self.info = replace(predictor.info, categories=named(words))
        said = f"{predictor.fingerprint}{self.words}{detector.threshold}{detector.nms_threshold}"
        self.fingerprint = hashlib.sha256(said.encode()).hexdigest()

    def _found(self, images: Sequence[NDArray[Any]], options: DecodeOptions, **tiling: Any) -> list[Instances]:
        """What is named, of each image (H, W, 3); tiles are not used."""
        found = [segment_words(as_bytes(image), self.words, self.detector, self.drawer) for image in images]
        return [one.filter(score=options.score_threshold)[: options.max_detections] for one in found]


def as_bytes(image: NDArray[Any]) -> NDArray[np.uint8]:
    """An image (H, W, 3) of any type as the detector has seen images: its darkest value 0, its brightest 255."""
    if image.dtype == np.uint8:
        return image
    low, high = float(image.min()), float(image.max())
    return np.asarray((image.astype(np.float32) - low) * (255 / max(high - low, 1e-6)), np.uint8)


def named(words: Sequence[str]) -> tuple[Category, ...]:
    """Words as categories."""
    return tuple(Category(number, word) for number, word in enumerate(words, start=1))


# BLIP -----------------------------------------------------------------------------------------------------------------


def tags(caption: str) -> list[str]:
    """The words of a caption that may name things, each once: ``a dog on a bench`` -> ``dog``, ``bench``."""
    words = re.findall(r"[a-z][a-z-]+", caption.lower())
    return list(dict.fromkeys(word for word in words if word not in NO_TAGS))


@dataclass
class Captioner:
    """BLIP: an image -> one sentence.

    Args:
        model: transformers' ``BlipForConditionalGeneration``; processor: its ``BlipProcessor``.
    """

    model: Any
    processor: Any

    @staticmethod
    def load(name: str = CAPTIONER, device: str = "cpu") -> Captioner:
        """From the hub, or from a folder.

        Raises:
            UserError: transformers is not installed, or there is no such model within reach.
        """
        return Captioner(*_fetched("captioner", "BlipForConditionalGeneration", "BlipProcessor", name, device))

    @torch.inference_mode()
    def __call__(self, image: NDArray[np.uint8]) -> str:
        """What is in an image (H, W, 3) RGB."""
        inputs = self.processor(images=image, return_tensors="pt").to(self.model.device)
        tokens = self.model.generate(**inputs)
        sentence: str = self.processor.decode(tokens[0], skip_special_tokens=True)
        return sentence.strip()


def segment_caption(
    image: NDArray[np.uint8], captioner: Captioner, detector: WordDetector, predictor: PromptPredictor
) -> tuple[Instances, str]:
    """Masks of what an image's caption names, and the caption: annotations that nobody had to make.

    Args:
        image: (H, W, 3) RGB.
    """
    caption = captioner(image)
    words = tags(caption)
    if not words:
        return Instances.empty((image.shape[0], image.shape[1])), caption
    return segment_words(image, words, detector, predictor), caption


# CLIP -----------------------------------------------------------------------------------------------------------------


@dataclass
class Clip:
    """CLIP (Radford et al., arXiv 2103.00020), a :class:`~eachmask.models.promptable.fastsam.TextEncoder`.

    Args:
        model: transformers' ``CLIPModel``; processor: its ``CLIPProcessor``.
    """

    model: Any
    processor: Any

    @staticmethod
    def load(name: str = ENCODER, device: str = "cpu") -> Clip:
        """From the hub, or from a folder.

        Raises:
            UserError: transformers is not installed, or there is no such model within reach.
        """
        return Clip(*_fetched("encoder", "CLIPModel", "CLIPProcessor", name, device))

    @torch.inference_mode()
    def images(self, crops: Sequence[NDArray[np.uint8]]) -> Tensor:
        """Images (h, w, 3) of any sizes -> (N, D) of length 1."""
        inputs = self.processor(images=list(crops), return_tensors="pt").to(self.model.device)
        return _unit(self.model.get_image_features(**inputs))

    @torch.inference_mode()
    def texts(self, sentences: Sequence[str]) -> Tensor:
        """Sentences -> (T, D) of length 1."""
        inputs = self.processor(text=list(sentences), return_tensors="pt", padding=True).to(self.model.device)
        return _unit(self.model.get_text_features(**inputs))


class LikenessPredictor(PromptPredictor):
    """A predictor that finds everything, and of that returns what looks most like each of some words.

    FastSAM's text prompt (Zhao et al., arXiv 2306.12156, section 3.3): one object for each word. Its score is that with
    which it was found; the likeness only chooses.

    Args:
        predictor: of a model that finds everything.
        words: the categories of what is chosen.
        encoder: puts images and words into one space; :class:`Clip`.

    Raises:
        UserError: there is an empty word, or the model only answers prompts.
    """

    finds_everything = True

    def __init__(self, predictor: PromptPredictor, words: Sequence[str], encoder: TextEncoder) -> None:
        as_text(words)
        if not predictor.finds_everything:
            name = predictor.info.name or predictor.info.variant
            raise UserError(f"{name} finds nothing by itself: leave out --encoder, so that a detector finds boxes")
        self.__dict__.update(predictor.__dict__)
        self.finder, self.words, self.encoder = predictor, tuple(words), encoder
        self.info = replace(predictor.info, categories=named(words))
        self.fingerprint = hashlib.sha256(f"{predictor.fingerprint}{self.words}likeness".encode()).hexdigest()

    def _found(self, images: Sequence[NDArray[Any]], options: DecodeOptions, **tiling: Any) -> list[Instances]:
        """What is most like each word, of each image (H, W, 3), in the order of the words."""
        found = self.finder.predict_arrays(images, options=options)
        return [self._chosen(as_bytes(image), one) for image, one in zip(images, found, strict=True)]

    def _chosen(self, image: NDArray[np.uint8], found: Instances) -> Instances:
        chosen = [by_text(found, image, word, self.encoder)[0] for word in self.words]
        labels = [torch.full((len(one),), label) for label, one in enumerate(chosen)]
        things = Instances.cat(chosen)
        return replace(things, labels=torch.cat(labels), categories=self.info.categories, track_ids=None)


def _unit(said: Any) -> Tensor:
    """Features (N, D), which some versions of transformers wrap, as vectors of length 1."""
    features: Tensor = said if isinstance(said, Tensor) else said.pooler_output
    unit: Tensor = features / features.norm(dim=-1, keepdim=True)
    return unit
