"""``eachmask predict``: images in, masks, tables and a report out."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeVar, cast

import tyro

from eachmask.cli.before_loading import check_before_loading
from eachmask.files.text import counted, printable, say
from eachmask.structures.errors import UserError

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from rich.console import Console

    from eachmask.batch.options import BatchOptions
    from eachmask.batch.results import Summary
    from eachmask.batch.run import Listener
    from eachmask.data.images.inputs import Inputs
    from eachmask.inference.engine import TileListener
    from eachmask.inference.predictor import Predictor

P = TypeVar("P", bound="Predictor[Any]")
"""Comes back as the kind that it is."""
RESULTS = Path("results")
"""Where results go that nobody gave a folder for."""
MEASURED = 3
"""So many images tell how large the objects of all are, where that is to be found out."""
_NAMED_FAILURES = 20


@dataclass(frozen=True)
class PredictOptions:
    """Find the objects in images, one mask for each.

    The results folder gets predictions.json (COCO, masks as RLE), instances.csv (one row of measures per object),
    overlays/, report.html (open it in a browser) and summary.json. Started again after an interruption, the
    same command does only what is missing. An image that cannot be used is named, counted and passed over.

    Exit status: 0 all images done; 1 some failed (the rest is done; summary.json says why); 2 a mistake in the
    call. Other files in a searched folder are skipped and do not count as failed.

    Examples:
      eachmask predict cells/ --out results
      eachmask predict photos/ --model mask_rcnn_r50_fpn_v2 --out results
      eachmask predict 'slides/**/*.tif' --model nuclei --save labels geojson --out results
      eachmask predict huge.tif --model nuclei --tile 1024 --overlap 0.25 --out results
      eachmask predict street.jpg --model mask_rcnn_r50_fpn --classes person car --score 0.7 --out results
      eachmask predict slide.tif --model nuclei --diameter 12 --pixel-size 0.65 --out results
      eachmask predict plates/ --model nuclei --on ray://head:10001 --out /mnt/shared/results
      eachmask predict shards/0.tar s3://bucket/plates --model nuclei --out results
      find . -name '*.png' | eachmask predict - --model nuclei --out results
    """

    inputs: Annotated[tuple[str, ...], tyro.conf.Positional, tyro.conf.arg(metavar="INPUT ...")]
    """Files, folders (with their sub-folders), 'patterns*', a list of names (names.txt or @names), http(s)
    addresses, tars and .parquet files of images, buckets (s3://, gs://, az://), or - for names on standard input. PNG,
    JPEG, WebP, BMP, TIFF (8 or 16 bits, every page), gray, color, palette, CMYK."""
    model: str = "auto"
    """Name of a model (`eachmask models` lists them), a .safetensors file or a run's folder. auto looks at the first
    images: nuclei for microscope images, else the best model for photographs that is at hand; at a terminal it offers
    once to download a better one. best, fast and tiny are downloads: of the highest published AP, of the highest that
    takes at most half a second here (timed once), and of the smallest file."""
    out: Path | None = None
    """Results folder; made if missing. By default results, or, where that holds those of another command, results-2,
    results-3 ..."""
    score: float | None = None
    """Drop objects scoring less, 0 to 1. The model's own threshold by default."""
    classes: Annotated[tuple[str, ...], tyro.conf.arg(metavar="NAME ...")] = ()
    """Keep only these classes, by name."""
    max_detections: int | None = None
    """At most so many objects per image, best first; with --classes of these classes. The model's own limit by
    default."""
    nms: Literal["hard", "soft", "fast", "matrix"] | None = None
    """What becomes of the worse of overlapping objects of a class: hard drops it; fast too, but more of them; soft and
    matrix lower its score. The model's own way by default."""
    paste: Literal["accurate", "torchvision"] = "accurate"
    """How masks that were predicted in boxes reach the image: at the exact box, or at whole pixels, as torchvision
    pastes them."""
    save: Annotated[tuple[str, ...], tyro.conf.arg(metavar="KIND ...")] = ()
    """Also one file per image of: labels (16-bit label map), crops (cut-out objects), polygons (JSON with
    holes), csv, geojson; of maps labels, palette (in the overlay's colors), panoptic (COCO's PNG), instance_ids
    (Cityscapes')."""
    tile: int | None = None
    """Predict larger images in squares of this side, px, and join what they cut; 0 never. The model's own
    choice by default."""
    overlap: float = 0.2
    """Share of a tile that its neighbor sees too; objects should be smaller than that."""
    stride: int | None = None
    """Of label maps, instead of --overlap: pixels from one tile to the next, the last one pulled back to the border.
    All tiles that see a pixel count alike, as in MMSegmentation's slide mode: --tile 769 --stride 513."""
    side: int | None = None
    """Longer side of every image (or tile) as the network sees it, px: smaller is faster, larger finds smaller
    things. The model's own choice by default."""
    scales: Annotated[tuple[float, ...], tyro.conf.arg(metavar="SHARE ...")] = ()
    """Look at every image at these shares of its usual size: 0.75 1 1.25. Label maps are averaged, objects joined."""
    flip: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Look at the mirror image too, likewise."""
    device: str = "auto"
    """auto, cpu, cuda, cuda:1 or mps."""
    precision: str = "auto"
    """auto, fp32, bf16 or fp16."""
    batch: int | None = None
    """Images per pass of the network; by default 1 on a CPU and 4 on a GPU."""
    overlays: bool = True
    """Write images with the objects drawn in."""
    max_pixels: float = 250e6
    """Refuse images of more pixels (decompression bombs)."""
    channel: Annotated[tuple[int, ...], tyro.conf.arg(metavar="N ...")] = ()
    """Which channels of the files to look at, from 1: one, seen as gray, or three, seen as red, green and blue. TIFFs
    of microscopes often have several; instances.csv then has the mean intensity of each object in all of them."""
    pixel_size: float | None = None
    """Micrometers per pixel: instances.csv then has areas, diameters and perimeters in micrometers too. Read from
    OME-TIFF and ImageJ files if not given."""
    diameter: float | Literal["auto"] | None = None
    """Typical diameter of the objects, px, or with --pixel-size micrometers: images are resized so that the model sees
    objects as large as those that it learnt from. With auto, predict finds it out from the first images."""
    on: str | None = None
    """Predict on a Ray cluster: its address (HOST:PORT, ray://HOST:PORT, auto), or local for several processes of this
    machine. All machines must see the images and --out under the same paths."""
    workers: int | None = None
    """With --on: processes, each with a model of its own; by default one for each CPU core or GPU."""
    overwrite: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Remove earlier results in --out and begin anew."""


def predict(options: PredictOptions) -> int:
    """Run the command; returns the exit status."""
    from rich.console import Console

    from eachmask.data.images.inputs import find_inputs
    from eachmask.inference.load import load
    from eachmask.weights.fetch import cache_dir

    console = Console(stderr=True, highlight=False)
    inputs = find_inputs(
        options.inputs,
        exclude=options.out or RESULTS,
        downloads=cache_dir() / "images",
        channels=options.channel,
        archives=True,
    )
    wishes = batch_options(options)
    model = _chosen(options.model, [source.path for source in inputs.sources], console)
    diameter = 1.0 if options.diameter == "auto" else diameter_of(options)
    check_before_loading(model, wishes, side=options.side, diameter=diameter, scales=options.scales, flip=options.flip)
    predictor = load(model, device=options.device, precision=options.precision, side=options.side)
    predictor = at_scale(predictor, options)
    if options.diameter == "auto":
        predictor = _at_their_scale(predictor, inputs, options, console)
    if options.scales or options.flip:
        predictor = predictor.multi_scale(options.scales or (1.0,), options.flip)
    return predict_all(predictor, inputs, options, console)


def _chosen(model: str, paths: Sequence[Path], console: Console) -> str:
    """The model's name where it is left to the images, the machine or the user."""
    from rich.prompt import Confirm

    from eachmask.files.progress import bar_after_a_while
    from eachmask.inference.auto_model import MICROSCOPY, auto_model
    from eachmask.inference.model_choice import WISHES, Offer, Wish, choose

    if model in WISHES and not Path(model).exists():
        with bar_after_a_while() as progress:
            entry = choose(cast(Wish, model), progress)
        about = f"published mask AP {entry.by_metric()['mask AP']:g}, {entry.size_mb:.0f} MB"
        console.print(f"{model} is {entry.name}: {about}; license: {entry.license}", soft_wrap=True)
        return entry.name
    if model != "auto":
        return model
    model = auto_model(paths)
    offer = Offer(lambda question: Confirm.ask(question, console=console), bar_after_a_while)
    if model != MICROSCOPY and (offer.answer() or (console.is_terminal and sys.stdin.isatty())):
        model = offer.model(model)
    console.print(f"Chosen for these images: {model} (--model takes another).")
    return model


def at_scale(predictor: P, options: PredictOptions) -> P:
    """The predictor, for objects of the size that the options tell, if they do."""
    diameter = diameter_of(options)
    return predictor if diameter is None else predictor.at_diameter(diameter)


def diameter_of(options: PredictOptions) -> float | None:
    """The typical diameter of the objects in px, if the options tell it."""
    if options.diameter is None or options.diameter == "auto":
        return None
    return options.diameter / (options.pixel_size or 1.0)


def _at_their_scale(predictor: P, inputs: Inputs, options: PredictOptions, console: Console) -> P:
    """The predictor, for objects of the size that the first images show; what it comes to is said."""
    from eachmask.data.images.read import read_image, unit_range
    from eachmask.inference.diameter import typical_diameter

    images: list[NDArray[Any]] = []
    for source in inputs.sources:
        if len(images) < MEASURED:
            with suppress(UserError), source.at_hand() as path:  # what cannot be read is told when its turn comes
                most = int(min(options.max_pixels, sys.maxsize))
                image = read_image(path, page=source.page, max_pixels=most, channels=options.channel)
                images.append(unit_range(image))
    diameter = typical_diameter(predictor, images)
    if diameter is None:
        console.print("The first images do not tell how large objects are: they are looked at as they are.")
        return predictor
    console.print(f"Objects are taken to be {diameter:.3g} px across (--diameter takes another size).")
    return predictor.at_diameter(diameter)


def predict_all(predictor: Predictor[Any], inputs: Inputs, options: PredictOptions, console: Console) -> int:
    """Predict with a progress bar and say what it came to; returns the exit status."""
    from eachmask.batch.cluster import Cluster
    from eachmask.batch.run import run
    from eachmask.cli.warning_notes import warnings_as_notes

    wishes = batch_options(options)
    if not getattr(predictor, "finds_everything", True) and not hasattr(predictor, "prompts"):
        name = predictor.info.name or predictor.info.variant
        raise UserError(f"{name} answers prompts alone: eachmask segment with --point, --scribble or --box asks it")
    cluster = None if options.on is None else Cluster(options.on, options.workers)
    out = options.out or _free_results(predictor, inputs, options, console)
    with warnings_as_notes(console), _progress(console, len(inputs.sources)) as (listener, on_tile):
        heard: dict[str, Any] = {"listener": listener, "on_tile": on_tile}
        summary = run(predictor, inputs, out, wishes, overwrite=options.overwrite, cluster=cluster, **heard)
    _say(summary, out, predictor.task.outputs.noun)
    return 1 if summary.failed else 0


def _free_results(predictor: Predictor[Any], inputs: Inputs, options: PredictOptions, console: Console) -> Path:
    """The results folder of a command that names none; said where it is not the usual one."""
    from eachmask.batch.folder import free_folder

    out = RESULTS if options.overwrite else free_folder(RESULTS, predictor, inputs, batch_options(options))
    if out != RESULTS:
        console.print(f"{RESULTS} holds the results of another command: these are in {out} (--out takes another).")
    return out


def batch_options(options: PredictOptions) -> BatchOptions:
    """What the options mean for a run over many images.

    Raises:
        UserError: an option that makes no sense.
    """
    from eachmask.batch.options import BatchOptions
    from eachmask.inference.arguments import check_tiles
    from eachmask.structures import DecodeOptions

    check_tiles(options.tile, options.overlap)
    if options.batch is not None and options.batch < 1:
        raise UserError(f"a batch needs at least one image, not {options.batch}")
    if not options.max_pixels >= 1:
        raise UserError(f"--max-pixels must be at least 1, not {options.max_pixels:g}")
    if len(options.channel) not in (0, 1, 3) or any(number < 1 for number in options.channel):
        raise UserError("--channel takes one number from 1, or three for red, green and blue")
    if options.pixel_size is not None and not 0 < options.pixel_size < float("inf"):
        raise UserError(f"--pixel-size must be above 0, not {options.pixel_size:g}")
    if options.diameter is not None and options.side is not None:
        raise UserError("--diameter and --side both say how large the model sees things: give one of them")
    if options.workers is not None and (options.on is None or options.workers < 1):
        raise UserError("--workers is the number of processes, at least 1, of --on local or a cluster: give both")
    return BatchOptions(
        decode=DecodeOptions(
            score_threshold=options.score,
            max_detections=options.max_detections,
            paste=options.paste,
            suppression=options.nms,
        ),
        classes=tuple(name.strip() for word in options.classes for name in word.split(",") if name.strip()),
        tile=options.tile,
        overlap=options.overlap,
        stride=options.stride,
        batch=options.batch,
        overlays=options.overlays,
        channels=options.channel,
        pixel_size=options.pixel_size,
        max_pixels=int(min(options.max_pixels, sys.maxsize)),
        save=tuple(kind for word in options.save for kind in word.split(",") if kind),
    )


@contextmanager
def _progress(console: Console, total: int) -> Iterator[tuple[Listener, TileListener]]:
    """A bar with the time left, and one for the tiles of a large image; failures are said above them as they come."""
    from eachmask.batch.run import Outcome
    from eachmask.files.progress import bars

    with bars(console) as progress:
        bar = progress.add_task("predicting", total=total)
        tiles = progress.add_task("its tiles", visible=False)
        failed = 0

        def on_tile(done: int, total: int) -> None:
            progress.update(tiles, completed=done, total=total, visible=done < total)

        def listener(outcome: Outcome) -> None:
            nonlocal failed
            if outcome.problem:
                failed += 1
                if failed <= _NAMED_FAILURES:
                    console.print(printable(outcome.problem), markup=False, soft_wrap=True)
                elif failed == _NAMED_FAILURES + 1:
                    console.print("... further failures are listed in summary.json")
            progress.advance(bar)

        yield listener, on_tile


def _say(summary: Summary, out: Path, noun: str) -> None:
    parts = [f"{summary.done:,} of {counted(summary.images, 'image')} done", counted(summary.number_of(noun), noun)]
    if summary.failed:
        parts.append(f"{summary.failed:,} failed (reasons in {out / 'summary.json'})")
    if summary.hidden_in_label_maps:
        parts.append(f"{summary.hidden_in_label_maps:,} of them hidden behind others in the label maps")
    if summary.skipped:
        parts.append(f"{counted(summary.skipped, 'other file')} skipped")
    if summary.animations:
        parts.append(f"{counted(summary.animations, 'animation')}: the first frame alone (eachmask track reads all)")
    say("; ".join(parts) + ".", error=True)
    say(out / "report.html")
