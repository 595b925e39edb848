"""Videos: every frame, its time, the sound and the colour tags stay; interrupted runs go on; flicker goes down."""

from __future__ import annotations

import io
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from av.video.reformatter import Interpolation
from PIL import Image
from torch import Tensor

from reflectzoo.__main__ import main
from reflectzoo.errors import Interrupted, UserError
from reflectzoo.inference.batch import OutputOptions
from reflectzoo.inference.separator import Separator
from reflectzoo.inference.steady import TemporalSmoother
from reflectzoo.inference.video import run_video

TIMES = [int(1000 * (index / 25 + (0.02 if index % 7 == 3 else 0))) for index in range(60)]
"""In milliseconds; not quite even, as a phone's are."""


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Sixty frames of 66x50 that grow brighter, BT.709, with a tone."""
    path = tmp_path_factory.mktemp("clip") / "clip.mp4"
    with av.open(str(path), "w") as out:
        video = out.add_stream("libx264", rate=25)
        video.width, video.height, video.pix_fmt, video.time_base = 66, 50, "yuv420p", Fraction(1, 1000)
        video.codec_context.time_base = Fraction(1, 1000)
        video.options = {"crf": "4"}
        video.codec_context.colorspace = video.codec_context.color_primaries = video.codec_context.color_trc = 1
        video.codec_context.color_range = 1
        tone = out.add_stream("aac", rate=48000, layout="mono")
        for index, time in enumerate(TIMES):
            pixels = np.full((50, 66, 3), 60 + 2 * index, np.uint8)
            pixels[10:20, 10 + index % 30 : 20 + index % 30] = (200, 40, 40)
            frame = av.VideoFrame.from_ndarray(pixels, format="rgb24").reformat(
                format="yuv420p", dst_colorspace=1, dst_color_range=1
            )
            frame.pts, frame.time_base = time, Fraction(1, 1000)
            out.mux(video.encode(frame))
        out.mux(video.encode(None))
        for start in range(0, 48000 * 2, 1024):
            wave = 0.3 * np.sin(2 * np.pi * 440 * (start + np.arange(1024)) / 48000)
            sound = av.AudioFrame.from_ndarray(wave[None].astype(np.float32), format="fltp", layout="mono")
            sound.sample_rate, sound.pts, sound.time_base = 48000, start, Fraction(1, 48000)
            out.mux(tone.encode(sound))
        out.mux(tone.encode(None))
    return path


def halved(mixture: Tensor) -> dict[str, Tensor]:
    return {"transmission": mixture / 2}


def shown_in(path: Path) -> tuple[list[float], np.ndarray]:
    """When frames are shown, and what they show."""
    with av.open(str(path)) as container:
        frames = list(container.decode(video=0))
        times = [float(frame.pts * frame.time_base) for frame in frames]
        # Rounded: FFmpeg's quick conversion is darker by half a level.
        exactly = Interpolation.BILINEAR | Interpolation.ACCURATE_RND | Interpolation.FULL_CHR_H_INT
        seen = [frame.reformat(format="rgb24", interpolation=exactly).to_ndarray() for frame in frames]
        return times, np.stack(seen).astype(float)


def sound_of(path: Path) -> list[bytes]:
    with av.open(str(path)) as container:
        return [bytes(packet) for packet in container.demux(audio=0) if packet.size]


def test_frames_times_sound_and_tags_stay(clip: Path, tmp_path: Path) -> None:
    target = tmp_path / "clean.mp4"
    assert run_video(str(clip), target, Separator(halved), OutputOptions(), steady=0) == 0
    (before, was), (after, now) = shown_in(clip), shown_in(target)
    assert len(after) == 60
    assert np.allclose(np.diff(after), np.diff(before), atol=1e-3)
    assert abs(now - was / 2).mean() < 0.7
    assert sound_of(target) == sound_of(clip)
    with av.open(str(target)) as result:
        context = result.streams.video[0].codec_context
        assert (context.width, context.height) == (66, 50)
        assert (context.colorspace, context.color_primaries, context.color_trc, context.color_range) == (1, 1, 1, 1)
    assert list(tmp_path.iterdir()) == [target], "nothing is left beside it"


def test_an_interrupted_run_goes_on(clip: Path, tmp_path: Path) -> None:
    calls = 0

    def stops(mixture: Tensor) -> dict[str, Tensor]:
        nonlocal calls
        calls += 1
        if calls == 53:
            raise KeyboardInterrupt
        return halved(mixture)

    with pytest.raises(Interrupted, match="the same command resumes"):
        run_video(str(clip), tmp_path / "clean.mp4", Separator(stops), OutputOptions())
    assert not (tmp_path / "clean.mp4").exists()
    run_video(str(clip), tmp_path / "clean.mp4", Separator(stops), OutputOptions())
    assert calls == 53 + 12, "the first part of 48 frames is not worked on again"
    whole = tmp_path / "whole.mp4"
    run_video(str(clip), whole, Separator(halved), OutputOptions())
    assert np.array_equal(shown_in(whole)[1], shown_in(tmp_path / "clean.mp4")[1])


def test_flicker_goes_down_and_the_picture_stays(tmp_path: Path) -> None:
    """A moving scene under a still veil, of which a network removes a share that jumps from frame to frame."""
    rng = np.random.default_rng(0)
    scene = np.kron(rng.random((12, 30, 3)), np.ones((8, 8, 1))).astype(np.float32) * 0.6
    veil = np.float32(0.25)
    unsteady, steadied = [], []
    steady = TemporalSmoother(0.7)
    for index in range(24):
        truth = scene[:, 2 * index : 2 * index + 120]
        mixture = truth + veil
        correction = np.full_like(truth, -veil * rng.uniform(0.7, 1.0))
        unsteady.append((mixture + correction - truth).mean())
        steadied.append((mixture + steady.step(mixture, correction) - truth).mean())
    flicker = [np.abs(np.diff(each[4:])).mean() for each in (unsteady, steadied)]
    assert flicker[1] < 0.5 * flicker[0]
    assert abs(np.mean(steadied) - np.mean(unsteady)) < 0.01


def test_what_changes_at_once_is_not_smeared() -> None:
    steady = TemporalSmoother(0.9)
    steady.step(np.full((40, 40, 3), 0.2, np.float32), np.full((40, 40, 3), -0.1, np.float32))
    bright = np.full((40, 40, 3), 0.9, np.float32)
    found = steady.step(bright, np.zeros_like(bright))
    assert np.abs(found).max() < 1e-6


def test_numbered_pictures(tmp_path: Path) -> None:
    for number in (3, 4, 5, 11):
        Image.new("RGB", (20, 16), (10 * number,) * 3).save(tmp_path / f"frame_{number:05d}.png")
    out = tmp_path / "out"
    assert run_video(str(tmp_path / "frame_%05d.png"), out / "t_%03d.png", Separator(halved), OutputOptions(), 0) == 0
    assert sorted(each.name for each in out.iterdir()) == ["t_003.png", "t_004.png", "t_005.png", "t_011.png"]
    assert Image.open(out / "t_011.png").getpixel((3, 3)) == (55, 55, 55)


def test_mistakes(clip: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    separator = Separator(halved)
    (tmp_path / "text.mp4").write_text("no video at all")
    for source, target, words in (
        (str(tmp_path / "text.mp4"), tmp_path / "x.mp4", "is not a video, but a text"),
        (str(tmp_path / "nowhere.mp4"), None, "does not exist"),
        (str(tmp_path / "nothing_%03d.png"), None, "There is no picture"),
        (str(clip), tmp_path / "x.jpg", "cannot be written as a video"),
    ):
        with pytest.raises(UserError, match=words):
            run_video(source, target, separator, OutputOptions())
    with pytest.raises(UserError, match="only the transmission"):
        run_video(str(clip), None, separator, OutputOptions(reflection=True))
    assert main(["remove", str(clip), "--steady", "2", "--model", "ytmt_pcs", "--untrained"]) == 2
    assert "--steady must lie in [0, 1), got 2" in capsys.readouterr().err
    assert torch.is_grad_enabled()


def encoded(path: Path, codec: str, frames: int = 3, sound: str | None = None, **context: object) -> Path:
    """A short clip of grey noise."""
    with av.open(str(path), "w") as out:
        video = out.add_stream(codec, rate=25)
        video.width, video.height, video.pix_fmt = 48, 32, "yuv420p"
        for name, value in context.items():
            setattr(video.codec_context, name, value)
        tone = out.add_stream(sound, rate=48000) if sound else None
        pixels = np.random.default_rng(0).integers(0, 256, (frames, 32, 48, 1), np.uint8).repeat(3, axis=3)
        for each in pixels:
            out.mux(video.encode(av.VideoFrame.from_ndarray(each, format="rgb24")))
        out.mux(video.encode(None))
        if tone:
            quiet = av.AudioFrame.from_ndarray(np.zeros((1, 1920), np.int16), format="s16", layout="stereo")
            quiet.sample_rate = 48000
            out.mux([*tone.encode(quiet), *tone.encode(None)])
    return path


def test_the_last_frame_is_not_longer_and_pixels_keep_their_shape(tmp_path: Path) -> None:
    """A raw stream's durations were taken for those of the file: three frames lasted four seconds."""
    source = encoded(tmp_path / "a.mp4", "mpeg4", sample_aspect_ratio=Fraction(4, 3))
    run_video(str(source), tmp_path / "b.mp4", Separator(halved), OutputOptions())
    with av.open(str(tmp_path / "b.mp4")) as after:
        stream = after.streams.video[0]
        assert float(stream.duration * stream.time_base) == pytest.approx(3 / 25)
        assert stream.average_rate == 25
        assert stream.sample_aspect_ratio == Fraction(4, 3)


