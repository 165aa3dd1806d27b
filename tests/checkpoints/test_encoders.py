"""transformers' encoders of every type and head: what ours computes of their weights, and the way back.

The differences are appended to the file named by FUNNELFORMER_PARITY_TABLE, if set.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from torch import Tensor

import funnelformer
from checkpoints.encoders import CASES, UNMASKED, batch, left_padded, save_stock, stock_model, to_left
from funnelformer import FunnelformerConfig, FunnelformerForMaskedLM, FunnelformerModel
from funnelformer.base.errors import UserError
from funnelformer.checkpoints.compare import build_model
from funnelformer.checkpoints.convert import convert
from funnelformer.checkpoints.folders import detect, load_folder
from funnelformer.checkpoints.forms import ENCODERS
from funnelformer.cost.info import describe
from funnelformer.modeling import HEADS

TOLERANCE = 1e-5
LENGTHS = (1, 7, 33)


def run(model: torch.nn.Module, inputs: dict[str, Tensor], choices: bool) -> Tensor:
    if choices:
        inputs = {name: tensor[None] for name, tensor in inputs.items()}
    with torch.no_grad():
        output: Any = model(**inputs)
    if "start_logits" in output:
        return torch.stack([output.start_logits, output.end_logits], dim=-1)
    found: Tensor = output.logits if "logits" in output else output.last_hidden_state
    if isinstance(model, transformers.ElectraForPreTraining):
        return -found  # of a replaced token, ours of an original one
    return found[0] if choices else found


def differences(name: str, architecture: str, theirs: torch.nn.Module, ours: torch.nn.Module) -> list[float]:
    """Of the real tokens, over all lengths, padded on either side."""
    found = []
    choices = architecture == "multiple_choice"
    per_token = architecture not in ("sequence_classification", "multiple_choice")
    for length in LENGTHS:
        right = batch(name, length)
        left = left_padded(right)
        mask = right["attention_mask"]
        for inputs in (right, left):
            if name in UNMASKED:
                expected = run(theirs, {k: v for k, v in inputs.items() if k != "attention_mask"}, choices)
                found.append((run(ours, inputs, choices) - expected).abs().max().item())
                continue
            computed, expected = run(ours, inputs, choices), run(theirs, right, choices)
            if not per_token:  # theirs reads the first token, which a left-padded row has padding at
                found.append((computed - expected).abs().max().item())
                continue
            real = inputs["attention_mask"].bool()
            if inputs is left:
                positions = (mask.flip(1).cumsum(1) - 1).clamp(min=0)
                given = (
                    left if ENCODERS[name].positions_after_padding else {**left, "position_ids": positions}
                )
                stock_left = run(theirs, given, choices)
                found.append((computed - stock_left)[real].abs().max().item())
                expected = to_left(expected, mask)
            found.append((computed - expected)[real].abs().max().item())
    return found


@pytest.mark.parametrize(("name", "architecture"), CASES)
def test_equals_transformers(name: str, architecture: str, tmp_path: Path) -> None:
    theirs = save_stock(tmp_path / "theirs", name, architecture)
    assert detect(tmp_path / "theirs") == name
    ours = HEADS[architecture].model_class.from_pretrained(tmp_path / "theirs").eval()
    worst = max(differences(name, architecture, theirs, ours))
    if path := os.environ.get("FUNNELFORMER_PARITY_TABLE"):
        with Path(path).open("a", encoding="utf-8") as file:
            file.write(f"| {name} | {architecture.replace('_', ' ')} | {worst:.1e} |\n")
    assert worst <= TOLERANCE


@pytest.mark.parametrize(("name", "architecture"), CASES)
def test_there_and_back(name: str, architecture: str, tmp_path: Path) -> None:
    """Stock transformers reads all of what is written and misses nothing, and ours has the same bits again."""
    save_stock(tmp_path / "theirs", name, architecture)
    ours = load_folder(tmp_path / "theirs")
    ENCODERS[name].save(ours.config, ours.state_dict, ours.architecture, tmp_path / "written")
    again = load_folder(tmp_path / "written")
    assert again.architecture == architecture
    assert ours.state_dict.keys() == again.state_dict.keys()
    assert all(torch.equal(tensor, again.state_dict[key]) for key, tensor in ours.state_dict.items())
    assert ours.config.to_dict() == again.config.to_dict()
    stock = getattr(transformers, ENCODERS[name].class_name(architecture))
    model, loading = stock.from_pretrained(tmp_path / "written", output_loading_info=True)
    assert not loading["missing_keys"]
    assert not loading["unexpected_keys"]
    assert not loading["mismatched_keys"]
    assert model.config.architectures == [ENCODERS[name].class_name(architecture)]


def test_the_real_minilm(minilm: Path, tmp_path: Path) -> None:
    """States of a padded batch against transformers; convert and back keeps every bit and the tokenizer's files."""
    theirs = transformers.BertModel.from_pretrained(minilm).eval()
    ours = FunnelformerModel.from_pretrained(minilm).eval()
    assert (ours.config.name, ours.config.head_size, ours.config.num_attention_heads) == ("L6H384", 32, 12)
    tokenizer = transformers.AutoTokenizer.from_pretrained(minilm)
    inputs = tokenizer(
        ["A man is eating food.", "The girl carries a baby.", "Why?"],
        ["He eats.", "Nobody knows how long the road to the sea had been that winter.", "So."],
        padding=True,
        return_tensors="pt",
    )
    with torch.no_grad():
        found, expected = ours(**inputs).last_hidden_state, theirs(**inputs).last_hidden_state
    assert (found - expected)[inputs["attention_mask"].bool()].abs().max() <= TOLERANCE
    report = convert(minilm, tmp_path / "bert", "bert")
    assert report.difference <= TOLERANCE
    assert set(report.tokenizer) == {"tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"}
    for file in report.tokenizer:
        assert (tmp_path / "bert" / file).read_bytes() == (minilm / file).read_bytes()
    first, again = (load_file(folder / "model.safetensors") for folder in (minilm, tmp_path / "bert"))
    assert all(torch.equal(tensor, first[name]) for name, tensor in again.items() if "pooler" not in name)


