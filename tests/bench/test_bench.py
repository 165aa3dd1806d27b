"""`funnelformer bench`: pairs in turn, statistics by hand, the peers' sizes, the JSON's schema. No time is judged."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
from dataclasses import replace
from itertools import count

import pytest
import torch
from matplotlib.image import imread

from funnelformer import UserError, __version__
from funnelformer.bench import suite
from funnelformer.bench.comparison import compare, verdict
from funnelformer.bench.config import BenchConfig
from funnelformer.bench.measure import Case, make_call, make_ids, num_parameters, time_pairs
from funnelformer.bench.result_tables import draw, memory_fits, tables
from funnelformer.bench.results import (
    Failure,
    Memory,
    Results,
    Side,
    Spread,
    Timing,
    read_results,
    spread,
    write_results,
)
from funnelformer.bench.subjects import find_subject
from funnelformer.bench.suite import bench
from funnelformer.cli import app
from funnelformer.cost.flops import forward_flops, training_flops
from training.toy import fails, run, tree

# Older transformers compile parts of DeBERTa so.
pytestmark = pytest.mark.filterwarnings("ignore:.*torch.jit.script:DeprecationWarning")

TINY = ["--models", "B1-1H16", "--peers", "bert:L1H16", "--shapes", "2x9", "--vocab-size", "50"]
CASE = Case("inference", 2, 100, "float32")


def timing(ours, peer, case=CASE, model="B1-1H16", flops=None):
    return Timing(
        case, Side(model, "sdpa", 10, list(ours), flops), Side("bert L1H16", "sdpa", 20, list(peer), None)
    )


def results(*timings, **settings):
    values = {"threads": 1, **settings}
    machine = {"processor": "Abacus", "instructions": "BEADS", "cores": 2, "threads": 1}
    found = Results(values, machine, {"torch": "2.13.0", "commit": "0" * 40}, [0.5, 1.5], is_complete=True)
    found.timings.extend(timings)
    return found


# ---- statistics


def test_quartiles_by_hand():
    assert spread([5.0, 1.0, 2.0, 4.0, 3.0]) == Spread(median=3, q25=2, q75=4)
    assert spread([1.0, 2.0]) == Spread(1.5, 1.25, 1.75)
    assert spread([7.0]) == Spread(7, 7, 7)


def test_the_ratio_is_that_of_pairs_not_of_medians():
    """A slow moment of the machine, tenfold in the third pair, changes both times and no ratio."""
    entry = timing([1.0, 2.0, 30.0], [2.0, 4.0, 60.0])
    assert entry.ratio == Spread(0.5, 0.5, 0.5)
    assert entry.ours.milliseconds == Spread(2000, 1500, 16000)
    # 3/2, 1/4, 2/2: sorted 0.25, 1, 1.5; the medians alone would say 2/2.
    assert timing([3.0, 1.0, 2.0], [2.0, 4.0, 2.0]).ratio == Spread(1.0, 0.625, 1.25)


def test_pairs_are_called_in_turn():
    calls = []
    clock = count(1)

    def seconds(call):
        call()
        calls.append("timed")
        return float(next(clock))

    samples = time_pairs(lambda: calls.append("ours"), lambda: calls.append("peer"), seconds, 2, 1)
    assert calls == ["ours", "peer", "ours", "timed", "peer", "timed", "ours", "timed", "peer", "timed"]
    assert samples == ([1.0, 3.0], [2.0, 4.0])


# ---- models

# Counted by hand from the published sizes; without poolers, which the encoders they are compared with lack.
PARAMETERS = {
    # (30,522 words + 512 positions + 2 types) x 768, LayerNorm, 12 layers of 7,087,872
    "bert": 108_891_648,
    "bert:L24H1024": 334_092_288,
    "funnel": 115_611_648,
    "B4-4-4H768": 115_611_648,
    "modernbert": 149_014_272,
    "fnet": 82_270_464,
    "deberta-v3": 183_831_552,
    # 6 words x 16, 512 + 2 of them, LayerNorm; 4 x (256 + 16), 1024 + 64, 1024 + 16, 2 LayerNorms
    "bert:L1H16": (30_522 + 514) * 16 + 32 + 4 * 272 + 1088 + 1040 + 64,
}


@pytest.mark.parametrize("name", PARAMETERS)
def test_parameters_of_published_sizes(name):
    with torch.device("meta"):
        model = find_subject(name, "--peers").build(512)
    assert sum(parameter.numel() for parameter in model.parameters()) == PARAMETERS[name]


def test_names_and_implementations():
    assert find_subject("bert", "--peers").name == "bert L12H768"
    assert find_subject("bert", "--peers").implementation == "sdpa"
    assert find_subject("deberta-v3:L2H32", "--peers").implementation == "eager"
    assert find_subject("bert", "--peers", "eager+compile").implementation == "eager+compile"
    hybrid = find_subject("B1-1H16", "--models", "eager", {"mixer": ["ponet", "attention"]})
    assert (hybrid.name, hybrid.implementation) == ("B1-1H16 (ponet-attention)", "eager")
    assert find_subject("PoNet-base", "--models").name == "L12H768 (ponet)"


@pytest.mark.parametrize("name", ["B1-1H16", "bert:L1H16"])
def test_prepacked_models_have_the_same_states_and_bytes(name):
    torch.manual_seed(3)
    plain = find_subject(name, "--models").build(9, 50)
    torch.manual_seed(3)
    packed = find_subject(name, "--models", "prepacked").build(9, 50)
    ids = make_ids(Case("inference", 2, 9, "float32"), 50)
    with torch.inference_mode():
        torch.testing.assert_close(packed(ids)[0], plain(ids)[0], rtol=0, atol=1e-5)
    assert num_parameters(packed) == sum(parameter.numel() for parameter in plain.parameters())


@pytest.mark.parametrize("name", ["B1-1H16", "L1H16", "bert:L1H16", "funnel:B1-1H16", "modernbert:L2H16"])
@pytest.mark.parametrize("mode", ["inference", "training"])
def test_a_call_does_what_is_measured(name, mode):
    """Inference leaves the weights alone; a training step moves those that the states depend on."""
    case = Case(mode, 2, 9, "float32")
    model = find_subject(name, "--peers").build(9, 50)
    before = {key: value.detach().clone() for key, value in model.named_parameters()}
    ids = make_ids(case, 50)
    assert ids.shape == (2, 9)
    assert ids[:, 0].tolist() == [1, 1]
    assert int(ids.min()) >= 1
    call = make_call(model, ids, case)
    call()
    changed = {key for key, value in model.named_parameters() if not torch.equal(value, before[key])}
    assert bool(changed) == (mode == "training")
    if mode == "training":
        assert any("embed" in key for key in changed)
        assert len(changed) > len(before) / 2


PEAKS = """
import torch
from funnelformer.bench.measure import Case, peak_memory
from funnelformer.bench.subjects import find_subject
for size in (64, 4096):
    subject = find_subject("L1H64", "--models", settings={"intermediate_size": size})
    print(*peak_memory(subject, Case("inference", 8, 512, "float32"), torch.device("cpu"), 50, 1))
