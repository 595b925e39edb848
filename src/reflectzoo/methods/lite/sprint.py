"""Train lite for a fixed time, with all data in memory and in a single process.

    python -m reflectzoo.methods.lite.sprint outputs/lite --photos PHOTOS/train --pairs PAIRS … --minutes 60

Photographs and real pairs are decoded once and stay on the device as uint8, where crops, mixtures, network, loss and
optimiser are also computed. The learning rate follows a cosine of the remaining time, so that the run ends on schedule.
Every few minutes it writes to its folder ``last.pt`` (the state from which the same command resumes),
``average-*.safetensors`` (the averaged weights, 16 bits, in pieces below 16 MiB) and a line of ``log.csv``. On a GPU,
and on a CPU with instructions for it (AVX-512 BF16, AMX), it computes in bfloat16.

    torchrun --nproc-per-node 2 -m reflectzoo.methods.lite.sprint …

trains with several processes, each with batches of its own; their gradients are averaged.

    python -m reflectzoo.methods.lite.sprint outputs/lite --pack lite.safetensors

writes the averaged weights to one file that ``reflectzoo remove --weights`` and the package can read; with ``--blend
FILE 0.75``, three quarters of them plus one quarter of an earlier file's.
"""

from __future__ import annotations

import argparse
import contextlib
import csv
import json
import math
import os
import signal
import sys
import time
from collections.abc import Mapping, Sequence
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from omegaconf import OmegaConf
from safetensors.torch import load_file, save_file
from torch import Tensor, distributed, nn
from torch.nn import functional as F
from torch.nn.parallel import DistributedDataParallel

from reflectzoo.config import build, compose_config
from reflectzoo.core.batch import Outputs
from reflectzoo.core.registry import method_of
from reflectzoo.data.synthesis import CEILNetSynthesis, GlassSynthesis, Synthesis
from reflectzoo.errors import UserError, no_compiler
from reflectzoo.inference.convert import write_network
from reflectzoo.inference.working_size import separate_resized
from reflectzoo.methods.lite.bank import Crops, Draws, load_bank
from reflectzoo.methods.lite.net_2 import LiteNet2, begin
from reflectzoo.weights.stored import NetworkRecord

_PIECE = 15 * 2**20
_FEATURE_RATE = 0.25
"""Learning rate of features that are trained, relative to the rest: they begin with good values."""
_FLOOR = 1e-4
"""Added to the mean squared error before the logarithm, since nothing is gained by exceeding 40 dB."""


def main(argv: Sequence[str] | None = None) -> int:
    """Train, or pack weights; returns exit status 0 if finished or stopped by a signal, 2 for a user's mistake."""
    wanted = arguments().parse_args(argv)
    try:
        if wanted.pack is not None:
            blend = (Path(wanted.blend[0]), _share(wanted.blend[1])) if wanted.blend else None
            pack(wanted.out, wanted.pack, net_settings(wanted.net), blend)
            return 0
        if not wanted.photos:
            raise UserError("Say where the photographs are: --photos FOLDER.")
        Run(wanted).go()
    except (UserError, RuntimeError) as error:
        fault = error if isinstance(error, UserError) else no_compiler(error)
        if fault is None:
            raise
        print(fault, file=sys.stderr)  # noqa: T201
        return 2
    return 0


