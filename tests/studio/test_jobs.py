"""Jobs outlive the studio: finished ones keep their results, interrupted ones are stopped and resumed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("fastapi", reason="the extra `studio` is not installed")

import eachmask  # noqa: E402
from eachmask.data.reading import read_any  # noqa: E402
from eachmask.structures import Instances  # noqa: E402
from eachmask.studio.app import Studio  # noqa: E402
from eachmask.studio.jobs import Job, Jobs, Lines, curve_of  # noqa: E402
from eachmask.studio.orders import Orders  # noqa: E402
from eachmask.studio.project import Project  # noqa: E402
from eachmask.studio.rows import project_out  # noqa: E402
from eachmask.studio.schemas import Action, JobIn  # noqa: E402

PATIENCE = 60.0


def until(true: Callable[[], Any]) -> None:
    end = time.monotonic() + PATIENCE
    while not true():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.05)


class MadePlan:
    """Jobs that run ``eachmask`` with these arguments."""

    def __init__(self, root: Path, *arguments: str) -> None:
        self.root, self.own, self.finished = root, list(arguments), 0

    def job(self, order: JobIn) -> Job:
        return Job(order, self.root / "train-1", 10)

    def prepare(self, job: Job) -> None: ...

    def arguments(self, job: Job) -> list[str]:
        return self.own

    def progress(self, job: Job) -> Callable[[], float]:
        return lambda: 0.5

    def finish(self, job: Job) -> dict[str, Any]:
        self.finished += 1
        return {"model": str(job.run)}


def test_a_finished_job_is_there_after_a_restart_and_its_model_too(tmp_path: Path) -> None:
    photos = tmp_path / "photos"
    photos.mkdir()
    Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(photos / "a.png")
    project = Project(photos)
    root = project.hidden / "jobs"
    jobs = Jobs(MadePlan(root, "--version"), root)
    jobs.start(JobIn(kind="train"))
    until(lambda: jobs.get("train-1").state == "done" and (root / "train-1" / "job.json").is_file())
    until(lambda: b'"done"' in (root / "train-1" / "job.json").read_bytes())
    (root / "torn").mkdir()
    (root / "torn" / "job.json").write_text('{"order": ')
    studio = Studio(project)
    (job,) = studio.jobs.jobs.values()
    assert (job.id, job.state, job.share, job.result) == ("train-1", "done", 1.0, {"model": str(job.run)})
    assert str(job.run) in [model.name for model in project_out(studio).models]
    with pytest.raises(eachmask.UserError, match="nothing to resume"):
        studio.jobs.resume("train-1")
    project.journal.close()


@contextmanager
def server_of_a_long_job(folder: Path) -> Iterator[tuple[subprocess.Popen[str], int]]:
    """A process that has begun a job that never ends by itself, and the number of the job's own process."""
    (folder / "photos").mkdir()
    Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(folder / "photos" / "a.png")
    code = f"""
import sys, time
sys.path.insert(0, {str(Path(__file__).parents[1])!r})
from pathlib import Path
from studio.test_jobs import MadePlan
from eachmask.studio.jobs import Jobs
from eachmask.studio.schemas import JobIn
root = Path({str(folder)!r}) / "jobs"
job = Jobs(MadePlan(root, "studio", {str(folder / "photos")!r}, "--port", "0", "--no-browser"), root)
job.start(JobIn(kind="train"))
while not (started := next(iter(job.jobs.values()))).process:
    time.sleep(0.01)
print(started.process.pid, flush=True)
time.sleep(600)
"""
    environment = os.environ | {"PYTHONPATH": str(Path(eachmask.__file__).parents[1])}
    server = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, env=environment)
    try:
        assert server.stdout is not None
        yield server, int(server.stdout.readline())
    finally:
        server.kill()
        server.wait()