@pytest.mark.parametrize("name", ["bert", "roberta", "distilbert", "electra", "fnet"])
def test_untied_decoder(name: str, tmp_path: Path) -> None:
    theirs = save_stock(tmp_path / "theirs", name, "masked_lm", tie_word_embeddings=False)
    ours = FunnelformerForMaskedLM.from_pretrained(tmp_path / "theirs").eval()
    assert not torch.equal(ours.lm_head.decoder.weight, ours.get_input_embeddings().weight)
    assert max(differences(name, "masked_lm", theirs, ours)) <= TOLERANCE
    loaded = load_folder(tmp_path / "theirs")
    ENCODERS[name].save(loaded.config, loaded.state_dict, "masked_lm", tmp_path / "written")
    again, report = type(theirs).from_pretrained(tmp_path / "written", output_loading_info=True)
    assert not report["missing_keys"]
    assert not report["unexpected_keys"]
    assert max(differences(name, "masked_lm", again.eval(), ours)) <= TOLERANCE


def test_old_names_of_layer_norms(tmp_path: Path) -> None:
    save_stock(tmp_path, "bert")
    expected = load_folder(tmp_path).state_dict
    path = tmp_path / "model.safetensors"
    new = {"LayerNorm.weight": "LayerNorm.gamma", "LayerNorm.bias": "LayerNorm.beta"}
    state = load_file(path)
    renamed = {}
    for name, tensor in state.items():
        for modern, old in new.items():
            name = name.replace(modern, old)
        renamed[name] = tensor
    save_file(renamed, path)
    loaded = load_folder(tmp_path)
    assert all(torch.equal(tensor, loaded.state_dict[name]) for name, tensor in expected.items())
    assert loaded.names["embeddings.layer_norm.weight"] == "embeddings.LayerNorm.gamma"
    name = "embeddings.LayerNorm.weight"
    save_file({**renamed, name: state[name].clone()}, path)
    with pytest.raises(UserError, match=rf"holds both '{name}' and 'embeddings.LayerNorm.gamma'"):
        load_folder(tmp_path)


