"""Objects given in the first frame: from the command line to the files; what is remembered stays bounded."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from eachmask.batch.follow import follow_video
from eachmask.cli import main
from eachmask.data.images.video import VideoFrame
from eachmask.inference import following
from eachmask.inference.following import follow, follower_of, load_follower, sam2_preprocess
from eachmask.models.video.memory import Memory, MemoryConfig
from eachmask.models.video.sam2_session import Session
from eachmask.models.video.sam2_video import SAM2Video, sam2_video
from eachmask.models.video.xmem import XMem, affinity, similarity
from eachmask.structures import UserError


@pytest.fixture(scope="module")
def network() -> XMem:
    torch.manual_seed(0)
    return XMem(keys=8, values=32, hidden=8).eval()


@pytest.fixture
def clip(tmp_path):
    for name in ("clip", "targets"):
        (tmp_path / name).mkdir()
    rng = np.random.default_rng(0)
    for t in range(4):
        Image.fromarray(rng.integers(0, 255, (48, 60, 3), dtype=np.uint8)).save(tmp_path / "clip" / f"{t:05d}.png")
        labels = np.zeros((48, 60), np.uint8)
        labels[5:20, 5 : 20 + t], labels[30:40, 30:50] = 1, 2
        Image.fromarray(labels).save(tmp_path / "targets" / f"{t:05d}.png")
    return tmp_path


def test_the_command(clip, network, capsys):
    weights = clip / "XMem.pth"
    torch.save(network.state_dict(), weights)
    words = ["track", str(clip / "clip"), "--model", str(weights), "--out", str(clip / "out"), "--device", "cpu"]
    first = ["--first", str(clip / "targets/00000.png")]
    assert main([*words, *first, "--targets", str(clip / "targets")]) == 0
    said = dict(line.split() for line in capsys.readouterr().out.splitlines() if len(line.split()) == 2)
    assert 0 <= float(said["J&F-Mean"]) <= 1 and len(list((clip / "out/davis").glob("*.png"))) == 4
    given, done = (np.array(Image.open(clip / name / "00000.png")) for name in ("targets", "out/davis"))
    assert (given == done).all(), "what was given is the answer of the first frame"
    made = {path: path.stat().st_mtime_ns for path in (clip / "out/davis").glob("*.png")}
    assert main([*words, *first, "--save", "mots", "davis"]) == 0, "all is there: only the further file is written"
    assert made == {path: path.stat().st_mtime_ns for path in (clip / "out/davis").glob("*.png")}
    other = ["--first", str(clip / "targets/00001.png")]
    capsys.readouterr()
    assert main([*words, *other]) == 2 and "--overwrite" in capsys.readouterr().err
    assert main([*words, *first, "--moving"]) == 2 and "--moving would change nothing" in capsys.readouterr().err
    Image.new("L", (60, 48)).save(clip / "none.png")
    assert main([*words, "--first", str(clip / "none.png"), "--overwrite"]) == 2
    assert "no object" in capsys.readouterr().err
    (clip / "XMem.pth").write_bytes(b"nothing")
    assert main([*words, *first, "--overwrite"]) == 2 and "no weights of XMem" in capsys.readouterr().err


def test_all_files_say_the_same_and_a_run_resumes(clip, network, tmp_path):
    predictor, first = follower_of(network, short_side=32, device="cpu"), clip / "targets/00000.png"

    def stop() -> None:
        if len(list((tmp_path / "cut/davis").glob("*.png"))) == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        follow_video(predictor, clip / "clip", first, tmp_path / "cut", on_frame=stop)
    assert not (tmp_path / "cut/tracks.csv").exists()
    for out in ("cut", "whole"):
        folder, number = follow_video(predictor, clip / "clip", first, tmp_path / out, save=("mots",))
        assert number == 4 and folder == tmp_path / out / "davis"
    files = [sorted(p for p in (tmp_path / out).rglob("*") if ".journal" not in p.parts) for out in ("cut", "whole")]
    assert len(files[0]) == 1 + 4 + 3, "davis, four maps, table, YouTube-VIS and MOTS"
    for a, b in zip(*files, strict=True):
        assert a.is_dir() or a.read_bytes() == b.read_bytes(), a
    rows = [line.split(",") for line in (tmp_path / "cut/tracks.csv").read_text().splitlines()[1:]]
    for frame, _, track, name, score, *_, area in rows:
        labels = np.array(Image.open(tmp_path / f"cut/davis/{int(frame):05d}.png"))
        assert int(area) == (labels == int(track)).sum() and name == "object" and 0 < float(score) <= 1
    with pytest.raises(UserError, match="davis, mots, overlay"):
        follow_video(predictor, clip / "clip", first, tmp_path / "x", save=("gif",))


def test_what_is_done_is_not_decoded_again(clip, network, tmp_path, monkeypatch):
    predictor, first = follower_of(network, short_side=32, device="cpu"), clip / "targets/00000.png"
    frames = [Image.open(path).convert("RGB") for path in sorted((clip / "clip").glob("*.png"))]
    frames[0].save(clip / "clip.gif", save_all=True, append_images=frames[1:])
    for video in (clip / "clip", clip / "clip.gif"):
        out = tmp_path / f"followed-{video.name}"
        assert [follow_video(predictor, video, first, out, most=most)[1] for most in (2, None)] == [2, 4]
        with monkeypatch.context() as patched:
            patched.setattr("eachmask.batch.footage.frames_of", lambda *_: pytest.fail("frames are decoded"))
            assert [follow_video(predictor, video, first, out, most=most)[1] for most in (None, 3)] == [4, 3]


def test_numbers_and_sizes(network):
    frames = [VideoFrame(t, t / 25, np.full((40, 50, 3), 60 * t, np.uint8)) for t in range(2)]
    first = np.zeros((40, 50), np.uint8)
    first[5:20, 5:20], first[25:35, 25:35], first[0, 0] = 9, 4, 255
    predictor = follower_of(network, short_side=32, device="cpu")
    maps = list(follow(predictor, frames, first))
    assert set(np.unique(maps[0])) == {0, 4, 9} and set(np.unique(maps[1])) <= {0, 4, 9}
    assert [m.shape for m in maps] == [(40, 50)] * 2
    with pytest.raises(UserError, match="50 x 30"):
        list(follow(predictor, frames, first[:30]))
    with pytest.raises(UserError, match="no file"):
        load_follower("nowhere.pth")


def test_xmem_by_name_is_the_file_of_its_authors(tmp_path, monkeypatch, network):
    torch.save(network.state_dict(), tmp_path / "XMem.pth")
    asked = []
    monkeypatch.setattr(following, "fetch_checkpoint", lambda known: asked.append(known.name) or tmp_path / "XMem.pth")
    found = load_follower("xmem", "cpu").predictor.model.network
    assert asked == ["xmem"]
    for name, value in network.state_dict().items():
        assert torch.equal(found.state_dict()[name], value), name


@pytest.fixture(scope="module")
def tiny_sam2() -> SAM2Video:
    torch.manual_seed(0)
    encoder = {"width": 8, "depths": [1, 1, 1, 1], "everywhere": [2], "windows": [4, 2, 2, 2]}
    decoder = {"width": 256, "heads": 4, "mlp": 32}
    network = sam2_video(encoder=encoder, decoder=decoder, memory={"layers": 1, "mlp": 32, "frames": 3}, side=64)
    return network.eval()


def test_sam_2_follows_from_the_command_line(clip, tiny_sam2, monkeypatch, capsys):
    ready = follower_of(tiny_sam2, device="cpu")
    monkeypatch.setattr("eachmask.inference.following.load_follower", lambda *_: ready)
    targets = str(clip / "targets")
    words = ["track", str(clip / "clip"), "--first", f"{targets}/00000.png", "--targets", targets]
    assert main([*words, "--model", "tiny.pt", "--out", str(clip / "out"), "--device", "cpu"]) == 0
    assert "J&F-Mean" in capsys.readouterr().out and len(list((clip / "out/davis").glob("*.png"))) == 4
    given, done = (np.array(Image.open(clip / name / "00000.png")) for name in ("targets", "out/davis"))
    assert (given == done).all()


def session_of(network: SAM2Video, frames: int) -> Session:
    rng = np.random.default_rng(1)
    images = [sam2_preprocess(64)([rng.integers(0, 255, (40, 50, 3), dtype=np.uint8)]).tensor[0] for _ in range(frames)]
    return Session(network, images.__getitem__, (40, 50), frames)


def test_memory_of_sam_2_stays_flat_and_forgets_only_what_nothing_reads(tiny_sam2):
    forgetting, keeping = session_of(tiny_sam2, 20), session_of(tiny_sam2, 20)
    for session in (forgetting, keeping):
        session.click(0, 3, torch.tensor([[20.0, 20.0]]))
        session.settle()
    for t in range(20):
        forgetting.forget(t - 16)
        assert torch.equal(forgetting.carry(t), keeping.carry(t)), t
        assert len(forgetting.tracks[3].tracked) <= 17
    assert len(keeping.tracks[3].tracked) == 19


def test_prompts_of_sam_2(tiny_sam2):
    session = session_of(tiny_sam2, 3)
    with pytest.raises(UserError, match="points or a box"):
        session.click(0, 1)
    with pytest.raises(UserError, match="click on an object first"):
        next(session.propagate())
    with pytest.raises(UserError, match="50 x 30"):
        session.mask(0, 1, torch.zeros(30, 50))
    mask = torch.zeros(40, 50)
    mask[10:30, 10:30] = 1
    assert ((session.mask(1, 1, mask)[0] > 0) == (mask > 0)).float().mean() > 0.9, "what is given is the answer"
    assert [frame for frame, _ in session.propagate()] == [1, 2]
    assert [frame for frame, _ in session.propagate(2, 1, backward=True)] == [2, 1]
    assert session.click(2, 1, box=torch.tensor([5.0, 5.0, 20.0, 20.0])).shape == (1, 40, 50)
    assert 2 in session.tracks[1].new, "a correction"
    session.settle()
    assert 2 in session.tracks[1].tracked and list(session.tracks[1].prompted) == [1]


def test_a_checkpoint_for_one_object(network):
    weights = network.state_dict()
    name = "value_encoder.conv1.weight"
    other = XMem.of(weights | {name: weights[name][:, :4]})
    assert other.value_encoder.conv1.weight[:, 4].abs().max() == 0


def test_memory_stays_flat():
    config = MemoryConfig(max_frames=4, min_frames=2, prototypes=3, max_long=10, top=5)
    memory = Memory(config)
    torch.manual_seed(0)
    sizes = []
    for _ in range(60):
        memory.add(torch.randn(4, 6), 1 + torch.rand(6), torch.rand(4, 6), torch.randn(2, 5, 6))
        assert memory.read(torch.randn(4, 6), torch.rand(4, 6)).shape == (2, 5, 6)
        sizes.append((len(memory.work), 0 if memory.long is None else len(memory.long)))
    assert max(work for work, _ in sizes) < 4 * 6 and max(long for _, long in sizes) <= 10 < sum(s for _, s in sizes)


def test_similarity_is_the_papers_formula():
    torch.manual_seed(0)
    key, shrinkage, query, selection = torch.randn(3, 5), 1 + torch.rand(5), torch.randn(3, 4), torch.rand(3, 4)
    table = similarity(key, shrinkage, query, selection)
    for p in range(5):
        for q in range(4):
            far = (selection[:, q] * (key[:, p] - query[:, q]) ** 2).sum()
            assert table[p, q] == pytest.approx(float(-far * shrinkage[p] / 3**0.5), rel=1e-4)
    weights = affinity(table, 2)
    assert ((weights > 0).sum(0) == 2).all() and weights.sum(0) == pytest.approx(1)
