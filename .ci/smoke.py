"""Install the package into a clean environment, away from its sources, and run its commands there once, at toy size.

    python .ci/smoke.py --versions tested --wheel dist/funnelformer-0.1.0-py3-none-any.whl

--versions lowest installs the lower bound of every dependency in pyproject.toml, tested what constraints.txt says, and
newest what pip chooses.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
import tempfile
import tomllib
import venv
from pathlib import Path

ROOT = Path(__file__).parents[1]
TEXT = "\n".join(
    f"The {animal} {verb} on the {place}.\nIt {verb} there all day.\n"
    for animal in ("cat", "dog", "kitten", "puppy", "horse", "goat")
    for verb in ("sleeps", "rests", "sits", "waits", "naps")
    for place in ("sofa", "couch", "mat", "roof", "grass")
)
COMMANDS = """\
--version
tokenizer --train corpus.txt --out tokenizer --vocab-size 120
prepare --train corpus.txt --tokenizer tokenizer --out data --block-size 16 --workers 1
pretrain --train data --tokenizer tokenizer --model B1-1H16 --steps 2 --batch-size 4 --device cpu --out base
finetune --train table.csv --model base --max-length 16 --epochs 1 --batch-size 8 --device cpu --out run
evaluate run table.csv --device cpu
predict run texts.txt --out labels.jsonl --device cpu
embed run texts.txt --out vectors.npy --device cpu
convert base again --layout B1-1
info again --lengths 16
"""


def lowest() -> list[str]:
    """name==bound for each dependency."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    return [re.sub(r">=([^,;]+).*", r"==\1", requirement) for requirement in project["dependencies"]]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--versions", choices=("lowest", "tested", "newest"), default="tested")
    parser.add_argument("--wheel", type=Path, help="a built wheel; by default the sources are built")
    parser.add_argument(
        "--pin", nargs="*", default=[], help="name==version, in place of what --versions says"
    )
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="funnelformer-smoke-") as name:
        folder = Path(name)
        venv.create(folder / "venv", with_pip=True)
        bin_folder = "Scripts" if sys.platform == "win32" else "bin"
        python = folder / "venv" / bin_folder / "python"
        what = [str(options.wheel.absolute() if options.wheel else ROOT)]
        if options.versions == "lowest":
            replaced = {pin.partition("==")[0] for pin in options.pin}
            what += [pin for pin in lowest() if pin.partition("==")[0] not in replaced]
        if options.versions == "tested":
            what += ["--constraint", str(ROOT / "constraints.txt")]
        subprocess.run(
            [python, "-m", "pip", "install", "--quiet", *what, *options.pin], check=True, cwd=folder
        )
        (folder / "corpus.txt").write_text(TEXT)
        lines = [
            f"a {animal} {verb},{animal}"
            for animal in ("cat", "dog")
            for verb in ["sleeps", "sits", "naps", "waits"]
        ]
        (folder / "table.csv").write_text("text,label\n" + "\n".join(lines * 5) + "\n")
        (folder / "texts.txt").write_text("a cat sits\na dog naps\n")
        for command in COMMANDS.splitlines():
            print(f"funnelformer {command}", flush=True)
            subprocess.run(
                [python, "-I", "-m", "funnelformer", *command.split()],
                check=True,
                cwd=folder,
                stdout=subprocess.DEVNULL,
            )
        check = (
            "import funnelformer, numpy, torch, transformers; from pathlib import Path; "
            "assert 'site-packages' in funnelformer.__file__, funnelformer.__file__; "
            "assert numpy.load('vectors.npy').shape == (2, 16); "
            "assert len(Path('labels.jsonl').read_text().splitlines()) == 2; "
            "print('passed with torch', torch.__version__, 'and transformers', transformers.__version__)"
        )
        subprocess.run([python, "-I", "-c", check], check=True, cwd=folder)


if __name__ == "__main__":
    main()