"""


@pytest.mark.slow
def test_peak_memory_of_a_process():
    """A wider feed-forward part needs more, for a piece of the tokens at a time; the weights are counted exactly."""
    # glibc raises its threshold with what is freed, and then keeps two pieces or five, by chance. A threshold that is
    # set stays; and the process is a new one, as the one that forks those measured has its environment from its start.
    environment = {**os.environ, "MALLOC_MMAP_THRESHOLD_": "1000000"}
    done = subprocess.run(
        [sys.executable, "-c", PEAKS], check=True, capture_output=True, text=True, env=environment
    )
    small, large = (tuple(map(int, line.split())) for line in done.stdout.splitlines())
    # two kernels of 64 x (4096 - 64), and a bias of 4096 - 64
    assert large[0] - small[0] == 4 * (2 * 64 * 4032 + 4032)
    # 4,032 more states of 1,024 of the 4,096 tokens at least once, and never of all
    assert 4 * 1024 * 4032 < large[1] - small[1] < 4 * 4096 * 4032


# ---- the run and its files


@pytest.fixture
def no_child(monkeypatch):
    """Memory without a process for each model."""
    asked = []

    def peak(subject, case, device, vocab_size, num_threads):
        asked.append((subject.name, case))
        return 3 << 20, 5 << 20

    monkeypatch.setattr(suite, "peak_memory", peak)
    return asked


def test_the_schema_of_the_results(tmp_path, no_child, capsys):
    out = tmp_path / "out"
    assert run("bench --rounds 3 --warmup 1 --device cpu --threads 1", *TINY, "--out", out) == 0
    values = json.loads((out / "results.json").read_text())
    assert values.keys() == {
        "format",
        "settings",
        "machine",
        "versions",
        "load_average",
        "peaks",
        "timings",
        "memory",
        "failures",
        "is_complete",
        "command",
    }
    assert values["format"] == "funnelformer bench 1"
    assert values["is_complete"] is True
    assert values["command"].startswith("funnelformer bench --out OUT --models B1-1H16 --peers ")
    assert values["command"].endswith(" --device cpu")
    assert values["failures"] == []
    assert values["settings"]["models"] == ["B1-1H16"]
    assert "out" not in values["settings"]
    assert values["machine"]["threads"] == 1
    assert values["machine"]["device"] == "cpu"
    assert values["versions"]["torch"] == torch.__version__
    assert f"funnelformer {__version__} (" in (out / "results.md").read_text()
    assert len(values["load_average"]) == 2
    assert values["peaks"]["float32"] > 0
    assert [row["case"] for row in values["timings"]] == [
        {"mode": mode, "batch_size": 2, "length": 9, "dtype": "float32"} for mode in ("inference", "training")
    ]
    config = find_subject("B1-1H16", "--models").config(9, 50)
    flops = forward_flops(config, 9, batch_size=2, segments=False)
    for row, expected in zip(values["timings"], (flops.total, training_flops(flops)), strict=True):
        ours, peer = row["ours"], row["peer"]
        assert (ours["model"], ours["implementation"], ours["flops"]) == ("B1-1H16", "sdpa", expected)
        assert (peer["model"], peer["implementation"], peer["flops"]) == ("bert L1H16", "sdpa", None)
        assert len(ours["seconds"]) == len(peer["seconds"]) == 3
        ratios = sorted(a / b for a, b in zip(ours["seconds"], peer["seconds"], strict=True))
        assert row["ratio"]["median"] == pytest.approx(ratios[1])
        median = sorted(ours["seconds"])[1]
        assert ours["milliseconds"]["median"] == pytest.approx(1000 * median)
        assert ours["tokens_per_second"] == pytest.approx(18 / median)
    assert [(row["model"], row["case"]["mode"]) for row in values["memory"]] == [
        (model, mode) for mode in ("inference", "training") for model in ("B1-1H16", "bert L1H16")
    ]
    assert {(row["weight_bytes"], row["peak_bytes"]) for row in values["memory"]} == {(3 << 20, 5 << 20)}
    assert len(no_child) == 4
    assert imread(out / "results.png").shape[2] == 4
    printed = capsys.readouterr().out
    assert printed == (out / "results.md").read_text() + f"\nthe results are in {out}\n"
    assert sorted(path.name for path in out.iterdir()) == ["results.json", "results.md", "results.png"]
    # What was written is what is read, but for the figures that follow from the samples.
    read = read_results(out / "results.json")
    write_results(read, tmp_path / "again.json")
    assert (tmp_path / "again.json").read_bytes() == (out / "results.json").read_bytes()


def test_every_model_with_every_peer(tmp_path, no_child):
    """Two models in two implementations with two peers; a peer among the models has one implementation."""
    config = BenchConfig(
        out=tmp_path,
        models=["B1-1H16", "bert:L1H16"],
        peers=["bert:L1H16", "L1H16"],
        implementations=["sdpa", "eager"],
        shapes=["1x5", "2x3"],
        modes=["inference"],
        rounds=1,
        warmup=0,
        vocab_size=20,
        device="cpu",
        memory=False,
    )
    found = bench(config)
    pairs = [
        (entry.ours.model, entry.ours.implementation, entry.peer.model, entry.case.length)
        for entry in found.timings
    ]
    assert pairs == [
        (model, implementation, peer, length)
        for model, implementation in (("B1-1H16", "sdpa"), ("B1-1H16", "eager"), ("bert L1H16", "sdpa"))
        for peer in ("bert L1H16", "L1H16")
        for length in (5, 3)
    ]
    assert found.memory == []
    assert no_child == []


def test_what_cannot_be_had_is_a_row(tmp_path, no_child, monkeypatch):
    """The other shape, and the memory, are measured all the same."""

    def make(model, ids, case):
        if case.length == 5:
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes")
        return lambda: None

    monkeypatch.setattr(suite, "make_call", make)
    arguments = {"models": ["L1H16"], "peers": ["bert:L1H16"], "modes": ["inference"], "vocab_size": 20}
    found = bench(BenchConfig(out=tmp_path, shapes=["1x5", "2x3"], device="cpu", **arguments))
    assert found.failures == [
        Failure(Case("inference", 1, 5, "float32"), ["L1H16", "bert L1H16"], "not enough memory")
    ]
    assert [entry.case.length for entry in found.timings] == [3]
    assert "| inference | float32 | 1 x 5 | L1H16, bert L1H16 | not enough memory |" in tables(found)
    with pytest.raises(UserError, match="nothing could be timed: not enough memory"):
        bench(BenchConfig(out=tmp_path, shapes=["1x5"], device="cpu", overwrite=True, **arguments))


def test_the_command_repeats_the_benchmark():
    """Read by the command line's own parser it gives the same options, but for the folder."""
    for config in (
        BenchConfig(out="mine"),
        BenchConfig(out="mine", quick=True, rounds=9, memory=False),
        BenchConfig(out="mine", models=["L1H16", "B1-1H16"], set={"decoder_layers": "2"}, threads=1),
    ):
        _, bound, _ = app.parse_args(shlex.split(config.command)[1:], print_error=False)
        assert replace(bound.arguments["settings"], out=config.out) == config
    assert BenchConfig(out="mine").command == "funnelformer bench --out OUT"


