"""Fine-tuning on texts of mixed length: batches without their padding (`unpad`) beside padded ones.

    python benchmarks/unpadding.py --lengths sst2 --batch-size 32 --rounds 3

A call is a training step (forward, backward, AdamW) on each of `--batches` batches. They are timed in turn: random
batches unpadded, the same padded, and batches of similar length (as `--group-by-length` makes them) padded; ratios to
the second are taken pair by pair. Lengths are those of mixed_lengths.py.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch
from mixed_lengths import LENGTHS, SHARES
from recording import Recording

from funnelformer import FunnelformerConfig, FunnelformerForSequenceClassification
from funnelformer.bench.measure import seconds_of, time_pairs
from funnelformer.bench.results import spread

VOCABULARY = 8000


def make_call(mode: str, options: argparse.Namespace) -> Callable[[], None]:
    torch.manual_seed(0)
    config = FunnelformerConfig.from_name(
        options.model, vocab_size=VOCABULARY, num_labels=2, unpad=mode == "unpadded"
    )
    model = FunnelformerForSequenceClassification._from_config(
        config, attn_implementation=options.implementation
    )
    device = torch.device(options.device)
    model = model.to(device).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-6, fused=True)
    number = options.batches * options.batch_size
    shares = (np.arange(number) + 0.5) / number
    lengths = np.interp(shares, SHARES, LENGTHS[options.lengths]).round().astype(int)
    if mode != "grouped":
        np.random.default_rng(0).shuffle(lengths)
    batches = []
    for part in lengths.reshape(options.batches, -1):
        mask = torch.arange(part.max())[None] < torch.from_numpy(part)[:, None]
        ids = torch.randint(5, VOCABULARY, mask.shape) * mask
        batches.append((ids.to(device), mask.long().to(device)))
    labels = torch.arange(options.batch_size, device=device) % 2

    def train() -> None:
        for ids, mask in batches:
            optimizer.zero_grad()
            model(ids, mask, labels=labels).loss.backward()
            optimizer.step()

    return train


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="B4-4-4H768")
    parser.add_argument("--implementation", default="sdpa")
    parser.add_argument("--lengths", choices=list(LENGTHS), default="sst2")
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--batches", type=int, default=2)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--out", type=Path, help="JSON file")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    device = torch.device(options.device)
    recording = Recording(options, options.device)
    rows = {}
    padded = make_call("padded", options)
    for mode in ("unpadded", "grouped"):
        call = make_call(mode, options)
        samples = time_pairs(call, padded, lambda call: seconds_of(call, device), options.rounds, warmup=1)
        ratio = spread([a / b for a, b in zip(*samples, strict=True)])
        print(f"{mode} / padded: {ratio.median:.2f} ({ratio.q25:.2f} to {ratio.q75:.2f})", flush=True)
        rows[mode] = {"seconds": samples, "ratio": asdict(ratio)}
    recording.write(options.out, rows=rows)


if __name__ == "__main__":
    main()
