"""``eachmask matte``: images in, cut-outs with soft edges out."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from eachmask.cli.predict import RESULTS, PredictOptions, batch_options, predict_all
from eachmask.structures.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    import numpy as np
    from numpy.typing import NDArray
    from rich.console import Console

    from eachmask.inference.matting import MattePredictor
    from eachmask.structures import Trimap
    from eachmask.structures.backdrop import Backdrop


@dataclass(frozen=True)
class MatteOptions(PredictOptions):
    """Cut out what is in front, with the opacity of every pixel: hair, fur, glass, what is out of focus or moves.

    By default the model objects finds things, a band along their outlines is left open, and the model mattes says how
    much of each pixel in it belongs to them: a network and closed form matting (pip install 'eachmask[matting]'). With
    --trimap that band is yours, with --background a clean image of the background helps a model that compares, and a
    model such as modnet needs neither. Robust Video Matting remembers what it saw of a video.

    The results folder gets, per image: rgba/ (PNG with transparency and the foreground's own colors), alpha/ (gray PNG
    of 16 bits), with --onto composite/; and mattes.csv, overlays/, report.html and summary.json. Of a video (mp4, mov,
    webm, mkv, avi; pip install 'eachmask[video]') it gets cutout.mov (ProRes 4444, with transparency) and with --onto
    composite.mp4; --save takes webm (VP9 with transparency) and alpha (a PNG per frame) too. With --layers a short
    video of a camera that stands still is taken apart: layer_1.mov, layer_2.mov ... and background.png.

    Exit status: as that of `eachmask predict`.

    Examples:
      eachmask matte cat.jpg --classes cat --out cat
      eachmask matte people/ --classes person --onto beach.jpg --out beach
      eachmask matte lemur.png --trimap trimap.png --onto '#00ff00' --out lemur
      eachmask matte portraits/ --model modnet --out portraits
      eachmask matte dance.mp4 --model rvm.safetensors --onto beach.mp4 --out dance
      eachmask matte shot.png --model runs/bgm/model.safetensors --background clean.png --out shot
      eachmask matte walk.mp4 --masks followed/davis --out walk
      eachmask matte walk.mp4 --masks followed/davis --layers --out layers
    """

    model: str = "auto"
    """Name or file of a model of mattes or of objects, or a run's folder. auto: objects, whose masks become trimaps, or
    the solver where there is a --trimap."""
    trimap: Path | None = None
    """Image of the same size: white is surely foreground, black surely not, gray is to be found out."""
    background: Path | None = None
    """Photograph of the background alone, of the same size, for models that compare with it."""
    masks: Path | None = None
    """Of a video: folder of label maps, one PNG for each frame, as `eachmask track` writes them: what is not 0 is cut
    out, instead of what --model finds."""
    layers: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Of a short video: each object of --masks becomes a layer with its shadows and reflections."""
    onto: str | None = None
    """Also put the cut-out before this: an image, which is made to cover, a color (white, '#00ff88'), or of a video
    another video."""
    solver: str = "mattes"
    """What makes mattes of masks and trimaps: mattes (closed form and what a network believes), closed_form,
    knn_matting, learning_based_matting, random_walk_matting, ViTMatte (hf:hustvl/vitmatte-small-composition-1k; pip
    install 'eachmask[transformers]'), or a model of your own that takes trimaps, a file or a run's folder."""
    band: float = 0.05
    """Of masks: how far what is left open reaches to either side of an outline, as a share of the root of the object's
    area."""


def matte(options: MatteOptions) -> int:
    """Run the command; returns the exit status."""
    from rich.console import Console

    from eachmask.data.images.inputs import find_inputs
    from eachmask.data.images.video import SUFFIXES as VIDEOS
    from eachmask.weights.fetch import cache_dir

    console = Console(stderr=True, highlight=False)
    if options.trimap is not None and options.background is not None:
        raise UserError("give --trimap or --background, not both: a model takes one of them")
    if options.band < 0:
        raise UserError(f"--band is a share from 0, not {options.band:g}")
    of_video = options.layers or options.masks is not None
    if of_video or any(Path(name).suffix.lower() in VIDEOS for name in options.inputs):
        if options.on is not None:
            raise UserError("--on shares out images, and the frames of a video follow one another: leave it out")
        return _layers(options, console) if options.layers else _video(options, console)
    inputs = find_inputs(options.inputs, exclude=options.out or RESULTS, downloads=cache_dir() / "images")
    if options.trimap is not None and len(inputs.sources) != 1:
        raise UserError(f"one trimap is of one image, and there are {len(inputs.sources)}: take them one by one")
    onto = None if options.onto is None else backdrop_of(options.onto)
    predictor = chosen(options, onto)
    save = options.save or ("rgba", "alpha", *(() if onto is None else ("composite",)))
    own = replace(options, save=save, classes=())
    batch_options(own)
    return predict_all(predictor, inputs, own, console)