def change_config(folder: Path, drop: tuple[str, ...] = (), **values: Any) -> None:
    path = folder / "config.json"
    content = {key: value for key, value in json.loads(path.read_text()).items() if key not in drop}
    path.write_text(json.dumps(content | values))


# A multiple choice's tensors are those of a regression, and all of FNet's classes have a pooler.
TOLD_BY_TENSORS = [
    case for case in CASES if case[1] != "multiple_choice" and case != ("fnet", "token_classification")
]


@pytest.mark.parametrize(("name", "architecture"), TOLD_BY_TENSORS)
def test_head_by_its_tensors(name: str, architecture: str, tmp_path: Path) -> None:
    """Without `architectures` in the config."""
    save_stock(tmp_path, name, architecture)
    change_config(tmp_path, drop=("architectures",))
    assert load_folder(tmp_path).architecture == architecture


def test_a_head_that_ours_has_not(tmp_path: Path) -> None:
    config = stock_model("bert", "model").config
    transformers.BertForNextSentencePrediction(config).save_pretrained(tmp_path)
    loaded = load_folder(tmp_path)
    assert loaded.architecture == "model"
    assert loaded.ignored["cls.seq_relationship.weight"] == "the head for pairs of sentences: not loaded"
    assert "bert.pooler.dense.weight" in loaded.ignored


@pytest.mark.parametrize(
    ("name", "architecture", "values", "message"),
    [
        (
            "bert",
            "model",
            {"position_embedding_type": "relative_key"},
            "position_embedding_type is 'relative_key'",
        ),
        ("bert", "model", {"is_decoder": True}, "is_decoder is True; allowed: False"),
        ("bert", "model", {"add_cross_attention": True}, "add_cross_attention is True"),
        ("bert", "model", {"pruned_heads": {"0": [1]}}, "pruned_heads is"),
        ("bert", "model", {"num_attention_heads": 5}, "24 is not a multiple of num_attention_heads 5"),
        ("bert", "model", {"num_attention_heads": 0}, "num_attention_heads is 0; allowed: 1 or more"),
        ("bert", "model", {"num_hidden_layers": 3}, "'encoder.layer.2.* is missing"),
        ("bert", "model", {"num_hidden_layers": 1}, "'encoder.layer.1.*belongs to no part"),
        ("bert", "model", {"vocab_size": 60}, r"has shape \[50, 24\], expected \[60, 24\]"),
        ("bert", "model", {"hidden_act": "gluu"}, "hidden_act is 'gluu'; allowed: gelu, gelu_10"),
        ("bert", "model", {"layer_norm_eps": -1.0}, "layer_norm_eps is -1.0; allowed: 0 <= number"),
        ("bert", "model", {"architectures": "BertModel"}, "architectures is 'BertModel'; allowed: a list"),
        ("bert", "model", {"auto_map": {"AutoModel": "x.Y"}}, "'auto_map' names code to run"),
        ("bert", "model", {"architectures": ["BertForMaskedLM"]}, "'cls.predictions.* is missing"),
        ("roberta", "model", {"pad_token_id": None}, "leaves none after pad_token_id None"),
        ("roberta", "masked_lm", {"hidden_act": "relu"}, "hidden_act is 'relu'; allowed: 'gelu'"),
        ("distilbert", "model", {"n_heads": 5}, "dim 24 is not a multiple of n_heads 5"),
        ("electra", "multiple_choice", {"summary_type": "mean"}, "summary_type is 'mean'; allowed: 'first'"),
        (
            "electra",
            "multiple_choice",
            {"summary_use_proj": False},
            "summary_use_proj is False; allowed: True",
        ),
    ],
)
def test_what_is_refused(
    name: str, architecture: str, values: dict[str, Any], message: str, tmp_path: Path
) -> None:
    """One line that names the file and the key or tensor; a conversion leaves nothing behind."""
    save_stock(tmp_path / "source", name, architecture)
    change_config(tmp_path / "source", **values)
    with pytest.raises(UserError, match=message) as error:
        convert(tmp_path / "source", tmp_path / "out")
    assert "\n" not in str(error.value)
    assert str(tmp_path / "source") in str(error.value)
    assert [entry.name for entry in tmp_path.iterdir()] == ["source"]


