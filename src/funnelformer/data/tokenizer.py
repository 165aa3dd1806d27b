"""WordPiece tokenizers: train one on plain text, take one from a released vocab.txt, load one, check it."""

from __future__ import annotations

import json
import os
import re
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tokenizers import Tokenizer, decoders, normalizers, pre_tokenizers, processors
from tokenizers.models import WordPiece
from tokenizers.trainers import WordPieceTrainer

from ..base.errors import UserError, did_you_mean
from ..base.files import atomic_folder, expand_paths, iter_lines
from ..base.foreign_code import refuse_foreign_code, runs_foreign_code
from ..base.hub import reach_hub
from ..base.sentence_modules import read_modules
from ..base.strict_json import json_text
from ..corpus.documents import iter_documents

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

__all__ = [
    "TOKENIZER_FILES",
    "check_vocabulary",
    "load_tokenizer",
    "model_ids",
    "num_ids",
    "save_tokenizer",
    "tokenizer_from_vocab",
    "train_tokenizer",
]

# All that a tokenizer may be kept in; it goes along with its model unchanged.
_SIDE_FILES = ("special_tokens_map.json", "added_tokens.json")
_MAIN_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "tokenizer.model",
    "vocab.json",
    "merges.txt",
    "sentencepiece.bpe.model",
    "spiece.model",
)
TOKENIZER_FILES = (*_MAIN_FILES, *_SIDE_FILES, "vocab.txt")

# In the order of their ids, which is that of the transformers port of Funnel-Transformer.
SPECIAL_TOKENS = {
    "pad_token": "<pad>",
    "unk_token": "<unk>",
    "cls_token": "<cls>",
    "sep_token": "<sep>",
    "mask_token": "<mask>",
}
# The released vocabularies name them in either way.
_BERT_TOKENS = {role: f"[{token[1:-1].upper()}]" for role, token in SPECIAL_TOKENS.items()}

CLS_SEGMENT = 2  # Funnel-Transformer gives [CLS] a segment of its own
_INPUT_NAMES = ("input_ids", "token_type_ids", "attention_mask")
_PREFIX = "##"
_MAX_ALPHABET = 1000


def _blank_tokenizer(model: WordPiece, lowercase: bool) -> Tokenizer:
    """Return BERT's pipeline; accents go when case goes."""
    tokenizer = Tokenizer(model)
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=lowercase)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece(prefix=_PREFIX)
    return tokenizer


def _as_fast(tokenizer: Tokenizer, special: dict[str, str], model_max_length: int) -> PreTrainedTokenizerFast:
    """Add the template `[CLS]:2 A:0 [SEP]:0 B:1 [SEP]:1` and wrap for transformers."""
    from transformers import PreTrainedTokenizerFast

    cls, sep = special["cls_token"], special["sep_token"]
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{cls}:{CLS_SEGMENT} $A:0 {sep}:0",
        pair=f"{cls}:{CLS_SEGMENT} $A:0 {sep}:0 $B:1 {sep}:1",
        special_tokens=[(token, tokenizer.token_to_id(token)) for token in (cls, sep)],
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        model_max_length=model_max_length,
        model_input_names=list(_INPUT_NAMES),
        padding_side="right",
        truncation_side="right",
        clean_up_tokenization_spaces=False,
        **special,
    )


# ---- training


def _alphabet(documents: Iterable[str], normalizer: Any) -> list[str]:
    """Return the most frequent characters after normalisation, most frequent first, ties by code point."""
    counts: Counter[str] = Counter()
    for document in documents:
        counts.update(normalizer.normalize_str(document))
    characters = [character for character in counts if not character.isspace()]
    return sorted(characters, key=lambda character: (-counts[character], character))[:_MAX_ALPHABET]


def _inside_words(tokenizer: Tokenizer, alphabet: list[str]) -> list[str]:
    """Return the characters that can follow another in one word; punctuation and CJK stand alone."""

    def continues(character: str) -> bool:
        normal = tokenizer.normalizer.normalize_str("a" + character)
        return tokenizer.pre_tokenizer.pre_tokenize_str(normal) == [("a" + character, (0, 2))]

    return sorted(character for character in alphabet if continues(character))