def test_older_results_say_that_their_command_is_not_recorded(tmp_path):
    write_results(results(timing([1.0], [2.0])), tmp_path / "old.json")
    values = json.loads((tmp_path / "old.json").read_text())
    del values["command"]
    (tmp_path / "old.json").write_text(json.dumps(values))
    assert read_results(tmp_path / "old.json").command == "not recorded"


def test_quick_fills_in_only_what_is_not_given():
    quick = BenchConfig(out="out", quick=True, rounds=9)
    assert (quick.models, quick.rounds) == (["B4-4-4H768"], 9)
    usual = BenchConfig(out="out", shapes=["1x8"])
    assert (usual.shapes, usual.rounds, usual.peers) == (["1x8"], 5, ["bert", "funnel"])


def test_tables_by_hand(tmp_path):
    found = results(timing([0.1, 0.2, 0.4], [0.2, 0.4, 0.4], flops=10**9))
    found.peaks["float32"] = 50e9
    case = replace(CASE, mode="training")
    found.memory = [
        Memory(case, "B1-1H16", "sdpa", 1 << 20, 3 << 20),
        Memory(case, "bert", "sdpa", 2 << 20, 6 << 20),
    ]
    text = tables(found)
    assert "Abacus (BEADS), 1 threads on 2 cores; torch 2.13.0" in text
    assert "Load average: 0.5, 1.5 (before, after)." in text
    # 200 tokens in 0.2 s and in 0.4 s; 1e9 FLOPs in 0.2 s are a tenth of 50e9 a second
    assert (
        "| inference | float32 | 2 x 100 | B1-1H16 sdpa | bert L1H16 sdpa | 200.0 | 400.0 | 0.50 (0.50 to 0.75) "
        "| 1,000 | 500 | 10% |"
    ) in text
    assert "| training | float32 | 2 x 100 | B1-1H16 sdpa | 1 | 3 | 4 |  |  |" in text
    assert "| training | float32 | 2 x 100 | bert sdpa | 2 | 6 | 8 | 2.00 | 2.00 |" in text
    assert "interrupted" not in text
    found.is_complete = False
    assert "interrupted" in tables(found)
    draw(found, tmp_path / "a.png")
    height, width, _ = imread(tmp_path / "a.png").shape
    assert width == 840  # 7 inches of 120 dots
    found.timings.append(timing([1.0], [1.0], case))
    draw(found, tmp_path / "a.png")
    assert imread(tmp_path / "a.png").shape[0] > height  # a panel more


