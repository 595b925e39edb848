"""Separate videos and numbered sequences of pictures: with reduced flicker, the original sound, and resumable.

A video is processed in parts of 48 frames. Each finished part is stored, encoded, in a hidden folder next to the
result, together with the state that the next part needs, so that an interrupted run resumes from there. At the end the
parts and the sound are joined without re-encoding, and the folder is removed.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import re
import shutil
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from importlib.util import find_spec
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from reflectzoo.core.content import describe_file
from reflectzoo.errors import Interrupted, UserError
from reflectzoo.inference.batch import OutputOptions
from reflectzoo.inference.separator import Separator
from reflectzoo.inference.steady import Frame, TemporalSmoother
from reflectzoo.photo.files import quoted_path, result_name
from reflectzoo.photo.read import read_picture
from reflectzoo.photo.write import format_of, reduce_to_format

VIDEO_SUFFIXES = frozenset({".mp4", ".m4v", ".mov", ".mkv", ".avi", ".webm"})
_PART = 48
"""Frames per part."""
_QUALITY = "16"
"""Constant rate factor of x264, with hardly any visible loss."""
_COVER = 1024
"""FFmpeg's AV_DISPOSITION_ATTACHED_PIC."""
_NUMBERED = re.compile(r"%0?(\d*)d")


def is_video(word: str) -> bool:
    """Whether a command-line argument denotes a video (by suffix) or a numbered sequence of pictures."""
    return Path(word).suffix.lower() in VIDEO_SUFFIXES or _NUMBERED.search(Path(word).name) is not None


def run_video(
    source: str, output: Path | None, separator: Separator, wanted: OutputOptions, steady: float = 0.7
) -> int:
    """Separate a video, or a numbered sequence such as ``frame_%05d.png``.

    Args:
        source: the video file or pattern.
        output: a video file, a pattern, or a folder; None writes next to the source.
        separator: the network.
        wanted: options for the result; only the transmission is supported.
        steady: ``share`` of :class:`~reflectzoo.inference.steady.TemporalSmoother`, in [0, 1).

    Returns:
        0.

    Raises:
        UserError: if the source cannot be read or the result not written, ``steady`` is out of range, or further
            results are requested.
        Interrupted: after Ctrl-C on a video; finished parts are kept.
    """
    if wanted.reflection or wanted.side_by_side:
        raise UserError("For a video, only the transmission is written: leave --reflection and --side-by-side out.")
    if not 0 <= steady < 1:
        raise UserError(f"--steady must lie in [0, 1), got {steady}.")
    if _NUMBERED.search(Path(source).name):
        return _sequence(source, output, separator, wanted, TemporalSmoother(steady))
    path = Path(source).expanduser()
    if not path.is_file():
        raise UserError(f"{quoted_path(path)} does not exist: give a video, or a pattern such as frame_%05d.png.")
    if find_spec("av") is None:
        raise UserError("Videos need PyAV: pip install 'reflectzoo[video]'.")
    name = result_name(path.stem, f".transmission{path.suffix}")
    target = output or path.with_name(name)
    if target.is_dir():
        target = target / name
    if target.suffix.lower() not in VIDEO_SUFFIXES - {".webm", ".avi"}:
        raise UserError(
            f"{quoted_path(target)} cannot be written as a video: use a name that ends in .mp4, .mov or .mkv."
        )
    if os.path.lexists(target) and not wanted.overwrite:
        if wanted.skip_existing:
            return 0
        raise UserError(f"{quoted_path(target)} already exists: --overwrite replaces it.")
    _Video(path, target, separator, wanted.strength, steady).run()
    return 0


@dataclass
class _Kept:
    """A finished part: the times of its frames, in units of the stream's time base."""

    times: list[int]


