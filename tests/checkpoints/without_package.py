"""Run by an interpreter that has transformers and not this package: load each folder, call it, train it by one step."""

import importlib.util
import json
import sys
from pathlib import Path

import torch
import transformers
from safetensors.torch import load_file, save_file


def main(folder: Path) -> None:
    assert importlib.util.find_spec("funnelformer") is None
    for entry in json.loads((folder / "cases.json").read_text()):
        auto = getattr(transformers, entry["auto_class"])
        model = auto.from_pretrained(folder / entry["name"], trust_remote_code=True)
        inputs = load_file(folder / f"{entry['name']}.inputs.safetensors")
        save_file(results(model, inputs), folder / f"{entry['name']}.outputs.safetensors")
        if entry["again"]:  # what it saves loads in the same way
            model.save_pretrained(folder / "again")
            again = auto.from_pretrained(folder / "again", trust_remote_code=True)
            state = model.state_dict()
            assert all(torch.equal(tensor, state[name]) for name, tensor in again.state_dict().items())
            other = transformers.AutoModel.from_pretrained(folder / "again", trust_remote_code=True)
            assert type(other).__name__ == "FunnelformerModel"


def results(model: torch.nn.Module, inputs: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The outputs of a model, and its weights after one step down the gradient."""
    given = {
        name: tensor for name, tensor in inputs.items() if "label" not in name and "position" not in name
    }
    with torch.no_grad():
        output = model.eval()(**given)
    found = {
        f"output.{name}": output[name]
        for name in ("logits", "start_logits", "last_hidden_state")
        if name in output
    }
    output = model.train()(**inputs)
    loss = output["loss"] if "loss" in output else output["last_hidden_state"].square().mean()
    loss.backward()
    torch.optim.SGD(model.parameters(), lr=0.1).step()
    found["output.loss"] = loss.detach()
    found |= {f"weight.{name}": weight.detach() for name, weight in model.named_parameters()}
    return {name: tensor.contiguous().clone() for name, tensor in found.items()}


if __name__ == "__main__":
    main(Path(sys.argv[1]))
