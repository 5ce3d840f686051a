"""Prompts that TensorRT-LLM engines hand over and fetch, on the stand-in."""

from __future__ import annotations

import pytest
from tokenwire_worker.engines.handles import sealed
from tokenwire_worker.engines.port import Finish

from tests.engines.tensorrt_llm.conftest import EOS, generation


def handed_over(engine, **fields) -> bytes:
    (ran,) = engine.run(generation(prefill_only=True, **fields))
    assert (ran.ids, ran.finish) == ([], Finish.LENGTH)
    return ran.transfer_handle


def test_a_prompt_goes_from_one_engine_to_the_other(started):
    first, second = started("--phases", "prefill"), started("--phases", "decode")
    assert first.engine.info.transfers == second.engine.info.transfers != ""
    assert first.engine._llm.args.disable_overlap_scheduler
    assert not second.engine._llm.args.disable_overlap_scheduler
    handle = handed_over(first)
    assert first.last_request["disaggregated"].request_type == "context_only"
    (ran,) = second.run(generation(transfer_handle=handle))
    asked = second.last_request["disaggregated"]
    assert (asked.request_type, len(asked.first_gen_tokens)) == ("generation_only", 1)
    assert asked.opaque_state == b"\x00where\xff"
    (whole,) = first.run(generation())
    assert ran.ids == whole.ids
    assert ran.ids[0] == asked.first_gen_tokens[0]


def test_what_is_not_there_any_more_is_computed(started):
    engine = started("--transfer-group", "g")
    handle = handed_over(engine)
    engine.engine._llm._executor.contexts.clear()
    (ran,) = engine.run(generation(transfer_handle=handle))
    assert engine.last_request["disaggregated"] is None
    assert ran.ids == engine.run(generation())[0].ids


def test_a_handle_whose_state_can_not_be_read_is_as_none(started):
    engine = started("--transfer-group", "g")
    told = {"first_gen_tokens": [5], "ctx_request_id": 1, "opaque_state": "not base64"}
    handle = sealed(generation(), told)
    (ran,) = engine.run(generation(transfer_handle=handle))
    assert engine.last_request["disaggregated"] is None
    assert ran.ids == engine.run(generation())[0].ids


@pytest.mark.parametrize("other", [{"first": 101}, {"cache_salt": "mine"}])
def test_blocks_of_another_prompt_do_not_reach_it(started, other):
    engine = started("--transfer-group", "g")
    handle = handed_over(engine)
    engine.run(generation(**other, transfer_handle=handle))
    assert engine.last_request["disaggregated"] is None


def test_the_adapter_stops_what_was_fetched(started):
    engine = started("--transfer-group", "g")
    handle = handed_over(engine, stop_token_ids=EOS)
    engine.run(generation(transfer_handle=handle, stop_token_ids=EOS))
    params = engine.last_request["params"]
    assert (params.end_id, params.stop_token_ids) == (-1, None)


def test_without_transfers_there_is_no_transceiver(started):
    engine = started("--tensorrt-llm.cache-transceiver-config.backend", "UCX")
    assert engine.engine._llm.args.cache_transceiver_config is None
    assert engine.engine.info.transfers == ""
    other = started("--phases", "decode", "--tensorrt-llm.cache-transceiver-config.backend", "UCX")
    assert other.engine._llm.args.cache_transceiver_config.backend == "UCX"
