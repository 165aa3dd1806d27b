"""Time and peak memory of encoders against the length of the input, ours beside transformers' in one run.

    python benchmarks/length.py --lengths 512 1024 2048 --rounds 3 --out length.json

Every round times every model once, in turn, so that a slow minute of the machine meets all of them. A ratio is the
median over the rounds of (model's time / peer's time in the same round), with the smallest and largest. Peak memory is
that of a process of its own: what the calls needed beyond the loaded model.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

OURS = {
    "ponet": ("L12H768", {"mixer": "ponet", "position": "absolute", "layer_norm_eps": 1e-12}),
    "fourier": ("L12H768", {"mixer": "fourier", "position": "absolute", "project_embeddings": True}),
    "hybrid p-a-a": ("B4-4-4H768", {"mixer": ["ponet", "attention", "attention"], "decoder_layers": 0}),
    "hybrid p-p-a": ("B4-4-4H768", {"mixer": ["ponet", "ponet", "attention"], "decoder_layers": 0}),
    "funnel": ("B4-4-4H768", {"decoder_layers": 0}),
    "transformer": ("L12H768", {}),
}
PEERS = ("transformers FNet", "transformers BERT", "transformers ModernBERT")
# Which peer each of ours is compared with.
RATIOS = [
    ("ponet", "transformers FNet"),
    ("fourier", "transformers FNet"),
    ("ponet", "fourier"),
    ("hybrid p-a-a", "transformers BERT"),
    ("hybrid p-p-a", "transformers BERT"),
    ("funnel", "transformers BERT"),
    ("transformer", "transformers BERT"),
    ("hybrid p-a-a", "transformers ModernBERT"),
]
VOCABULARY, CLS, SEP = 1000, 1, 2
SENTENCE = 32  # tokens between two separators, where PoNet's segments end


def build(name: str, length: int) -> torch.nn.Module:
    """A model of the base size with random weights."""
    if name in OURS:
        from funnelformer import FunnelformerConfig, FunnelformerModel

        layout, options = OURS[name]
        config = FunnelformerConfig.from_name(
            layout,
            vocab_size=VOCABULARY,
            max_position_embeddings=length,
            cls_token_id=CLS,
            sep_token_id=SEP,
            **options,
        )
        return FunnelformerModel(config)
    import transformers

    prefix = name.removeprefix("transformers ")
    model_class = getattr(
        transformers, {"BERT": "Bert", "ModernBERT": "ModernBert"}.get(prefix, prefix) + "Model"
    )
    settings: dict[str, Any] = {
        "vocab_size": VOCABULARY,
        "max_position_embeddings": length,
        "pad_token_id": 0,
    }
    if prefix == "ModernBERT":
        settings |= {"num_hidden_layers": 12, "intermediate_size": 2048, "bos_token_id": 1, "eos_token_id": 2}
        settings |= {"cls_token_id": CLS, "sep_token_id": SEP}
    config = model_class.config_class(**settings)
    if prefix != "FNet":
        return model_class._from_config(config, attn_implementation="sdpa")
    return model_class(config)


def prepare(name: str, length: int, batch_size: int, mode: str, device: str) -> Any:
    """The call that is measured."""
    torch.manual_seed(0)
    model = build(name, length).to(device)
    ids = torch.randint(3, VOCABULARY, (batch_size, length))
    ids[:, ::SENTENCE] = SEP
    ids[:, 0] = CLS
    ids = ids.to(device)
    if mode == "inference":
        model.eval()

        def call() -> None:
            with torch.inference_mode():
                model(ids)

    else:
        model.train()

        def call() -> None:
            model.zero_grad()
            model(ids)[0].float().square().mean().backward()

    return call


def timed(call: Any, device: str) -> float:
    if device == "cuda":
        torch.cuda.synchronize()
    start = time.perf_counter()
    call()
    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - start


def peak_memory(name: str, length: int, batch_size: int, mode: str, device: str) -> float:
    """MiB that two calls need beyond the loaded model, measured in this process."""
    call = prepare(name, length, batch_size, mode, device)
    if device == "cuda":
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        call()
        call()
        return (torch.cuda.max_memory_allocated() - before) / 2**20
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    call()
    call()
    return (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 2**10


def spread(values: list[float]) -> dict[str, float]:
    return {"median": statistics.median(values), "min": min(values), "max": max(values)}


def measure(length: int, names: list[str], options: argparse.Namespace) -> dict[str, Any]:
    calls = {name: prepare(name, length, options.batch_size, options.mode, options.device) for name in names}
    for call in calls.values():
        call()
    seconds: dict[str, list[float]] = {name: [] for name in names}
    for _ in range(options.rounds):
        for name, call in calls.items():
            seconds[name].append(timed(call, options.device))
    del calls
    memory = {}
    if options.memory:
        for name in names:
            command = [sys.executable, __file__, "--peak", name, "--lengths", str(length)]
            command += [
                "--mode",
                options.mode,
                "--batch-size",
                str(options.batch_size),
                "--device",
                options.device,
            ]
            memory[name] = float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    ratios = {
        f"{ours} / {peer}": spread([a / b for a, b in zip(seconds[ours], seconds[peer], strict=True)])
        for ours, peer in RATIOS
        if ours in seconds and peer in seconds
    }
    return {
        "length": length,
        "seconds": {name: spread(values) for name, values in seconds.items()},
        "peak_mib": memory,
        "ratios": ratios,
    }


def table(rows: list[dict[str, Any]], key: str) -> str:
    names = list(dict.fromkeys(name for row in rows for name in row[key]))
    lines = [
        "| " + " | ".join(["", *(f"{row['length']:,}" for row in rows)]) + " |",
        "|---" * (len(rows) + 1) + "|",
    ]
    for name in names:
        cells = []
        for row in rows:
            value = row[key].get(name)
            if value is None:
                cells.append("")
            elif isinstance(value, dict):
                cells.append(f"{value['median']:.2f} ({value['min']:.2f} to {value['max']:.2f})")
            else:
                cells.append(f"{value:,.0f}")
        lines.append("| " + " | ".join([name, *cells]) + " |")
    return "\n".join(lines)


def memory_fits(rows: list[dict[str, Any]]) -> dict[str, dict[str, float]]:
    """For each model the straight line through its peaks, its R², and the exponent of the best power law."""
    fits = {}
    for name in rows[0]["peak_mib"]:
        lengths = np.array([row["length"] for row in rows if name in row["peak_mib"]], dtype=float)
        peaks = np.array([row["peak_mib"][name] for row in rows if name in row["peak_mib"]])
        slope, offset = np.polyfit(lengths, peaks, 1)
        left = ((peaks - slope * lengths - offset) ** 2).sum()
        exponent, _ = np.polyfit(np.log(lengths), np.log(np.maximum(peaks, 1.0)), 1)
        fits[name] = {
            "mib_per_1024_tokens": slope * 1024,
            "r_squared": 1 - left / ((peaks - peaks.mean()) ** 2).sum(),
            "exponent": exponent,
        }
    return fits


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--lengths", type=int, nargs="+", default=[512, 1024, 2048, 4096])
    parser.add_argument("--models", nargs="+", default=[*OURS, *PEERS], choices=[*OURS, *PEERS])
    parser.add_argument("--mode", choices=["inference", "training"], default="inference")
    parser.add_argument("--batch-size", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--memory", action="store_true", help="measure peak memory too")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--out", type=Path, help="JSON file")
    parser.add_argument("--peak", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.peak:
        print(peak_memory(options.peak, options.lengths[0], options.batch_size, options.mode, options.device))
        return
    rows: list[dict[str, Any]] = []
    fits: dict[str, Any] = {}
    for length in options.lengths:
        rows.append(measure(length, options.models, options))
        print(f"{length} done", file=sys.stderr, flush=True)
    title = f"{options.mode}, batch {options.batch_size}, {options.device}, torch {torch.__version__}"
    print(f"Seconds ({title})\n\n{table(rows, 'seconds')}\n\nRatios\n\n{table(rows, 'ratios')}")
    if options.memory:
        print(f"\nPeak memory, MiB\n\n{table(rows, 'peak_mib')}")
        if len(rows) > 2:
            fits = memory_fits(rows)
            print("\n| | MiB per 1,024 tokens | R² of a straight line | exponent |\n|---|---|---|---|")
            for name, fit in fits.items():
                print("| " + " | ".join([name, *(f"{value:.3g}" for value in fit.values())]) + " |")
    if options.out:
        temporary = options.out.with_suffix(".tmp")
        temporary.write_text(
            json.dumps({"title": title, "rounds": options.rounds, "rows": rows, "fits": fits}, indent=2)
            + "\n"
        )
        temporary.replace(options.out)


if __name__ == "__main__":
    main()