# ---- comparison


def test_memory_against_length_by_hand():
    """20 MiB and half a MiB a token; 1/1024 of a MiB for the square of the length; two lengths say nothing."""

    def entries(model, size, lengths=(1024, 2048, 4096)):
        return [
            Memory(Case("inference", 2, length, "float32"), model, "sdpa", 1, int(size(length) * 2**20))
            for length in lengths
        ]

    line, square = memory_fits(
        [
            *entries("line", lambda length: 20 + length / 2),
            *entries("square", lambda length: length**2 / 1024),
            *entries("short", lambda length: length, (64, 128)),
        ]
    )
    assert (line.longest.model, line.longest.case.length) == ("line", 4096)
    assert (line.mib_per_1024_tokens, line.r_squared) == pytest.approx((512, 1))
    assert 0.97 < line.exponent < 0.98
    assert (square.longest.model, square.exponent) == ("square", pytest.approx(2))
    assert square.r_squared == pytest.approx(48 / 49)
    found = results()
    found.memory = entries("line", lambda length: 20 + length / 2)
    assert "| inference | float32 | 2 | line sdpa | 512 | 1.000 | 0.98 |" in tables(found)


def write(found, path):
    write_results(found, path)
    return path


def test_a_verdict_needs_quartiles_apart():
    base = Spread(1.0, 0.9, 1.1)
    assert verdict(base, Spread(0.8, 0.7, 0.89)) == "faster"
    assert verdict(base, Spread(0.8, 0.7, 0.9)) == "within the spread"
    assert verdict(base, Spread(1.2, 1.11, 1.3)) == "slower"


