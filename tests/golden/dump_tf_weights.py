"""Dump the `model/...` variables of a TensorFlow checkpoint to one .npz, names with "/" kept.

    python dump_tf_weights.py FOLDER_WITH_model.ckpt OUT.npz

The generator, the Adam slots and the global step are left out. Needs tensorflow; tests read only its output.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np


def dump(source: Path, out: Path) -> int:
    """Write every `model/...` variable that is not an optimizer slot; returns how many."""
    from tensorflow.train import load_checkpoint

    reader = load_checkpoint(str(source / "model.ckpt"))
    names = sorted(
        name
        for name in reader.get_variable_to_shape_map()
        if name.startswith("model/") and not name.endswith(("/adam_m", "/adam_v"))
    )
    np.savez_compressed(out, **{name: reader.get_tensor(name) for name in names})
    return len(names)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("source", type=Path, help="folder that holds model.ckpt.index")
    parser.add_argument("out", type=Path, help="the .npz to write")
    args = parser.parse_args()
    print(f"{args.out}: {dump(args.source, args.out)} variables")
