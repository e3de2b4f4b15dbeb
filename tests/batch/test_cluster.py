"""Shards that workers predict, gathered into one results folder. Most tests do the workers' work in this process."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from PIL import Image
from tiny_model import Spots, spots_image, spots_info

from eachmask.batch import cluster as cluster_module
from eachmask.batch import run as run_module
from eachmask.batch.cluster import Cluster, Done, Shard, Worker
from eachmask.batch.options import BatchOptions
from eachmask.batch.run import Outcome, run
from eachmask.cli import main
from eachmask.data.images.inputs import find_inputs
from eachmask.inference.predictor import Predictor
from eachmask.structures import UserError

OPTIONS = BatchOptions(save=("labels", "crops", "csv"), batch=2)
CLUSTER = Cluster(shard_size=3)


@pytest.fixture
def predictor() -> Predictor:
    return Predictor(Spots(), spots_info(), device="cpu", precision="fp32")


@pytest.fixture
def images(tmp_path: Path) -> Path:
    folder = tmp_path / "in"
    (folder / "sub").mkdir(parents=True)
    for i in range(9):
        Image.fromarray(spots_image(i, 60 + 8 * (i % 2), 90)).save(folder / f"{'sub/' if i > 4 else ''}p{i % 5}.png")
    (folder / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n and nothing else")
    return folder


def made(folder: Path) -> dict[str, bytes]:
    files = [path for path in sorted(folder.rglob("*")) if path.is_file()]
    return {str(p.relative_to(folder)): p.read_bytes() for p in files if ".journal" not in p.parts}


def here(predictor: Predictor, shards: list, options: BatchOptions, cluster: Cluster) -> Iterator[Done]:
    """As workers do it, the last shard first."""
    worker = Worker(predictor, options)
    for shard in reversed(shards):
        yield Done(shard, worker.work(shard))


def test_files_are_those_of_one_process(
    predictor: Predictor, images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run_module, "predict_shards", here)
    inputs = find_inputs([images])
    expected = run(predictor, inputs, tmp_path / "one", OPTIONS)
    heard: list[Outcome] = []
    found = run(predictor, inputs, tmp_path / "many", OPTIONS, cluster=CLUSTER, listener=heard.append)
    assert found == expected and found.failed == 1 and found.done == 9
    assert made(tmp_path / "many") == made(tmp_path / "one")
    assert sorted(outcome.source.name for outcome in heard) == sorted(source.name for source in inputs.sources)
    assert not (tmp_path / "many/.journal/shards").exists()


def test_a_stopped_run_resumes_without_predicting_twice(
    predictor: Predictor, images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    inputs, before, after = find_inputs([images]), [], []

    def stops(predictor: Predictor, shards: list, options: BatchOptions, cluster: Cluster) -> Iterator[Done]:
        before.extend(shards)
        yield next(here(predictor, shards, options, cluster))
        Worker(predictor, options).work(shards[1])  # done, and not gathered any more
        raise KeyboardInterrupt

    monkeypatch.setattr(run_module, "predict_shards", stops)
    with pytest.raises(KeyboardInterrupt):
        run(predictor, inputs, tmp_path / "many", OPTIONS, cluster=CLUSTER)

    def resumes(predictor: Predictor, shards: list, options: BatchOptions, cluster: Cluster) -> Iterator[Done]:
        after.extend(shards)
        with monkeypatch.context() as patched:
            patched.setattr(Predictor, "predict_arrays", counted(predicted := [], Predictor.predict_arrays))
            yield Done(shards[1], Worker(predictor, options).work(shards[1]))
        assert predicted == [], "the images of a finished shard are not predicted again"
        yield from here(predictor, shards[:1], options, cluster)

    monkeypatch.setattr(run_module, "predict_shards", resumes)
    run(predictor, inputs, tmp_path / "many", OPTIONS, cluster=CLUSTER)
    assert len(before) == 3 and after == before[:-1]
    run(predictor, inputs, tmp_path / "one", OPTIONS)
    assert made(tmp_path / "many") == made(tmp_path / "one")


def counted(calls: list, function: object) -> object:
    def counting(self: Predictor, arrays: list, **wishes: object) -> object:
        calls.extend(arrays)
        return function(self, arrays, **wishes)  # type: ignore[operator]

    return counting


def test_of_a_lost_shard_what_was_done_counts(
    predictor: Predictor, images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def loses(predictor: Predictor, shards: list, options: BatchOptions, cluster: Cluster) -> Iterator[Done]:
        lost, *others = shards
        part = type(lost)(lost.sources[:2], lost.out)
        Worker(predictor, options).work(part)
        yield Done(lost, {source.name: f"{source.name} was lost" for source in lost.sources})
        yield from here(predictor, others, options, cluster)

    monkeypatch.setattr(run_module, "predict_shards", loses)
    found = run(predictor, find_inputs([images]), tmp_path / "many", OPTIONS, cluster=CLUSTER)
    assert found.done == 7 and found.failed == 3
    assert all(failure.reason == f"{failure.file} was lost" for failure in found.failures)


def test_without_ray_it_says_what_to_install(
    images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    arguments = ["predict", str(images), "--model", "objects", "--out", str(tmp_path / "out")]
    assert main([*arguments, "--on", "local"]) == 2
    assert "pip install 'eachmask[ray]'" in capsys.readouterr().err
    assert main([*arguments, "--workers", "2"]) == 2
    assert "--on" in capsys.readouterr().err


class FakeRay(SimpleNamespace):
    """One worker, each of whose answers is an exception to raise, or None for the work itself."""

    def __init__(self, answers: list[Exception | None], worker: Worker) -> None:
        error = type("RayError", (Exception,), {})
        names = {"RayError": error} | {
            name: type(name, (error,), {}) for name in ("RayTaskError", "ActorUnavailableError", "ActorDiedError")
        }
        asked = iter(answers)

        def work(shard: Shard) -> dict[str, str] | Exception:
            name = next(asked)
            if name in (None, "killed"):
                found = worker.work(shard)
            return found if name is None else names["ActorUnavailableError" if name == "killed" else name]()

        handle = SimpleNamespace(work=SimpleNamespace(remote=lambda shard: Box(work(shard))))
        super().__init__(
            exceptions=SimpleNamespace(**names),
            put=lambda value: value,
            wait=lambda boxes: ([boxes[0]], boxes[1:]),
            get=lambda box: box.get(),
            kill=lambda worker: None,
            remote=lambda **_: lambda _: SimpleNamespace(remote=lambda *_: handle),
        )


class Box:
    def __init__(self, value: Any) -> None:
        self.value = value

    def get(self) -> Any:
        if isinstance(self.value, Exception):
            raise self.value
        return self.value


@pytest.mark.parametrize(
    ("answers", "lost"),
    [
        (["ActorUnavailableError"] * 20 + [None], 0),  # its machine is silent, no more
        (["killed"] * 3 + [None], 0),
        (["killed"] * 4, 1),  # what they had done counts; the broken image is left
        (["ActorDiedError"] * 4, 10),
    ],
)
def test_a_machine_that_does_not_answer_is_no_lost_worker(
    predictor: Predictor, images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, answers: list, lost: int
) -> None:
    """Ray says for half a minute that a worker is unavailable before it knows that its machine is gone."""
    monkeypatch.setattr(cluster_module, "PAUSE", 0)
    monkeypatch.setattr(cluster_module, "connected", lambda _: FakeRay(answers, Worker(predictor, OPTIONS)))
    cluster = Cluster(workers=1, shard_size=100)
    found = run(predictor, find_inputs([images]), tmp_path / "many", OPTIONS, cluster=cluster)
    assert (found.done, found.failed) == (0, 10) if lost == 10 else (9, 1)
    assert sum("4 workers were lost" in failure.reason for failure in found.failures) == lost


@pytest.mark.slow
def test_nodes_may_be_lost(predictor: Predictor, images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two nodes, of which one is removed while it works: the results are those of one process."""
    ray = pytest.importorskip("ray", reason="needs the extra eachmask[ray]")
    from ray.cluster_utils import Cluster as Nodes

    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(sys.path))
    for i in range(60):
        Image.fromarray(spots_image(i + 100)).save(images / f"more{i}.png")
    inputs = find_inputs([images])
    nodes = Nodes(initialize_head=True, head_node_args={"num_cpus": 1})
    other = nodes.add_node(num_cpus=1)
    heard: list[Outcome] = []

    def listener(outcome: Outcome) -> None:
        heard.append(outcome)
        if len(heard) == 10:
            nodes.remove_node(other, allow_graceful=False)

    try:
        cluster = Cluster(nodes.address, shard_size=5)
        found = run(predictor, inputs, tmp_path / "many", OPTIONS, cluster=cluster, listener=listener)
    finally:
        ray.shutdown()
        nodes.shutdown()
    assert found == run(predictor, inputs, tmp_path / "one", OPTIONS) and found.done == 69
    assert made(tmp_path / "many") == made(tmp_path / "one")


def test_a_cluster_that_does_not_answer_is_a_sentence(predictor: Predictor, images: Path, tmp_path: Path) -> None:
    pytest.importorskip("ray", reason="needs the extra eachmask[ray]")
    with pytest.raises(UserError, match=r"no Ray cluster at 127\.0\.0\.1:1"):
        run(predictor, find_inputs([images]), tmp_path / "out", OPTIONS, cluster=Cluster("127.0.0.1:1"))