def test_compare_by_hand(tmp_path):
    case = replace(CASE, length=7)
    first = results(
        timing([1.0, 1.0], [2.0, 2.0]), timing([1.0], [1.0], case), timing([1.0], [1.0], model="L1H16")
    )
    first.memory = [
        Memory(CASE, "B1-1H16", "sdpa", 1, 10 << 20),
        Memory(case, "B1-1H16", "sdpa", 1, 10 << 20),
    ]
    second = results(timing([0.2, 0.2], [0.5, 0.5]), timing([1.0], [1.0], case), rounds=9)
    second.memory = [Memory(CASE, "B1-1H16", "sdpa", 1, 5 << 20)]
    second.machine["processor"] = "Slide rule"
    second.versions["torch"] = "2.14.0"
    first_file = write(first, tmp_path / "first.json")
    (tmp_path / "second").mkdir()
    write(second, tmp_path / "second" / "results.json")
    text = compare(first_file, tmp_path / "second")
    for line in (
        "- hardware: processor 'Abacus', then 'Slide rule'",
        "- versions: torch '2.13.0', then '2.14.0'",
        "- settings: rounds None, then 9",
        "| inference | float32 | 2 x 100 | B1-1H16 sdpa | bert L1H16 sdpa | 1,000.0, then 200.0 "
        "| 0.50 (0.50 to 0.50) | 0.40 (0.40 to 0.40) | 0.80 | faster |",
        "| inference | float32 | 2 x 7 | B1-1H16 sdpa | bert L1H16 sdpa | 1,000.0, then 1,000.0 "
        "| 1.00 (1.00 to 1.00) | 1.00 (1.00 to 1.00) | 1.00 | within the spread |",
        "| inference | float32 | 2 x 100 | B1-1H16 sdpa | 10, then 5 | 0.50 | less |",
        "Only in the first:",
        "- time, inference, float32, 2 x 100: L1H16 sdpa / bert L1H16 sdpa",
        "- memory, inference, float32, 2 x 7: B1-1H16 sdpa",
    ):
        assert line in text.splitlines()
    assert "Only in the second" not in text
    same = compare(first_file, first_file)
    assert same.startswith("Same hardware, versions, settings.\n")
    assert "faster" not in same
    assert "slower" not in same


def test_compare_on_the_command_line(tmp_path, capsys):
    file = write(results(timing([1.0], [2.0])), tmp_path / "a.json")
    assert run("bench compare", file, file) == 0
    assert capsys.readouterr().out == compare(file, file)


