"""What the tests of the data package share."""

from collections.abc import Iterator

import pytest
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from funnelformer.base.errors import UserError
from funnelformer.data.tables import Table


def write(path, content):
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def table(name="train.tsv", **columns):
    num_rows = len(next(iter(columns.values())))
    return Table(name, columns, list(range(2, num_rows + 2)))


def error_of(call, *args, **kwargs):
    """Return the message of the UserError that `call` raises, or the iterator it returns; it must be one line."""

    def run():
        result = call(*args, **kwargs)
        if isinstance(result, Iterator):
            list(result)

    with pytest.raises(UserError) as caught:
        run()
    message = str(caught.value)
    assert "\n" not in message
    return message


def number_tokenizer():
    """Give the word "7" the id 7, and "12+13" the ids of a word of two tokens; 0 is <pad>, 1 <cls>, 2 <sep>."""
    vocabulary = {"<pad>": 0, "<cls>": 1, "<sep>": 2, "<unk>": 3}
    vocabulary |= {str(i): i for i in range(4, 1000)} | {f"++{i}": 1000 + i for i in range(4, 1000)}
    vocabulary["<mask>"] = 2000
    tokenizer = Tokenizer(models.WordPiece(vocabulary, unk_token="<unk>", continuing_subword_prefix="+"))
    tokenizer.normalizer = normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<cls>:2 $A:0 <sep>:0", special_tokens=[("<cls>", 1), ("<sep>", 2)]
    )
    special = {f"{role}_token": f"<{role}>" for role in ("pad", "cls", "sep", "unk", "mask")}
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, model_max_length=16, **special)


def words(first, last):
    return " ".join(str(i) for i in range(first, last))
