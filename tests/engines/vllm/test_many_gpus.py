"""The benchmark of several GPUs without one: its engines, its models, its load and its tables."""

import json
import os
from types import SimpleNamespace

import numpy as np
import pytest
from tokenwire_service.settings import parse
from tokenwire_worker import safetensors
from tokenwire_worker.settings import WorkerSettings

from benchmarks.gpu import bench, demo, demo_splits, engines, fleet, tables_of_many
from benchmarks.gpu.fleet import Fleet
from tests.client.bench.server import BenchServer
from tests.engines.vllm.stand_in import RECORD


def gpus(count):
    return Fleet(tuple(map(str, range(count))))


@pytest.mark.parametrize(
    ("count", "counts", "split"),
    [
        (1, [1], []),
        (2, [1, 2], ["8b-tensor-2", "8b-pipeline-2"]),
        (6, [1, 2, 4, 6], ["8b-tensor-4", "8b-tensor-2-pipeline-2"]),
        (8, [1, 2, 4, 8], ["8b-tensor-8", "8b-tensor-4-pipeline-2"]),
    ],
)
def test_what_runs_on_a_host_follows_its_gpus(count, counts, split):
    assert gpus(count).counts == counts
    assert gpus(count).family("8b") == ("8b-one", *split)


def test_gpus_that_are_hidden_are_not_used(monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4, 5,6,7")
    assert fleet.visible(None) == ("4", "5", "6", "7")
    assert fleet.visible(2) == ("4", "5")
    with pytest.raises(RuntimeError, match="--gpus: 8 are wanted, and 4 are visible"):
        fleet.visible(8)


@pytest.mark.parametrize("variants", [engines.VARIANTS, gpus(2).variants(), gpus(8).variants()])
def test_every_engine_is_told_what_vllm_takes_and_has_its_gpus(vllm_adapter, tmp_path, variants):
    from tokenwire_worker.engines.vllm.arguments import engine_arguments

    for name, variant in variants.items():
        given = ["--model", str(tmp_path), *engines.vllm_options(variant)]
        settings = parse(WorkerSettings, "test", given)
        made = engine_arguments(settings, "ipc://events")
        for argument, value in variant.arguments.items():
            assert getattr(made, argument) == value, name
        if variant.gpus is not None:
            split = settings.vllm.tensor_parallel_size * settings.vllm.pipeline_parallel_size
            assert len(variant.gpus.split(",")) == split, name


def test_multicast_is_off_by_variables_that_vllm_reads():
    ours = {name for name in engines.WITHOUT_MULTICAST if name.startswith("VLLM_")}
    assert ours <= set(RECORD["environment"])


def test_the_demo_model_is_split_evenly_and_computes_the_same(tmp_path):
    made = demo_splits.with_heads(demo.HUGGING_FACE, tmp_path / "heads")
    config = json.loads((made / "config.json").read_text())
    assert config["num_attention_heads"] == config["num_key_value_heads"] == 8
    ours, theirs = _weights(made), _weights(demo.HUGGING_FACE)
    assert ours.keys() == theirs.keys()
    for name, values in theirs.items():
        rows, *columns = values.shape
        whole = ours[name][(slice(rows), *map(slice, columns))]
        assert np.array_equal(whole, values), name
        assert np.count_nonzero(ours[name]) == np.count_nonzero(values), name
        if "_proj" in name:
            assert not [size for size in ours[name].shape if size % 8], name


def _weights(folder):
    stored = safetensors.read(safetensors.files_of(folder))
    return {name: each.values(0, each.shape[0]) for name, each in stored.items()}


def test_a_load_has_figures_for_the_table(tmp_path):
    server = BenchServer()
    service = SimpleNamespace(address=server.address, process=SimpleNamespace(pid=os.getpid()))
    options = {**bench.load([2], 0.0, 0.3), "input": "8", "output": "4"}
    try:
        with bench.Bench(service, "test", tmp_path, options) as load:
            (figures,) = load.figures(0.3).values()
    finally:
        server.stop()
    assert figures["failed"] == figures["lost_or_repeated"] == 0
    assert figures["completed"] > 0
    arms = [{"workers": 1, "processes": 1, **figures}]
    table = tables_of_many.scale({"streams_a_worker": 2, "arms": arms})
    assert f"| 1 | 1 | {figures['tokens_per_s']:,.0f} | 1.00 |" in table
    assert "N = 1: 1." in table


def test_the_fewest_processes_that_are_enough_are_told():
    speeds = {(1, 1): 100, (1, 2): 101, (8, 1): 400, (8, 2): 751, (8, 4): 770}
    arms = [
        {"workers": workers, "processes": processes, "tokens_per_s": speed}
        for (workers, processes), speed in speeds.items()
    ]
    assert tables_of_many.processes_needed(arms, 1) == 1
    assert tables_of_many.processes_needed(arms, 8) == 2
    assert tables_of_many.processes_needed(arms[:3], 8) is None
    assert tables_of_many.best(arms, 8) == 7.7