# ---- bad input


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--models", "B4-4H"], "--models: model name 'B4-4H' cannot be read"),
        (["--peers", "brt"], "--peers: model name 'brt' cannot be read"),
        (["--peers", "bert:B1-1H16"], "--peers bert:B1-1H16: bert has no blocks"),
        (["--peers", "bert:huge"], "--peers bert:huge: model name 'huge' cannot be read"),
        (["--dtypes", "float31"], "--dtypes: 'float31' is unknown; allowed: float32, bfloat16, float16; did"),
        (["--modes", "sleeping"], "--modes: 'sleeping' is unknown; allowed: inference, training"),
        (["--dtypes", "float16"], "--dtypes float16: training in float16 would need a scaled loss"),
        (["--shapes", "8by128"], "--shapes: '8by128' cannot be read; allowed: sequences x tokens, as 8x128"),
        (["--shapes", "0x128"], "--shapes: '0x128' cannot be read"),
        (
            ["--implementations", "sdap"],
            "the implementation 'sdap' is unknown; allowed: eager, sdpa, triton, each",
        ),
        (
            ["--peers", "funnel", "--peer-implementation", "sdpa"],
            "the implementation 'sdpa' is unknown; allowed: eager",
        ),
        (["--rounds", "0"], "--rounds is 0; allowed: 1 or more"),
        (["--warmup", "-1"], "--warmup is -1; allowed: 0 or more"),
        (["--threads", "0"], "--threads is 0; allowed: 1 or more"),
        (["--vocab-size", "2"], "--vocab-size is 2; allowed: 10 or more"),
        (["--set.blcks=[1]"], "unknown key 'blcks'; did you mean 'blocks'?"),
    ],
)
def test_options_that_cannot_be_used(capsys, tmp_path, monkeypatch, flags, message):
    """One line, before any model is built, and nothing written."""
    monkeypatch.setattr(suite, "device_peak", lambda *_: pytest.fail("the measurement began"))
    assert message in fails(capsys, "bench --quick --out", tmp_path / "out", *flags)
    assert tree(tmp_path) == {}


def test_results_are_not_replaced_unasked(capsys, tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    write(results(), out / "results.json")
    before = tree(tmp_path)
    assert fails(capsys, "bench --quick --out", out) == (
        f"{out} holds results; choose another --out, or pass --overwrite"
    )
    assert fails(capsys, "bench --quick --out", out / "results.json") == (
        f"{out / 'results.json'} is a file; --out names a folder"
    )
    assert tree(tmp_path) == before


def test_files_that_are_no_results(capsys, tmp_path):
    good = write(results(timing([1.0], [2.0])), tmp_path / "good.json")
    missing, bad = tmp_path / "none.json", tmp_path / "bad.json"
    assert (
        fails(capsys, "bench compare", good, missing) == f"{missing}: no such file; did you mean 'good.json'?"
    )
    assert fails(capsys, "bench compare", tmp_path, good) == f"{tmp_path / 'results.json'}: no such file"
    bad.write_text("{")
    assert "line 1: not valid JSON" in fails(capsys, "bench compare", bad, good)
    bad.write_text("[1]")
    assert fails(capsys, "bench compare", good, bad) == f"{bad}: a JSON object is needed, not list"
    bad.write_text("{}")
    assert fails(capsys, "bench compare", good, bad).startswith(f"{bad}: format is None, not")
    for change, message in (
        (lambda v: v.pop("machine"), "machine is missing"),
        (lambda v: v.update(timings=3), "timings is 3; allowed: a list"),
        (
            lambda v: v["timings"][0]["case"].update(length="9"),
            "timings[0].case.length is '9', which is not int",
        ),
        (
            lambda v: v["timings"][0]["case"].update(mode="rest"),
            "timings[0].case.mode is 'rest', which is no",
        ),
        (lambda v: v["timings"][0].update(ours=None), "timings[0].ours is None; allowed: a table"),
        (
            lambda v: v["timings"][0]["ours"].update(seconds=[]),
            "timings[0]: the seconds of ours and of the peer are no",
        ),
        (
            lambda v: v["timings"][0]["ours"].update(seconds=[0.0]),
            "timings[0]: the seconds of ours and of the peer",
        ),
        (lambda v: v["timings"][0]["ours"].update(seconds=[True]), "seconds[0] is True, which is not float"),
        (lambda v: v.update(is_complete=1), "is_complete is 1, which is not bool"),
    ):
        values = json.loads(good.read_text())
        change(values)
        bad.write_text(json.dumps(values))
        assert f"{bad}: " in (line := fails(capsys, "bench compare", good, bad))
        assert message in line
