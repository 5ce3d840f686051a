"""Settings as arguments of tensorrt_llm.LLM."""

import dataclasses

import pytest
from tokenwire_worker.engines import EngineError
from tokenwire_worker.engines.port import Ability, Sampling
from tokenwire_worker.engines.tensorrt_llm import arguments
from tokenwire_worker.engines.tensorrt_llm.limits import abilities, unsupported_sampling
from tokenwire_worker.engines.tensorrt_llm.settings import TensorRtLlmSettings
from tokenwire_worker.engines.tensorrt_llm.surface import faults, recorded

from tests.engines.tensorrt_llm.conftest import settings_of


def own(*given):
    """Settings of the engine by its own command line; NAME=true and NAME=false are flags there."""
    return settings_of("folder", *map(_flag, given)).tensorrt_llm


def _flag(given: str) -> str:
    name, _, value = given.partition("=")
    if name.endswith("arg") or value not in ("true", "false"):
        return f"--tensorrt-llm.{given}"
    return f"--{'no-' if value == 'false' else ''}tensorrt-llm.{name}"


def made(*given, context_tokens=4096):
    return arguments.constructor_arguments(own(*given), "folder", context_tokens)


def check(*given) -> None:
    made(*given)
    arguments.speculative_arguments(own(*given).speculative_config)


def refusal(*given) -> str:
    with pytest.raises(EngineError) as error:
        check(*given)
    return str(error.value)


def test_the_defaults_are_for_serving():
    assert made() == {
        "model": "folder",
        "skip_tokenizer_init": True,
        "tensor_parallel_size": 1,
        "pipeline_parallel_size": 1,
        "dtype": "auto",
        "kv_cache_config": {
            "free_gpu_memory_fraction": 0.9,
            "max_gpu_total_bytes": 0,
            "tokens_per_block": 32,
            "enable_block_reuse": True,
            "enable_partial_reuse": True,
            "host_cache_size": 0,
            "dtype": "auto",
            "event_buffer_max_size": 16384,
        },
        "scheduler_config": {"capacity_scheduler_policy": "GUARANTEED_NO_EVICT"},
        "enable_chunked_prefill": True,
        "max_batch_size": 256,
        "max_num_tokens": 8192,
        "max_seq_len": 4096,
        "cuda_graph_config": {"enable_padding": True, "max_batch_size": 256},
        "disable_overlap_scheduler": False,
        "stream_interval": 1,
        "sampler_type": "TRTLLMSampler",
        "return_perf_metrics": True,
        "enable_iter_perf_stats": True,
    }


