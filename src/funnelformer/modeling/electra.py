"""Replaced-token pretraining (ELECTRA): a small generator proposes tokens, the discriminator finds them.

Source: Dai et al. 2020, section 3.1, after Clark et al. 2020, arXiv:2003.10555; the original code's `electra`.
"""

from __future__ import annotations

import copy
import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int, Num
from torch import Tensor, nn
from transformers.utils import ModelOutput

from ..base.errors import UserError
from ..config.model_config import FunnelformerConfig
from .heads import FunnelformerForMaskedLM, FunnelformerForTokenDetection
from .model import FunnelformerPreTrainedModel, wants_dict

__all__ = ["GENERATOR_FOLDER", "ElectraOutput", "FunnelformerForElectra", "generator_config"]

# Beside the discriminator's files.
GENERATOR_FOLDER = "generator"
_SHARED = ("word_embeddings.weight", "layer_norm.weight", "layer_norm.bias")
_SHARED_ABSOLUTE = ("position_embeddings.weight", "token_type_embeddings.weight")
_NOISE_EPS = 1e-9


@dataclass
class ElectraOutput(ModelOutput):
    """What `FunnelformerForElectra` returns; everything but loss and logits is detached.

    loss: generator_loss + discriminator_loss, the second with its weight (the two without labels: None).
    logits: [B, T], the discriminator's; positive says original.
    generator_logits: [N, V] at the N targets, batch row by batch row.
    corrupted_ids: [B, T], what the discriminator read.
    replaced_fraction: of the real tokens, those that are not the original ones.
    generator_accuracy: of the targets, those where the likeliest token is the original one.
    discriminator_accuracy: of the real tokens, those judged rightly.
    """

    loss: Tensor | None = None
    logits: Tensor | None = None
    generator_logits: Tensor | None = None
    corrupted_ids: Tensor | None = None
    generator_loss: Tensor | None = None
    discriminator_loss: Tensor | None = None
    replaced_fraction: Tensor | None = None
    generator_accuracy: Tensor | None = None
    discriminator_accuracy: Tensor | None = None


