"""``eachmask segment``: clicks, boxes and words in, the masks that they mean out."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from eachmask.cli.before_loading import check_before_loading
from eachmask.cli.predict import RESULTS, PredictOptions, at_scale, batch_options, diameter_of, predict_all
from eachmask.structures.errors import UserError

if TYPE_CHECKING:
    from eachmask.data.images.inputs import Inputs
    from eachmask.inference.prompt_predictor import PromptPredictor
    from eachmask.structures import Prompts

_Places = Annotated[tuple[str, ...], tyro.conf.arg(metavar="X,Y ...")]
_Lines = Annotated[tuple[str, ...], tyro.conf.arg(metavar="'X,Y X,Y ...' ...")]


@dataclass(frozen=True)
class SegmentOptions(PredictOptions):
    """Segment the objects that are pointed at, by a model that takes prompts.

    Prompts are in the image's own pixels, x before y, counted from the upper left corner. All points and scribbles
    together mean one object; each box means an object of its own, a word all things that it names. The results are
    those of `eachmask predict`.

    The model that comes with the package is clicks: it needs no network. Without any trained model: grabcut,
    graph_cut, random_walker, normalized_cuts, and pixel_classifier, which learns from scribbles what looks alike.

    Exit status: as that of `eachmask predict`.

    Examples:
      eachmask segment cat.jpg --point 420,310 --out cat
      eachmask segment cat.jpg --point 420,310 --not-point 40,40
      eachmask segment street.jpg --box 10,20,200,380 300,40,420,390
      eachmask segment cat.jpg --model graph_cut --scribble "300,200 420,310" --not-scribble "10,10 600,10"
      eachmask segment street.jpg --model runs/fastsam/model.safetensors --everything
      eachmask segment photo.jpg --model sam_vit_b --point 420,310
      eachmask segment photo.jpg --model mobile_sam --everything --points-per-side 16
      eachmask segment cat.jpg --point 420,310 --alternatives
      eachmask segment park.jpg --text bench "red cup"
      eachmask segment park.jpg --model runs/fastsam --text "red cup" --encoder openai/clip-vit-base-patch32
    """

    model: str = "auto"
    """Name or file of a model that takes prompts (`eachmask models` lists them), or a run's folder. auto: clicks."""
    point: _Places = ()
    """Points on the object."""
    not_point: _Places = ()
    """Points that are not on the object."""
    scribble: _Lines = ()
    """Lines drawn on the object, each in quotation marks: its points from one end to the other."""
    not_scribble: _Lines = ()
    """Lines that are not on the object."""
    box: Annotated[tuple[str, ...], tyro.conf.arg(metavar="X1,Y1,X2,Y2 ...")] = ()
    """Boxes, each around an object of its own."""
    text: Annotated[tuple[str, ...], tyro.conf.arg(metavar="WORDS ...")] = ()
    """Words, each for all things that it names: Grounding DINO finds their boxes, the model draws what is in them.
    Needs the extra `pip install 'eachmask[text]'`, and the network once."""
    alternatives: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """All answers to a lone point, such as the whole, a part and a part of that, the best first."""
    detector: str | None = None
    """With --text: a folder or a name on the hub of another Grounding DINO."""
    encoder: str | None = None
    """With --text, in place of the detector: a folder or a name on the hub of a CLIP, such as
    openai/clip-vit-base-patch32. Of all that the model finds (fastsam, sam_vit_b ...) the object that looks most like
    each word is chosen, as FastSAM does."""
    everything: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """All objects, without a prompt."""
    points_per_side: int | None = None
    """With --everything, of models that are asked about points on a grid, such as sam_vit_b: so many along each side;
    32 by default."""
    crop_layers: int | None = None
    """With --everything, of such models: also look at 4 crops of the image (1), at 16 more (2) ... for small things."""


