"""Results of videos against their targets, as one section of a report."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from eachmask.evaluation.interactive import SectionEvaluation
from eachmask.evaluation.tracks import Clip, TracksRead, clips_in, followed_scores, scores_of_tracks
from eachmask.files.sections import Section, Table, number_text, values_table
from eachmask.metrics import davis

COLUMNS = {
    "tracks": ("hota", "idf1", "motsa", "ap", "J&F-Mean"),
    "marked": ("J&F-Mean", "J-Mean", "J-Recall", "J-Decay", "F-Mean"),
}
"""Of the table of clips."""
TITLES = {"tracks": "Tracks", "marked": "Objects marked in the first frame"}


def evaluate_videos(
    predictions: str | Path, data: str | Path, kind: Literal["tracks", "marked"], out: str | Path | None = None
) -> SectionEvaluation:
    """Measure label maps of videos.

    Args:
        predictions, data: folders of label maps, one PNG per frame, or of such folders, one per clip.
        kind: ``tracks``: nobody said what is meant (HOTA, IDF1, MOTSA, AP, and J and F of DAVIS's unsupervised task);
            ``marked``: the objects of the first frame, by their numbers (J and F of the semi-supervised task).
        out: folder that gets report.html and evaluation.json; None writes nothing.

    Raises:
        UserError: there are no label maps, or they do not fit.
    """
    clips = clips_in(Path(predictions), Path(data))
    values, each = _tracks(clips) if kind == "tracks" else _followed(clips)
    rows = [[clip.name, *(number_text(own.get(name)) for name in COLUMNS[kind])]
            for clip, own in zip(clips, each, strict=True)] if len(clips) > 1 else []  # fmt: skip
    tables = [values_table(values)] + ([Table(["Clip", *COLUMNS[kind]], rows)] if rows else [])
    found = SectionEvaluation(Path(predictions).name, Path(data).name, Section(kind, TITLES[kind], values, tables))
    if out is not None:
        found.save(Path(out))
    return found


def _tracks(clips: Sequence[Clip]) -> tuple[dict[str, float], list[dict[str, float]]]:
    """Of all clips together, and of each."""
    read = [TracksRead.of(clip) for clip in clips]
    return scores_of_tracks(read), [scores_of_tracks([one]) for one in read]


def _followed(clips: Sequence[Clip]) -> tuple[dict[str, float], list[dict[str, float]]]:
    read = [followed_scores(clip) for clip in clips]
    return davis.summary(read), [davis.summary([one]) if len(one.j) else {} for one in read]
