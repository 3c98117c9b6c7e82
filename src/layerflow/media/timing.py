"""From timestamps to a constant frame rate."""

from __future__ import annotations

from bisect import bisect_right

from ..core.schema import DEFAULT_FPS

FASTEST = 60.0
"""Rate to which a video with irregular timestamps is held, so that one short gap cannot multiply it."""

_COMMON = (*range(1, 61), 72, 90, 100, 120, 144, 240, 24000 / 1001, 30000 / 1001, 60000 / 1001, 12.5, 7.5)


def constant_rate(
    times: list[float], end: float, nominal: float | None = None, wanted: float | None = None
) -> tuple[list[int], float]:
    """Which frame to show at each tick of a constant rate, and that rate.

    `times` are seconds from 0, rising; `end` is when the last frame goes; `nominal` is the rate that the
    file claims; `wanted` the rate that the caller asks for. A regular video is left as it is; otherwise
    each tick shows the latest frame that has begun, at the rate of the shortest gap (at most `FASTEST`).
    """
    for rate in (nominal, _fitted(times, end)):
        if not rate or any(abs(time * rate - index) >= 0.25 for index, time in enumerate(times)):
            continue
        if end * rate - len(times) >= 0.75 and len(times) > 1:
            continue  # the last frame stays for longer than the others
        if wanted is None or abs(wanted - rate) < 1e-3 * rate:
            return list(range(len(times))), float(wanted or rate)
    rate = wanted or min(_fitted(times, end), FASTEST)
    ticks = max(1, round(end * rate))
    return [max(0, bisect_right(times, (tick + 0.25) / rate) - 1) for tick in range(ticks)], float(rate)


def _fitted(times: list[float], end: float) -> float:
    """Rate whose ticks all times fall on, as well as they do: the shortest gap, refined along the way."""
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
    # Of 24 and 24000/1001 a short video cannot tell: take the whole number.
    return min(near, key=lambda rate: (rate % 1 > 0, abs(rate - 1 / gap))) if near else 1 / gap
