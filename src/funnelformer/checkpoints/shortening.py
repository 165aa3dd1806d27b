"""Deal the layers of a model into other blocks: an encoder of one length becomes a funnel, or one of fewer layers.

The weights stay what they are. Between two blocks the sequence is halved, which a layer that was trained at full length
does not know; fine-tuning teaches it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import pairwise
from typing import Any

from torch import Tensor

from ..base.errors import UserError
from ..base.json_toml import read_json
from ..config.model_config import FunnelformerConfig, parse_layout
from .foreign_options import make_config
from .loaded import SEQUENCE_HEADS, Loaded

__all__ = ["deal", "spread_layers", "without_token_head"]

_LAYER = re.compile(r"((?:funnelformer\.)?encoder\.blocks\.)(\d+)\.(\d+)\.(.+)")
_PREFIX = "funnelformer."


def spread_layers(num_layers: int, places: int) -> list[int]:
    """The layer, of `num_layers` counted from 0, that each of so many places gets: in order, and evenly.

    Fewer places: layers at equal distances, the first and the last among them (for one place the first); what falls
    between two layers is rounded to the nearest, a half down. Three of six are 0, 2, 5; four 0, 2, 3, 5.
    As many: each once. More: place p gets layer p * num_layers // places, so that every layer stands as often as any
    other, or once more, and its copies stand side by side: twelve of six are 0, 0, 1, 1, ...
    """
    if places >= num_layers:
        return [place * num_layers // places for place in range(places)]
    gaps = max(1, places - 1)
    # ceil(x - 1/2) of x = place * (num_layers - 1) / gaps, in whole numbers
    return [-((gaps - 2 * place * (num_layers - 1)) // (2 * gaps)) for place in range(places)]


def deal(
    loaded: Loaded,
    name: str,
    *,
    layout: str | None = None,
    blocks: Sequence[int] | None = None,
    repeats: Sequence[int] | None = None,
    layers: Sequence[int] | None = None,
) -> Loaded:
    """The same model with its encoder's layers in other blocks.

    name: of the source, for messages and `config.made_from`.
    layout: "B2-2-2", or with the width "B2-2-2H384", which must be the source's. blocks, repeats: the same as numbers.
    layers: which layers are kept, counted from 0 as they are stored, rising; by default all. Without a layout they
        become one block. They are put in the layout's places as `spread_layers` says, and may not be more than these.
    A source of one block gets `truncate_seq=False`, so that no token of a short text is dropped; one that shortens
    already keeps its own. A decoder and a head stay; none is made.
    `config.made_from` has the keys source, model_type, source_layout, layers (one for each place), layout, and
    made_from where the source was dealt before.
    Raises UserError for what does not fit.
    """
    old = loaded.config
    if layout is not None:
        if blocks is not None or repeats is not None:
            raise UserError(
                f"{name}: layout {layout!r} already names the blocks; give it or blocks, not both"
            )
        blocks, repeats, width = parse_layout(layout)
        if width not in (None, old.hidden_size):
            raise UserError(
                f"{name}: is {old.hidden_size} wide, and layout {layout!r} wants {width}; the width cannot be changed"
            )
    kept = list(range(old.num_hidden_layers)) if layers is None else _check_layers(layers, old, name)
    new_blocks = [len(kept)] if blocks is None else list(blocks)
    # Its own checks say what blocks may be.
    values: dict[str, Any] = {**old.to_dict(), "blocks": new_blocks, "repeats": repeats, "mixer": "attention"}
    places = sum(make_config({**values, "decoder_skip_state": None, "pooling": "mean"}, name).blocks)
    if layers is not None and len(kept) > places:
        raise UserError(
            f"{name}: {len(kept)} layers were named, and the layout has room for {places}; name as many or fewer"
        )
    chosen = [kept[index] for index in spread_layers(len(kept), places)]
    values |= {"mixer": _mixers(old, chosen, new_blocks, name), "decoder_skip_state": None}
    config = _dealt_config(loaded, values, chosen, name)
    state, names = _dealt(loaded.state_dict, loaded.names, old, chosen, config)
    unused = sorted(set(range(old.num_hidden_layers)) - set(chosen))
    ignored = {f"layer {index}": "not among the layers that are kept" for index in unused}
    if loaded.pretraining is not None:
        ignored["the generator, the optimizer's moments and the step"] = "they are of the model as it was"
    return replace(
        loaded,
        config=config,
        state_dict=state,
        names=names,
        ignored={**loaded.ignored, **ignored},
        pretraining=None,
        # from here on it is no longer what its folder's library would make of it
        source="funnelformer",
    )


def without_token_head(loaded: Loaded) -> Loaded:
    """The model without a head that reads token states, if there are none: a funnel without a decoder has none."""
    config = loaded.config
    if loaded.architecture in ("model", *SEQUENCE_HEADS) or config.num_blocks == 1 or config.decoder_layers:
        return loaded
    heads = {name for name in loaded.state_dict if not name.startswith(_PREFIX)}
    reason = (
        f"a head of tokens ({loaded.architecture}), and a funnel without a decoder has no states of tokens"
    )
    rest = {name: tensor for name, tensor in loaded.state_dict.items() if name not in heads}
    return replace(
        loaded,
        state_dict={name.removeprefix(_PREFIX): tensor for name, tensor in rest.items()},
        names={name.removeprefix(_PREFIX): theirs for name, theirs in loaded.names.items()},
        ignored={**loaded.ignored, **dict.fromkeys(sorted(heads), reason)},
        architecture="model",
    )


def _check_layers(layers: Sequence[int], config: FunnelformerConfig, name: str) -> list[int]:
    last = config.num_hidden_layers - 1
    if isinstance(layers, str) or not isinstance(layers, Sequence) or not layers:
        raise UserError(f"{name}: layers is {layers!r}; allowed: a list of layers from 0 to {last}")
    for index in layers:
        if isinstance(index, bool) or not isinstance(index, int) or not 0 <= index <= last:
            raise UserError(f"{name}: has no layer {index!r}; allowed: 0 to {last}")
    if any(first >= second for first, second in pairwise(layers)):
        raise UserError(
            f"{name}: the layers {', '.join(map(str, layers))} are not in rising order; name each one once, in the "
            "model's order"
        )
    return list(layers)


def _mixers(config: FunnelformerConfig, chosen: list[int], blocks: list[int], name: str) -> str | list[str]:
    """The mixer of each new block: that of its layers. Raises UserError where these have several."""
    if isinstance(config.mixer, str):
        return config.mixer
    of_layer = [
        mixer for mixer, number in zip(config.mixer, config.blocks, strict=True) for _ in range(number)
    ]
    found = []
    places = iter(chosen)
    for number, size in enumerate(blocks, start=1):
        mixers = sorted({of_layer[next(places)] for _ in range(size)})
        if len(mixers) > 1:
            raise UserError(
                f"{name}: block {number} would have layers of several mixers, {', '.join(mixers)}"
            )
        found += mixers
    return found


def _dealt_config(loaded: Loaded, values: dict[str, Any], chosen: list[int], name: str) -> FunnelformerConfig:
    """The config of these values, with what it says of its origin."""
    old = loaded.config
    if old.num_blocks == 1:
        values = {**values, "truncate_seq": False}
    made_from = {
        "source": name,
        "model_type": _model_type(loaded),
        "source_layout": old.name,
        "layers": chosen,
        "layout": "",
        **({} if old.made_from is None else {"made_from": old.made_from}),
    }
    config = make_config({**values, "made_from": made_from}, name)
    assert config.made_from is not None
    config.made_from["layout"] = config.name
    return config


def _dealt(
    state: Mapping[str, Tensor],
    names: Mapping[str, str],
    old: FunnelformerConfig,
    chosen: list[int],
    new: FunnelformerConfig,
) -> tuple[dict[str, Tensor], dict[str, str]]:
    """The tensors, and their names in the source. Of a layer that stands several times each copy learns by itself."""
    starts = [sum(old.blocks[:block]) for block in range(old.num_blocks)]
    layers: dict[int, list[tuple[str, str, str]]] = {}
    dealt: dict[str, Tensor] = {}
    theirs: dict[str, str] = {}
    for name in state:
        match = _LAYER.fullmatch(name)
        if match is None:
            dealt[name] = state[name]
            theirs[name] = names.get(name, "")
        else:
            index = starts[int(match[2])] + int(match[3])
            layers.setdefault(index, []).append((match[1], match[4], name))
    places = [(block, layer) for block, number in enumerate(new.blocks) for layer in range(number)]
    used: set[int] = set()
    for index, (block, layer) in zip(chosen, places, strict=True):
        for prefix, rest, name in layers.get(index, []):
            target = f"{prefix}{block}.{layer}.{rest}"
            dealt[target] = state[name].clone() if index in used else state[name]
            theirs[target] = names.get(name, "")
        used.add(index)
    return dealt, theirs


def _model_type(loaded: Loaded) -> str:
    """As the source's config.json says, or its form where it has none."""
    file = loaded.folder / "config.json"
    return str(read_json(file).get("model_type", loaded.source)) if file.is_file() else loaded.source