def _train(
    paths: list[Path], text_column: str | None, vocab_size: int, lowercase: bool, min_frequency: int
) -> Tokenizer:
    """Train so that the same text gives the same bytes.

    The trainer numbers the "##x" pieces in the order of a hash table that is seeded anew in every process,
    and breaks ties between merges by these numbers. It numbers special tokens first and in order, so the
    "##x" are given as such and taken off that list afterwards. It also cuts off rare characters in hash
    order, so that is done here.
    """
    special = list(SPECIAL_TOKENS.values())
    tokenizer = _blank_tokenizer(WordPiece(unk_token=SPECIAL_TOKENS["unk_token"]), lowercase)
    alphabet = _alphabet(iter_documents(paths, text_column), tokenizer.normalizer)
    continuing = [_PREFIX + character for character in _inside_words(tokenizer, alphabet)]
    smallest = len(special) + len(continuing) + len(alphabet)
    if vocab_size < smallest:
        raise UserError(
            f"vocab_size: {vocab_size} is too small; this text has {len(alphabet)} different characters, "
            f"which need {smallest}"
        )
    trainer = WordPieceTrainer(
        vocab_size=vocab_size,
        min_frequency=min_frequency,
        special_tokens=special + continuing,
        initial_alphabet=alphabet,
        limit_alphabet=len(alphabet),
        continuing_subword_prefix=_PREFIX,
        show_progress=False,
    )
    tokenizer.train_from_iterator(iter_documents(paths, text_column), trainer)
    state = json.loads(tokenizer.to_str())
    state["added_tokens"] = [token for token in state["added_tokens"] if token["content"] in special]
    return Tokenizer.from_str(json_text(state, ensure_ascii=False))


def train_tokenizer(
    patterns: str | Path | Iterable[str | Path],
    out: str | Path,
    *,
    vocab_size: int = 30522,
    lowercase: bool = True,
    min_frequency: int = 2,
    text_column: str | None = None,
    model_max_length: int = 512,
    overwrite: bool = False,
) -> PreTrainedTokenizerFast:
    """Train a WordPiece tokenizer on the documents of `patterns` and save it in the folder `out`.

    The same text and arguments give the same files byte for byte. `AutoTokenizer.from_pretrained(out)` loads
    it. The text is read twice; its 1000 most frequent characters are kept, others become `<unk>`.
    vocab_size: the most tokens wanted; little text gives fewer.
    min_frequency: merge no pair of pieces that occurs less often.
    lowercase: also drops accents. model_max_length: tokens, where `truncation=True` cuts by default.
    overwrite: replace the files of an `out` that is not empty.
    Raises UserError for such a folder, for text that cannot be read (`corpus.iter_documents`), or a
    `vocab_size` that has no room for the characters.
    """
    if min_frequency < 1:
        raise UserError(f"min_frequency: {min_frequency} is below 1")
    if model_max_length < 3:
        raise UserError(f"model_max_length: {model_max_length} is below 3, <cls>, a token and <sep>")
    paths = expand_paths(patterns)
    with atomic_folder(out, overwrite=overwrite) as folder:
        trained = _train(paths, text_column, vocab_size, lowercase, min_frequency)
        save_tokenizer(_as_fast(trained, SPECIAL_TOKENS, model_max_length), folder)
    return load_tokenizer(out)


# ---- loading


def tokenizer_from_vocab(
    path: str | Path, *, lowercase: bool | None = None, model_max_length: int = 512
) -> PreTrainedTokenizerFast:
    """Build the tokenizer of a released vocabulary, one token a line, the line giving the id.

    Special tokens may be named `[CLS]` or `<cls>`.
    lowercase: by default True unless a token has a capital letter.
    Raises UserError when the file cannot be read, repeats a token, or lacks a special token.
    """
    vocabulary: dict[str, int] = {}
    for number, token in iter_lines(path):
        if token in vocabulary:
            raise UserError(
                f"{path}: line {number}: token {token!r} is already on line {vocabulary[token] + 1}"
            )
        vocabulary[token] = number - 1
    special = {}
    for role, token in SPECIAL_TOKENS.items():
        names = (token, _BERT_TOKENS[role])
        found = [name for name in names if name in vocabulary]
        if not found:
            raise UserError(f"{path}: no {role.replace('_', ' ')} in it, neither {names[0]} nor {names[1]}")
        special[role] = found[0]
    if lowercase is None:
        plain = (token for token in vocabulary if not _looks_special(token))
        lowercase = not any(character.isupper() for token in plain for character in token)
    tokenizer = _blank_tokenizer(WordPiece(vocabulary, unk_token=special["unk_token"]), lowercase)
    tokenizer.add_special_tokens(list(special.values()))
    return _as_fast(tokenizer, special, model_max_length)


def _looks_special(token: str) -> bool:
    return token[:1] + token[-1:] in ("[]", "<>")


