"""The recorded surface, what is held to it, and the comparison with what is installed."""

import ast
import copy
import importlib.util
import subprocess
import sys
from pathlib import Path
from typing import ClassVar

import pytest
from pydantic import Field
from tokenwire_worker import check_engine
from tokenwire_worker.engines.tensorrt_llm import installed as comparison
from tokenwire_worker.engines.tensorrt_llm.surface import faults, recorded

from tests.engines import conftest

ADAPTER = Path(importlib.util.find_spec("tokenwire_worker.engines.tensorrt_llm").origin).parent


def test_everything_that_the_adapter_imports_is_recorded():
    surface = recorded()
    entries = [
        entry
        for group in ("classes", "enums", "methods", "attributes", "exceptions")
        for entry in surface[group].values()
    ]
    known = {entry["import"].replace(":", ".") for entry in entries}
    imported = set()
    for path in ADAPTER.glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom) and node.module.partition(".")[0] == "tensorrt_llm":
                imported |= {f"{node.module}.{alias.name}" for alias in node.names}
    assert len(imported) >= 5
    assert imported <= known


def test_the_package_is_not_imported_before_the_engine_is_chosen():
    program = """
import sys
from tokenwire_worker import main, settings
from tokenwire_worker.engines.tensorrt_llm import arguments, limits, surface
assert "tensorrt_llm" not in sys.modules
"""
    folder = conftest.STAND_INS["tensorrt_llm"]
    subprocess.run([sys.executable, "-c", program], check=True, env={"PYTHONPATH": str(folder)})


@pytest.mark.parametrize(
    ("name", "values", "found"),
    [
        ("KvCacheConfig", {"dtype": "fp8", "max_tokens": None, "free_gpu_memory_fraction": 1}, []),
        ("KvCacheConfig", {"dtype": 8}, [("dtype", "8 is not of type str")]),
        ("LLM", {"model": "x", "cuda_graph_config": None, "moe_config": {"any": 1}}, []),
        (
            "LLM",
            {"cuda_graph_config": {"enable_padding": 1, "more": 2}},
            [
                ("cuda_graph_config.enable_padding", "1 is not of type bool"),
                ("cuda_graph_config.more", "no field of CudaGraphConfig in tensorrt_llm 1.2.1"),
            ],
        ),
        (
            "SchedulerConfig",
            {"capacity_scheduler_policy": "NONE"},
            [("capacity_scheduler_policy", '"NONE" is not of type CapacitySchedulerPolicy')],
        ),
        ("NGramDecodingConfig", {"draft_len_schedule": {"1": 4}}, []),
        ("NGramDecodingConfig", {"draft_len_schedule": {"1": "x"}}, None),
        ("EagleDecodingConfig", {"eagle_choices": [[0], [0, 1]]}, []),
        ("EagleDecodingConfig", {"eagle_choices": [[0], ["x"]]}, None),
    ],
)
def test_values_are_held_to_the_recorded_types(name, values, found):
    told = list(faults(recorded(), name, values))
    assert told == found if found is not None else len(told) == 1


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("int | None", "Optional[int]"),
        ("str | Path | None", "typing.Optional[typing.Union[pathlib.Path, str]]"),
        ("list[str] | str | None", "Union[str, List[str], None]"),
        ("Literal['b', 'a'] | None", "Optional[Literal['a', 'b']]"),
        ("dict[int, list[int]]", "Dict[int, List[int]]"),
        ("Tensor | None", "Optional[torch.Tensor]"),
    ],
)
def test_types_are_compared_in_one_form(one, other):
    assert comparison.shape(one) == comparison.shape(other)
    assert comparison.shape("int") != comparison.shape("int | None")


# --- check-engine --------------------------------------------------------------------------------


def check(capsys) -> tuple[int, list[str]]:
    code = check_engine.main("tokenwire-worker", ["--engine", "tensorrt_llm"])
    return code, capsys.readouterr().out.splitlines()


def test_the_stand_in_is_as_recorded(installed, capsys):
    assert check(capsys) == (0, ["tensorrt_llm 1.2.1: as recorded"])