class _Video:
    def __init__(self, source: Path, target: Path, separator: Separator, strength: float, share: float) -> None:
        self.source, self.target = source, target
        self.separator, self.strength = separator, strength
        self.steady = TemporalSmoother(share)
        self.parts = target.with_name(result_name(f".{target.name}", ".parts"))
        self.interlaced = False
        """Whether an interlaced frame was found."""
        self.size = (0, 0)
        """Stored width and height of the first frame, to which all frames are resized."""
        self.resized = False
        """Whether a frame of another size was found."""
        self.corrupt = 0
        """Number of frames that the decoder reported as damaged."""

    def run(self) -> None:
        import av

        done = 0
        try:
            with av.open(str(self.source)) as container:
                stream = _pictures(container)
                if stream is None:
                    raise UserError(f"{quoted_path(self.source)} contains no moving pictures: it is not a video.")
                self._check_sound(container)
                done = self._work(container, stream)
        except av.FFmpegError as error:
            other = describe_file(self.source)
            why = (
                f"is not a video, but {other}"
                if other and "video" not in other
                else f"cannot be read as a video ({error.strerror})"
            )
            raise UserError(f"{quoted_path(self.source)} {why}.") from error
        except KeyboardInterrupt:
            raise Interrupted(
                f"Interrupted: the finished parts are kept in {quoted_path(self.parts)}; the same command resumes "
                "from them."
            ) from None
        if not done:
            raise UserError(f"{quoted_path(self.source)} contains no frame that can be decoded.")
        self._join()
        shutil.rmtree(self.parts, ignore_errors=True)
        sys.stderr.write(f"{quoted_path(self.target)}: {done} frames\n")

    def _check_sound(self, container: Any) -> None:
        """Raise a UserError if the result's format cannot store the sound; checked before hours of work."""
        import av

        trial = io.BytesIO()
        name = {".mkv": "matroska", ".mov": "mov"}.get(self.target.suffix.lower(), "mp4")
        try:
            with av.open(trial, "w", format=name) as out:
                for each in container.streams.audio:
                    out.add_stream_from_template(each)
                if container.streams.audio:
                    out.start_encoding()
        except (av.FFmpegError, ValueError):
            kinds = ", ".join(each.codec_context.name for each in container.streams.audio)
            raise UserError(
                f"Its sound ({kinds}) cannot be stored in {quoted_path(self.target)}: choose a name that ends in .mkv."
            ) from None

    def _work(self, container: Any, stream: Any) -> int:
        stream.thread_type = "AUTO"
        kept = self._resumed(stream)
        skip = sum(len(part.times) for part in kept)
        total = stream.frames or None
        console = Console(stderr=True)
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        with Progress(*columns, console=console, disable=not console.is_terminal, transient=True) as progress:
            bar = progress.add_task(self.source.name, total=total, completed=skip)
            part: list[tuple[int, Frame]] = []
            number, last = 0, 0
            first: Any = None
            for number, frame in enumerate(self._frames(container, stream), start=1):
                if number <= skip:
                    continue
                first = first or frame
                last = _time(frame, number, stream)
                part.append((last, self._one(frame)))
                progress.update(bar, completed=number)
                if len(part) == _PART:
                    self._keep(part, len(kept), frame, stream)
                    kept.append(_Kept([time for time, _ in part]))
                    part = []
            if part:
                self._keep(part, len(kept), first, stream)
        if first is not None:
            self._note(last, stream)
        return number

    def _frames(self, container: Any, stream: Any) -> Iterator[Any]:
        """Decode all frames, deinterlaced from the first interlaced one on; their number and times do not change."""
        graph: Any = None
        for frame in container.decode(stream):
            self.corrupt += frame.is_corrupt
            here = frame.width, frame.height
            self.size = here if self.size == (0, 0) else self.size
            self.resized = self.resized or here != self.size
            if graph is None and frame.interlaced_frame:
                self.interlaced, graph = True, _deinterlacer(frame, stream)
            if graph is None:
                yield frame
            else:
                graph.push(frame)
                yield from _pulled(graph)
        if graph is not None:
            graph.push(None)
            yield from _pulled(graph)

    def _note(self, last: int, stream: Any) -> None:
        """Print warnings: changes of size, damage, interlacing, and a video that ends too early."""
        if self.resized:
            sys.stderr.write(
                f"{quoted_path(self.source)} changes the size of its frames: all results have that of the first, "
                f"{self.size[0]}x{self.size[1]}.\n"
            )
        if self.corrupt:
            sys.stderr.write(
                f"{quoted_path(self.source)} is damaged: {self.corrupt} of its frames could only be decoded in part; "
                "those that follow may show it, too.\n"
            )
        if self.interlaced:
            sys.stderr.write(
                f"{quoted_path(self.source)} is interlaced (each frame holds two moments, in its odd and even rows): "
                "it was deinterlaced at its own frame rate, with FFmpeg's bwdif.\n"
            )
        said, reached = _length(stream), float((last - (stream.start_time or 0)) * stream.time_base)
        if said is not None and reached < said - max(0.2, 3 / (stream.average_rate or 25)):
            sys.stderr.write(
                f"{quoted_path(self.source)} should last {said:.1f} s, but its pictures end at {reached:.1f} s: it may "
                "be cut short.\n"
            )

    def _one(self, frame: Any) -> Frame:
        """The upright transmission of a frame, (H, W, 3) in [0, 1]."""
        deep = any(each.bits > 8 for each in frame.format.components)
        kind = "rgb48le" if deep else "rgb24"
        values = frame.reformat(*self.size, format=kind, interpolation=_exactly()).to_ndarray()
        image = np.ascontiguousarray(np.rot90(values, round(frame.rotation / 90) % 4), dtype=np.float32)
        image /= 65535 if deep else 255
        layers = self.separator.layers(torch.from_numpy(image).permute(2, 0, 1))
        transmission = layers["transmission"].permute(1, 2, 0).numpy()
        correction = self.steady.step(image, transmission - image)
        return np.clip(image + self.strength * correction, 0, 1)

    def _keep(self, part: list[tuple[int, Frame]], number: int, like: Any, stream: Any) -> None:
        """Encode a part into the folder, together with the state for resuming after it."""
        import av

        deep = any(each.bits > 8 for each in like.format.components)
        kind = "yuv420p10le" if deep else "yuv420p"
        height, width = part[0][1].shape[:2]
        even = (width + width % 2, height + height % 2)
        path = self.parts / f"part-{number:05d}.h264"
        unfinished = path.with_suffix(".unfinished")
        given = stream.codec_context
        with av.open(str(unfinished), "w", format="h264") as out:
            video = out.add_stream("libx264", rate=stream.average_rate or Fraction(25))
            video.width, video.height, video.pix_fmt = *even, kind
            # Without B-frames, so that packets are in the order of the frames.
            video.options = {"crf": _QUALITY, "preset": "medium", "bf": "0"}
            context = video.codec_context
            context.gop_size = _PART
            for tag in ("color_range", "color_primaries", "color_trc", "colorspace"):
                setattr(context, tag, getattr(given, tag))
            if shape := given.sample_aspect_ratio:
                # Pixels may not be square.
                context.sample_aspect_ratio = 1 / shape if round(like.rotation / 90) % 2 else shape
            for index, (_, image) in enumerate(part):
                padded = np.pad(image, ((0, even[1] - height), (0, even[0] - width), (0, 0)), mode="edge")
                values: Any = np.rint(padded * (65535 if deep else 255)).astype(np.uint16 if deep else np.uint8)
                frame = av.VideoFrame.from_ndarray(values, format="rgb48le" if deep else "rgb24")
                made = frame.reformat(
                    format=kind,
                    dst_colorspace=_coefficients(given.colorspace),
                    dst_color_range=given.color_range or 1,
                    interpolation=_exactly(),
                )
                made.pts, made.time_base = index, 1 / (stream.average_rate or Fraction(25))
                out.mux(video.encode(made))
            out.mux(video.encode(None))
        np.savez(path.with_suffix(".state.npz"), **self.steady.state())
        base = Fraction(stream.time_base)
        facts = {"times": [time for time, _ in part], "base": [base.numerator, base.denominator]}
        path.with_suffix(".json").write_text(json.dumps(facts))
        os.replace(unfinished, path)

    def _resumed(self, stream: Any) -> list[_Kept]:
        """Restore the parts of an interrupted run with the same source and settings; delete any others."""
        status = self.source.stat()
        described = {
            "source": [str(self.source.resolve()), status.st_size, status.st_mtime_ns],
            "settings": [
                self.strength,
                self.steady.share,
                self.separator.size.working,
                self.separator.views,
                _fingerprint(self.separator.network),
            ],
            "size": [stream.width, stream.height],
        }
        note = self.parts / "run.json"
        if not (note.is_file() and json.loads(note.read_text()) == json.loads(json.dumps(described))):
            shutil.rmtree(self.parts, ignore_errors=True)
        self.parts.mkdir(parents=True, exist_ok=True)
        note.write_text(json.dumps(described))
        kept: list[_Kept] = []
        while (path := self.parts / f"part-{len(kept):05d}.h264").is_file():
            facts = json.loads(path.with_suffix(".json").read_text())
            if len(facts["times"]) < _PART:
                break
            kept.append(_Kept(facts["times"]))
            with np.load(path.with_suffix(".state.npz")) as state:
                self.steady.resume(dict(state))
        return kept

    def _join(self) -> None:
        """Join all parts and the sound into the result."""
        import av

        unfinished = self.parts / f"joined{self.target.suffix}"
        options = {"movflags": "faststart"} if self.target.suffix.lower() != ".mkv" else {}
        paths = sorted(self.parts.glob("part-*.h264"))
        with av.open(str(self.source)) as source, av.open(str(unfinished), "w", options=options) as out:
            out.metadata.update(source.metadata)
            with av.open(str(paths[0]), format="h264") as begun:
                video = out.add_stream_from_template(begun.streams.video[0])
            sounds = {each.index: out.add_stream_from_template(each) for each in source.streams.audio}
            stream = _pictures(source)
            base = Fraction(stream.time_base or Fraction(1, 1000))
            usual = max(round(1 / (stream.average_rate or Fraction(25)) / base), 1)
            video.time_base = base
            for packet in _by_time(self._packets(paths, base, video, usual), _sound(source, sounds)):
                out.mux(packet)
        os.replace(unfinished, self.target)

    @staticmethod
    def _packets(paths: list[Path], base: Fraction, video: Any, usual: int) -> Iterator[tuple[float, Any]]:
        """The packets of all parts, each lasting until the next one; the last has the usual duration of a frame."""
        import av

        times = [json.loads(path.with_suffix(".json").read_text())["times"] for path in paths]
        starts = [time for part in times for time in part]
        lengths = iter([*(after - before for before, after in pairwise(starts)), usual])
        for path, given in zip(paths, times, strict=True):
            with av.open(str(path), format="h264") as part:
                for time, packet in zip(given, (each for each in part.demux() if each.size), strict=True):
                    packet.stream, packet.time_base = video, base
                    packet.pts = packet.dts = time
                    packet.duration = next(lengths)
                    yield float(time * base), packet