def segment(options: SegmentOptions) -> int:
    """Run the command; returns the exit status."""
    from rich.console import Console

    from eachmask.data.images.inputs import find_inputs
    from eachmask.inference.embedding_cache import EmbeddingCache
    from eachmask.inference.load import load
    from eachmask.inference.prompt_predictor import PromptedPredictor, PromptPredictor
    from eachmask.inference.words import DETECTOR, Clip, LikenessPredictor, WordDetector, WordedPredictor, as_text
    from eachmask.models.protocol import PointPromptable
    from eachmask.weights.fetch import cache_dir

    console = Console(stderr=True, highlight=False)
    inputs = find_inputs(options.inputs, exclude=options.out or RESULTS, downloads=cache_dir() / "images")
    wishes = batch_options(options)
    lines = options.scribble or options.not_scribble
    asked = bool(options.point or options.not_point or lines or options.box)
    if asked + options.everything + bool(options.text) != 1:
        raise UserError("say what is meant with --point, --scribble and --box, or with --text, or else --everything")
    if (options.not_point or options.not_scribble) and not (options.point or options.scribble):
        raise UserError("--not-point and --not-scribble correct what a --point or --scribble means: add one of these")
    if options.alternatives and not asked or options.detector and not options.text:
        raise UserError(
            "--alternatives are answers to a --point, and --detector understands --text: add what is missing"
        )
    if options.encoder and (options.detector or not options.text):
        raise UserError("--encoder understands --text in place of a --detector: give one of them, and --text")
    detector = encoder = None
    if options.encoder:
        as_text(options.text)
        encoder = Clip.load(options.encoder)
    elif options.text:
        as_text(options.text)
        detector = WordDetector.load(options.detector or DETECTOR)  # what is missing is said before anything is loaded
    if options.diameter == "auto":
        raise UserError("--diameter auto is for eachmask predict: give segment the diameter in pixels")
    name = "clicks" if options.model == "auto" else options.model
    check_before_loading(name, replace(wishes, classes=()), side=options.side, diameter=diameter_of(options))
    prompts = prompts_of(options, size_of_images(inputs)) if asked else None
    predictor = at_scale(load(name, device=options.device, precision=options.precision, side=options.side), options)
    if not isinstance(predictor, PromptPredictor):
        raise UserError(f"{name} takes no prompts: use eachmask predict, or a model such as clicks")
    if isinstance(predictor.model, PointPromptable):
        predictor.cache = EmbeddingCache()  # the next click on this image needs no first look
    predictor = looking(predictor, options)
    if encoder is not None:
        predictor = LikenessPredictor(predictor, options.text, encoder)
    elif detector is not None:
        predictor = WordedPredictor(predictor, options.text, detector)
    elif prompts is not None:
        predictor = PromptedPredictor(predictor, prompts, options.alternatives)
    return predict_all(predictor, inputs, options, console)


def size_of_images(inputs: Inputs) -> tuple[int, int]:
    """(height, width) of the first image that is there: prompts are for images of one size.

    Raises:
        UserError: none is there, or that one cannot be read.
    """
    from eachmask.data.images.files import image_size

    first = next((source for source in inputs.sources if not source.problem), None)
    if first is None:
        source = inputs.sources[0]
        raise UserError(f"{source.path} {source.problem}")
    return image_size(first.path)


def looking(predictor: PromptPredictor, options: SegmentOptions) -> PromptPredictor:
    """The predictor, looking for everything as the options say.

    Raises:
        UserError: there is nothing to be set, or a number makes no sense.
    """
    from eachmask.structures.checks import check_whole

    wishes = {"points_per_side": options.points_per_side, "crop_layers": options.crop_layers}
    given = {name: value for name, value in wishes.items() if value is not None}
    if not given:
        return predictor
    if not options.everything:
        raise UserError("--points-per-side and --crop-layers say how to look for everything: add --everything")
    for name, value in given.items():
        check_whole(name.replace("_", " "), value, 1 if name == "points_per_side" else 0)
    return predictor.looking(replace(predictor.everything_config, **given))


def prompts_of(options: SegmentOptions, size: tuple[int, int]) -> Prompts:
    """The prompts that the options hold.

    Args:
        size: (height, width) of the image.

    Raises:
        UserError: they are no numbers, or do not lie in the image.
    """
    from eachmask.structures import Prompts

    places = [*options.point, *options.not_point]
    points = [numbers(text, 2, "--point") for text in places]
    drawn = [*options.scribble, *options.not_scribble]
    lines = [[numbers(place, 2, "--scribble") for place in text.split()] for text in drawn]
    boxes = [numbers(text, 4, "--box") for text in options.box]
    first_box = 1 if points or lines else 0
    given: dict[str, Any] = {  # lists become tensors
        "points": points,
        "signs": [True] * len(options.point) + [False] * len(options.not_point),
        "scribbles": lines,
        "scribble_signs": [True] * len(options.scribble) + [False] * len(options.not_scribble),
        "boxes": boxes,
        "box_objects": list(range(first_box, first_box + len(boxes))),
    }
    return Prompts(size, **given)


def numbers(text: str, count: int, option: str) -> list[float]:
    """``12,40`` -> its numbers.

    Raises:
        UserError: there are more or less than ``count``, or they are none.
    """
    try:
        values = [float(part) for part in text.split(",")]
    except ValueError:
        values = []
    if len(values) != count:
        example = ",".join(str(10 * (i + 1)) for i in range(count))
        raise UserError(f"{option} wants {count} numbers like {example}, not {text!r}")
    return values