@pytest.mark.skipif(os.name != "posix", reason="processes are looked for as POSIX has them")
def test_kill_9_of_the_studio_ends_its_job_which_is_then_resumed(tmp_path: Path) -> None:
    with server_of_a_long_job(tmp_path) as (server, child):
        log = tmp_path / "jobs" / "train-1" / "log.txt"
        until(lambda: log.is_file() and b"opens once" in log.read_bytes())
        server.send_signal(signal.SIGKILL)
        server.wait()
        until(lambda: not alive(child))
    plan = MadePlan(tmp_path / "jobs", "--version")
    jobs = Jobs(plan, tmp_path / "jobs")
    job = jobs.get("train-1")
    assert job.state == "stopped" and "what is done is kept" in job.message and job.total == 10
    jobs.resume("train-1")
    assert job.watcher is not None
    job.watcher.join(PATIENCE)
    assert job.state == "done" and plan.finished == 1


def test_closing_waits_until_it_is_written_down_how_a_job_ended(tmp_path: Path) -> None:
    jobs = Jobs(MadePlan(tmp_path, "--version"), tmp_path)
    job = jobs.start(JobIn(kind="train"))
    jobs.close()
    assert job.watcher is not None and not job.watcher.is_alive()
    assert f'"state":"{job.state}"' in (job.folder / "job.json").read_text() and job.state != "running"


def alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    status = Path(f"/proc/{process}/stat")  # nobody may have waited for it: then it is a zombie
    return not (status.is_file() and status.read_text().rpartition(")")[2].split()[0] == "Z")


def test_what_is_left_is_told_by_what_was_done_since_it_went_on(tmp_path: Path) -> None:
    job = Job(JobIn(kind="train"), tmp_path / "train-1", 10, share=0.5, before=0.5)
    job.began -= 30
    assert job.out().eta_s is None, "nothing was done since"
    job.share = 0.75
    assert job.out().eta_s == pytest.approx(30, rel=0.1)


def test_a_model_learns_the_chosen_classes_alone(tmp_path: Path) -> None:
    photos = tmp_path / "photos"
    photos.mkdir()
    for name in "ab":
        Image.fromarray(np.zeros((40, 40, 3), np.uint8)).save(photos / f"{name}.png")
    project = Project(photos)
    project.add_category("coin")
    kinds = [category.id for category in project.categories]
    for index in range(2):
        for step, kind in enumerate(kinds):
            ring = [5.0 * step, 5, 5 * step + 4, 5, 5 * step + 4, 9, 5 * step, 9]
            project.act(index, step, Action(kind="add", category=kind, rings=[ring]))
    job = Orders(project, tmp_path / "jobs").job(JobIn(kind="train", categories=kinds[1:]))
    data, _ = read_any(job.folder / "data", None, target=Instances)
    assert [category.name for category in data.categories] == ["coin"]
    assert [image.targets.label_names for _, image in data.images()] == [["coin"]] * 2
    project.journal.close()


def test_the_newest_drawings_of_a_run_are_shown(tmp_path: Path) -> None:
    job = Job(JobIn(kind="train"), tmp_path / "train-1", 10)
    assert job.out().samples == []
    for step in ("step-0000005", "step-0000010"):
        (job.run / "samples" / step).mkdir(parents=True)
        (job.run / "samples" / step / "0-a.jpg").touch()
    assert job.out().samples == ["step-0000010/0-a.jpg"]


def test_lines_of_a_growing_file_are_counted(tmp_path: Path) -> None:
    lines = Lines(tmp_path / "records.jsonl")
    assert lines.count() == 0
    for content, expected in ((b"a\nb", 1), (b"a\nb\nc\n", 3), (b"z\n", 1)):
        lines.path.write_bytes(content)
        assert lines.count() == expected


def test_the_curve_is_the_sum_of_the_losses(tmp_path: Path) -> None:
    (tmp_path / "log.csv").write_text("step,class,mask,ap,ap50\n5,1.0,0.5,0.9,0.9\n10,0.5,0.25,0.9,0.9\n")
    assert curve_of(tmp_path / "log.csv") == [(5, 1.5), (10, 0.75)]
    assert curve_of(tmp_path / "none.csv") == []
