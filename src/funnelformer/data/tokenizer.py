"""Tokenizers: build one from a released vocab.txt, load one, save one, and check that it fits a model."""

from __future__ import annotations

import hashlib
import json
import os
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tokenizers import Tokenizer, decoders, normalizers, pre_tokenizers, processors
from tokenizers.models import WordPiece

from ..base.bundled import located
from ..base.errors import UserError, did_you_mean, joined
from ..base.files import iter_lines
from ..base.foreign_code import refuse_foreign_code, runs_foreign_code
from ..base.foreign_models import reader
from ..base.hub import reach_hub
from ..base.sentence_modules import read_modules
from ..base.strict_json import json_text
from .plain_tokenizer import INPUT_NAMES, PlainTokenizer, lower_casing

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

__all__ = [
    "TOKENIZER_FILES",
    "check_fits",
    "check_vocabulary",
    "load_tokenizer",
    "model_ids",
    "num_ids",
    "save_tokenizer",
    "tokenizer_digest",
    "tokenizer_from_vocab",
]

# All files that may be part of a tokenizer; they are copied unchanged with their model.
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
# Released vocabularies have either these names or those above.
_BERT_TOKENS = {role: f"[{token[1:-1].upper()}]" for role, token in SPECIAL_TOKENS.items()}

CLS_SEGMENT = 2  # Funnel-Transformer gives [CLS] a segment of its own
PREFIX = "##"


def blank_tokenizer(model: WordPiece, lowercase: bool) -> Tokenizer:
    """Return a tokenizer with BERT's pipeline. `lowercase` also removes accents."""
    tokenizer = Tokenizer(model)
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=lowercase)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece(prefix=PREFIX)
    return tokenizer


def as_fast(tokenizer: Tokenizer, special: dict[str, str], model_max_length: int) -> PreTrainedTokenizerFast:
    """Add the template `[CLS]:2 A:0 [SEP]:0 B:1 [SEP]:1` (token:segment) and wrap the tokenizer for transformers."""
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
        model_input_names=list(INPUT_NAMES),
        padding_side="right",
        truncation_side="right",
        clean_up_tokenization_spaces=False,
        **special,
    )


