"""Everything a GPU has to say about these models, in one call of under ten minutes on a bare machine.

    PYTHONPATH=src python benchmarks/gpu.py --out gpu.json
    PYTHONPATH=src python benchmarks/gpu.py --out gpu.json --parts values speed --seconds 300
    TRITON_INTERPRET=1 PYTHONPATH=src python benchmarks/gpu.py --out gpu.json --toy      # on a CPU, does it run?

It needs torch, transformers and this repository, nothing else; `values` also needs pytest, whose cases it runs. Each
part is a process of its own with its share of the seconds: one that fails, hangs or runs out of memory leaves a row
that says so, and the others go on. The file is written after each.

values: Triton's attention beside the reference in float64, values and all gradients, in the cases of the tests.
tiles: seconds of Triton's attention, forward and backward, by rows of a tile.
inference, training: ours ("sdpa", "triton"), BERT, ModernBERT and transformers' Funnel in turns, in bfloat16 (training:
autocast); ratios to BERT of one round each, FLOP/s over those of the fastest matrix product, peak memory.
nccl: two processes find the gradient of one. pretraining: a minute of masked language modelling, tokens a second.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import transformers

from funnelformer import FunnelformerConfig, FunnelformerForMaskedLM, FunnelformerModel
from funnelformer.base.machine import hardware, versions, wait_for
from funnelformer.base.markdown import markdown_table
from funnelformer.cost.flops import forward_flops, training_flops
from funnelformer.cost.peak import device_peak

ROOT = Path(__file__).resolve().parents[1]
VOCABULARY = 30522
SHAPES = {"full": ((64, 128), (32, 512), (8, 4096)), "toy": ((2, 16), (1, 40))}
LAYOUTS = {"full": "B4-4-4H768", "toy": "B1-1-1H64"}
ONE_VECTOR = {"full": "one-vector-base", "toy": "B1-1-1-1-1H64"}
# A part's share of the seconds.
SHARES = {"values": 0.2, "tiles": 0.1, "inference": 0.22, "training": 0.25, "nccl": 0.08, "pretraining": 0.15}
BERT = "BERT"
TILE_ROWS = (16, 32, 64, 128)


def the_device() -> torch.device:
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


# ---- values


def values(options: argparse.Namespace) -> dict[str, Any]:
    """The largest difference of each case, over its largest value, and what is allowed."""
    sys.path.insert(0, str(ROOT / "tests"))
    from funnelformer.mixers.attention import fused
    from mixers import fused_cases as cases

    own_tiles = fused._tiles
    rows = []
    names = list(cases.CASES)[:2] if options.toy else list(cases.CASES)
    for name in names:
        for tiles in ("16 rows", "as chosen"):
            if tiles == "16 rows":
                fused._tiles = lambda dtype, stride: (16, 16 * stride)
            else:
                fused._tiles = own_tiles
            row: dict[str, Any] = {"case": name, "tiles": tiles}
            try:
                layer, given, inputs = cases.case(**cases.CASES[name])
                found = cases.results(fused.attend, layer, given, inputs)
                expected = cases.reference_results(layer, given, inputs)
                pairs = [(a, b) for a, b in zip(found, expected, strict=True) if a is not None]
                worst = max(float((a - b).abs().max() / b.abs().max().clamp(min=0.1)) for a, b in pairs)
                allowed = cases.ALLOWED[given[0].dtype]
                row |= {"largest": worst, "allowed": allowed, "is_right": worst <= allowed}
            except Exception as error:
                row["error"] = said(error)
            rows.append(row)
    return {"rows": rows, "num_right": sum(row.get("is_right", False) for row in rows)}


# ---- tiles


def tiles(options: argparse.Namespace) -> dict[str, Any]:
    """Milliseconds of one layer's attention, forward and backward, by the rows of a tile."""
    from funnelformer.mixers.attention import Attention, fused
    from funnelformer.mixers.sequence import start_state

    device = the_device()
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    heads, size, batch_size, length = (2, 16, 1, 20) if options.toy else (12, 64, 32, 512)
    width = heads * size
    config = FunnelformerConfig(
        blocks=[1], hidden_size=width, num_attention_heads=heads, head_size=size, intermediate_size=width
    )
    config._attn_implementation = "triton"
    layer = Attention(config).to(device, dtype)
    for parameter in layer.parameters():
        torch.nn.init.normal_(parameter, std=0.02)
    state = start_state(length, None, None, device)
    hidden = torch.randn(batch_size, length, width, device=device, dtype=dtype)
    inputs = layer.prepare(state, state, config, hidden, False)
    given = [
        torch.randn(batch_size, length, heads, size, device=device, dtype=dtype)
        .transpose(1, 2)
        .requires_grad_()
        for _ in range(3)
    ]

    def step() -> None:
        fused.attend(layer, *given, inputs, 0.0)[0].float().square().mean().backward()

    rows = []
    for number in TILE_ROWS[: 1 if options.toy else None]:
        fused._tiles = lambda dtype, stride, number=number: (number, number * stride)
        try:
            rows.append({"rows": number, "ms": 1e3 * statistics.median(seconds_of(step, 2, options.rounds))})
        except Exception as error:  # too large a tile for the registers or the shared memory
            rows.append({"rows": number, "error": said(error)})
    return {"shape": [batch_size, heads, length, size], "dtype": str(dtype), "rows": rows}


