"""Fused kernels beside eager and compiled PyTorch: operations, calls, images, gradient steps.

Everything is measured in one process, in turn, on random weights::

    python benchmarks/kernels --out DIR

writes ``DIR/kernels.json`` and ``DIR/kernels.md``, anew after every row, so that a run that is cut
off keeps what it has. ``--parts`` chooses. ``--small --device cpu`` rehearses it all, tiny and with
plain PyTorch in place of the kernels; with these in Triton's interpreter if ``TRITON_INTERPRET`` is
1.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from functools import cache, partial
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
PARTS = ("operations", "accuracy", "calls", "images", "gradient_steps", "memory")


def main() -> int:
    """Measure what is asked for."""
    parser = argparse.ArgumentParser(description="fused kernels beside eager and compiled")
    parser.add_argument("--out", type=Path, required=True, help="folder for the report")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS)
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--small", action="store_true", help="tiny sizes: a rehearsal")
    parser.add_argument("--rounds", type=int, help="measurements of each operation")
    parser.add_argument("--commit", help="what is measured, where git cannot tell")
    args = parser.parse_args()
    load_package()
    if reason := refusal(args):
        sys.stderr.write(f"{reason}\n")
        return 2
    args.out.mkdir(parents=True, exist_ok=True)
    return run(args)


def refusal(args: argparse.Namespace) -> str | None:
    """Say in a sentence why nothing can be measured as asked; None: it can."""
    import torch

    from onereward import kernels

    if args.device == "cpu":
        return None if args.small else "--device cpu is for rehearsals only: add --small"
    reason = "no CUDA GPU is found"
    if torch.cuda.is_available():
        reason = kernels.device_refusal("cuda")
    return reason and f"nothing is measured: {reason}; rehearse with --small --device cpu"


def load_package() -> None:
    """Make the repository importable as ``onereward`` where it is not installed."""
    if importlib.util.find_spec("onereward") is not None:
        return
    spec = importlib.util.spec_from_file_location(
        "onereward", ROOT / "__init__.py", submodule_search_locations=[str(ROOT)]
    )
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["onereward"] = module
    spec.loader.exec_module(module)


def run(args: argparse.Namespace) -> int:
    """Go through the parts; one that fails leaves the others alone."""
    import torch
    from kernel_report import environment, write
    from timing import copy_speed

    from onereward import kernels

    device = torch.device(args.device)
    # On a GPU nothing may fall back in silence.
    is_rehearsal = device.type == "cpu" and os.environ.get("TRITON_INTERPRET") != "1"
    backend = "reference" if is_rehearsal else "triton"
    rounds = args.rounds or (1 if args.small else 50)
    about = environment(device, args.small)
    report: dict[str, Any] = {"environment": about, "failed": {}}
    if args.commit:
        report["environment"]["commit"] = args.commit
    report["copy_gb_s"] = [copy_speed(device, rounds)]
    for part, rows in parts(args, device, rounds).items():
        begin = time.perf_counter()
        measured_rows: list[dict[str, Any]] = report.setdefault(part, [])
        try:
            with kernels.use_backend(backend):
                for row in rows():
                    measured_rows.append(row)
                    write(args.out, report)
        except Exception as error:  # noqa: BLE001  (one part must not cost the others their GPU)
            traceback.print_exc()
            report["failed"][part] = f"{type(error).__name__}: {str(error)[:500]}"
            if device.type == "cuda":
                torch.cuda.empty_cache()
        sys.stdout.write(
            f"{part}: {len(measured_rows)} rows in {time.perf_counter() - begin:.0f} s\n"
        )
        sys.stdout.flush()
    report["copy_gb_s"].append(copy_speed(device, rounds))
    write(args.out, report)
    sys.stdout.write((args.out / "kernels.md").read_text())
    return 1 if report["failed"] else 0


def parts(
    args: argparse.Namespace, device: Any, rounds: int
) -> dict[str, Callable[[], Iterator[dict[str, Any]]]]:
    """Return what yields the rows of each chosen part, in the order that memory asks for."""
    import operations
    import torch
    import variants as forms
    import whole_model

    # The sizes, and the transformer in all its forms, built once.
    scale = forms.SMALL if args.small else forms.FLUX
    dtype = torch.float32 if device.type == "cpu" else torch.bfloat16

    def operation_rows() -> Iterator[dict[str, Any]]:
        for shape in operations.SMALL if args.small else operations.FLUX:
            yield from operations.measure(shape, device, dtype, rounds, scale.backend)

    @cache
    def variants() -> forms.Variants:
        torch.compiler.reset()
        return forms.Variants(scale, device, dtype)

    def model_rows(measure: Callable[..., Iterator[dict[str, Any]]]) -> Iterator[dict[str, Any]]:
        return measure(variants())

    # What measures each part.
    measures = {
        "accuracy": whole_model.measure_accuracy,
        "calls": whole_model.measure_calls,
        "images": whole_model.measure_images,
        "gradient_steps": whole_model.measure_gradient_steps,
        "memory": whole_model.measure_memory,
    }
    row_makers: dict[str, Callable[[], Iterator[dict[str, Any]]]] = {"operations": operation_rows}
    row_makers |= {name: partial(model_rows, measure) for name, measure in measures.items()}
    return {name: row_makers[name] for name in PARTS if name in args.parts}


if __name__ == "__main__":
    sys.exit(main())