def generator_config(config: FunnelformerConfig) -> FunnelformerConfig:
    """The discriminator's layout at `generator_size` of its width, feed-forward width and heads (rounded down).

    The width is even, there is one head at least; head size and embedding width stay.
    """
    share = config.generator_size
    generator = copy.deepcopy(config)
    generator.hidden_size = max(2, int(config.hidden_size * share) // 2 * 2)
    generator.intermediate_size = max(1, int(config.intermediate_size * share))
    generator.num_attention_heads = max(1, int(config.num_attention_heads * share))
    return generator


class FunnelformerForElectra(FunnelformerPreTrainedModel):
    """Generator and discriminator that share the input embedding up to its LayerNorm; trained together.

    `save_pretrained` writes the discriminator as an ordinary `FunnelformerForTokenDetection`, which fine-tuning takes,
    and the generator as an ordinary `FunnelformerForMaskedLM` in the folder `generator` inside; `from_pretrained` joins
    them again.
    generator: config of the generator, by default `generator_config(config)`.
    """

    # The loss has two counts to divide by, and the Trainer knows one: see `training.electra.ElectraTrainer`. The plain
    # Trainer takes the mean over its accumulation steps.
    accepts_loss_kwargs = False

    def __init__(self, config: FunnelformerConfig, generator: FunnelformerConfig | None = None) -> None:
        super().__init__(config)
        generator = copy.deepcopy(generator or generator_config(config))
        # Logits at the targets alone: all that is sampled and all that has a loss.
        generator.sparse_prediction = True
        generator._attn_implementation = config._attn_implementation
        for key in ("vocab_size", "embedding_size", "position"):
            if getattr(generator, key) != getattr(config, key):
                raise ValueError(
                    f"the generator shares the embedding: its {key} is {getattr(generator, key)!r}, "
                    f"the discriminator's {getattr(config, key)!r}"
                )
        if not (config.tie_word_embeddings and generator.tie_word_embeddings):
            raise ValueError("generator and discriminator share the embedding: set tie_word_embeddings")
        self.discriminator = FunnelformerForTokenDetection(config)
        self.generator = FunnelformerForMaskedLM(generator)
        shared = _SHARED + (_SHARED_ABSOLUTE if config.position == "absolute" else ())
        self._tied_weights_keys = {
            f"generator.funnelformer.embeddings.{name}": f"discriminator.funnelformer.embeddings.{name}"
            for name in shared
        }
        self.post_init()

    def get_input_embeddings(self) -> nn.Module:
        return self.discriminator.get_input_embeddings()

    def set_input_embeddings(self, value: nn.Module) -> None:
        self.discriminator.set_input_embeddings(value)
        self.generator.set_input_embeddings(value)

    def get_output_embeddings(self) -> nn.Module:
        return self.generator.get_output_embeddings()

    def set_output_embeddings(self, new_embeddings: nn.Module) -> None:
        self.generator.set_output_embeddings(new_embeddings)

    def forward(
        self,
        input_ids: Int[Tensor, "B T"],
        attention_mask: Num[Tensor, "B T"] | None = None,
        token_type_ids: Int[Tensor, "B T"] | None = None,
        labels: Int[Tensor, "B T"] | None = None,
        segment_ids: Int[Tensor, "B T"] | None = None,
        uniform_noise: Float[Tensor, "N V"] | None = None,
        num_targets: Tensor | int | None = None,
        num_tokens: Tensor | int | None = None,
        return_dict: bool | None = None,
    ) -> ElectraOutput | tuple[Tensor, ...]:
        """Fill the targets with samples of the generator, and let the discriminator judge every real token.

        input_ids: the tokens, with the targets masked. labels: the original tokens at the targets, -100 elsewhere;
            without labels the discriminator judges `input_ids` as they are.
        uniform_noise: the draw from (0, 1) behind the samples, row by row of the targets; default a new one.
        num_targets, num_tokens: targets and real tokens over all processes and accumulation steps, which the two losses
            are divided by; the sum over these is then the loss of the whole batch. Default: those of this batch.
        Raises ValueError when one of the two counts is given without the other.
        """
        if (num_targets is None) != (num_tokens is None):
            raise ValueError("give both num_targets and num_tokens, or none of them")
        inputs = {
            "attention_mask": attention_mask,
            "token_type_ids": token_type_ids,
            "segment_ids": segment_ids,
            "return_dict": True,
        }
        if labels is None:
            output = ElectraOutput(logits=self.discriminator(input_ids, **inputs).logits)
            return output if wants_dict(return_dict, self.config) else output.to_tuple()

        is_target = labels != -100
        if num_targets is None:
            num_targets = is_target.sum().clamp(min=1)
        generated = self.generator(input_ids, labels=labels, num_items_in_batch=num_targets, **inputs)
        originals = torch.where(is_target, labels, input_ids)
        corrupted = originals.masked_scatter(
            is_target, sample_tokens(generated.logits.detach(), uniform_noise)
        )

        is_original = corrupted == originals
        keep = torch.ones_like(is_original) if attention_mask is None else attention_mask.bool()
        judged = self.discriminator(
            corrupted,
            labels=is_original.long().masked_fill(~keep, -100),
            num_items_in_batch=num_tokens,
            **inputs,
        )
        discriminator_loss = self.config.discriminator_weight * judged.loss

        num_local_tokens = keep.sum().clamp(min=1)
        is_right = ((judged.logits > 0) == is_original) & keep
        hits = generated.logits.detach().argmax(-1) == labels[is_target]
        output = ElectraOutput(
            loss=generated.loss + discriminator_loss,
            logits=judged.logits,
            generator_logits=generated.logits.detach(),
            corrupted_ids=corrupted,
            generator_loss=generated.loss.detach(),
            discriminator_loss=discriminator_loss.detach(),
            replaced_fraction=(~is_original & keep).sum() / num_local_tokens,
            generator_accuracy=hits.sum() / is_target.sum().clamp(min=1),
            discriminator_accuracy=is_right.sum() / num_local_tokens,
        )
        return output if wants_dict(return_dict, self.config) else output.to_tuple()

    def load_state_dict(
        self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False
    ) -> Any:
        """As in torch. Raises ValueError for the discriminator's weights alone, which a folder's own file holds.

        The plain Trainer, when it resumes, would load none of them and go on with a warning.
        """
        if state_dict and not any(name.startswith(("discriminator.", "generator.")) for name in state_dict):
            raise ValueError(
                "these are not the weights of generator and discriminator; "
                "load their folder with from_pretrained, or resume with ElectraTrainer"
            )
        return super().load_state_dict(state_dict, strict, assign)

    def save_pretrained(  # type: ignore[override]
        self,
        save_directory: str | os.PathLike[str],
        is_main_process: bool = True,
        state_dict: dict[str, Tensor] | None = None,
        **kwargs: Any,
    ) -> None:
        """Write the discriminator into the folder, and the generator into the folder `generator` inside it."""
        for part, folder in (
            ("discriminator", os.fspath(save_directory)),
            ("generator", os.path.join(save_directory, GENERATOR_FOLDER)),
        ):
            own = None
            if state_dict is not None:
                prefix = f"{part}."
                own = {
                    name.removeprefix(prefix): tensor
                    for name, tensor in state_dict.items()
                    if name.startswith(prefix)
                }
            getattr(self, part).save_pretrained(
                folder, is_main_process=is_main_process, state_dict=own, **kwargs
            )

    @classmethod
    def from_pretrained(
        cls, pretrained_model_name_or_path: str | os.PathLike[str] | None, *args: Any, **kwargs: Any
    ) -> Any:
        """Join what `save_pretrained` wrote; keywords are for both models.

        With None, `config` and `state_dict` (names with `discriminator.` and `generator.`) as in transformers.
        Raises UserError for a folder without a generator.
        """
        kwargs["trust_remote_code"] = False
        if pretrained_model_name_or_path is None or kwargs.get("state_dict") is not None:
            return super().from_pretrained(pretrained_model_name_or_path, *args, **kwargs)
        source = pretrained_model_name_or_path
        if os.path.isdir(source) and not os.path.isdir(os.path.join(source, GENERATOR_FOLDER)):
            raise UserError(
                f"{source}: has no folder {GENERATOR_FOLDER!r}, so it is no replaced-token pretraining"
            )
        wants_report = kwargs.pop("output_loading_info", False)
        discriminator, report = FunnelformerForTokenDetection.from_pretrained(
            source, *args, output_loading_info=True, **kwargs
        )
        generator, generator_report = FunnelformerForMaskedLM.from_pretrained(
            source, *args, output_loading_info=True, **{**kwargs, "subfolder": GENERATOR_FOLDER}
        )
        model = cls.join(discriminator, generator)
        if not wants_report:
            return model
        return model, {
            key: [_prefixed(entry, "discriminator.") for entry in entries]
            + [_prefixed(entry, "generator.") for entry in generator_report[key]]
            for key, entries in report.items()
        }

    @classmethod
    def join(
        cls, discriminator: FunnelformerForTokenDetection, generator: FunnelformerForMaskedLM
    ) -> FunnelformerForElectra:
        """One model of two trained ones; the embedding is the discriminator's."""
        with torch.device("meta"):
            model = cls(discriminator.config, generator.config)
        generator.config.sparse_prediction = True
        model.discriminator, model.generator = discriminator, generator
        model.tie_weights()
        return model.eval()


def _prefixed(entry: Any, prefix: str) -> Any:
    """An entry of transformers' loading report: a name, or a name with two shapes."""
    return prefix + entry if isinstance(entry, str) else (prefix + entry[0], *entry[1:])


def sample_tokens(
    logits: Float[Tensor, "N V"], uniform_noise: Float[Tensor, "N V"] | None = None
) -> Int[Tensor, " N"]:
    """Draw a token from each row's softmax: the largest logit plus Gumbel noise, in float32.

    Source: the original code, with its two small constants.
    """
    noise = torch.empty_like(logits, dtype=torch.float32)
    noise = noise.uniform_() if uniform_noise is None else noise.copy_(uniform_noise)
    # In place: the tensor is as large as the logits, and new ones cost a third of a small model's step on a CPU.
    noise.add_(_NOISE_EPS).log_().neg_().add_(_NOISE_EPS).log_()
    return torch.sub(logits.float(), noise, out=noise).argmax(-1)
