"""Times of programs on a card: what their kernels take, from jax's own profiler, beside the wall clock.

A program is launched as a whole, so that its wall clock also holds the launches; the profiler shows each kernel alone. XLA runs no
CUDA graphs while it profiles. Where the profiler shows no kernel, as on a CPU, the wall clock is all there is.
"""

from __future__ import annotations

import pathlib
import statistics
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import jax
import measure
from jax.profiler import ProfileData

# A card's plane in a profile, and its lines that hold what ran: others, as of XLA's operations, hold the same time again.
PLANE, LINE = "/device:GPU", "Stream #"
# Each contender is profiled so often, in turn with the others, and runs so often each time.
ROUNDS, RUNS = 2, 5

Call = Callable[[], Any]


@dataclass(frozen=True)
class Event:
    """Something that ran: a kernel, a copy or a memset."""

    start: float  # nanoseconds
    duration: float
    name: str


@dataclass(frozen=True)
class Timing:
    """Median seconds of one run of a program."""

    wall: float
    kernels: float | None
    """All its kernels, added up; None where the profiler shows none."""
    names: tuple[str, ...]
    """What its kernels are called."""

    @property
    def seconds(self) -> float:
        """The kernels' time where it is known."""
        return self.wall if self.kernels is None else self.kernels


def events(profile: ProfileData, plane: str = PLANE, line: str = LINE) -> list[Event]:
    """What ran on the lines whose names begin so, in order."""
    lines = [found for p in profile.planes if p.name.startswith(plane) for found in p.lines if found.name.startswith(line)]
    ran = [Event(event.start_ns, event.duration_ns, event.name) for found in lines for event in found.events]
    return sorted(ran, key=lambda event: event.start)


def each_run(ran: list[Event], runs: int) -> list[float]:
    """Seconds of every run of a program that ran ``runs`` times, from the events of all; their mean where they cannot be told apart."""
    length, rest = divmod(len(ran), runs)
    if not length:
        return []
    if rest:
        return [sum(event.duration for event in ran) * 1e-9 / runs]
    return [sum(event.duration for event in ran[first : first + length]) * 1e-9 for first in range(0, len(ran), length)]


def only_the_device() -> jax.profiler.ProfileOptions:
    """Nothing of what the host does is traced."""
    options = jax.profiler.ProfileOptions()
    options.python_tracer_level = options.host_tracer_level = 0
    return options


def profile(call: Call, runs: int, options: jax.profiler.ProfileOptions | None = None) -> ProfileData:
    """The profile of ``runs`` runs, one after the other."""
    with tempfile.TemporaryDirectory() as folder:
        with jax.profiler.trace(folder, profiler_options=options or only_the_device()):
            for _ in range(runs):
                jax.block_until_ready(call())
        (file,) = pathlib.Path(folder).rglob("*.xplane.pb")
        return ProfileData.from_file(str(file))


def contest(calls: Mapping[str, Call], seconds: float) -> dict[str, Timing]:
    """Times of all contenders, which take turns; the wall clock for about ``seconds``, then the profiler."""
    wall = measure.interleaved(calls, seconds=seconds)
    kernels: dict[str, list[float]] = {name: [] for name in calls}
    names: dict[str, set[str]] = {name: set() for name in calls}
    for _ in range(ROUNDS):
        for name, call in calls.items():
            ran = events(profile(call, RUNS))
            kernels[name] += each_run(ran, RUNS)
            names[name].update(event.name for event in ran)
    median = {name: statistics.median(found) if found else None for name, found in kernels.items()}
    return {name: Timing(wall[name], median[name], tuple(sorted(names[name]))) for name in calls}
