"""A tokenizer for exports that needs no transformers: it reads tokenizer.json, and is called like their fast ones."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tokenizers import Encoding, Tokenizer, normalizers

from ..base.errors import UserError, one_line, short
from ..base.foreign_code import refuse_foreign_code
from ..base.json_toml import read_json
from ..base.sentence_modules import read_modules

__all__ = ["INPUT_NAMES", "PlainTokenizer", "TokenLists", "load_plain_tokenizer", "lower_casing"]

INPUT_NAMES = ("input_ids", "token_type_ids", "attention_mask")
_FILE, _SETTINGS, _SPECIAL = "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"
# Input of a model -> the attribute of `tokenizers.Encoding` that has it.
_READ = {"input_ids": "ids", "token_type_ids": "type_ids", "attention_mask": "attention_mask"}
_NO_LIMIT = int(1e30)  # the number that transformers uses for this
_SIDES = ("left", "right")


class TokenLists(dict[str, list[list[int]]]):
    """The inputs of a model by name: for each text a list of ids. encodings: one for each text, from `tokenizers`."""

    def __init__(self, columns: dict[str, list[list[int]]], encodings: list[Encoding]) -> None:
        super().__init__(columns)
        self.encodings = encodings

    def word_ids(self, number: int) -> list[int | None]:
        """For each token of a text: the number of its word in the text, from 0; None for special tokens."""
        words: list[int | None] = self.encodings[number].word_ids
        return words


class PlainTokenizer:
    """A `tokenizers.Tokenizer` with the special tokens and settings of a folder. It does not pad, see `pad_batch`."""

    def __init__(self, backend: Tokenizer, settings: dict[str, Any], where: str) -> None:
        """settings: of tokenizer_config.json. where: the folder, for messages. Raises UserError for a wrong value."""
        self.backend_tokenizer = backend
        names = settings.get("model_input_names")
        if not (isinstance(names, list) and "token_type_ids" in names):
            names = INPUT_NAMES
        self.model_input_names = [name for name in names if name in _READ]
        self.padding_side, self.truncation_side = (
            _one_of(settings, key, where) for key in ("padding_side", "truncation_side")
        )
        limit = settings.get("model_max_length") or _NO_LIMIT
        if isinstance(limit, bool) or not isinstance(limit, int | float) or not limit > 0:
            raise UserError(f"{where}: model_max_length is {short(limit)}; allowed: a number above 0")
        self.model_max_length = int(min(limit, _NO_LIMIT))
        self.pad_token_type_id = 0
        self.pad_token, self.pad_token_id = self._special("pad", settings, where)
        self.cls_token, self.cls_token_id = self._special("cls", settings, where)
        self.sep_token, self.sep_token_id = self._special("sep", settings, where)
        self.mask_token, self.mask_token_id = self._special("mask", settings, where)

    def _special(self, role: str, settings: dict[str, Any], where: str) -> tuple[str, int]:
        value = settings.get(f"{role}_token")
        token = value.get("content") if isinstance(value, dict) else value
        number = self.backend_tokenizer.token_to_id(token) if isinstance(token, str) else None
        if number is None:
            raise UserError(f"{where}: the tokenizer has no {role} token, which the models need")
        assert isinstance(token, str)
        return token, number

    def __call__(
        self,
        texts: Sequence[Any],
        pairs: Sequence[str] | None = None,
        *,
        truncation: bool | str = False,
        max_length: int | None = None,
        stride: int = 0,
        return_overflowing_tokens: bool = False,
        is_split_into_words: bool = False,
    ) -> TokenLists:
        """Tokenise texts, or pairs of texts, and add special tokens; the arguments are those of transformers.

        truncation: True or "longest_first" cuts to `max_length` tokens, special ones included; in a pair the longer
            text is cut first.
        return_overflowing_tokens: return what was cut off as further entries, which overlap by `stride` tokens, and
            `overflow_to_sample_mapping`: for each entry the number of its text.
        is_split_into_words: each text is a list of words.
        """
        backend = self.backend_tokenizer
        backend.no_padding()
        if truncation and max_length is not None:
            backend.enable_truncation(
                max_length, stride=stride, strategy="longest_first", direction=self.truncation_side
            )
        else:
            backend.no_truncation()
        inputs = list(texts) if pairs is None else list(zip(texts, pairs, strict=True))
        whole = backend.encode_batch(inputs, is_pretokenized=is_split_into_words)
        encodings, owners = list(whole), list(range(len(whole)))
        if return_overflowing_tokens:
            parts = [(part, owner) for owner, one in enumerate(whole) for part in (one, *one.overflowing)]
            encodings, owners = [part for part, _ in parts], [owner for _, owner in parts]
        columns: dict[str, Any] = {
            name: [getattr(one, _READ[name]) for one in encodings] for name in self.model_input_names
        }
        if return_overflowing_tokens:
            columns["overflow_to_sample_mapping"] = owners
        return TokenLists(columns, encodings)

    def __len__(self) -> int:
        """The number of tokens in the vocabulary, added ones included."""
        number: int = self.backend_tokenizer.get_vocab_size(with_added_tokens=True)
        return number

    def num_special_tokens_to_add(self, pair: bool = False) -> int:
        """How many special tokens a text, or a pair of texts, gets."""
        number: int = self.backend_tokenizer.num_special_tokens_to_add(pair)
        return number

    def get_vocab(self) -> dict[str, int]:
        """Token -> id, added tokens included."""
        vocabulary: dict[str, int] = self.backend_tokenizer.get_vocab(with_added_tokens=True)
        return vocabulary

    def convert_ids_to_tokens(self, ids: int | Sequence[int]) -> Any:
        """The token with an id, or a list of tokens for several ids."""
        if isinstance(ids, int):
            return self.backend_tokenizer.id_to_token(ids)
        return [self.backend_tokenizer.id_to_token(number) for number in ids]


def load_plain_tokenizer(folder: str | Path) -> PlainTokenizer:
    """Load the tokenizer in a folder.

    In a folder of sentence_transformers this is the first module's tokenizer; it lower-cases texts if the modules do.
    Raises UserError if there is no tokenizer.json, if it cannot be read or the folder brings code to run, or if the
    tokenizer lacks a pad, cls, sep or mask token.
    """
    folder = Path(folder)
    refuse_foreign_code(folder)
    modules = read_modules(folder)
    if modules is not None:
        folder = modules.folder
    file = folder / _FILE
    if not file.is_file():
        raise UserError(f"{folder}: no tokenizer in this folder (no {_FILE})")
    try:
        backend = Tokenizer.from_file(str(file))
    except Exception as error:  # the library raises Exception itself
        raise UserError(f"{file}: no tokenizer could be loaded ({one_line(error)})") from error
    settings: dict[str, Any] = {}
    for name in (_SPECIAL, _SETTINGS):
        if (folder / name).is_file():
            settings |= read_json(folder / name)
    if modules is not None and modules.lower_case:
        lower_casing(backend)
    return PlainTokenizer(backend, settings, str(folder))


def lower_casing(backend: Tokenizer) -> None:
    """Change a tokenizer so that it lower-cases a text before it does anything else."""
    lower, before = normalizers.Lowercase(), backend.normalizer
    backend.normalizer = lower if before is None else normalizers.Sequence([lower, before])


def _one_of(settings: dict[str, Any], key: str, where: str) -> str:
    value = settings.get(key) or "right"
    if value not in _SIDES:
        raise UserError(f"{where}: {key} is {short(value)}; allowed: {', '.join(_SIDES)}")
    return str(value)
