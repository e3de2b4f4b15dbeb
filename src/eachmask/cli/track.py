"""``eachmask track``: the objects of a video, each with one number throughout."""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path
from typing import Annotated

import tyro

from eachmask.cli.before_loading import check_before_loading
from eachmask.files.text import counted, say
from eachmask.structures.errors import UserError

_OF_FIRST = ("video", "model", "out", "first", "targets", "save", "frames", "device", "precision", "overwrite")
"""Options that have a meaning beside --first."""


@dataclass(frozen=True)
class TrackOptions:
    """Follow the objects of a video: any model that finds objects with masks, frame by frame, and a tracker.

    The results folder gets tracks.csv (a row per object and frame), tracks.json (YouTube-VIS, masks as RLE) and what
    --save names. Started again after an interruption, the same command predicts only the frames that are missing.
    With --targets it is measured: HOTA, IDF1, MOTSA, J and F, AP.

    With --first, a label map of the first frame, it is these objects that are followed, by a memory network: the
    bundled `memory`, or XMem or SAM 2.1 with their authors' weights, fetched once; or by `osvos`, a network for still
    images that first learns what is marked, for a minute or so. The folder also gets davis/, and --targets measures J
    and F. Options about finding and tracking (--score to --classes, --tile) are refused beside it.

    A camera (webcam:0) is followed until Ctrl + C, or for --frames; the results are written then.

    Examples:
      eachmask track street.mp4 --model mask_rcnn_r50_fpn --out street
      eachmask track street.mp4 --classes person car --save overlay davis --out street
      eachmask track frames/ --model nuclei --score 0.6 --gap 5 --out cells
      eachmask track clips/bear --moving --targets masks/bear --out bear
      eachmask track clips/bear --first masks/bear/00000.png --out bear
      eachmask track clips/bear --first masks/bear/00000.png --model xmem --out bear
      eachmask track clips/bear --first masks/bear/00000.png --model sam2_hiera_t --out bear
      eachmask track clips/bear --first masks/bear/00000.png --model osvos --save overlay --out bear
      eachmask track webcam:0 --smooth --save overlay --out camera
    """

    video: Annotated[str, tyro.conf.Positional]
    """Video file (mp4, mov, webm, mkv, avi: pip install 'eachmask[video]'), animated GIF, WebP or PNG, TIFF with pages,
    folder or 'pattern*' of images in the order of their names, or a camera: webcam:0 (or 0), webcam:/dev/video2."""
    model: str | None = None
    """Name of a model (`eachmask models` lists them), a .safetensors file or a run's folder; by default `objects`, and
    with --first `memory`."""
    out: Path = Path("tracks")
    """Results folder; made if missing."""
    score: float | None = None
    """From this score on an object begins a track. The model's own threshold by default."""
    low: float | None = None
    """Objects of lower scores are not even used to go on with a track that is there; by default 0.1, or --score where
    that is lower."""
    iou: float = 0.2
    """Least overlap with where a track is expected, 0 to 1."""
    gap: int = 30
    """Frames that an object may be out of sight."""
    looks: float = 0.8
    """Least agreement of colors and of the model's own features, 0 to 1, of what comes back in another place; above 1:
    nothing does."""
    min_frames: int = 2
    """Tracks of fewer frames are left out."""
    moving: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Follow only what moves by itself: an object's score falls with how little optical flow it shows beyond that of
    the camera (DAVIS's unsupervised task)."""
    smooth: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Without flicker: gaps of up to three frames are filled, and each mask is what most of three frames say."""
    frames: int | None = None
    """Stop after so many frames."""
    classes: Annotated[tuple[str, ...], tyro.conf.arg(metavar="NAME ...")] = ()
    """Follow only these classes, by name."""
    save: Annotated[tuple[str, ...], tyro.conf.arg(metavar="KIND ...")] = ()
    """Also: davis (a PNG of numbers per frame), mots (MOTS text), overlay (mp4 with the objects drawn in)."""
    first: Path | None = None
    """Label map of the first frame, a PNG with the numbers of the objects to follow; --model remembers:
    `memory`, a run of `eachmask train memory`, `xmem`, `sam2_hiera_t` and its kin, or a checkpoint of these."""
    targets: Annotated[Path | None, tyro.conf.arg(aliases=["--truth"])] = None
    """Folder of label maps, one PNG per frame with the numbers of the objects, to measure by."""
    tile: int | None = None
    """As of `eachmask predict`."""
    device: str = "auto"
    """auto, cpu, cuda, cuda:1 or mps."""
    precision: str = "auto"
    """auto, fp32, bf16 or fp16."""
    overwrite: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Remove earlier results in --out and begin anew."""


def track(options: TrackOptions) -> int:
    """Run the command; returns the exit status."""
    from rich.console import Console

    from eachmask.batch.footage import Footage
    from eachmask.batch.options import BatchOptions
    from eachmask.batch.track import TrackOptions as Wishes
    from eachmask.batch.track import check_wishes
    from eachmask.batch.track import track as run
    from eachmask.batch.track_files import DAVIS, TABLE
    from eachmask.evaluation.tracks import clips_in, measure_tracks
    from eachmask.files.progress import bars
    from eachmask.inference.load import load
    from eachmask.ops.tracking import TrackerConfig

    if not 0 <= options.iou <= 1 or options.gap < 0 or options.min_frames < 1:
        raise UserError("--iou must be from 0 to 1, --gap not below 0, and --min-frames not below 1")
    if options.targets is not None and not options.targets.is_dir():
        raise UserError(f"{options.targets} is no folder of label maps")
    if options.frames is not None and options.frames < 1:
        raise UserError("--frames must be at least 1")
    if not options.video:
        raise UserError("name a video: a file, a folder or a pattern of images")
    if options.first is not None:
        return _follow(options, options.first)
    save = tuple(dict.fromkeys((*options.save, *(("davis",) if options.targets else ()))))
    check_wishes(save, options.low or 0.0, 1.0 if options.score is None else options.score)
    check_before_loading(options.model or "objects", BatchOptions(classes=options.classes, tile=options.tile))
    Footage(options.video, options.out).first(options.overwrite)
    predictor = load(options.model or "objects", device=options.device, precision=options.precision)
    own = predictor.decode_options().score_threshold
    sure = options.score if options.score is not None else 0.5 if own is None else own
    wishes = Wishes(
        BatchOptions(classes=options.classes, tile=options.tile),
        min(0.1, sure) if options.low is None else options.low,
        TrackerConfig(sure, options.iou, options.gap, options.looks),
        options.min_frames,
        options.moving,
        options.smooth,
        options.frames,
        save,
    )
    with bars(Console(stderr=True, highlight=False)) as progress:
        bar = progress.add_task("frames", total=None)
        done = run(
            predictor, options.video, options.out, wishes, overwrite=options.overwrite,
            on_frame=lambda: progress.advance(bar),
        )  # fmt: skip
    say(f"{counted(len(done.tracks), 'track')} in {counted(done.frames, 'frame')}.", error=True)
    if options.targets is not None:
        scores = {number: one.score for number, one in done.tracks.items()}
        for name, value in measure_tracks(clips_in(options.out / DAVIS, options.targets), scores).items():
            say(f"{name:<14}{value:.4g}")
    say(options.out / TABLE)
    return 0


def _follow(options: TrackOptions, first: Path) -> int:
    """What is marked in the first frame.

    Raises:
        UserError: among others, options that only say how objects are found and tracks are made.
    """
    from rich.console import Console

    from eachmask.batch.follow import check_first, follow_video
    from eachmask.batch.footage import Footage
    from eachmask.batch.track_files import known_kinds
    from eachmask.evaluation.tracks import clips_in, measure_followed
    from eachmask.files.progress import bars
    from eachmask.inference.following import load_follower

    without_use = [
        f"--{field.name.replace('_', '-')}"
        for field in fields(options)
        if field.name not in _OF_FIRST and getattr(options, field.name) != field.default
    ]
    if without_use:
        raise UserError(
            f"with --first all objects of that map are followed: {', '.join(without_use)} would change nothing, leave "
            "it out"
        )
    known_kinds(options.save)
    if not first.is_file():
        raise UserError(f"there is no label map {first}: --first is a PNG with the numbers of the objects to follow")
    check_first(first, Footage(options.video, options.out).first(options.overwrite))
    predictor = load_follower(options.model or "memory", options.device, options.precision)
    with bars(Console(stderr=True, highlight=False)) as progress:
        bar = progress.add_task("frames", total=None)
        folder, number = follow_video(
            predictor, options.video, first, options.out, save=options.save, most=options.frames,
            overwrite=options.overwrite, on_frame=lambda: progress.advance(bar),
        )  # fmt: skip
    say(f"{counted(number, 'frame')} done.", error=True)
    if options.targets is not None:
        for name, value in measure_followed(clips_in(folder, options.targets)).items():
            say(f"{name:<14}{value:.4g}")
    say(folder)
    return 0
