"""Prompts that vLLM engines hand over and fetch, on the stand-in."""

import json
import zlib

import pytest
from tokenwire_service.settings import parse
from tokenwire_worker.engines import EngineError
from tokenwire_worker.engines.port import Finish, Generation, Guide, Sampling
from tokenwire_worker.settings import WorkerSettings

from tests.engines.vllm.heard import GREEDY, ids, llm

PROMPT = list(range(100, 150))
LENGTHS = {"max_tokens": 4, "sampling": GREEDY}


def handed_over(engine, prompt=PROMPT, **fields):
    engine.submit(1, Generation(prompt, **{**LENGTHS, **fields}, prefill_only=True))
    [output] = engine.listener.one()
    assert (output.token_ids, output.finish) == ([], Finish.LENGTH)
    return output.transfer_handle


def fetched(engine, handle, prompt=PROMPT, **fields):
    engine.submit(2, Generation(prompt, **{**LENGTHS, **fields}, transfer_handle=handle))
    return engine.listener.one()


def test_a_prompt_goes_from_one_engine_to_the_other(build):
    first = build(phases="prefill")
    asked = llm()
    handle = handed_over(first, sampling=Sampling(temperature=1.0, seed=3), logprobs=True)
    params = asked.calls[-1]["params"]
    assert (params.max_tokens, params.logprobs) == (1, None)
    second = build(phases="decode", nixl_host="127.0.0.2", nixl_port=5600)
    assert second.info.transfers == first.info.transfers != ""
    seeded = {"sampling": Sampling(temperature=1.0, seed=3), "logprobs": True}
    outputs = fetched(second, handle, **seeded)
    params = llm().calls[-1]["params"]
    assert (params.max_tokens, params.seed, params.logprobs) == (4, 3, 0)
    told = params.extra_args["kv_transfer_params"]
    assert (told["remote_host"], told["remote_port"] > 0) == ("127.0.0.1", True)
    first.submit(3, Generation(PROMPT, **{**LENGTHS, **seeded}))
    assert ids(outputs) == ids(first.listener.one())
    assert (outputs[0].fetched_prompt_tokens, outputs[0].cached_prompt_tokens) == (50, 0)


def _changed(handle, **parameters):
    told = json.loads(zlib.decompress(handle))
    told["told"].update(parameters)
    return zlib.compress(json.dumps(told).encode())


@pytest.mark.parametrize(
    "broken",
    [
        lambda _: b"nothing of vLLM's",
        lambda _: zlib.compress(b"[1, 2]"),
        lambda _: zlib.compress(b"[" * 100_000),
        lambda handle: _changed(handle, remote_block_ids=[]),
        lambda handle: _changed(handle, remote_port="5600"),
        lambda handle: zlib.compress(json.dumps({"prompt": "", "told": {}}).encode()),
        lambda handle: handle[:-9],
    ],
)
def test_what_vllm_would_end_with_does_not_reach_it(build, broken):
    engine = build(phases="decode")
    outputs = fetched(engine, broken(handed_over(engine)))
    assert llm().calls[-1]["params"].extra_args is None
    assert len(ids(outputs)) == 4


@pytest.mark.parametrize("other", [{"prompt": [*PROMPT, 7]}, {"cache_salt": "mine"}])
def test_blocks_of_another_prompt_do_not_reach_it(build, other):
    engine = build(phases="prefill")
    fetched(engine, handed_over(engine), **other)
    assert llm().calls[-1]["params"].extra_args is None


def test_a_cancelled_prompt_has_no_handle(build):
    engine = build(phases="prefill")
    llm().paused = True
    engine.submit(1, Generation(PROMPT, **LENGTHS, prefill_only=True))
    engine.cancel(1)
    [output] = engine.listener.one()
    assert (output.finish, output.transfer_handle) == (Finish.CANCELLED, b"")


def test_the_guide_of_a_prompt_is_not_vllms_business(build):
    engine = build(phases="prefill")
    from tokenwire_worker.engines.port import Ability

    handed_over(engine, guide=Guide(Ability.GUIDED_REGEX, "a+"))
    assert llm().calls[-1]["params"].structured_outputs is None


def test_settings_of_transfers_reach_vllm(build, model):
    build(phases="prefill", kv_transfer_config={"kv_connector_extra_config": {"backends": ["UCX"]}})
    made = llm().arguments.kv_transfer_config
    assert (made.kv_connector, made.kv_role) == ("NixlConnector", "kv_producer")
    assert made.kv_load_failure_policy == "recompute"
    assert made.kv_connector_extra_config == {"backends": ["UCX"]}
    build(phases="decode")
    assert llm().arguments.kv_transfer_config.kv_role == "kv_consumer"
    assert build().info.transfers == ""
    with pytest.raises(EngineError, match="requires --phases"):
        build(kv_transfer_config={})
    with pytest.raises(EngineError, match="kv-transfer-config: KVTransferConfig has no argument"):
        build(phases="decode", kv_transfer_config={"odd": 1})
    with pytest.raises(EngineError, match="nixl-host 192"):
        build(phases="decode", nixl_host="192.0.2.1")
    with pytest.raises(EngineError, match=r"nixl-host 0\.0\.0\.0: .* own address is required"):
        build(phases="decode", nixl_host="0.0.0.0", nixl_port=5600)
    with pytest.raises(SystemExit):
        parse(WorkerSettings, "test", ["--model", str(model), "--phases", "prefill"])
