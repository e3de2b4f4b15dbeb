"""Images in tars, Parquet and buckets: predicted as files are, once each, also by workers."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from tiny_model import Spots, png, spots_info, tar_of

from eachmask.batch import run as run_module
from eachmask.batch.cluster import Cluster, Done, Worker
from eachmask.batch.options import BatchOptions
from eachmask.batch.run import run
from eachmask.cli import main
from eachmask.data.images.inputs import find_inputs
from eachmask.inference.predictor import Predictor
from eachmask.structures import UserError

OPTIONS = BatchOptions(save=("labels",), overlays=False)


@pytest.fixture
def predictor() -> Predictor:
    return Predictor(Spots(), spots_info(), device="cpu", precision="fp32")


SHARD = {"a.png": png(0), "a.cls": b"1", "../b.png": png(1), "c.png": b"\x89PNG\r\n\x1a\n and nothing else"}


def labels(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.rglob("labels/**/*.png")}


def test_a_tar_is_predicted_as_its_files_are(predictor: Predictor, tmp_path: Path) -> None:
    (tmp_path / "shard.tar").write_bytes(tar_of(SHARD))
    (tmp_path / "files").mkdir()
    for name in ("a.png", "b.png"):
        (tmp_path / "files" / name).write_bytes(png("ab".index(name[0])))
    found = find_inputs([tmp_path / "shard.tar"], archives=True)
    assert [source.name for source in found.sources] == ["shard.tar/a.png", "shard.tar/b.png", "shard.tar/c.png"]
    summary = run(predictor, found, tmp_path / "one", OPTIONS)
    assert (summary.done, summary.failed) == (2, 1) and "shard.tar/c.png" in summary.failures[0].reason
    run(predictor, find_inputs([tmp_path / "files"]), tmp_path / "two", OPTIONS)
    assert labels(tmp_path / "one") == labels(tmp_path / "two") and len(labels(tmp_path / "one")) == 2


def test_the_command_looks_into_tars(tmp_path: Path) -> None:
    (tmp_path / "shard.tar").write_bytes(tar_of({"a.png": png(0)}))
    arguments = ["predict", str(tmp_path / "shard.tar"), "--model", "nuclei", "--device", "cpu"]
    assert main([*arguments, "--out", str(tmp_path / "out")]) == 0
    assert (tmp_path / "out/overlays/shard.tar/a.jpg").is_file()


def test_what_is_done_is_not_read_again(predictor: Predictor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "shard.tar").write_bytes(tar_of({"a.png": png(0), "b.png": png(1)}))
    for _ in range(2):
        summary = run(predictor, find_inputs([tmp_path / "shard.tar"], archives=True), tmp_path / "out", OPTIONS)
        assert (summary.done, summary.failed) == (2, 0)
        monkeypatch.setattr(Predictor, "predict_arrays", None)


def test_a_bucket_and_its_tars_by_workers(
    predictor: Predictor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fsspec = pytest.importorskip("fsspec")
    bucket = fsspec.filesystem("memory")
    bucket.pipe("/plates/one/x.png", png(2))
    bucket.pipe("/plates/shard.tar", tar_of({"a.png": png(0)}))
    bucket.pipe("/plates/notes.txt", b"no image")

    def here(predictor: Predictor, shards: list, options: BatchOptions, cluster: Cluster) -> Iterator[Done]:
        for shard in shards:
            yield Done(shard, Worker(predictor, options).work(shard))

    monkeypatch.setattr(run_module, "predict_shards", here)
    found = find_inputs(["memory://plates"], archives=True)
    assert [source.name for source in found.sources] == ["one/x.png", "shard.tar/a.png"]
    summary = run(predictor, found, tmp_path / "out", OPTIONS, cluster=Cluster(shard_size=1))
    assert (summary.done, summary.failed) == (2, 0) and len(labels(tmp_path / "out")) == 2
    with pytest.raises(UserError, match="memory://absent"):
        find_inputs(["memory://absent"], archives=True)
    bucket.rm("/plates", recursive=True)


def test_rows_of_parquet(predictor: Predictor, tmp_path: Path) -> None:
    pyarrow = pytest.importorskip("pyarrow", reason="the extra parquet is not installed")
    from pyarrow import parquet

    rows = [{"image": {"bytes": png(i), "path": f"{i}.png"}, "label": i} for i in range(3)]
    parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / "a.parquet", row_group_size=2)
    plain = [{"id": i, "jpg": png(i)} for i in range(2)]
    parquet.write_table(pyarrow.Table.from_pylist(plain), tmp_path / "b.parquet")
    found = find_inputs([tmp_path / "a.parquet", tmp_path / "b.parquet"], archives=True)
    assert found.sources[0].name == "a.parquet/00000000-0.png" and len(found.sources) == 5
    assert run(predictor, found, tmp_path / "out", OPTIONS).done == 5