def _deinterlacer(frame: Any, stream: Any) -> Any:
    """FFmpeg's bwdif filter, which returns one picture per frame, and progressive frames unchanged."""
    from av.filter import Graph

    graph = Graph()
    source = graph.add_buffer(
        width=frame.width, height=frame.height, format=frame.format, time_base=frame.time_base or stream.time_base
    )
    graph.link_nodes(source, graph.add("bwdif", "mode=send_frame:deint=interlaced"), graph.add("buffersink"))
    graph.configure()
    return graph


def _pulled(graph: Any) -> Iterator[Any]:
    """The frames that a filter graph has ready."""
    import av

    while True:
        try:
            yield graph.pull()
        except (av.BlockingIOError, av.EOFError):
            return


def _pictures(container: Any) -> Any:
    """The first video stream that is not an album cover; None if there is none."""
    return next((each for each in container.streams.video if not each.disposition & _COVER), None)


def _length(stream: Any) -> float | None:
    """Duration of a stream in seconds, from the file's metadata; None if unknown."""
    if stream.duration:
        return float(stream.duration * stream.time_base)
    match = re.fullmatch(r"(\d+):(\d+):(\d+(?:\.\d+)?)", stream.metadata.get("DURATION", ""))
    return None if match is None else int(match[1]) * 3600 + int(match[2]) * 60 + float(match[3])


