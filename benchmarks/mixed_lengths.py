"""Sentences of mixed length: our `predict` beside transformers' text-classification pipeline with BERT-base.

    python benchmarks/mixed_lengths.py --lengths sst2 --texts 200 --rounds 3
    python benchmarks/mixed_lengths.py --data test.tsv --column sentence

The pipeline has the best of `--batch-sizes`, found first; then both label all texts in turn, ours, theirs, ours, ...,
tokenisation included, and the ratio is taken pair by pair. Both have random weights and a tokenizer that splits at
white space and punctuation. Without --data, texts have so many words that their lengths are spread as those of SST-2's
or AG News' test part. `--clock cpu` counts the seconds that the process computed: for a busy machine, with --threads 1.
"""

from __future__ import annotations

import argparse
import random
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch
import transformers
from recording import Recording
from tokenizers import Tokenizer, models, pre_tokenizers, processors

from funnelformer import FunnelformerConfig, FunnelformerForSequenceClassification
from funnelformer.bench.measure import time_pairs
from funnelformer.bench.results import spread
from funnelformer.data.tables import read_text_table
from funnelformer.inference.load import ready
from funnelformer.inference.predictor import Predictor

# Tokens of the test parts (words, punctuation, [CLS] and [SEP]) at these shares of the texts.
SHARES = (0.0, 0.05, 0.25, 0.5, 0.75, 0.95, 1.0)
LENGTHS = {"sst2": (4, 9, 15, 22, 29, 41, 64), "ag_news": (15, 29, 39, 46, 53, 64, 179)}
VOCABULARY = 30522
SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"]


def make_texts(kind: str, number: int) -> list[str]:
    """Texts of random words, in no order."""
    generator = random.Random(0)
    # Evenly spread shares, so that a small sample has the same mean.
    lengths = (
        np.interp((np.arange(number) + 0.5) / number, SHARES, LENGTHS[kind]).round().astype(int).tolist()
    )
    generator.shuffle(lengths)
    return [" ".join(f"w{generator.randrange(20_000)}" for _ in range(length - 2)) for length in lengths]


def make_tokenizer(texts: list[str]) -> transformers.PreTrainedTokenizerFast:
    splitter = pre_tokenizers.BertPreTokenizer()
    words = dict.fromkeys(word for text in texts for word, _ in splitter.pre_tokenize_str(text))
    vocabulary = {word: index for index, word in enumerate([*SPECIAL, *words][:VOCABULARY])}
    backend = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    backend.pre_tokenizer = splitter
    backend.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    names = dict(zip(("pad_token", "unk_token", "cls_token", "sep_token"), SPECIAL, strict=True))
    return transformers.PreTrainedTokenizerFast(tokenizer_object=backend, model_max_length=512, **names)


def make_ours(layout: str, batch_size: int, texts: list[str]) -> Callable[[], None]:
    config = FunnelformerConfig.from_name(layout, decoder_layers=0, vocab_size=VOCABULARY)
    model = ready(FunnelformerForSequenceClassification(config), "cpu")
    predictor = Predictor(model, make_tokenizer(texts), {"max_length": 512})

    def label() -> None:
        predictor.logits(texts, batch_size=batch_size)

    return label


def make_theirs(texts: list[str]) -> Callable[[int], None]:
    model = transformers.BertForSequenceClassification(transformers.BertConfig()).eval()
    pipeline = transformers.pipeline(
        "text-classification", model=model, tokenizer=make_tokenizer(texts), device="cpu"
    )

    def label(batch_size: int) -> None:
        pipeline(texts, batch_size=batch_size, truncation=True)

    return label


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, help="table of texts, in place of made-up ones")
    parser.add_argument("--column", default="text", help="its column")
    parser.add_argument("--lengths", choices=list(LENGTHS), default="sst2")
    parser.add_argument("--texts", type=int, default=200, help="how many")
    parser.add_argument("--model", default="B4-4-4H768")
    parser.add_argument("--batch-size", type=int, default=32, help="ours")
    parser.add_argument(
        "--batch-sizes", type=int, nargs="+", default=[1, 4, 8, 16, 32], help="the pipeline's"
    )
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--clock", choices=["wall", "cpu"], default="wall")
    parser.add_argument("--out", type=Path, help="JSON file")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    transformers.logging.set_verbosity_error()
    if options.data:
        texts = list(read_text_table(str(options.data)).columns[options.column])[: options.texts]
    else:
        texts = make_texts(options.lengths, options.texts)
    clock = {"wall": time.perf_counter, "cpu": time.process_time}[options.clock]

    def seconds(call: Callable[[], None]) -> float:
        start = clock()
        call()
        return clock() - start

    recording = Recording(options, given=("data",))
    ours, theirs = make_ours(options.model, options.batch_size, texts), make_theirs(texts)
    by_size = {size: seconds(lambda size=size: theirs(size)) for size in options.batch_sizes}
    for size, value in by_size.items():
        print(f"pipeline, batches of {size}: {len(texts) / value:.1f} sentences/s", flush=True)
    best = min(by_size, key=by_size.__getitem__)
    samples = time_pairs(ours, lambda: theirs(best), seconds, options.rounds, warmup=1)
    gain = spread([b / a for a, b in zip(*samples, strict=True)])
    rates = [spread([len(texts) / value for value in values]).median for values in samples]
    print(f"{options.model} {rates[0]:.1f} sentences/s, BERT-base {rates[1]:.1f} in batches of {best}")
    print(f"throughput / the pipeline's: {gain.median:.2f} ({gain.q25:.2f} to {gain.q75:.2f})")
    recording.write(
        options.out, pipeline_seconds=by_size, best_batch_size=best, seconds=samples, gain=asdict(gain)
    )


if __name__ == "__main__":
    main()
