"""Times calls on a device in turn, and what the device can do at best."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping

import torch

Call = Callable[[], object]
SLEEP_CYCLES = 3_000_000
"""Over a millisecond, in which the host queues a whole call: gaps between short kernels are
then not measured as theirs."""


def interleave(
    calls: Mapping[str, Call], device: torch.device, rounds: int, *, is_short: bool = False
) -> dict[str, dict[str, float]]:
    """Time every call once per round, in the order A B C, C B A, ..., so that all meet the same.

    Args:
        calls: By name; each is warmed up first.
        device: On CUDA its own events are the clock.
        rounds: How often.
        is_short: Whether the host may be slower than the device, and should not count.

    Returns:
        Microseconds by name: median and quartiles.
    """
    for call in [*calls.values()] * (2 if device.type == "cuda" else 1):
        call()
    times: dict[str, list[float]] = {name: [] for name in calls}
    names = list(calls)
    for index in range(rounds):
        for name in names if index % 2 == 0 else reversed(names):
            times[name].append(_time(calls[name], device, is_short))
    return {name: spread(values) for name, values in times.items()}


def spread(values: list[float]) -> dict[str, float]:
    """Return median and quartiles."""
    if len(values) == 1:
        return {"median": values[0], "q1": values[0], "q3": values[0]}
    q1, _, q3 = statistics.quantiles(values, n=4, method="inclusive")
    return {"median": statistics.median(values), "q1": q1, "q3": q3}


def _time(call: Call, device: torch.device, is_short: bool) -> float:
    if device.type != "cuda":
        begin = time.perf_counter()
        call()
        return (time.perf_counter() - begin) * 1e6
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    torch.cuda.synchronize()
    if is_short:
        torch.cuda._sleep(SLEEP_CYCLES)
    start.record()
    call()
    end.record()
    end.synchronize()
    return start.elapsed_time(end) * 1e3


def first_call_s(call: Call, device: torch.device) -> float:
    """Return the seconds of one call from the user's side, compilation included."""
    synchronize(device)
    begin = time.perf_counter()
    call()
    synchronize(device)
    return time.perf_counter() - begin


def host_ms(call: Call, device: torch.device) -> float:
    """Return the milliseconds the host needs to queue one call."""
    synchronize(device)
    begin = time.perf_counter()
    call()
    spent = (time.perf_counter() - begin) * 1e3
    synchronize(device)
    return spent


def synchronize(device: torch.device) -> None:
    """Wait for the device."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def peak_bytes(call: Call, device: torch.device) -> dict[str, float]:
    """Return the most memory allocated and reserved during a call, and its seconds.

    Weights and whatever else is there before are included; the CPU's memory is not counted.
    """
    if device.type != "cuda":
        return {"allocated": 0, "reserved": 0, "before": 0, "seconds": first_call_s(call, device)}
    torch.cuda.empty_cache()
    before = torch.cuda.memory_allocated(device)
    torch.cuda.reset_peak_memory_stats(device)
    return {
        "seconds": first_call_s(call, device),
        "allocated": torch.cuda.max_memory_allocated(device),
        "reserved": torch.cuda.max_memory_reserved(device),
        "before": before,
    }


def copy_speed(device: torch.device, rounds: int) -> float:
    """Return the speed of a large copy, bytes read and written, in GB/s."""
    size = 1 << 29 if device.type == "cuda" else 1 << 22
    source = torch.randint(0, 255, (size,), dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    times = interleave({"copy": lambda: target.copy_(source)}, device, rounds)
    return 2 * size / times["copy"]["median"] / 1e3


def num_sets(num_bytes: int, device: torch.device) -> int:
    """Return how many sets of inputs to go through, so that none is still in the cache."""
    if device.type != "cuda":
        return 1
    cache = getattr(torch.cuda.get_device_properties(device), "L2_cache_size", 64 << 20)
    return max(2, -(-3 * cache // max(num_bytes, 1)))