# ---- speed


def subjects(options: argparse.Namespace, length: int) -> dict[str, Callable[[], Any]]:
    """By their names what builds each, with random weights."""
    size = "toy" if options.toy else "full"
    sizes = {"num_hidden_layers": 12, "hidden_size": 768, "num_attention_heads": 12}
    if options.toy:
        sizes = {"num_hidden_layers": 2, "hidden_size": 64, "num_attention_heads": 2}
    limit = {"max_position_embeddings": length, "pad_token_id": 0, "vocab_size": VOCABULARY}
    width = sizes["hidden_size"]

    def ours(layout: str, implementation: str) -> Any:
        config = FunnelformerConfig.from_name(layout, decoder_layers=0)
        return FunnelformerModel._from_config(config, attn_implementation=implementation)

    def bert() -> Any:
        config = transformers.BertConfig(**sizes, **limit, intermediate_size=4 * width)
        return transformers.BertModel._from_config(
            config, attn_implementation="sdpa", add_pooling_layer=False
        )

    def modernbert() -> Any:
        layers = {**sizes, "num_hidden_layers": 2 if options.toy else 22}
        ids = {"cls_token_id": 1, "sep_token_id": 2, "bos_token_id": 1, "eos_token_id": 2}
        config = transformers.ModernBertConfig(**layers, **limit, **ids, intermediate_size=3 * width // 2)
        return transformers.ModernBertModel._from_config(config, attn_implementation="sdpa")

    def funnel() -> Any:
        blocks = [1, 1, 1] if options.toy else [4, 4, 4]
        heads = sizes["num_attention_heads"]
        config = transformers.FunnelConfig(
            block_sizes=blocks, d_model=width, n_head=heads, d_head=width // heads, d_inner=4 * width
        )
        return transformers.FunnelBaseModel(config)

    return {
        BERT: bert,
        f"{LAYOUTS[size]} sdpa": lambda: ours(LAYOUTS[size], "sdpa"),
        f"{LAYOUTS[size]} triton": lambda: ours(LAYOUTS[size], "triton"),
        f"{ONE_VECTOR[size]} sdpa": lambda: ours(ONE_VECTOR[size], "sdpa"),
        "ModernBERT": modernbert,
        "transformers' Funnel": funnel,
    }


def flops_of(model: Any, batch_size: int, length: int, mode: str) -> int | None:
    """Of ours as `funnelformer info` counts, of BERT as of our Transformer of its size; None of others."""
    config: Any = model.config
    if config.model_type == "bert":
        config = FunnelformerConfig.from_name(
            f"L{config.num_hidden_layers}H{config.hidden_size}", position="absolute"
        )
    elif not isinstance(config, FunnelformerConfig):
        return None
    flops = forward_flops(config, length, batch_size=batch_size, segments=False)
    return training_flops(flops) if mode == "training" else flops.total


def speed(options: argparse.Namespace, mode: str) -> dict[str, Any]:
    """At each shape all models in turns; one that fails is a row with its error."""
    device = the_device()
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    peak = device_peak(device, dtype)
    rows: list[dict[str, Any]] = []
    for batch_size, length in SHAPES["toy" if options.toy else "full"]:
        samples: dict[str, list[float]] = {}
        facts: dict[str, dict[str, Any]] = {}
        steps: dict[str, Callable[[], None]] = {}
        ids = torch.randint(5, VOCABULARY, (batch_size, length), device=device)
        for name, build in subjects(options, length).items():
            facts[name] = {"model": name, "shape": f"{batch_size}x{length}"}
            try:
                model = build().to(device)
                facts[name]["flops"] = flops_of(model, batch_size, length, mode)
                steps[name] = step_of(model, ids, mode, dtype)
                before = reset_memory(device)
                steps[name]()
                facts[name]["memory_bytes"] = peak_bytes(device, before)
            except Exception as error:
                steps.pop(name, None)
                facts[name]["error"] = said(error)
            gc.collect()
        for number in range(options.rounds + 2):
            for name, step in steps.items():
                seconds = seconds_of(step, 0, 1)[0]
                if number >= 2:
                    samples.setdefault(name, []).append(seconds)
        for name, fact in facts.items():
            rows.append(fact | figures(name, fact, samples, batch_size * length, peak.flops_per_second))
        steps.clear()
        gc.collect()
    return {"dtype": str(dtype), "peak_flops_per_s": peak.flops_per_second, "peak": peak.source, "rows": rows}


def figures(
    name: str, fact: dict[str, Any], samples: dict[str, list[float]], num_tokens: int, peak: float
) -> dict[str, Any]:
    """Milliseconds, tokens a second, the ratio to BERT of the same round with quartiles, and the part of the peak."""
    if name not in samples:
        return {}
    median = statistics.median(samples[name])
    found: dict[str, Any] = {"ms": 1e3 * median, "tokens_per_s": num_tokens / median}
    if fact.get("flops"):
        found["mfu"] = fact["flops"] / median / peak
    if BERT in samples:
        ratios = [a / b for a, b in zip(samples[name], samples[BERT], strict=True)]
        found["of_bert"] = (
            statistics.quantiles(ratios, n=4, method="inclusive") if len(ratios) > 1 else ratios * 3
        )
    return found


def step_of(model: Any, ids: torch.Tensor, mode: str, dtype: torch.dtype) -> Callable[[], None]:
    if mode == "inference":
        model.to(dtype).eval()

        def infer() -> None:
            with torch.inference_mode():
                model(input_ids=ids)

        return infer
    model.train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-5, fused=True)

    def train() -> None:
        optimizer.zero_grad()
        with torch.autocast(ids.device.type, dtype, enabled=dtype != torch.float32):
            states = model(input_ids=ids)[0]
        states.float().square().mean().backward()
        optimizer.step()

    return train