def _fingerprint(network: Any) -> str:
    """A hash of the network's weights, to detect parts from another network; for functions, the name of their class."""
    if not isinstance(network, torch.nn.Module):
        return type(network).__name__
    digest = hashlib.sha256()
    for name, value in network.state_dict().items():
        digest.update(f"{name} {float(value.double().sum())!r}".encode())
    return digest.hexdigest()[:16]


def _sound(source: Any, sounds: dict[int, Any]) -> Iterator[tuple[float, Any]]:
    if not sounds:
        return
    for packet in source.demux(*(source.streams[index] for index in sounds)):
        if packet.dts is None:
            continue
        time = float(packet.dts * packet.time_base)
        packet.stream = sounds[packet.stream.index]
        yield time, packet


def _by_time(*streams: Iterator[tuple[float, Any]]) -> Iterator[Any]:
    """Merge the packets of several streams by time."""
    waiting = [(first, each) for each in streams if (first := next(each, None)) is not None]
    while waiting:
        first, stream = min(waiting, key=lambda pair: pair[0][0])
        yield first[1]
        waiting.remove((first, stream))
        following = next(stream, None)
        if following is not None:
            waiting.append((following, stream))


def _time(frame: Any, number: int, stream: Any) -> int:
    """Presentation time of a frame in units of the stream's time base; evenly spaced if the file has none."""
    if frame.pts is not None:
        ratio: Fraction = Fraction(frame.time_base or stream.time_base) / Fraction(stream.time_base)
        return round(int(frame.pts) * ratio)
    return round((number - 1) / (stream.average_rate or Fraction(25)) / Fraction(stream.time_base))