def test_what_a_video_cannot_be_is_said_before_any_work(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def fails(words: str, source: Path, target: str) -> None:
        with pytest.raises(UserError, match=words):
            run_video(str(source), tmp_path / target, Separator(halved), OutputOptions())
        assert not (tmp_path / target).exists()

    (tmp_path / "page.mp4").write_text("<!DOCTYPE html><html><body>Sign in</body></html>")
    fails("is not a video, but a web page", tmp_path / "page.mp4", "a.mp4")
    fails(r"sound \(flac\) cannot be stored", encoded(tmp_path / "a.mkv", "mpeg4", sound="flac"), "b.mov")
    assert run_video(str(tmp_path / "a.mkv"), tmp_path / "b.mkv", Separator(halved), OutputOptions()) == 0
    whole = encoded(tmp_path / "c.mkv", "mjpeg", frames=30, pix_fmt="yuvj420p").read_bytes()
    (tmp_path / "d.mkv").write_bytes(whole[: len(whole) // 2])
    capsys.readouterr()
    run_video(str(tmp_path / "d.mkv"), tmp_path / "e.mkv", Separator(halved), OutputOptions())
    assert "may be cut short" in " ".join(capsys.readouterr().err.split())


def test_interlaced_frames_become_pictures_of_one_moment(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A wave that moves: even rows show it half a frame later, as x264 notes frames that say nothing of it."""
    rows, columns = np.mgrid[:48, :64]

    def wave(moment: float) -> np.ndarray:
        return 120 + 80 * np.sin((columns + 3 * moment + rows / 4) / 5)

    with av.open(str(tmp_path / "a.mp4"), "w") as out:
        video = out.add_stream("libx264", rate=25)
        video.width, video.height, video.pix_fmt = 64, 48, "yuv420p"
        video.options = {"crf": "4", "x264-params": "interlaced=1:keyint=1"}
        for number in range(8):
            grey = np.where(rows % 2, wave(number), wave(number + 0.5)).round().astype(np.uint8)
            out.mux(video.encode(av.VideoFrame.from_ndarray(grey, format="gray").reformat(format="yuv420p")))
        out.mux(video.encode(None))
    run_video(
        str(tmp_path / "a.mp4"),
        tmp_path / "b.mp4",
        Separator(lambda mixture: {"transmission": mixture}),
        OutputOptions(),
    )
    assert "is interlaced" in " ".join(capsys.readouterr().err.split())
    (before, combed), (after, seen) = shown_in(tmp_path / "a.mp4"), shown_in(tmp_path / "b.mp4")
    assert after == pytest.approx(before)
    truth = np.stack([wave(number) for number in range(8)])[..., None]
    wrong = [np.abs(each - each.mean() - truth + truth.mean())[:, 2:-2].mean() for each in (combed, seen)]
    assert wrong[1] < 0.25 * wrong[0]


def test_frames_that_change_their_size(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """They were cut to the size of the first, in silence."""
    with av.open(str(tmp_path / "a.mkv"), "w") as out:
        video = out.add_stream("mjpeg", rate=25)
        video.width, video.height, video.pix_fmt = 32, 24, "yuvj420p"
        for number, side in enumerate((1, 1, 2, 2, 1)):
            buffer = io.BytesIO()
            grey = Image.new("L", (32 * side, 24 * side), 60)
            grey.paste(180, (16 * side, 0, 32 * side, 24 * side))
            grey.convert("RGB").save(buffer, "JPEG", quality=95)
            packet = av.Packet(buffer.getvalue())
            packet.stream, packet.pts, packet.dts, packet.time_base = video, number, number, Fraction(1, 25)
            out.mux(packet)
    run_video(
        str(tmp_path / "a.mkv"),
        tmp_path / "b.mkv",
        Separator(lambda mixture: {"transmission": mixture}),
        OutputOptions(),
    )
    assert "all results have that of the first, 32x24" in " ".join(capsys.readouterr().err.split())
    seen = shown_in(tmp_path / "b.mkv")[1]
    assert seen.shape == (5, 24, 32, 3)
    np.testing.assert_allclose(seen[:, :, :12], 60, atol=3)
    np.testing.assert_allclose(seen[:, :, 20:], 180, atol=3)


def test_damage_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = bytearray(encoded(tmp_path / "a.mp4", "libx264", frames=8).read_bytes())
    at = (data.index(b"mdat") + len(data)) // 2
    data[at : at + 300] = bytes(each ^ 0x55 for each in data[at : at + 300])
    (tmp_path / "a.mp4").write_bytes(data)
    run_video(str(tmp_path / "a.mp4"), tmp_path / "b.mp4", Separator(halved), OutputOptions())
    assert "of its frames could only be decoded in part" in " ".join(capsys.readouterr().err.split())
    (tmp_path / "c.mkv").write_bytes(b"\x1aE\xdf\xa3" + bytes(400))
    with pytest.raises(UserError, match="cannot be read as a video"):
        run_video(str(tmp_path / "c.mkv"), tmp_path / "d.mkv", Separator(halved), OutputOptions())


def test_grey_stays_grey(tmp_path: Path) -> None:
    """FFmpeg's quick conversion takes two levels from red and blue of a full-range clip."""
    with av.open(str(tmp_path / "a.mkv"), "w") as out:
        video = out.add_stream("ffv1", rate=25)
        video.width, video.height, video.pix_fmt = 48, 32, "gray"
        for level in (60, 130):
            out.mux(video.encode(av.VideoFrame.from_ndarray(np.full((32, 48), level, np.uint8), format="gray")))
        out.mux(video.encode(None))
    run_video(
        str(tmp_path / "a.mkv"),
        tmp_path / "b.mkv",
        Separator(lambda mixture: {"transmission": mixture}),
        OutputOptions(),
    )
    for level, seen in zip((60, 130), shown_in(tmp_path / "b.mkv")[1], strict=True):
        np.testing.assert_allclose(seen, level, atol=1)