VALUES = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-3, 60),
    st.sampled_from(
        [10**9, -1.0, 0.5, 1.5, float("nan"), float("inf"), "", "gelu", "24", [], [1], {}, {"0": "a"}]
    ),
    st.text(max_size=3),
)


@pytest.mark.parametrize("name", ENCODERS)
def test_any_value_in_the_config(name: str, tmp_path: Path) -> None:
    """A model that can be built, or one UserError of one line, whatever stands at one or two keys."""
    save_stock(tmp_path, name, "sequence_classification")
    path = tmp_path / "config.json"
    content = json.loads(path.read_text())
    keys = sorted({*content, "auto_map", "position_embedding_type", "is_decoder", "id2label", "num_labels"})

    @settings(
        max_examples=120,
        deadline=None,
        derandomize=True,
        database=None,
        suppress_health_check=list(HealthCheck),
    )
    @given(changes=st.dictionaries(st.sampled_from(keys), VALUES, min_size=1, max_size=2))
    def run(changes: dict[str, Any]) -> None:
        path.write_text(json.dumps(content | changes))
        try:
            loaded = load_folder(tmp_path)
            build_model(loaded.config, loaded.state_dict, loaded.architecture)
        except UserError as error:
            if "\n" in str(error):
                raise

    run()


def test_half_a_file(tmp_path: Path) -> None:
    save_stock(tmp_path / "source", "bert")
    path = tmp_path / "source" / "model.safetensors"
    path.write_bytes(path.read_bytes()[:5000])
    with pytest.raises(UserError, match="cut short or damaged"):
        convert(tmp_path / "source", tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("name", "values", "message"),
    [
        (
            "bert",
            {"blocks": [1, 1], "decoder_layers": 1},
            r"BERT cannot hold blocks=\[1, 1\].*decoder_layers=1",
        ),
        ("bert", {"position": "relative"}, "cannot hold position='relative'"),
        ("bert", {"repeats": [2]}, r"cannot hold repeats=\[2\]"),
        ("bert", {"mixer": "fourier"}, "cannot hold mixer='fourier'"),
        ("fnet", {}, "FNet cannot hold mixer='attention', project_embeddings=False"),
        ("bert", {"embedding_size": 8}, "cannot hold embedding_size=8"),
        ("bert", {"head_size": 4}, "cannot hold head_size=4"),
        ("bert", {"default_token_type_id": None}, "--set default_token_type_id=0 converts"),
        ("distilbert", {}, "cannot hold type_vocab_size=2"),
        ("roberta", {"pad_token_id": None}, "cannot hold pad_token_id=None"),
    ],
)
def test_what_a_format_cannot_hold(name: str, values: dict[str, Any], message: str, tmp_path: Path) -> None:
    base = {
        "vocab_size": 50,
        "blocks": [2],
        "hidden_size": 16,
        "num_attention_heads": 2,
        "head_size": 8,
        "intermediate_size": 24,
        "position": "absolute",
        "default_token_type_id": 0,
        "cls_token_type_id": 0,
        "type_vocab_size": 2,
        "layer_norm_eps": 1e-12,
    }
    FunnelformerModel(FunnelformerConfig(**{**base, **values})).save_pretrained(tmp_path / "ours")
    with pytest.raises(UserError, match=message):
        convert(tmp_path / "ours", tmp_path / "out", name)
    assert not (tmp_path / "out").exists()