def test_every_setting_reaches_the_constructor_under_its_own_name():
    given = made(
        *("tensor-parallel-size=8", "pipeline-parallel-size=2", "moe-expert-parallel-size=4"),
        *("moe-tensor-parallel-size=2", "gpus-per-node=8", "dtype=bfloat16"),
        *("kv-cache-config.free-gpu-memory-fraction=0.5", "kv-cache-config.dtype=fp8"),
        *("kv-cache-config.max-gpu-total-bytes=1000000", "kv-cache-config.max-tokens=640"),
        *("kv-cache-config.tokens-per-block=64", "kv-cache-config.host-cache-size=4096"),
        *("kv-cache-config.enable-partial-reuse=false", "max-batch-size=32"),
        *("scheduler-config.capacity-scheduler-policy=MAX_UTILIZATION", "max-num-tokens=512"),
        *("scheduler-config.context-chunking-policy=EQUAL_PROGRESS", "stream-interval=4"),
        *("cuda-graph-config.batch-sizes=1,8,16", "cuda-graph-config.enable-padding=false"),
        *("disable-overlap-scheduler=true", "sampler-type=TorchSampler", "orchestrator-type=ray"),
        *("guided-decoding-backend=xgrammar", "enable-chunked-prefill=false"),
    )
    expected = {
        "tensor_parallel_size": 8,
        "pipeline_parallel_size": 2,
        "moe_expert_parallel_size": 4,
        "moe_tensor_parallel_size": 2,
        "gpus_per_node": 8,
        "dtype": "bfloat16",
        "max_batch_size": 32,
        "max_num_tokens": 512,
        "stream_interval": 4,
        "enable_chunked_prefill": False,
        "disable_overlap_scheduler": True,
        "sampler_type": "TorchSampler",
        "orchestrator_type": "ray",
        "guided_decoding_backend": "xgrammar",
        "skip_tokenizer_init": False,
        "scheduler_config": {
            "capacity_scheduler_policy": "MAX_UTILIZATION",
            "context_chunking_policy": "EQUAL_PROGRESS",
        },
        "cuda_graph_config": {
            "enable_padding": False,
            "batch_sizes": [1, 8, 16],
            "max_batch_size": 16,
        },
    }
    assert {name: given[name] for name in expected} == expected
    cache = given["kv_cache_config"]
    assert (cache["free_gpu_memory_fraction"], cache["max_gpu_total_bytes"]) == (0.5, 1_000_000)
    assert (cache["max_tokens"], cache["tokens_per_block"], cache["dtype"]) == (640, 64, "fp8")
    assert (cache["host_cache_size"], cache["enable_partial_reuse"]) == (4096, False)


def test_settings_are_named_as_the_constructor_names_them():
    classes = recorded()["classes"]
    assert set(TensorRtLlmSettings.model_fields) - set(classes["LLM"]["fields"]) == {
        *("lora", "kv_retention", "warm_up_requests", "arg"),
    }
    for group, name in arguments._CLASSES.items():
        fields = TensorRtLlmSettings.model_fields[group].annotation.model_fields
        assert set(fields) - set(classes[name]["fields"]) <= {"enabled"}


@pytest.mark.parametrize(
    ("given", "field", "value"),
    [
        ("load_format=dummy", "load_format", "dummy"),
        ("enable_attention_dp=true", "enable_attention_dp", True),
        ("trust_remote_code=true", "trust_remote_code", True),
        ("pp_partition=[16, 16]", "pp_partition", [16, 16]),
        ('pp_partition="[16, 16]"', "pp_partition", [16, 16]),
        ('{"env_overrides": {"A": "b"}}', "env_overrides", {"A": "b"}),
        ("allreduce_strategy=NCCL", "allreduce_strategy", "NCCL"),
        ('{"moe_config": {"backend": "CUTLASS"}}', "moe_config", {"backend": "CUTLASS"}),
        (
            'moe_config={"backend": "CUTLASS", "max_num_tokens": 64}',
            "moe_config",
            {"backend": "CUTLASS", "max_num_tokens": 64},
        ),
        ("batch_wait_timeout_ms=2", "batch_wait_timeout_ms", 2),
    ],
)
def test_any_other_field_is_passed_through(given, field, value):
    assert made(f"arg={given}")[field] == value