def arguments() -> argparse.ArgumentParser:
    """The parser of the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m reflectzoo.methods.lite.sprint", description=__doc__.split("\n")[0]
    )
    parser.add_argument("out", type=Path, help="folder of this run; an existing run is resumed")
    parser.add_argument("--photos", type=Path, nargs="+", default=[], help="folders of photographs")
    parser.add_argument(
        "--pairs", type=Path, nargs="*", default=[], help="folders with blended/ and transmission_layer/"
    )
    parser.add_argument("--val-pairs", type=Path, help="pairs for validation")
    parser.add_argument("--val-photos", type=Path, help="photographs for validation, blended once at the start")
    parser.add_argument(
        "--start", "--from", type=Path, help="initial weights: a file of lite or lite_1 (torchrun takes --from only)"
    )
    parser.add_argument("--minutes", type=float, default=60, help="total time of this run, over all parts")
    parser.add_argument("--crop", type=int, nargs=2, default=(160, 160), metavar=("FIRST", "LAST"))
    parser.add_argument("--grow-at", type=float, default=0.7, help="share of the time after which crops have size LAST")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--lr", type=float, default=4e-4)
    parser.add_argument("--real", type=float, default=0.4, help="share of real pairs")
    parser.add_argument(
        "--moved", type=float, default=0.5, help="share of real pairs whose reflection is moved to another scene"
    )
    parser.add_argument("--average", type=float, default=0.999, help="decay of the averaged weights")
    parser.add_argument("--report", type=float, default=10, help="minutes between lines of the log")
    parser.add_argument("--net", help="network settings as JSON (default: those of model=lite)")
    parser.add_argument("--seed", type=int, default=2018)
    parser.add_argument("--compile", action="store_true", help="compile the network for training")
    parser.add_argument(
        "--unfreeze",
        type=int,
        metavar="BLOCK",
        help="also train the ImageNet features from this block on (5: at 1/16 and 1/32), at a quarter of the rate",
    )
    parser.add_argument(
        "--pack", type=Path, metavar="FILE", help="do not train; write the averaged weights of OUT to FILE"
    )
    parser.add_argument(
        "--blend",
        nargs=2,
        metavar=("FILE", "SHARE"),
        help="with --pack: weighted mean, SHARE of OUT and the rest of FILE",
    )
    return parser


def net_settings(text: str | None) -> dict[str, Any]:
    """The settings of a network from JSON; those of ``model=lite`` for None.

    Raises:
        UserError: if the text is not a JSON object.
    """
    if text is None:
        net = cast(dict[str, Any], OmegaConf.to_container(compose_config(["model=lite"]).model.net, resolve=True))
        return {name: value for name, value in net.items() if name != "_target_"}
    with contextlib.suppress(ValueError):
        if isinstance(settings := json.loads(text), dict):
            return settings
    raise UserError(f"--net takes a JSON object such as '{{\"joint_blocks\": [4, 4, 4]}}', got {text!r}.")


class Run:
    """One training, or one process of it.

    Args:
        wanted: parsed :func:`arguments`.

    Raises:
        UserError: if data, weights or settings are missing or wrong.
    """

    def __init__(self, wanted: argparse.Namespace) -> None:
        self.wanted = wanted
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.team = Team(self.device)
        torch.manual_seed(wanted.seed)
        self.rng = np.random.default_rng([wanted.seed, self.team.rank] if self.team.rank else wanted.seed)
        net = LiteNet2(**net_settings(wanted.net))
        if wanted.start is None:
            begin(net)
        else:
            warm_start(net, read_state(wanted.start))
        if wanted.unfreeze is not None:
            unfreeze(net, wanted.unfreeze)
        self.net = cast(Any, net.to(self.device)).to(memory_format=torch.channels_last).train()
        if self.device.type == "cpu":
            pointwise_as_products(self.net)
        # Averages the gradients of all processes, and begins with the first one's parameters.
        trained = DistributedDataParallel(self.net) if self.team.size > 1 else self.net
        # Sizes change once or twice in a run: a compilation for each is faster than one for all.
        self.trained = torch.compile(trained, dynamic=False) if wanted.compile else trained
        self.reduced = computes_fast_in_bfloat16(self.device)
        groups = learning_groups(self.net)
        self.learning = [each for group in groups for each in group["params"]]
        self.average = [each.detach().clone() for each in self.learning]
        self.optimizer = torch.optim.AdamW(groups, lr=wanted.lr, betas=(0.9, 0.99), weight_decay=1e-4, fused=True)
        self.step, self.spent, self.seen = 0, 0.0, 0
        self.wanted.out.mkdir(parents=True, exist_ok=True)
        if (self.wanted.out / "last.pt").is_file():
            self._resume()
        bank = load_bank(wanted.photos, wanted.pairs, self.device)
        synthesis: Synthesis = build(compose_config(["synthesis=lite"]).synthesis).to(self.device)
        self.draws = Draws(bank, synthesis, wanted.real, wanted.moved, self.rng)
        self.validation = Validation(wanted.val_photos, wanted.val_pairs, self.device)
        self.stopped = False

    def go(self) -> None:
        """Train until the time is over or a signal arrives."""
        for name in (signal.SIGINT, signal.SIGTERM):
            signal.signal(name, lambda *_: setattr(self, "stopped", True))
        total = self.wanted.minutes * 60
        begun, before = time.monotonic(), self.spent
        reported = self.spent
        losses: list[Tensor] = []
        if self.step == 0:
            self._report(math.nan)
            begun = time.monotonic()
        while self.spent < total and not self.team.any(self.stopped):
            share = self.spent / total
            warm = min((self.step + 1) / 100, 1.0)
            rate = self.wanted.lr * warm * (0.01 + 0.99 * (1 + math.cos(math.pi * share)) / 2)
            for group in self.optimizer.param_groups:
                # Checkpoints of older runs have no shares.
                group["lr"] = rate * group.get("share", 1.0)
            side = self.wanted.crop[0] if share < self.wanted.grow_at else self.wanted.crop[1]
            batch = max(round(self.wanted.batch * (self.wanted.crop[0] / side) ** 2), 2)
            losses.append(self._learn(self.draws.batch(batch, side)))
            self.spent = self.team.same(before + time.monotonic() - begun)
            if self.spent - reported >= self.wanted.report * 60:
                self._report(float(torch.stack(losses).mean()))
                # The time of validation does not count.
                begun, before, reported, losses = time.monotonic(), self.spent, self.spent, []
        self._report(float(torch.stack(losses).mean()) if losses else math.nan)
        self.team.leave()

    def _learn(self, crops: Crops) -> Tensor:
        mixture = crops.mixture.contiguous(memory_format=torch.channels_last)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.reduced):
            outputs = self.trained(mixture)
        loss = loss_of(outputs["transmission"].float(), outputs["reflection"].float(), crops)
        self.optimizer.zero_grad(set_to_none=True)
        torch.autograd.backward(loss)
        torch.nn.utils.clip_grad_norm_(self.learning, 1.0, foreach=True)
        self.optimizer.step()
        self.step, self.seen = self.step + 1, self.seen + len(mixture) * self.team.size
        decay = min(self.wanted.average, (1 + self.step) / (10 + self.step))
        torch._foreach_lerp_(self.average, [each.detach() for each in self.learning], 1 - decay)
        return loss.detach()

    def _report(self, loss: float) -> None:
        """Validate the averaged weights, and write the log, the weights and the checkpoint (first process only)."""
        if self.team.rank:
            self.team.wait()
            return
        kept = [each.detach().clone() for each in self.learning]
        with torch.no_grad():
            for each, mean in zip(self.learning, self.average, strict=True):
                each.copy_(mean)
        scores = self.validation.score(self.net)
        state = {name: value.detach().half().cpu().contiguous() for name, value in self.net.state_dict().items()}
        with torch.no_grad():
            for each, raw in zip(self.learning, kept, strict=True):
                each.copy_(raw)
        line = {"minutes": round(self.spent / 60, 1), "step": self.step, "crops": self.seen, "loss": round(loss, 5)}
        line |= {name: round(value, 3) for name, value in scores.items()}
        path = self.wanted.out / "log.csv"
        fresh = not path.exists()
        with path.open("a", newline="") as file:
            writer = csv.DictWriter(file, list(line))
            if fresh:
                writer.writeheader()
            writer.writerow(line)
        print(line, flush=True)  # noqa: T201
        write_pieces(self.wanted.out, state)
        _replace(
            self.wanted.out / "last.pt",
            {
                "net": self.net.state_dict(),
                "average": self.average,
                "optimizer": self.optimizer.state_dict(),
                "counts": (self.step, self.spent, self.seen),
                "numpy": json.dumps(self.rng.bit_generator.state),
            },
        )
        self.team.wait()

    def _resume(self) -> None:
        state = torch.load(self.wanted.out / "last.pt", map_location=self.device, weights_only=True)
        if [each.shape for each in state["average"]] != [each.shape for each in self.average]:
            raise UserError(
                f"{self.wanted.out} holds a run with another --net or --unfreeze: give the same, or another folder."
            )
        self.net.load_state_dict(state["net"])
        for one, other in zip(self.average, state["average"], strict=True):
            one.copy_(other)
        self.optimizer.load_state_dict(state["optimizer"])
        self.step, self.spent, self.seen = state["counts"]
        if self.team.rank:
            # The state is the first process's; another one continues with numbers that no process has drawn.
            self.rng = np.random.default_rng([self.wanted.seed, self.team.rank, self.step])
        else:
            self.rng.bit_generator.state = json.loads(state["numpy"])


class Team:
    """The processes that ``torchrun`` started for a run, or a single one; every operation is a no-op for a single one.

    Args:
        device: on which each process computes; a GPU is chosen by the local rank.

    Attributes:
        rank: index of this process.
        size: number of processes.
    """

    def __init__(self, device: torch.device) -> None:
        self.size = int(os.environ.get("WORLD_SIZE", "1"))
        self.rank = int(os.environ.get("RANK", "0"))
        if self.size > 1:
            if device.type == "cuda":
                torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
            distributed.init_process_group("nccl" if device.type == "cuda" else "gloo", timeout=timedelta(hours=1))
        self._device = device

    def same(self, value: float) -> float:
        """The first process's value."""
        if self.size == 1:
            return value
        shared = torch.tensor([value], dtype=torch.float64, device=self._device)
        distributed.broadcast(shared, 0)
        return float(shared)

    def any(self, flag: bool) -> bool:
        """Whether the flag is set in any process."""
        if self.size == 1:
            return flag
        shared = torch.tensor([float(flag)], device=self._device)
        distributed.all_reduce(shared)
        return bool(shared > 0)

    def wait(self) -> None:
        """Wait for all processes."""
        if self.size > 1:
            distributed.barrier()

    def leave(self) -> None:
        """End the communication with the others."""
        if self.size > 1:
            distributed.destroy_process_group()


