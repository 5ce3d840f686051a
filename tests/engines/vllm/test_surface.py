"""The vLLM adapter against the record of vLLM's surface, and that against what is installed."""

import ast
import importlib.util
import json
from pathlib import Path

import pytest
from tokenwire_worker.core import validation
from tokenwire_worker.engines.vllm.settings import VllmSettings

from tests.engines.vllm import record
from tests.engines.vllm.stand_in import RECORD, installed

ADAPTER = Path(importlib.util.find_spec("tokenwire_worker.engines.vllm").origin).parent
SOURCES = sorted(ADAPTER.glob("*.py"))


def _imports():
    for path in SOURCES:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom) and node.module.partition(".")[0] == "vllm":
                for alias in node.names:
                    yield f"{node.module}.{alias.name}"


def test_everything_that_the_adapter_imports_is_recorded():
    recorded = [*RECORD["fields"], *RECORD["constants"], *RECORD["imported"]]
    recorded += [path.removesuffix(".__init__") for path in RECORD["signatures"]]
    recorded += [path.rpartition(".")[0] for path in RECORD["signatures"]]
    imported = set(_imports())
    assert len(imported) >= 10
    assert imported <= set(recorded)


def test_constants_are_vllms():
    with installed():
        from tokenwire_worker.engines.vllm import arguments, engine, params

        constants = RECORD["constants"]
        assert constants["vllm.config.lora.MaxLoRARanks"] == list(arguments.LORA_RANKS)
        stops = constants["vllm.v1.worker.gpu.sample.logit_bias.MAX_NUM_STOP_TOKEN_IDS"]
        assert stops == params.STOP_TOKEN_IDS
        biases = constants["vllm.v1.worker.gpu.sample.logit_bias.MAX_NUM_LOGIT_BIAS_TOKENS"]
        assert biases >= validation.LOGIT_BIASES
        banned = "vllm.v1.worker.gpu.sample.bad_words."
        assert constants[f"{banned}MAX_NUM_BAD_WORDS"] == params.BANNED_SEQUENCES
        assert constants[f"{banned}MAX_BAD_WORDS_TOTAL_TOKENS"] == params.BANNED_IDS
        assert RECORD["highest_temperature"] == params.HIGHEST_TEMPERATURE
        reasons = constants["vllm.v1.engine.FINISH_REASON_STRINGS"]
        assert set(engine._FINISHES) < set(reasons)
        assert {"error", "repetition"} == set(reasons) - set(engine._FINISHES)


def test_settings_are_named_as_vllms_arguments():
    fields = RECORD["fields"]["vllm.engine.arg_utils.EngineArgs"]
    own = {"disable_any_whitespace", "kv_events", "lora", "arg", "nixl_host", "nixl_port"}
    of_adapters = {"enable_lora", "max_loras", "max_lora_rank"}
    assert {name for name in VllmSettings.model_fields if name not in fields} == own
    with installed():
        from tokenwire_worker.engines.vllm.arguments import NAMED

        assert set(NAMED) == set(VllmSettings.model_fields) - own - of_adapters - {
            "kv_transfer_config"
        }


def test_environment_variables_are_known_to_vllm(monkeypatch):
    from tokenwire_worker.engines.vllm import environment

    chosen = {}
    monkeypatch.setattr("os.environ", chosen)
    environment.prepare()
    others = {name for name in chosen if name not in RECORD["environment"]}
    assert others == {"HF_HUB_OFFLINE", "UCX_CUDA_IPC_ENABLE_GET_ZCOPY"}
    assert chosen["VLLM_USE_FLASHINFER_SAMPLER"] == "0"  # FlashInfer is not installed here


def test_environment_variables_of_the_user_stay(monkeypatch):
    from tokenwire_worker.engines.vllm import environment

    chosen = {"UCX_CUDA_IPC_ENABLE_GET_ZCOPY": "try", "VLLM_LOGGING_LEVEL": "DEBUG"}
    monkeypatch.setattr("os.environ", chosen)
    before = chosen.copy()
    environment.prepare()
    assert before.items() <= chosen.items()


def test_what_is_read_of_vllms_configuration_is_recorded():
    for name, fields in {
        "cache.CacheConfig": (
            *("block_size", "num_gpu_blocks", "enable_prefix_caching", "cache_dtype"),
        ),
        "kv_transfer.KVTransferConfig": ("kv_connector",),
        "model.ModelConfig": ("max_model_len", "max_logprobs"),
        "scheduler.SchedulerConfig": ("max_num_seqs",),
        "vllm.VllmConfig": (
            *("model_config", "cache_config", "scheduler_config", "speculative_config"),
            *("structured_outputs_config", "kv_transfer_config"),
        ),
    }.items():
        assert set(fields) <= set(RECORD["fields"][f"vllm.config.{name}"])


def test_an_installed_vllm_has_the_recorded_surface():
    package = importlib.util.find_spec("vllm")
    if package is None:
        pytest.skip("vLLM is not installed here")
    found = record.record(Path(package.origin).parent)
    assert json.loads(json.dumps(found)) == RECORD


def test_adapter_is_not_imported_before_it_is_chosen(tmp_path):
    from tokenwire_worker import engines
    from tokenwire_worker.settings import WorkerSettings

    if importlib.util.find_spec("vllm") is not None:
        pytest.skip("vLLM is installed here")
    settings = WorkerSettings(model=str(tmp_path), engine="vllm")
    with pytest.raises(engines.EngineError, match=r"vllm.txt '\./inference_worker\[vllm\]'"):
        engines.module_of(settings)