def load_tokenizer(source: str | Path) -> PreTrainedTokenizerFast:
    """Load a fast tokenizer from a folder, a `vocab*.txt` file, or by its name on the Hugging Face Hub.

    Of a folder of sentence_transformers it is the first module's; where the modules lower-case a text, so does it.
    It returns `token_type_ids` unless told not to.
    Raises UserError when there is none, only a slow one, one without a mask, cls, sep or pad token, or one that is
    code to run.
    """
    path = Path(source)
    refuse_foreign_code(path)
    if path.is_file():
        if path.suffix == ".txt":
            return tokenizer_from_vocab(path)
        raise UserError(f"{path}: not a tokenizer; give its folder or a vocab.txt")
    modules = read_modules(path)
    if modules is not None:
        path = modules.folder
    if path.is_dir():
        known = [path / name for name in _MAIN_FILES]
        vocabularies = sorted(path.glob("vocab*.txt"))
        if not any(file.is_file() for file in known):
            if len(vocabularies) == 1:
                return tokenizer_from_vocab(vocabularies[0])
            raise UserError(f"{path}: no tokenizer in this folder (no tokenizer.json, no single vocab*.txt)")
    elif path.is_absolute() or str(source).startswith(".") or len(path.parts) > 2:
        near = sorted(entry.name for entry in path.parent.glob("*"))
        raise UserError(f"{path}: no such tokenizer folder{did_you_mean(path.name, near)}")
    name = str(source) if modules is None else str(path)
    if not path.exists():
        reach_hub(name)
    tokenizer = _check_tokenizer(_load_auto(name, near_folder=path), name)
    return _lower_casing(tokenizer) if modules is not None and modules.lower_case else tokenizer


def _lower_casing(tokenizer: Any) -> PreTrainedTokenizerFast:
    """The same tokenizer behind lower-casing, of the class whose files say all that it does.

    (Others, as BertTokenizer, make their normalizer anew from a few options when they are read.)
    """
    from transformers import PreTrainedTokenizerFast

    backend, lower = tokenizer.backend_tokenizer, normalizers.Lowercase()
    before = backend.normalizer
    backend.normalizer = lower if before is None else normalizers.Sequence([lower, before])
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        model_max_length=tokenizer.model_max_length,
        model_input_names=list(tokenizer.model_input_names),
        padding_side=tokenizer.padding_side,
        truncation_side=tokenizer.truncation_side,
        clean_up_tokenization_spaces=False,
        **tokenizer.special_tokens_map,
    )


def _load_auto(name: str, near_folder: Path) -> Any:
    from transformers import AutoTokenizer

    try:
        return AutoTokenizer.from_pretrained(name, trust_remote_code=False)
    except Exception as error:  # network, Hub, JSON and tokenizers errors have no common base class
        if runs_foreign_code(error):
            raise UserError(
                f"{name}: the tokenizer is code to run; funnelformer runs no code of a model"
            ) from error
        hint = ""
        if not near_folder.exists():
            hint = did_you_mean(
                near_folder.name, sorted(entry.name for entry in near_folder.parent.glob("*"))
            )
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise UserError(f"{name}: no tokenizer could be loaded{hint} ({reason})") from error


def _check_tokenizer(tokenizer: Any, where: str) -> PreTrainedTokenizerFast:
    if not getattr(tokenizer, "is_fast", False):
        raise UserError(f"{where}: this is a slow tokenizer; a fast one (tokenizer.json) is needed")
    needed = ("mask_token", "cls_token", "sep_token", "pad_token")
    missing = [role.removesuffix("_token") for role in needed if getattr(tokenizer, role) is None]
    if missing:
        raise UserError(f"{where}: the tokenizer has no {', '.join(missing)} token, which the models need")
    # The Funnel class of transformers 5 gives no segments unless asked; a model would then take 0 for [CLS].
    if "token_type_ids" not in tokenizer.model_input_names:
        tokenizer.model_input_names = list(_INPUT_NAMES)
    return tokenizer


def num_ids(tokenizer: PreTrainedTokenizerFast) -> int:
    """The size of a vocabulary that has all ids: the largest one, and 1. Between them there may be gaps."""
    return max(tokenizer.get_vocab().values()) + 1


def save_tokenizer(tokenizer: PreTrainedTokenizerFast, folder: str | Path) -> None:
    """Write a tokenizer's files. Raises OSError where the disk is full, which the library makes a plain Exception."""
    try:
        tokenizer.save_pretrained(folder)
    except OSError:
        raise
    except Exception as error:
        match = re.search(r"\(os error (\d+)\)", str(error))
        if match is None:
            raise
        raise OSError(int(match[1]), os.strerror(int(match[1])), str(folder)) from error


def model_ids(tokenizer: PreTrainedTokenizerFast) -> dict[str, int | None]:
    """What the config of a new model takes from its tokenizer: the size of the vocabulary and special ids."""
    return {
        "vocab_size": num_ids(tokenizer),
        "pad_token_id": tokenizer.pad_token_id,
        "cls_token_id": tokenizer.cls_token_id,
        "sep_token_id": tokenizer.sep_token_id,
        "mask_token_id": tokenizer.mask_token_id,
    }


def check_vocabulary(tokenizer: PreTrainedTokenizerFast, vocab_size: int, where: str) -> None:
    """Raise UserError when the tokenizer has ids beyond a model's vocabulary of `vocab_size` ids.

    where: what the message names first, a checkpoint or a config key.
    """
    needed = num_ids(tokenizer)
    if needed > vocab_size:
        raise UserError(
            f"{where}: the tokenizer has ids up to {needed - 1}, but the model's vocabulary ends "
            f"at {vocab_size - 1}; is it another model's tokenizer?"
        )