def test_one_field_of_a_group_is_passed_through():
    cache = made("arg=kv_cache_config.max_attention_window=[4096, 256]")["kv_cache_config"]
    assert cache["max_attention_window"] == [4096, 256]
    assert cache["tokens_per_block"] == 32


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ("no_such_field=1", "no_such_field: no field of LLM in tensorrt_llm 1.2.1"),
        ("quant_config=1", "quantisation comes from the checkpoint"),
        ("otlp_traces_endpoint=x", "its tracer would take the place of the worker's"),
        ("skip_tokenizer_init=false", "guided-decoding-backend"),
        ("max_beam_width=4", "beam search is not served"),
        ("enable_attention_dp=7", "enable_attention_dp: 7 is not of type bool"),
        ("garbage_collection_gen0_threshold=true", "true is not of type int"),
        ("allreduce_strategy=FAST", "\"FAST\" is not of type Literal['AUTO'"),
        ("checkpoint_loader=x", "is not of type object | None"),
        ('pp_partition="[1, true]"', "[1, true] is not of type list[int] | None"),
        ("max_batch_size=4", "has a setting of its own, --tensorrt-llm.max-batch-size"),
        ("kv_cache_config.dtype=fp8", "--tensorrt-llm.kv-cache-config.dtype"),
        ("kv_cache_config.no_such=1", "kv_cache_config.no_such: no field of KvCacheConfig"),
        ("kv_cache_config.use_uvm=1", "kv_cache_config.use_uvm: 1 is not of type bool"),
        ("no_group.x=1", "no group: those are kv_cache_config"),
        ("lora_config.lora_ckpt_source=nemo", "lora_config is off"),
    ],
)
def test_what_the_recorded_surface_does_not_take_is_refused(given, told):
    assert told in refusal(f"arg={given}")
    assert "--tensorrt-llm.arg" in refusal(f"arg={given}")


@pytest.mark.parametrize(
    ("given", "name", "fields", "without_overlap"),
    [
        (
            ["decoding-type=DraftTarget", "speculative-model=/draft", "max-draft-len=3"],
            "DraftTargetDecodingConfig",
            {"max_draft_len": 3, "speculative_model": "/draft"},
            True,
        ),
        (
            ["decoding-type=Eagle", "speculative-model=/eagle", "max-draft-len=3"],
            "EagleDecodingConfig",
            {"max_draft_len": 3, "speculative_model": "/eagle", "allow_advanced_sampling": True},
            False,
        ),
        (
            [
                *("decoding-type=Eagle", "speculative-model=/eagle", "max-draft-len=3"),
                *("eagle3-one-model=false", "arg=max_concurrency=8"),
            ],
            "EagleDecodingConfig",
            {
                "max_draft_len": 3,
                "speculative_model": "/eagle",
                "eagle3_one_model": False,
                "max_concurrency": 8,
            },
            True,
        ),
        (
            ["decoding-type=MTP", "num-nextn-predict-layers=2"],
            "MTPDecodingConfig",
            {"num_nextn_predict_layers": 2, "allow_advanced_sampling": True},
            False,
        ),
        (
            ["decoding-type=NGram", "max-draft-len=4", "max-matching-ngram-size=2"],
            "NGramDecodingConfig",
            {"max_draft_len": 4, "max_matching_ngram_size": 2},
            True,
        ),
    ],
)
def test_each_kind_of_speculative_decoding(given, name, fields, without_overlap):
    flags = [f"speculative-config.{each}" for each in given]
    assert arguments.speculative_arguments(own(*flags).speculative_config) == (name, fields)
    constructed = made(*flags)
    assert constructed["disable_overlap_scheduler"] is without_overlap
    assert constructed["sampler_type"] == "TorchSampler"