def _video(options: MatteOptions, console: Console) -> int:
    """One video, frame by frame."""
    from eachmask.batch.matte_video import KINDS, matte_video
    from eachmask.files.progress import bars
    from eachmask.files.text import counted, say

    if len(options.inputs) != 1:
        raise UserError("a video is matted by itself: name one at a time, and no images beside it")
    if options.trimap is not None:
        raise UserError("--trimap is of one image, not of a video: leave it out, so that it is made of masks")
    save = options.save or ("rgba", *(() if options.onto is None else ("composite",)))
    out = options.out or Path(RESULTS)
    predictor, onto = chosen(options, None), None if options.onto is None else backdrops_of(options.onto)
    with bars(console) as progress:
        bar = progress.add_task("frames", total=None)
        done = matte_video(
            predictor, options.inputs[0], out, save, masks=options.masks, onto=onto, overwrite=options.overwrite,
            on_frame=lambda: progress.advance(bar),
        )  # fmt: skip
    say(f"{counted(done, 'frame')} done.", error=True)
    for kind in save:
        say(out / KINDS[kind])
    return 0


def _layers(options: MatteOptions, console: Console) -> int:
    """A short video, taken apart."""
    from eachmask.batch.layers import take_apart
    from eachmask.files.progress import bars
    from eachmask.files.text import say
    from eachmask.models.matting.omnimatte import Config

    if len(options.inputs) != 1 or options.masks is None:
        raise UserError("--layers takes one video apart by the label maps of its frames: give --masks")
    onto = None if options.onto is None else backdrops_of(options.onto)
    with bars(console) as progress:
        bar = progress.add_task("steps", total=Config().steps)
        written = take_apart(
            options.inputs[0], options.masks, options.out or Path(RESULTS), side=options.side, onto=onto,
            overwrite=options.overwrite, on_step=lambda step, loss: progress.advance(bar),
        )  # fmt: skip
    for path in written:
        say(path)
    return 0


def chosen(options: MatteOptions, onto: NDArray[np.uint8] | None) -> MattePredictor:
    """What makes the mattes that the options mean.

    Raises:
        UserError: the model does not fit what is given.
    """
    from eachmask.inference.hf_models import PREFIX
    from eachmask.inference.load import load
    from eachmask.inference.matting import BandPredictor, CutPredictor, MattePredictor
    from eachmask.models.matting.solvers import SOLVERS
    from eachmask.structures import Instances

    named = (MatteOptions.solver, *SOLVERS)
    if options.solver not in named and not options.solver.startswith(PREFIX) and not Path(options.solver).exists():
        raise UserError(f"--solver knows {', '.join(named)} and model files, not {options.solver!r}")
    given = _given(options)
    where: dict[str, Any] = {"device": options.device, "precision": options.precision}
    if options.masks is not None:
        if options.model != "auto" or given is not None:
            raise UserError("--masks say what is cut out: leave out --model, --trimap and --background")
        return BandPredictor(load(options.solver, **where), options.band, onto)
    if options.model == "auto" and options.background is not None:
        raise UserError("--background needs a model that compares with it: name one of your own with --model")
    if options.model == "auto" and given is not None:
        return MattePredictor(load(options.solver, **where), given, onto)
    predictor = load("objects" if options.model == "auto" else options.model, side=options.side, **where)
    if predictor.task.target is not Instances:
        return MattePredictor(predictor, given, onto)
    if given is not None:
        raise UserError("a model of objects makes a trimap of its own: leave out --model, or --trimap and --background")
    classes = tuple(name.strip() for word in options.classes for name in word.split(",") if name.strip())
    return CutPredictor(predictor, load(options.solver, **where), options.band, classes, onto)


def _given(options: MatteOptions) -> Trimap | Backdrop | None:
    """What the user hands over besides the images."""
    import torch

    from eachmask.data.images.read import read_image
    from eachmask.draw import to_display
    from eachmask.structures import Trimap
    from eachmask.structures.backdrop import Backdrop

    if options.trimap is not None:
        return Trimap.from_gray(to_display(read_image(options.trimap), stretch=False)[..., 1])
    if options.background is not None:
        pixels = to_display(read_image(options.background), stretch=False)
        return Backdrop(torch.from_numpy(pixels).permute(2, 0, 1).float() / 255)
    return None


def backdrops_of(text: str) -> Callable[[], Iterator[NDArray[np.uint8]]]:
    """(H, W, 3) for each frame of a video: those of another video, or one image or color again and again.

    Raises:
        UserError: it is neither.
    """
    import itertools

    from eachmask.data.images.video import SUFFIXES, frames_of

    if Path(text).suffix.lower() in SUFFIXES:
        return lambda: (frame.image for frame in frames_of(text))
    one = backdrop_of(text)
    return lambda: itertools.repeat(one)


def backdrop_of(text: str) -> NDArray[np.uint8]:
    """(H, W, 3) of an image file, or (1, 1, 3) of a color.

    Raises:
        UserError: it is neither.
    """
    import numpy as np
    from PIL import ImageColor

    from eachmask.data.images.read import read_image
    from eachmask.draw import to_display

    if Path(text).is_file():
        return to_display(read_image(text), stretch=False)
    try:
        return np.array(ImageColor.getrgb(text)[:3], np.uint8)[None, None]
    except ValueError:
        raise UserError(f"--onto {text} is neither an image file nor a color such as white or '#00ff88'") from None