def tokenizer_from_vocab(
    path: str | Path, *, lowercase: bool | None = None, model_max_length: int = 512
) -> PreTrainedTokenizerFast:
    """Build the tokenizer of a released vocabulary: a file with one token on each line, in the order of ids, from 0.

    Special tokens may be named `[CLS]` or `<cls>`.
    lowercase: by default True, unless a token that is not special has a capital letter.
    model_max_length: number of tokens, special ones included, after which the tokenizer cuts a text by default.
    Raises UserError if the file cannot be read, repeats a token, or lacks a special token.
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
    tokenizer = blank_tokenizer(WordPiece(vocabulary, unk_token=special["unk_token"]), lowercase)
    tokenizer.add_special_tokens(list(special.values()))
    return as_fast(tokenizer, special, model_max_length)


def _looks_special(token: str) -> bool:
    return token[:1] + token[-1:] in ("[]", "<>")


def load_tokenizer(source: str | Path) -> PreTrainedTokenizerFast:
    """Load a fast tokenizer from a folder, a vocabulary (.txt), or by its name on the Hugging Face Hub.

    In a folder of sentence_transformers this is the first module's tokenizer; it lower-cases texts if the modules do.
    The tokenizer returns `token_type_ids` unless you tell it not to.
    Raises UserError if there is no tokenizer, if it is a slow one or brings code to run, or if it lacks a pad, cls, sep
    or mask token.
    """
    path = Path(located(source))
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
    """The same tokenizer, which lower-cases texts first, as a PreTrainedTokenizerFast.

    Other classes, such as BertTokenizer, would lose the change: they rebuild their normalizer from a few options when
    they are loaded.
    """
    from transformers import PreTrainedTokenizerFast

    backend = tokenizer.backend_tokenizer
    lower_casing(backend)
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
                f"{name}: the tokenizer brings code to run; funnelformer runs no code of a model"
            ) from error
        _refuse_config(near_folder / "config.json")
        hint = ""
        if not near_folder.exists():
            hint = did_you_mean(
                near_folder.name, sorted(entry.name for entry in near_folder.parent.glob("*"))
            )
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise UserError(f"{name}: no tokenizer could be loaded{hint} ({reason})") from error


def _refuse_config(file: Path) -> None:
    """Raise UserError if the config beside a tokenizer cannot be read: transformers reads it before the tokenizer."""
    from transformers import AutoConfig

    if file.is_file():
        try:
            AutoConfig.from_pretrained(file.parent, trust_remote_code=False)
        except Exception as error:  # of any class, as for the tokenizer
            reader().check_config(file)
            raise UserError(f"{file}: {joined(error)}") from error


def _check_tokenizer(tokenizer: Any, where: str) -> PreTrainedTokenizerFast:
    if not getattr(tokenizer, "is_fast", False):
        raise UserError(f"{where}: this is a slow tokenizer; a fast one (tokenizer.json) is needed")
    needed = ("mask_token", "cls_token", "sep_token", "pad_token")
    missing = [role.removesuffix("_token") for role in needed if getattr(tokenizer, role) is None]
    if missing:
        raise UserError(f"{where}: the tokenizer has no {', '.join(missing)} token, which the models need")
    # The Funnel class of transformers 5 gives no segments unless asked; a model would then take 0 for [CLS].
    if "token_type_ids" not in tokenizer.model_input_names:
        tokenizer.model_input_names = list(INPUT_NAMES)
    return tokenizer


def num_ids(tokenizer: PreTrainedTokenizerFast | PlainTokenizer) -> int:
    """The size of a vocabulary that has room for every id: the largest id + 1, because ids may have gaps."""
    return max(tokenizer.get_vocab().values()) + 1


def save_tokenizer(tokenizer: PreTrainedTokenizerFast, folder: str | Path) -> None:
    """Write a tokenizer's files into a folder. Raises OSError, say if the disk is full, not the library's Exception."""
    try:
        tokenizer.save_pretrained(folder)
    except OSError:
        raise
    except Exception as error:
        match = re.search(r"\(os error (\d+)\)", str(error))
        if match is None:
            raise
        raise OSError(int(match[1]), os.strerror(int(match[1])), str(folder)) from error


def tokenizer_digest(tokenizer: PreTrainedTokenizerFast) -> str:
    """SHA-256, in hex, of all that decides the ids and segments of a text; truncation and padding are left out."""
    content = json.loads(tokenizer.backend_tokenizer.to_str())
    for name in ("truncation", "padding", "decoder"):
        content.pop(name, None)
    return hashlib.sha256(json_text(content, sort_keys=True).encode("utf-8", "surrogatepass")).hexdigest()


def model_ids(tokenizer: PreTrainedTokenizerFast) -> dict[str, int | None]:
    """The keys that the config of a new model takes from its tokenizer: the vocabulary's size, and the special ids."""
    return {
        "vocab_size": num_ids(tokenizer),
        "pad_token_id": tokenizer.pad_token_id,
        "cls_token_id": tokenizer.cls_token_id,
        "sep_token_id": tokenizer.sep_token_id,
        "mask_token_id": tokenizer.mask_token_id,
    }


def check_vocabulary(
    tokenizer: PreTrainedTokenizerFast | PlainTokenizer, vocab_size: int, where: str
) -> None:
    """Raise UserError if the tokenizer has ids beyond a model's vocabulary of `vocab_size` ids.

    where: what the message begins with, such as the checkpoint or the config's key.
    """
    needed = num_ids(tokenizer)
    if needed > vocab_size:
        raise UserError(
            f"{where}: the tokenizer has ids up to {needed - 1}, but the model's vocabulary ends "
            f"at {vocab_size - 1}; is it another model's tokenizer?"
        )


def check_fits(tokenizer: PreTrainedTokenizerFast | PlainTokenizer, config: Any, where: str) -> None:
    """Raise UserError if the tokenizer gives an id or a segment that a model with this config does not have.

    where: as for `check_vocabulary`.
    """
    check_vocabulary(tokenizer, config.vocab_size, where)
    if config.position != "absolute" or "token_type_ids" not in tokenizer.model_input_names:
        return
    largest = max(tokenizer(["a"])["token_type_ids"][0])
    if largest >= config.type_vocab_size:
        raise UserError(
            f"{where}: the tokenizer gives a token segment {largest}, but the model's segments end at "
            f"{config.type_vocab_size - 1} (type_vocab_size); is it another model's tokenizer?"
        )
