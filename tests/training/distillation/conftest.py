"""A tiny teacher, texts of its language, and the command that both are for."""

from __future__ import annotations

import random
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
import transformers

from sentence_folders import bert_tokenizer, make_modules, save_bert
from training.toy import sentence, write_table

DISTILL = (
    "distill --layout B2-2 --steps 20 --batch-size 8 --device cpu --learning-rate 0.01 --evaluate-every 10 "
    "--log-every 5 --validation-fraction 0.1 --learn vectors states --state-texts 64 --state-share 0.5"
)


@dataclass(frozen=True)
class Lesson:
    """teacher: a folder of sentence-transformers with a BERT of four layers. texts: a text a line. pairs: a table."""

    folder: Path
    teacher: Path
    texts: Path
    pairs: Path

    @property
    def command(self) -> tuple[object, ...]:
        """Without --out."""
        return (
            DISTILL,
            "--teacher",
            self.teacher,
            "--model",
            self.teacher,
            "--train",
            self.texts,
            *self.options,
        )

    @property
    def options(self) -> tuple[object, ...]:
        return ("--cache", self.folder / "cache", "--pairs", self.pairs)


def texts(number: int, seed: int = 0) -> list[str]:
    """Of one to four sentences."""
    generator = random.Random(seed)
    return [" ".join(sentence(generator) for _ in range(generator.randint(1, 4))) for _ in range(number)]


@pytest.fixture(scope="package")
def modern(lesson) -> Path:
    """A teacher of a kind that no funnelformer can be made from, 24 wide: its own library runs it."""
    folder = lesson.folder / "modern"
    tokenizer = bert_tokenizer()
    config = transformers.ModernBertConfig(
        vocab_size=len(tokenizer),
        hidden_size=24,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=32,
        max_position_embeddings=64,
        pad_token_id=tokenizer.pad_token_id,
        cls_token_id=tokenizer.cls_token_id,
        sep_token_id=tokenizer.sep_token_id,
        bos_token_id=tokenizer.cls_token_id,
        eos_token_id=tokenizer.sep_token_id,
    )
    torch.manual_seed(6)
    transformers.ModernBertModel(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    make_modules(folder, pooling={"word_embedding_dimension": 24, "pooling_mode_mean_tokens": True})
    return folder


@pytest.fixture(scope="package")
def lesson(tmp_path_factory) -> Lesson:
    folder = tmp_path_factory.mktemp("distillation")
    teacher = make_modules(save_bert(folder / "teacher"))
    (folder / "texts.txt").write_text("\n".join(texts(300)) + "\n")
    rows = [
        (first, second, number % 6)
        for number, (first, second) in enumerate(zip(texts(40, 1), texts(40, 2), strict=True))
    ]
    pairs = write_table(folder / "pairs.tsv", rows, ("sentence1", "sentence2", "label"))
    return Lesson(folder, teacher, folder / "texts.txt", pairs)