def _coefficients(tag: int) -> int:
    """The RGB-to-YCbCr matrix of FFmpeg's scaler for a stream's colorspace tag; defaults to BT.601."""
    return {1: 1, 9: 9, 10: 9, 7: 7}.get(int(tag), 5)


def _exactly() -> Any:
    """Flags of FFmpeg's scaler for accurate rounding, which is slower, but without it grey gets a green tint."""
    from av.video.reformatter import Interpolation

    return Interpolation.BILINEAR | Interpolation.ACCURATE_RND | Interpolation.FULL_CHR_H_INT


def _sequence(
    source: str, output: Path | None, separator: Separator, wanted: OutputOptions, steady: TemporalSmoother
) -> int:
    """Separate a numbered sequence; each picture keeps its depth and metadata."""
    pattern = Path(source).expanduser()
    found = _numbered(pattern)
    if not found:
        raise UserError(
            f"There is no picture {quoted_path(pattern)}: the pattern stands for numbers, as in frame_%05d.png."
        )
    name = _NUMBERED.sub(lambda match: match.group(0), pattern.stem)
    aim = output or pattern.with_name(f"{name}.transmission{pattern.suffix}")
    if not _NUMBERED.search(aim.name):
        aim = aim / f"{name}.transmission{pattern.suffix}"
    targets = {number: aim.with_name(_NUMBERED.sub(_filled(number), aim.name)) for number in found}
    taken = [each for each in targets.values() if os.path.lexists(each)]
    if taken and not (wanted.overwrite or wanted.skip_existing):
        raise UserError(f"{quoted_path(taken[0])} already exists: --overwrite replaces it.")
    for number, file in found.items():
        picture = read_picture(file, wanted.max_pixels)
        image = picture.tensor().expand(3, -1, -1)
        values = image.permute(1, 2, 0).numpy()
        layers = separator.layers(image)
        correction = steady.step(values, layers["transmission"].permute(1, 2, 0).numpy() - values)
        if wanted.skip_existing and os.path.lexists(targets[number]):
            continue
        result = torch.from_numpy(np.clip(values + wanted.strength * correction, 0, 1)).permute(2, 0, 1)
        if picture.values.shape[2] == 1:
            result = result.mean(0, keepdim=True)
        reduce_to_format(picture.with_values(result), format_of(targets[number])).save(
            targets[number], wanted.overwrite
        )
    sys.stderr.write(f"{quoted_path(aim)}: {len(found)} pictures\n")
    return 0


def _numbered(pattern: Path) -> dict[int, Path]:
    """The files that match a pattern, by number, in ascending order."""
    match = _NUMBERED.search(pattern.name)
    if match is None or not pattern.parent.is_dir():
        return {}
    least = int(match.group(1) or 1)
    before, after = re.escape(pattern.name[: match.start()]), re.escape(pattern.name[match.end() :])
    wanted = re.compile(rf"{before}(\d{{{least},}}){after}")
    numbered = {int(hit.group(1)): file for file in pattern.parent.iterdir() if (hit := wanted.fullmatch(file.name))}
    return dict(sorted(numbered.items()))


def _filled(number: int) -> Callable[[re.Match[str]], str]:
    return lambda match: f"{number:0{int(match.group(1) or 1)}d}"
