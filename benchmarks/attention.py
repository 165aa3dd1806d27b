"""The implementations of relative attention beside each other: a block of layers, without its feed-forwards.

    python benchmarks/attention.py --lengths 64 128 256 512 --batch-sizes 8 --rounds 5
    python benchmarks/attention.py --device cuda --dtype bfloat16 --modes training --batch-sizes 64 --out attention.json

What is timed is what an encoder's block computes of attention: the inputs that its layers share, and `--layers`
calls; in training also the backward pass. Each is timed in turn with the first one of `--implementations`, and
the ratio is taken pair by pair. `--stride 2` is the first layer of a later block: half as many queries as keys.
`--padding` is the share of each second sequence that is padding. Base size, random weights, no dropout.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import torch
from recording import Recording

from funnelformer import FunnelformerConfig
from funnelformer.bench.measure import seconds_of, time_pairs
from funnelformer.bench.results import spread
from funnelformer.cost.memory import DTYPES
from funnelformer.mixers.attention import IMPLEMENTATIONS, Attention
from funnelformer.mixers.sequence import start_state
from funnelformer.modeling.pooling import shorten


def make_call(
    options: argparse.Namespace, implementation: str, mode: str, batch_size: int, length: int
) -> Callable[[], None]:
    """A call that computes one block's attention."""
    config = FunnelformerConfig.from_name(
        "L1H768", hidden_dropout=0.0, attention_dropout=0.0, padding="exact", **options.set
    )
    config._attn_implementation = implementation
    device, dtype = torch.device(options.device), DTYPES[options.dtype]
    torch.manual_seed(0)
    layer = Attention(config)
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.normal_(std=0.02)
    layer.to(device, dtype).train(mode == "training")
    keep = None
    if options.padding:
        keep = torch.ones(batch_size, length, dtype=torch.bool, device=device)
        keep[1::2, round(length * (1 - options.padding)) :] = False
    segments = torch.zeros(batch_size, length, dtype=torch.long, device=device) if options.segments else None
    keys = torch.randn(batch_size, length, 768, device=device, dtype=dtype)
    key_state = start_state(length, keep, segments, device)
    queries, query_state = keys, key_state
    if options.stride == 2:
        queries, query_state = shorten(keys, key_state, config)

    def run() -> torch.Tensor:
        inputs = layer.prepare(query_state, key_state, config, queries, layer.training)
        return torch.stack([layer(queries, keys, inputs)[0] for _ in range(options.layers)]).sum(0)

    def infer() -> None:
        with torch.inference_mode():
            run()

    def step() -> None:
        layer.zero_grad()
        run().float().square().mean().backward()

    return step if mode == "training" else infer


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--implementations", nargs="+", choices=list(IMPLEMENTATIONS), default=["sdpa", "eager"]
    )
    parser.add_argument("--lengths", type=int, nargs="+", default=[64, 128, 256, 512])
    parser.add_argument("--batch-sizes", type=int, nargs="+", default=[8])
    parser.add_argument(
        "--modes", nargs="+", choices=["inference", "training"], default=["inference", "training"]
    )
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--stride", type=int, choices=[1, 2], default=1)
    parser.add_argument("--padding", type=float, default=0.0)
    parser.add_argument("--segments", action="store_true", help="with segment scores")
    parser.add_argument("--set", type=json.loads, default={}, help="config keys, as JSON")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", choices=list(DTYPES), default="float32")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--out", type=Path, help="JSON file")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    first, *others = options.implementations
    device = torch.device(options.device)
    if "triton" in options.implementations and device.type != "cuda":
        parser.error("triton needs --device cuda")
    recording = Recording(options, options.device)
    rows = []
    for mode in options.modes:
        for length in options.lengths:
            for batch_size in options.batch_sizes:
                for other in others:
                    calls = [make_call(options, name, mode, batch_size, length) for name in (other, first)]
                    samples = time_pairs(
                        *calls, lambda call: seconds_of(call, device), options.rounds, warmup=2
                    )
                    ratio = spread([a / b for a, b in zip(*samples, strict=True)])
                    base = spread(samples[1]).median
                    print(
                        f"{mode:9} {batch_size} x {length:5}: {other} / {first} {ratio.median:.2f} "
                        f"({ratio.q25:.2f} to {ratio.q75:.2f}), {first} {base * 1e3:.1f} ms",
                        flush=True,
                    )
                    shape = {"mode": mode, "batch_size": batch_size, "length": length}
                    rows.append(
                        {**shape, "names": [other, first], "seconds": samples, "ratio": asdict(ratio)}
                    )
    recording.write(options.out, rows=rows)


if __name__ == "__main__":
    main()