MTP = ("speculative-config.decoding-type=MTP", "speculative-config.num-nextn-predict-layers=1")


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ([*MTP, "sampler-type=TRTLLMSampler"], "does no speculative decoding"),
        ([*MTP, "pipeline-parallel-size=2"], "MTP drafting does not go with it"),
        ([*MTP, "speculative-config.eagle3-one-model=true"], "eagle3_one_model: no field of MTP"),
        ([*MTP, "speculative-config.arg=relaxed_topk=x"], 'relaxed_topk: "x" is not of type int'),
        (
            [
                *("speculative-config.decoding-type=NGram", "speculative-config.max-draft-len=4"),
                "disable-overlap-scheduler=false",
            ],
            "needs the overlap scheduler disabled",
        ),
        (["lora=a=/no/such/folder"], "--tensorrt-llm.lora a: /no/such/folder is not a folder"),
        (["kv-retention=true", "kv-cache-config.enable-block-reuse=false"], "kv-retention: needs"),
        (
            ["tensor-parallel-size=8", "moe-expert-parallel-size=3"],
            "moe_expert_parallel_size 3 does not divide tensor_parallel_size 8",
        ),
        (
            [
                *("tensor-parallel-size=8", "moe-expert-parallel-size=4"),
                "moe-tensor-parallel-size=4",
            ],
            "moe_expert_parallel_size 4 x moe_tensor_parallel_size 4 is not tensor_parallel_size 8",
        ),
    ],
)
def test_settings_that_contradict_each_other_are_refused(given, told):
    assert told in refusal(*given)


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ("speculative-config.decoding-type=Eagle", "Eagle needs speculative_model"),
        ("speculative-config.decoding-type=MTP", "MTP needs num_nextn_predict_layers"),
        ("speculative-config.decoding-type=Medusa", "should be 'DraftTarget'"),
        ("kv-cache-config.tokens-per-block=48", "48 is not a power of two"),
        ("kv-cache-config.free-gpu-memory-fraction=1.5", "less than 1"),
        ("sampler-type=auto", "should be 'TRTLLMSampler'"),
        ("stream-interval=0", "greater than or equal to 1"),
    ],
)
def test_a_bad_setting_ends_with_64_and_its_name(given, told, capsys):
    with pytest.raises(SystemExit) as exit_:
        own(given)
    assert exit_.value.code == 64
    error = capsys.readouterr().err
    assert told in error
    assert "--tensorrt-llm." in error


def test_lora_goes_without_cuda_graphs(tmp_path):
    constructed = made(f"lora=one={tmp_path}", f"lora=two={tmp_path}", "lora-config.max-loras=1")
    assert constructed["cuda_graph_config"] is None
    assert constructed["lora_config"] == {
        "max_lora_rank": 64,
        "max_loras": 1,
        "max_cpu_loras": 2,
        "lora_target_modules": [],
    }


def test_cuda_graphs_can_be_turned_off():
    assert made("cuda-graph-config.enabled=false")["cuda_graph_config"] is None


def test_no_argument_is_anything_that_the_surface_lacks(tmp_path):
    for given in ([], ["cuda-graph-config.enabled=false"], [f"lora=a={tmp_path}"], list(MTP)):
        assert not list(faults(recorded(), "LLM", made(*given)))


# --- what follows for requests -------------------------------------------------------------------


def test_the_sampler_decides_what_requests_may_ask_for():
    both = {Ability.LOGPROBS, Ability.CACHE_SALT, Ability.CACHED_PROMPT_TOKENS, Ability.KV_EVENTS}
    assert abilities(own()) == both | {Ability.MIN_P}
    torch = own("sampler-type=TorchSampler")
    assert abilities(torch) == both | {Ability.TOP_LOGPROBS}
    assert not unsupported_sampling(own())
    unheeded = unsupported_sampling(torch)
    assert unheeded == {"repetition_penalty", "presence_penalty", "frequency_penalty", "seed"}
    assert unheeded < {field.name for field in dataclasses.fields(Sampling)}


def test_settings_decide_the_rest(tmp_path):
    reuse = own("kv-cache-config.enable-block-reuse=false")
    assert not abilities(reuse) & {Ability.KV_EVENTS, Ability.CACHED_PROMPT_TOKENS}
    assert Ability.KV_EVENTS not in abilities(own("kv-cache-config.event-buffer-max-size=0"))
    lora = abilities(own(f"lora=a={tmp_path}"))
    assert Ability.LORA in lora
    assert Ability.KV_EVENTS not in lora, "its blocks cannot be told from another adapter's"
    assert Ability.LOGPROBS not in abilities(own(*MTP))
    guides = {ability for ability in Ability if ability.value.startswith("guide.")}
    assert abilities(own("guided-decoding-backend=xgrammar")) >= guides
    other = abilities(own("guided-decoding-backend=llguidance")) & guides
    assert other == guides - {Ability.GUIDED_GRAMMAR, Ability.FREE_PREFIX}
