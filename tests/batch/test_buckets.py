"""Images in a bucket, over the protocol of S3: moto's server on loopback answers as the service does."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tiny_model import png, tar_of

from eachmask.cli import main
from eachmask.data.images.inputs import find_inputs
from eachmask.structures import UserError

MISSING = "needs s3fs and moto: pip install --group buckets"
s3fs = pytest.importorskip("s3fs", reason=MISSING)
server = pytest.importorskip("moto.server", reason=MISSING)

SECRETS = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY")


@pytest.fixture
def bucket(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Any]:
    service = server.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    service.start()
    host, port = service.get_host_and_port()
    for name, value in {
        "AWS_ENDPOINT_URL": f"http://{host}:{port}",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_MAX_ATTEMPTS": "1",
        "AWS_EC2_METADATA_DISABLED": "true",
        "AWS_CONFIG_FILE": str(tmp_path / "absent"),
        "AWS_SHARED_CREDENTIALS_FILE": str(tmp_path / "absent"),
    }.items():
        monkeypatch.setenv(name, value)
    for name in SECRETS:
        monkeypatch.setenv(name, "made")
    s3fs.S3FileSystem.clear_instance_cache()
    files = s3fs.S3FileSystem()
    files.mkdir("plates")
    yield files
    files.rm("plates", recursive=True)
    s3fs.S3FileSystem.clear_instance_cache()
    service.stop()


def test_a_command_reads_a_bucket_and_resumes(bucket: Any, tmp_path: Path) -> None:
    bucket.pipe({"plates/one/x.png": png(2), "plates/shard.tar": tar_of({"a.png": png(0)}), "plates/notes.txt": b"no"})
    bucket.pipe("plates/broken.png", b"no image")
    command = ["predict", "s3://plates", "--model", "nuclei", "--device", "cpu", "--out", str(tmp_path / "out")]
    assert main(command) == 1, "one of them is broken"
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert (summary["done"], summary["failed"]) == (2, 1) and "broken.png" in json.dumps(summary)
    assert (tmp_path / "out" / "overlays" / "shard.tar" / "a.jpg").is_file()
    s3fs.S3FileSystem.clear_instance_cache()
    bucket.pipe("plates/one/x.png", png(1))
    assert main(command) == 1
    records = (tmp_path / "out" / ".journal" / "records.jsonl").read_text().splitlines()
    times = [sum(name in record for record in records) for name in ("x.png", "a.png")]
    assert times == [2, 1], "what has another ETag is predicted anew"


def test_what_the_service_refuses_is_said_in_a_sentence(bucket: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match="s3://absent cannot be read .*does not exist"):
        find_inputs(["s3://absent"], archives=True)
    bucket.pipe("plates/x.png", png(0))
    (found,) = find_inputs(["s3://plates"], archives=True).sources
    bucket.rm("plates/x.png")
    with pytest.raises(UserError, match="plates/x.png"):
        found.member.content()
    for name in SECRETS:
        monkeypatch.delenv(name)
    s3fs.S3FileSystem.clear_instance_cache()
    with pytest.raises(UserError, match="s3://plates cannot be read .*credentials"):
        find_inputs(["s3://plates"], archives=True)