def test_without_the_package_it_says_what_to_install(capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorrt_llm", None)
    assert check(capsys) == (
        1,
        [
            (
                "tensorrt_llm is not installed: pip install -c constraints/tensorrt_llm.txt "
                "'./inference_worker[tensorrt-llm]' in a checkout of Tokenwire"
            )
        ],
    )


def test_every_difference_is_told(installed, capsys, monkeypatch):
    import tensorrt_llm
    from tensorrt_llm import llmapi

    class RequestError(ValueError):
        pass

    class CudaGraphConfig(llmapi.SchedulerConfig):
        batch_sizes: list[str] = Field(default_factory=list)
        enable_padding: bool = True

    class Policies:
        __members__: ClassVar = {"MAX_UTILIZATION": 1, "GUARANTEED_NO_EVICT": 2, "FAIREST": 3}

    def generate_async(self, inputs, sampling_params=None, priority=0.5): ...

    monkeypatch.setattr(tensorrt_llm, "__version__", "1.3.0")
    monkeypatch.setattr(tensorrt_llm.LLM, "generate_async", generate_async)
    monkeypatch.delattr(tensorrt_llm.LLM, "get_kv_cache_events_async")
    monkeypatch.delattr(llmapi, "LoRARequest")
    monkeypatch.delattr(llmapi.RequestOutput, "outputs")
    monkeypatch.setattr(llmapi, "CudaGraphConfig", CudaGraphConfig)
    monkeypatch.setattr(llmapi, "CapacitySchedulerPolicy", Policies)
    monkeypatch.setattr(llmapi, "RequestError", RequestError)
    code, lines = check(capsys)
    assert code == 1
    assert lines[-1] == f"tensorrt_llm 1.3.0: {len(lines) - 1} differences"
    assert set(lines) >= {
        "version: recorded 1.2.1, installed 1.3.0",
        "LLM.generate_async(cache_salt): not there",
        "LLM.generate_async(priority): not recorded",
        "LLM.get_kv_cache_events_async: tensorrt_llm:LLM.get_kv_cache_events_async is not there",
        "LoRARequest: tensorrt_llm.llmapi:LoRARequest is not there",
        "RequestOutput.outputs: not there",
        "CudaGraphConfig.batch_sizes: recorded as list[int] | None, installed as list[str]",
        "CudaGraphConfig.enable_padding: recorded default False, installed True",
        "CudaGraphConfig.max_batch_size: not there",
        "CudaGraphConfig.context_chunking_policy: not recorded",
        "CapacitySchedulerPolicy.STATIC_BATCH: not there",
        "CapacitySchedulerPolicy.FAIREST: not recorded",
        "RequestError: recorded as a RuntimeError, installed as no such thing",
    }
    assert not any("KvCacheConfig" in line or "SamplingParams" in line for line in lines)


def test_a_record_of_something_else_differs(installed):
    other = copy.deepcopy(recorded())
    del other["classes"]["LLM"]["fields"]["stream_interval"]
    other["classes"]["SamplingParams"]["fields"]["seed"] = ["str", 0]
    assert list(comparison.differences(other)) == [
        "LLM.stream_interval: not recorded",
        "SamplingParams.seed: recorded as str, installed as int | None",
        "SamplingParams.seed: recorded default 0, installed None",
    ]


# --- the stand-in is as strict as the real classes ------------------------------------------------


def test_the_stand_in_refuses_what_the_real_classes_refuse(installed, model):
    import tensorrt_llm
    from tensorrt_llm.llmapi import KvCacheConfig, LoRARequest

    with pytest.raises(ValueError, match="LLM got invalid argument: no_such"):
        tensorrt_llm.LLM(str(model), no_such=1)
    with pytest.raises(ValueError, match="Extra inputs are not permitted"):
        KvCacheConfig(no_such=1)
    with pytest.raises(ValueError, match="unable to parse string as an integer"):
        tensorrt_llm.LLM(str(model), max_batch_size="many")
    with pytest.raises(ValueError, match="free_gpu_memory_fraction"):
        KvCacheConfig(free_gpu_memory_fraction=None)
    with pytest.raises(TypeError, match="no_such"):
        tensorrt_llm.SamplingParams(no_such=1)
    with pytest.raises(ValueError, match="require top_k >= 0"):
        tensorrt_llm.SamplingParams(top_k=-1)
    with pytest.raises(ValueError, match="does not allow multiple returns"):
        tensorrt_llm.SamplingParams(n=2)
    with pytest.raises(ValueError, match="does not exist"):
        LoRARequest("name", 1, "/no/such/path")
