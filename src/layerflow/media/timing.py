"""Convert timestamps to a constant frame rate."""

from __future__ import annotations

from bisect import bisect_right

from ..core.schema import DEFAULT_FPS

FASTEST = 60.0
"""Highest rate for a video with irregular timestamps, so that one short gap cannot multiply its frames."""

_COMMON = (*range(1, 61), 72, 90, 100, 120, 144, 240, 24000 / 1001, 30000 / 1001, 60000 / 1001, 12.5, 7.5)


def constant_rate(
    times: list[float], end: float, nominal: float | None = None, requested: float | None = None
) -> tuple[list[int], float]:
    """Return the index of the frame to show at each tick of a constant rate, and that rate.

    `times` are the start times in seconds from 0, rising; `end` is the end of the last frame; `nominal` is the rate in
    the file's header; `requested` the rate to resample to. A regular video is left as it is; otherwise each tick shows
    the latest frame that has begun, at the rate of the shortest gap (at most `FASTEST`).
    """
    for rate in (nominal, _fitted(times, end)):
        if not rate or any(abs(time * rate - index) >= 0.25 for index, time in enumerate(times)):
            continue
        if end * rate - len(times) >= 0.75 and len(times) > 1:
            continue  # the last frame stays for longer than the others
        if requested is None or abs(requested - rate) < 1e-3 * rate:
            return list(range(len(times))), float(requested or rate)
    rate = requested or min(_fitted(times, end), FASTEST)
    ticks = max(1, round(end * rate))
    return [max(0, bisect_right(times, (tick + 0.25) / rate) - 1) for tick in range(ticks)], float(rate)


def _fitted(times: list[float], end: float) -> float:
    """Estimate the rate whose ticks the times fall on: from the shortest gap, refined over the following times."""
    gaps = [gap for before, after in zip(times, [*times[1:], end], strict=True) if (gap := after - before) > 0]
    if not gaps:
        return DEFAULT_FPS
    gap = min(gaps)
    for time in (*times[1:], end):
        count = round(time / gap)
        if count and abs(time / gap - count) < 0.25:
            gap = time / count
    ticks = max(1, round(end / gap))
    near = [rate for rate in _COMMON if abs(ticks / rate - end) <= 0.0011]  # timestamps in whole ms
    # A short video cannot tell 24 from 24000/1001: take the whole number.
    return min(near, key=lambda rate: (rate % 1 > 0, abs(rate - 1 / gap))) if near else 1 / gap