def computes_fast_in_bfloat16(device: torch.device) -> bool:
    """Whether bfloat16 is faster than float32 there: on a GPU, and on a CPU with instructions for it."""
    if device.type != "cpu":
        return True
    has = torch.cpu.get_capabilities()
    return bool(has.get("avx512_bf16") or has.get("amx_bf16"))


def loss_of(transmission: Tensor, reflection: Tensor, crops: Crops) -> Tensor:
    """Weighted sum of losses: absolute error, log of the squared error per image (as in PSNR), edges and SSIM of T; R.

    Args:
        transmission: predicted T, (B, 3, S, S), about [0, 1].
        reflection: predicted R, same shape.
        crops: the ground truth.

    Returns:
        Scalar, which may be negative.
    """
    error = transmission - crops.transmission
    squares = error.square().mean((1, 2, 3))
    edges = (error[..., 1:] - error[..., :-1]).abs().mean() + (error[..., 1:, :] - error[..., :-1, :]).abs().mean()
    return (
        error.abs().mean()
        + 0.05 * (squares + _FLOOR).log().mean()
        + 0.5 * edges
        + 0.15 * (1 - _ssim(transmission, crops.transmission))
        + 0.2 * (reflection - crops.reflection).abs().mean()
    )


def _ssim(one: Tensor, other: Tensor) -> Tensor:
    """Mean SSIM of the mean of the colours, in a uniform 8x8 window with stride 4: cheap and accurate enough."""
    a, b = one.mean(1, keepdim=True), other.mean(1, keepdim=True)
    mean_a, mean_b, squares, product = F.avg_pool2d(
        torch.cat((a, b, a * a + b * b, a * b), 1).contiguous(), 8, 4
    ).chunk(4, 1)
    both = mean_a * mean_b
    power = mean_a.square() + mean_b.square()
    light = (2 * both + 1e-4) / (power + 1e-4)
    return (light * (2 * (product - both) + 9e-4) / (squares - power + 9e-4)).mean()


