"""Measurement of time and peak memory."""

from __future__ import annotations

import ctypes
import gc
import json
import os
import platform
import resource
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import torch

from reflectzoo.bench.registry import Options, Prepared, SpeedComparison

# Timeout of a child process for one run: generous, for machines under load, but finite.
_CHILD_SECONDS = 900


@dataclass(frozen=True)
class MeasuredRow:
    """Measured row of a table.

    Attributes:
        plain: seconds or bytes of the plain form.
        fast: seconds or bytes of the fast form.
        spread: median divided by best time, of the noisier form; 1 means no noise, and is used for memory.
    """

    plain: float
    fast: float
    spread: float

    @property
    def ratio(self) -> float:
        """Value of the plain form divided by that of the fast form."""
        return self.plain / self.fast


def seconds(comparison: SpeedComparison, rounds: int) -> MeasuredRow:
    """Measure the best time of each form over several runs, alternating so that load on the machine affects both.

    Args:
        comparison: both forms; each is run once beforehand.
        rounds: number of measured runs per form.
    """
    forms = [comparison.plain(), comparison.fast()]
    times: list[list[float]] = [[], []]
    for form in forms:
        form()
    for _ in range(rounds):
        for form, taken in zip(forms, times, strict=True):
            start = time.perf_counter()
            form()
            taken.append(time.perf_counter() - start)
    return MeasuredRow(min(times[0]), min(times[1]), max(median(taken) / min(taken) for taken in times))


def memory(subject: str, comparison: SpeedComparison, options: Options) -> MeasuredRow:
    """Measure the peak memory of each form above that of the idle process, each in a new process."""
    plain, fast = (_memory_of_child(subject, comparison.key, form, options) for form in ("plain", "fast"))
    return MeasuredRow(plain, fast, 1.0)


def peak_of(run: Prepared) -> int:
    """Peak memory of this process during a run, in bytes above its current memory."""
    gc.collect()
    _give_back()
    _forget_peak()
    idle = _resident()
    run()
    return max(_peak() - idle, 0)


def machine() -> dict[str, str | int | float | bool]:
    """Properties of this machine that affect the measurements."""
    return {
        "cpu": _cpu_name(),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "load": round(os.getloadavg()[0], 2),
        "bf16_matrix_units": has_bf16(),
    }


def has_bf16() -> bool:
    """Whether this CPU multiplies bfloat16 matrices in hardware (AMX, or AVX-512 with its bf16 instructions)."""
    flags = _field("/proc/cpuinfo", "flags").split()
    return "amx_bf16" in flags or "avx512_bf16" in flags


def _memory_of_child(subject: str, key: str, form: str, options: Options) -> float:
    command = [sys.executable, "-m", "reflectzoo.bench", "--child", subject, key, form]
    command += ["--shrink", str(options.shrink), "--seed", str(options.seed), "--threads", str(torch.get_num_threads())]
    done = subprocess.run(command, capture_output=True, text=True, timeout=_CHILD_SECONDS, check=False)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)} failed:\n{done.stderr}")
    return float(json.loads(done.stdout.splitlines()[-1])["bytes"])


def _give_back() -> None:
    """Return free memory from glibc to the system; otherwise the run could use it without raising the peak."""
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)


def _forget_peak() -> None:
    """Reset the peak (Linux only); elsewhere it includes building the network, which needs far less memory."""
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


def _peak() -> int:
    status = _field("/proc/self/status", "VmHWM")
    if status:
        return int(status.split()[0]) * 1024
    # In kilobytes, except on macOS.
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def _resident() -> int:
    status = _field("/proc/self/status", "VmRSS")
    return int(status.split()[0]) * 1024 if status else _peak()


def _cpu_name() -> str:
    return _field("/proc/cpuinfo", "model name") or platform.processor() or platform.machine()


def _field(file: str, name: str) -> str:
    """Value of a line ``name: value`` in a file of Linux's /proc; empty if there is none."""
    with suppress(OSError):
        for line in Path(file).read_text().splitlines():
            key, _, value = line.partition(":")
            if key.strip() == name:
                return value.strip()
    return ""