def test_heads_that_a_format_cannot_hold(tmp_path: Path) -> None:
    loaded = load_folder(save_and_name(tmp_path / "distilbert", "distilbert", "sequence_classification"))
    with pytest.raises(UserError, match="classifier_activation='relu'"):
        ENCODERS["bert"].export(loaded.config, loaded.state_dict, loaded.architecture)
    loaded = load_folder(save_and_name(tmp_path / "electra", "electra", "token_detection"))
    with pytest.raises(UserError, match="BERT has no model for token detection"):
        ENCODERS["bert"].export(loaded.config, loaded.state_dict, loaded.architecture)


def test_a_new_head_can_be_written(tmp_path: Path) -> None:
    """A classifier that begins from a body has the activation of its family."""
    folder = save_and_name(tmp_path / "theirs", "distilbert", "model")
    model = funnelformer.FunnelformerForSequenceClassification.from_pretrained(folder, num_labels=4)
    model.save_pretrained(tmp_path / "ours")
    report = convert(tmp_path / "ours", tmp_path / "again", "distilbert")
    assert report.difference <= TOLERANCE
    assert load_folder(tmp_path / "again").config.num_labels == 4


def save_and_name(folder: Path, name: str, architecture: str) -> Path:
    save_stock(folder, name, architecture)
    return folder


def test_verify_with_transformers(tmp_path: Path) -> None:
    save_stock(tmp_path / "theirs", "xlm-roberta", "token_classification")
    report = convert(tmp_path / "theirs", tmp_path / "ours", verify="transformers")
    assert report.verified
    assert max(report.verified.values()) <= TOLERANCE


def test_tokenizer_files_come_along(tmp_path: Path) -> None:
    save_stock(tmp_path / "theirs", "roberta")
    files = ("vocab.json", "merges.txt", "sentencepiece.bpe.model", "added_tokens.json")
    for file in files:
        (tmp_path / "theirs" / file).write_bytes(file.encode())
    report = convert(tmp_path / "theirs", tmp_path / "ours")
    assert set(report.tokenizer) == set(files)
    assert all((tmp_path / "ours" / file).read_bytes() == file.encode() for file in files)


def test_a_pair_of_texts_in_a_model_without_segments(tmp_path: Path) -> None:
    """A tokenizer says 1 of the second text; DistilBERT and RoBERTa have no such segment."""
    for name in ("distilbert", "roberta"):
        save_stock(tmp_path / name, name)
        model = FunnelformerModel.from_pretrained(tmp_path / name).eval()
        ids = torch.tensor([[5, 6, 7, 8]])
        found = model(ids, token_type_ids=torch.tensor([[0, 0, 1, 1]])).last_hidden_state
        assert torch.equal(found, model(ids).last_hidden_state)


def test_other_classes_are_as_they_were(tmp_path: Path) -> None:
    save_stock(tmp_path, "bert", "masked_lm")
    assert type(transformers.AutoModel.from_pretrained(tmp_path)) is transformers.BertModel
    assert type(FunnelformerForMaskedLM.from_pretrained(tmp_path)) is FunnelformerForMaskedLM
    config = FunnelformerConfig.from_pretrained(tmp_path)
    assert (config.model_type, config.name, config.hidden_act) == ("funnelformer", "L2H24", "gelu")
    changed = FunnelformerModel.from_pretrained(tmp_path, hidden_dropout=0.0)
    assert changed.config.hidden_dropout == 0.0


def test_info_says_the_form(tmp_path: Path) -> None:
    save_stock(tmp_path / "theirs", "electra", "token_detection")
    info = describe(tmp_path / "theirs", [16], memory=False)
    assert info.name == "L2H24"
    assert info.notes == ("read from a model of the form electra (token_detection)",)