class Validation:
    """Validation data of a run: real pairs, held-out synthetic mixtures, and photographs without a reflection."""

    def __init__(self, photos: Path | None, pairs: Path | None, device: torch.device) -> None:
        self.device = device
        scenes = load_bank([], [pairs], torch.device("cpu")).scenes if pairs else []
        self.pairs = [(pair.mixture, pair.transmission) for scene in scenes for pair in scene]
        self.made: dict[str, list[tuple[Tensor, Tensor]]] = {}
        if photos:
            bank = [_square(each) for each in load_bank([photos], [], torch.device("cpu")).photos[:48]]
            half = len(bank) // 2
            for name, model in (("ceilnet", CEILNetSynthesis()), ("glass", GlassSynthesis())):
                blends = [model(bank[each][None], bank[each + half][None], [each]) for each in range(half)]
                self.made[name] = [(each.mixture[0], each.transmission[0]) for each in blends]
            self.made["clear"] = [(each, each) for each in bank[:half]]

    @torch.no_grad()
    def score(self, net: LiteNet2) -> dict[str, float]:
        """Mean PSNR in dB of each set; for the real pairs also the gain over the input."""
        net.eval()
        result: dict[str, float] = {}
        if self.pairs:
            pairs = [(mixture.float() / 255, truth.float() / 255) for mixture, truth in self.pairs]
            result["real"] = self._mean(net, pairs)
            result["real_gain"] = result["real"] - float(np.mean([_psnr(*pair) for pair in pairs]))
        for name, made in self.made.items():
            result[name] = self._mean(net, made)
        net.train()
        return result

    def _mean(self, net: LiteNet2, pairs: list[tuple[Tensor, Tensor]]) -> float:
        return float(np.mean([_psnr(separated(net, mixture, self.device), truth) for mixture, truth in pairs]))


