"""The scripts for Slurm and the manifest for Kubernetes: their commands are read as the command line reads them."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml
from torch.distributed.run import get_args_parser

from funnelformer import cli
from funnelformer.training.pretraining.config import PretrainConfig

ROOT = Path(__file__).parents[1]
CLUSTERS = ROOT / "recipes" / "clusters"
SLURM = {
    "SLURM_ARRAY_TASK_ID": "3",
    "SLURM_ARRAY_TASK_COUNT": "4",
    "SLURM_CPUS_PER_TASK": "2",
    "SLURM_JOB_NODELIST": "n[1-2]",
    "SLURM_JOB_NUM_NODES": "2",
    "SLURM_JOB_ID": "7",
}


def program(folder: Path, name: str, lines: str) -> None:
    (folder / name).write_text(f"#!/bin/sh\n{lines}\n")
    (folder / name).chmod(0o755)


def run(script: str, folder: Path, *flags: str, failing: bool = False, restarts: int = 0) -> list[list[str]]:
    """What a script calls, in words: of funnelformer or srun, which ends as asked, and of scontrol's requeue."""
    programs = folder / "programs"
    programs.mkdir()
    note = f'printf "%s\\n" "$(basename "$0")" "$@" "" >> {folder}/calls'
    for name in ("srun", "funnelformer"):
        program(programs, name, f"{note}; exit {int(failing)}")
    program(programs, "scontrol", f'if [ "$1" = show ]; then echo n1; echo n2; else {note}; fi')
    environment = {**os.environ, **SLURM, "SLURM_RESTART_COUNT": str(restarts)}
    environment["PATH"] = f"{programs}:{environment['PATH']}"
    done = subprocess.run(
        [shutil.which("bash") or "bash", str(CLUSTERS / script), *flags], env=environment, cwd=folder
    )
    assert done.returncode == int(failing)
    return [call.splitlines() for call in re.split(r"\n\n", (folder / "calls").read_text()) if call]


def read_torchrun(words: list[str]) -> tuple[dict[str, object], list[str]]:
    """The options of torchrun that the words set, and the words of our command."""
    options = vars(get_args_parser().parse_args(words))
    assert options["module"]
    assert options["training_script"] == "funnelformer"
    assert options["rdzv_backend"] == "c10d"
    return options, options["training_script_args"]


def read_pretrain(words: list[str], monkeypatch: pytest.MonkeyPatch) -> PretrainConfig:
    """The configuration that the words of `pretrain` give, with the recipe of the repository."""
    seen: list[PretrainConfig] = []
    monkeypatch.setattr(
        "funnelformer.training.pretraining.pretrain.pretrain", lambda config: seen.append(config) or {}
    )
    monkeypatch.chdir(ROOT)
    cli.app.meta(words, exit_on_error=False, print_error=False)
    return seen[0]


def test_an_array_job_prepares_its_share(tmp_path):
    ((name, *words),) = run("prepare.sbatch", tmp_path, "--block-size", "16")
    assert name == "funnelformer"
    config = cli.app.parse_args(words, exit_on_error=False, print_error=False)[1].args[0]
    assert (config.shard, config.workers, config.block_size) == ("3/4", 2, 16)


def test_a_node_under_slurm_joins_the_others(tmp_path, monkeypatch):
    ((name, *words),) = run("pretrain.sbatch", tmp_path, "--seed", "5")
    assert name == "srun"
    options, command = read_torchrun(words[words.index("torchrun") + 1 :])
    assert (options["nnodes"], options["rdzv_id"], options["rdzv_endpoint"]) == ("2", "7", "n1:29500")
    config = read_pretrain(command, monkeypatch)
    assert config.auto_resume
    assert (config.model, config.seed) == ("B1-1-1H128", 5)


@pytest.mark.parametrize(("restarts", "again"), [(0, True), (9, True), (10, False)])
def test_a_failed_job_is_queued_again_ten_times(restarts, again, tmp_path):
    _, *others = run("pretrain.sbatch", tmp_path, failing=True, restarts=restarts)
    assert others == [["scontrol", "requeue", "7"]] * again


def test_the_pods_find_each_other(monkeypatch):
    service, job = yaml.safe_load_all((CLUSTERS / "pretrain.yaml").read_text())
    name, spec = job["metadata"]["name"], job["spec"]
    assert spec["completionMode"] == "Indexed"
    assert service["spec"]["selector"] == {"job-name": name}
    assert spec["template"]["spec"]["subdomain"] == service["metadata"]["name"]
    options, command = read_torchrun(spec["template"]["spec"]["containers"][0]["command"][1:])
    assert options["nnodes"] == str(spec["completions"]) == str(spec["parallelism"])
    port = service["spec"]["ports"][0]["port"]
    assert options["rdzv_endpoint"] == f"{name}-0.{service['metadata']['name']}:{port}"
    assert read_pretrain(command, monkeypatch).auto_resume