def seconds_of(step: Callable[[], None], warmup: int, rounds: int) -> list[float]:
    found = []
    for number in range(warmup + rounds):
        wait_for(the_device())
        start = time.perf_counter()
        step()
        wait_for(the_device())
        if number >= warmup:
            found.append(time.perf_counter() - start)
    return found


def reset_memory(device: torch.device) -> int:
    if device.type != "cuda":
        return 0
    torch.cuda.reset_peak_memory_stats()
    return torch.cuda.memory_allocated()


def peak_bytes(device: torch.device, before: int) -> int | None:
    return torch.cuda.max_memory_allocated() - before if device.type == "cuda" else None


# ---- two processes


def nccl(options: argparse.Namespace) -> dict[str, Any]:
    """The gradient of two processes, half a batch each, beside that of one; NCCL takes a GPU for each process."""
    if "RANK" in os.environ:
        return _rank(options)
    num_gpus = torch.cuda.device_count()
    backend = "nccl" if num_gpus >= 2 else "gloo"
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", __file__]
    command += ["--part", "nccl", "--out", str(options.out), *(["--toy"] if options.toy else [])]
    environment = {**os.environ, "FUNNELFORMER_DDP": backend}
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(done.stderr.strip().splitlines()[-1] if done.stderr.strip() else "no message")
    found: dict[str, Any] = json.loads(options.out.read_text())
    return found | {"backend": backend, "num_gpus": num_gpus}


def _rank(options: argparse.Namespace) -> dict[str, Any]:
    backend, rank = os.environ["FUNNELFORMER_DDP"], int(os.environ["RANK"])
    torch.distributed.init_process_group(backend)
    device = torch.device("cuda", rank) if backend == "nccl" else torch.device("cpu")
    torch.manual_seed(0)
    config = FunnelformerConfig.from_name(
        "B1-1-1H64", decoder_layers=0, hidden_dropout=0, attention_dropout=0
    )
    model = FunnelformerModel._from_config(config, attn_implementation="sdpa").to(device)
    ids = torch.randint(5, VOCABULARY, (4, 32)).to(device)

    def gradient(module: Any, rows: torch.Tensor) -> torch.Tensor:
        module.zero_grad()
        module(input_ids=rows)[0].square().mean().backward()
        return torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])

    alone = gradient(model, ids).clone()
    parallel = torch.nn.parallel.DistributedDataParallel(model, find_unused_parameters=True)
    together = gradient(parallel, ids[2 * rank : 2 * rank + 2])
    difference = float((alone - together).abs().max() / alone.abs().max())
    torch.distributed.destroy_process_group()
    return {"difference": difference, "is_right": difference < 1e-5}


# ---- pretraining