def separated(net: LiteNet2, mixture: Tensor, device: torch.device) -> Tensor:
    """The transmission of one mixture (3, H, W), of any size, as in use, in [0, 1], on the CPU."""

    def run(image: Tensor) -> Outputs:
        return cast(Outputs, net(image.contiguous(memory_format=torch.channels_last)))

    out = separate_resized(run, mixture[None].to(device), method_of("lite").size_of("lite"))["transmission"]
    return out[0].clamp(0, 1).float().cpu()


def _psnr(one: Tensor, other: Tensor) -> float:
    return float(-10 * (one - other).square().mean().clamp_min(1e-6).log10())


def _square(photo: Tensor) -> Tensor:
    """The central 224x224 pixels, as floats in [0, 1]."""
    top, left = ((size - 224) // 2 for size in photo.shape[-2:])
    return photo[:, top : top + 224, left : left + 224].float() / 255


def write_pieces(folder: Path, state: Mapping[str, Tensor]) -> None:
    """Write weights to ``average-1-of-N.safetensors`` etc., each at most 15 MiB unless a single tensor is larger."""
    pieces: list[dict[str, Tensor]] = [{}]
    size = 0
    for name, value in state.items():
        size += value.nbytes
        if size > _PIECE and pieces[-1]:
            pieces.append({})
            size = value.nbytes
        pieces[-1][name] = value
    for number, piece in enumerate(pieces, start=1):
        path = folder / f"average-{number}-of-{len(pieces)}.safetensors"
        save_file(piece, path.with_suffix(".part"))
        os.replace(path.with_suffix(".part"), path)


def _share(word: str) -> float:
    try:
        share = float(word)
    except ValueError:
        share = math.nan
    if not 0 <= share <= 1:
        raise UserError(f"--blend FILE SHARE: the share must be a number from 0 to 1, got {word!r}.")
    return share


def pack(folder: Path, target: Path, settings: Mapping[str, Any], blend: tuple[Path, float] | None = None) -> None:
    """Write the averaged weights of a sprint to one 16-bit file with a record of the network.

    Args:
        folder: the sprint's folder.
        target: output file, ending in ``.safetensors``; replaced if it exists.
        settings: settings of the network, as in ``model.net``.
        blend: weights of an earlier run and the share of this run's; their mean is often better than either.

    Raises:
        UserError: if there are no weights, those of ``blend`` belong to another network, or the file cannot be written.
    """
    net = LiteNet2(**settings)
    state = read_state(folder)
    if blend is not None:
        earlier = LiteNet2(**settings)
        known = read_state(blend[0])
        warm_start(earlier, known)
        for name, value in earlier.state_dict().items():
            if name.startswith("joint.") and name not in known:
                # Joint blocks that the earlier weights lack add nothing there: those of this run, at their share.
                value = torch.zeros_like(value) if ".narrow" in name else state[name]
            state[name] = blend[1] * state[name] + (1 - blend[1]) * value
    warm_start(net, state)
    stored = NetworkRecord("lite", method_of("lite"), "LiteNet2", dict(settings))
    made = write_network(net, stored, target, {"trained_by": "reflectzoo.methods.lite.sprint"}, True, half=True)
    print(f"{target}: {made.parameters:,} numbers, sha256 {made.sha256}")  # noqa: T201


def read_state(path: Path) -> dict[str, Tensor]:
    """Read a network's weights in float32, from a ``.safetensors`` file or from the pieces in a run's folder.

    Raises:
        UserError: if there are none, or a piece is missing.
    """
    files = sorted(path.glob("average-*.safetensors")) if path.is_dir() else [path]
    if not files or not files[0].is_file():
        raise UserError(f"{path} is neither a file of weights nor the folder of a sprint with average-*.safetensors.")
    if path.is_dir() and not files[0].stem.endswith(f"-of-{len(files)}"):
        raise UserError(f"{path} lacks some pieces of its weights: {files[0].name} is one of {len(files)} there.")
    state = {name: value for file in files for name, value in load_file(file).items()}
    return {name.removeprefix("net."): value.float() for name, value in state.items()}


def warm_start(net: LiteNet2, state: dict[str, Tensor]) -> None:
    """Initialise a network in place with the weights of a lite or a lite_1, whose output becomes the offset.

    Joint blocks that the weights lack keep their initial values, the identity. With those of a lite_1, the gain keeps
    its initial value, 0, and the ImageNet features are loaded from their package.

    Raises:
        UserError: if the weights belong to neither, or the ImageNet features are not installed.
    """
    if not any(name.startswith("features.") for name in state):
        begin(net)
    mine = net.state_dict()
    if unknown := set(state) - set(mine):
        raise UserError(f"These weights are not lite's: {sorted(unknown)[0]} is unknown.")
    for name, value in state.items():
        if value.shape == mine[name].shape:
            mine[name].copy_(value)
        elif name.startswith("out_l.") and value.shape[1:] == mine[name].shape[1:]:
            mine[name][: len(value)].copy_(value)
        else:
            raise UserError(f"{name} is {tuple(value.shape)} in these weights, {tuple(mine[name].shape)} here.")


def unfreeze(net: LiteNet2, block: int) -> None:
    """Let the ImageNet features be trained from a block on; the layers before it stay frozen.

    Args:
        net: a network with features.
        block: index of the first block to train; those at 1/16 and 1/32 begin at 5, those at 1/32 alone at 11.

    Raises:
        UserError: if the network has no features, or no such block.
    """
    if net.features is None:
        raise UserError("--unfreeze: this network has no ImageNet features (features=none).")
    count = len(net.features.blocks)
    if not 0 <= block < count:
        raise UserError(f"--unfreeze: the features have blocks 0 to {count - 1}, got {block}.")
    net.features.blocks[block:].requires_grad_(True)


def learning_groups(net: nn.Module) -> list[dict[str, Any]]:
    """Groups for the optimiser of the parameters that are trained, each with its ``share`` of the learning rate."""
    learning = [(name, each) for name, each in net.named_parameters() if each.requires_grad]
    own = [each for name, each in learning if not name.startswith("features.")]
    features = [each for name, each in learning if name.startswith("features.")]
    groups = [{"params": own, "share": 1.0}, {"params": features, "share": _FEATURE_RATE}]
    return [group for group in groups if group["params"]]


def pointwise_as_products(net: nn.Module) -> None:
    """Compute every 1x1 convolution as a matrix product, since PyTorch's is slow for small batches on one thread."""

    def product(conv: nn.Conv2d, x: Tensor) -> Tensor:
        return F.linear(x.permute(0, 2, 3, 1), conv.weight.flatten(1), conv.bias).permute(0, 3, 1, 2)

    for conv in net.modules():
        if isinstance(conv, nn.Conv2d) and conv.kernel_size == (1, 1):
            conv.forward = partial(product, conv)  # type: ignore[method-assign]


def _replace(path: Path, state: object) -> None:
    beside = path.with_suffix(".part")
    torch.save(state, beside)
    os.replace(beside, path)


if __name__ == "__main__":
    sys.exit(main())
