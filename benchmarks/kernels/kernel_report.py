"""The measurements as JSON, and as Markdown tables."""

from __future__ import annotations

import json
import platform
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import targets
import torch

ROOT = Path(__file__).resolve().parents[2]
GB = 1e9
Row = dict[str, Any]
REHEARSAL = "**A rehearsal: nothing here says how fast anything is on a GPU.**"


def environment(device: torch.device, is_small: bool) -> dict[str, Any]:
    """Return what a number means nothing without."""
    import diffusers
    import peft

    try:
        import triton
    except ImportError:
        triton = None
    is_cuda = device.type == "cuda"
    return {
        "is_gpu_figure": is_cuda and not is_small,
        "device": torch.cuda.get_device_name(device) if is_cuda else f"{platform.machine()} CPU",
        "driver": _output("nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "cuda": torch.version.cuda,
        "cudnn": torch.backends.cudnn.version(),
        "triton": triton and triton.__version__,
        "diffusers": diffusers.__version__,
        "peft": peft.__version__,
        "commit": _output("git", "-C", str(ROOT), "rev-parse", "--short=12", "HEAD"),
    }


def _output(*command: str) -> str:
    try:
        process = subprocess.run(command, check=True, capture_output=True, text=True, timeout=30)
    except (OSError, subprocess.SubprocessError):
        return "unknown"
    return process.stdout.strip()


def write(folder: Path, report: dict[str, Any]) -> None:
    """Write what there is so far: ``kernels.json`` and ``kernels.md``, each whole or not at all."""
    for name, text in (("json", json.dumps(report, indent=1)), ("md", as_markdown(report))):
        temporary = folder / f"kernels.{name}.tmp"
        temporary.write_text(text)
        temporary.replace(folder / f"kernels.{name}")


def as_markdown(report: dict[str, Any]) -> str:
    """Return the report for readers."""
    about = report["environment"]
    lines = ["# Kernels", "", ", ".join(f"{k} {v}" for k, v in about.items()), ""]
    if not about["is_gpu_figure"]:
        lines += [REHEARSAL, ""]
    if speeds := report.get("copy_gb_s"):
        lines += [f"Copy, read and write: {', '.join(f'{s:.0f}' for s in speeds)} GB/s.", ""]
    for part, (title, make) in _TABLES.items():
        if rows := report.get(part):
            lines += [f"## {title}", "", *make(rows, report), ""]
    if about["is_gpu_figure"] and (checked := list(targets.check(report))):
        lines += ["## Targets, by the worst row", "", *_targets(checked), ""]
    for part, error in report.get("failed", {}).items():
        lines += [f"{part} failed: {error}", ""]
    return "\n".join(lines)


def _operations(rows: list[Row], report: Row) -> list[str]:
    copy = sum(report["copy_gb_s"]) / len(report["copy_gb_s"])
    lines = _head(
        *("operation", "shape", "pass", "eager µs", "compiled µs", "ours µs", "others µs"),
        *("eager / ours", "ours / compiled", "GB/s", "% of copy", "MB", "error ours / eager"),
    )
    for row in rows:
        us = {name: t["median"] for name, t in row["us"].items()}
        external = ", ".join(
            f"{n} {us[n]:.1f}" for n in us if n not in ("eager", "compiled", "ours")
        )
        speed = row["bytes"] / us["ours"] / 1e3
        lines.append(
            _row(
                *(row["operation"], row["shape"], row["pass"]),
                *(f"{us[name]:.1f}" for name in ("eager", "compiled", "ours")),
                external or "-",
                f"{us['eager'] / us['ours']:.2f}",
                f"{us['ours'] / us['compiled']:.2f}",
                *(
                    ("-", "-")
                    if row["is_product"]
                    else (f"{speed:.0f}", f"{100 * speed / copy:.0f}")
                ),
                f"{row['bytes'] / 1e6:.1f}",
                f"{row['error']['ours'] / row['error']['eager']:.2f}",
            )
        )
    return lines


def _targets(checked: list[targets.Target]) -> list[str]:
    lines = _head("target", "measured", "required", "goal", "reached")
    return lines + [
        _row(t.name, f"{t.measured:.2f}", f"{t.required:g}", f"{t.goal:g}", t.outcome)
        for t in checked
    ]


def _accuracy(rows: list[Row], report: Row) -> list[str]:
    del report
    lines = _head("variant", "side", "error of the output", "error of the gradient")
    return lines + [
        _row(r["variant"], r["side"], f"{r['output']:.2e}", f"{r['gradient']:.2e}") for r in rows
    ]


def _calls(rows: list[Row], report: Row) -> list[str]:
    del report
    lines = _head(
        *(
            "side",
            "batch",
            "attention",
            "variant",
            "ms",
            "quartiles",
            "eager / it",
            "compiled / it",
        ),
        *("host ms", "first call s", "from eager", "peak GB"),
    )
    # A row per size and variant.
    for row in rows:
        us = row["us"]
        for name, t in us.items():
            lines.append(
                _row(
                    *(row["side"], row["batch"], row["attention"]["used"], name),
                    f"{t['median'] / 1e3:.2f}",
                    f"{t['q1'] / 1e3:.2f} - {t['q3'] / 1e3:.2f}",
                    *_ratios(us, name),
                    f"{row['host_ms'][name]:.1f}",
                    f"{row['first_call_s'][name]:.1f}",
                    _number(row["difference"].get(name)),
                    f"{row['peak'][name]['allocated'] / GB:.2f}",
                )
            )
    return lines


def _images(rows: list[Row], report: Row) -> list[str]:
    del report
    lines = _head(
        *("side", "steps", "variant", "s", "eager / it", "compiled / it", "from eager"), "peak GB"
    )
    for row in rows:
        for name, t in row["us"].items():
            lines.append(
                _row(
                    *(row["side"], row["steps"], name, f"{t['median'] / 1e6:.2f}"),
                    *_ratios(row["us"], name),
                    _number(row["difference"].get(name)),
                    f"{row['peak'][name]['allocated'] / GB:.2f}",
                )
            )
    return lines


def _gradient_steps(rows: list[Row], report: Row) -> list[str]:
    del report
    lines = _head("side", "activations", "variant", "ms", "eager / it", "from eager", "peak GB")
    for row in rows:
        for name, t in row["us"].items():
            lines.append(
                _row(
                    *(row["side"], row["mode"], name, f"{t['median'] / 1e3:.1f}"),
                    f"{row['us']['eager']['median'] / t['median']:.2f}",
                    _number(row["difference"].get(name)),
                    f"{row['peak'][name]['allocated'] / GB:.2f}",
                )
            )
    return lines


def _memory(rows: list[Row], report: Row) -> list[str]:
    del report
    lines = _head("side", "guidance", "weights GB", "peak allocated GB", "peak reserved GB", "s")
    return lines + [
        _row(
            r["side"],
            "batched" if r["batched"] else "sequential",
            f"{r['weight_bytes'] / GB:.2f}",
            f"{r['peak']['allocated'] / GB:.2f}",
            f"{r['peak']['reserved'] / GB:.2f}",
            f"{r['peak']['seconds']:.2f}",
        )
        for r in rows
    ]


def _ratios(us: dict[str, dict[str, float]], name: str) -> tuple[str, str]:
    median = us[name]["median"]
    return f"{us['eager']['median'] / median:.2f}", f"{us['compiled']['median'] / median:.2f}"


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.1e}"


def _head(*names: str) -> list[str]:
    return [_row(*names), _row(*("---" for _ in names))]


def _row(*cells: object) -> str:
    return f"| {' | '.join(map(str, cells))} |"


_TABLES: dict[str, tuple[str, Callable[[list[Row], Row], list[str]]]] = {
    "operations": ("One operation", _operations),
    "accuracy": ("Two blocks of each kind against float64", _accuracy),
    "calls": ("One call of the whole transformer", _calls),
    "images": ("One image with guidance, latents to latents", _images),
    "gradient_steps": ("One gradient step of a LoRA of rank 16", _gradient_steps),
    "memory": ("An image with the modulation's weights in host memory", _memory),
}