def pretraining(options: argparse.Namespace) -> dict[str, Any]:
    """Steps of masked language modelling on random tokens for so many seconds: tokens a second, and the losses."""
    device = the_device()
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    size = "toy" if options.toy else "full"
    batch_size, length = (2, 32) if options.toy else (64, 512)
    config = FunnelformerConfig.from_name(LAYOUTS[size], decoder_layers=2)
    model = FunnelformerForMaskedLM._from_config(config, attn_implementation=options.implementation)
    model.to(device).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, fused=True)
    # Of few kinds of tokens, so that there is something to learn.
    ids = torch.randint(5, 105, (batch_size, length), device=device)
    is_target = torch.rand(ids.shape, device=device) < 0.15
    labels = torch.where(is_target, ids, -100)
    masked = ids.masked_fill(is_target, 4)
    losses: list[torch.Tensor] = []

    def step() -> None:
        optimizer.zero_grad()
        with torch.autocast(device.type, dtype, enabled=dtype != torch.float32):
            loss = model(input_ids=masked, labels=labels).loss
        loss.backward()
        optimizer.step()
        losses.append(loss.detach())

    for _ in range(2):
        step()
    wait_for(device)
    start, number = time.perf_counter(), 0
    while time.perf_counter() - start < options.minute:
        step()
        number += 1
        wait_for(device)
    seconds = time.perf_counter() - start
    return {
        "shape": f"{batch_size}x{length}",
        "implementation": options.implementation,
        "steps": number,
        "tokens_per_s": number * batch_size * length / seconds,
        "first_loss": float(losses[0]),
        "last_loss": float(losses[-1]),
        "memory_bytes": peak_bytes(device, 0),
    }


# ---- all of them


PARTS: dict[str, Callable[[argparse.Namespace], dict[str, Any]]] = {
    "values": values,
    "tiles": tiles,
    "inference": lambda options: speed(options, "inference"),
    "training": lambda options: speed(options, "training"),
    "nccl": nccl,
    "pretraining": pretraining,
}


def said(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0][:300] if lines else ''}"


def run_part(name: str, options: argparse.Namespace, limit: float) -> dict[str, Any]:
    """One part in a process of its own: what it found, or why it found nothing."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "part.json"
        command = [sys.executable, __file__, "--part", name, "--out", str(file)]
        command += ["--rounds", str(options.rounds), "--minute", str(min(options.minute, 0.6 * limit))]
        command += ["--implementation", options.implementation, *(["--toy"] if options.toy else [])]
        start = time.perf_counter()
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=limit)
        except subprocess.TimeoutExpired:
            return {"error": f"not done after {limit:.0f} s"}
        seconds = {"seconds": time.perf_counter() - start}
        if file.exists() and done.returncode == 0:
            return json.loads(file.read_text()) | seconds
        lines = done.stderr.strip().splitlines()
        return {"error": lines[-1][:300] if lines else f"exit code {done.returncode}"} | seconds


def tables(found: dict[str, dict[str, Any]]) -> str:
    """One line for each part, and a table of each part's rows."""
    parts = []
    for name, part in found.items():
        facts = {key: value for key, value in part.items() if key != "rows"}
        parts.append(f"{name}: " + ", ".join(f"{key} {shown(value)}" for key, value in facts.items()))
        rows = part.get("rows", [])
        if rows:
            columns = list(dict.fromkeys(key for row in rows for key in row))
            lines = [[shown(row.get(column)) for column in columns] for row in rows]
            parts.append(markdown_table(columns, lines))
    return "\n\n".join(parts)


def shown(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.3g}" if value < 1000 else f"{value:,.0f}"
    if isinstance(value, list):
        return " / ".join(shown(entry) for entry in value)
    return "" if value is None else f"{value:,}" if isinstance(value, int) and value > 9999 else str(value)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, required=True, help="JSON file")
    parser.add_argument("--parts", nargs="+", choices=list(PARTS), default=list(PARTS))
    parser.add_argument("--seconds", type=float, default=560, help="of all parts together")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--minute", type=float, default=60, help="seconds of pretraining")
    parser.add_argument("--implementation", choices=["sdpa", "triton"], default="sdpa", help="of pretraining")
    parser.add_argument("--toy", action="store_true", help="tiny models: does everything run?")
    parser.add_argument("--part", choices=list(PARTS), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.part is not None:
        result = PARTS[options.part](options)
        if os.environ.get("RANK", "0") == "0":
            options.out.write_text(json.dumps(result))
        return
    begin = time.perf_counter()
    left = sum(SHARES[name] for name in options.parts)
    found: dict[str, dict[str, Any]] = {}
    facts = {
        "command": "python benchmarks/" + " ".join([Path(sys.argv[0]).name, *sys.argv[1:]]),
        "hardware": hardware(the_device()),
        "versions": versions(),
    }
    for name in options.parts:
        # What earlier parts did not use is for the later ones.
        limit = (options.seconds - (time.perf_counter() - begin)) * SHARES[name] / left
        left -= SHARES[name]
        found[name] = run_part(name, options, limit)
        options.out.write_text(json.dumps({**facts, "parts": found}, indent=2) + "\n")
        print(f"{name}: {found[name].get('error') or 'done'}", file=sys.stderr, flush=True)
    print(tables(found))


if __name__ == "__main__":
    main()
