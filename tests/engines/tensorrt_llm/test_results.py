"""Reading results that are one object, changed in place."""

from types import SimpleNamespace

import pytest
from tokenwire_worker.engines.port import (
    Ability,
    Alternative,
    Finish,
    Generation,
    Guide,
    Sampling,
    Times,
    TokenLogprob,
)

from tests.engines.tensorrt_llm.conftest import EOS


@pytest.fixture
def make(installed):
    """Makes a reader and the RequestOutput that it reads, to which responses are handed."""
    from tensorrt_llm import SamplingParams
    from tensorrt_llm._results import RequestOutput
    from tokenwire_worker.engines.tensorrt_llm import results, sampling

    executor = SimpleNamespace(raise_background_error=lambda: None)

    def made(n=1, **fields):
        generation = Generation(
            **{"prompt": [1], "max_tokens": 50, "sampling": Sampling(), **fields}
        )
        ends = sampling.stops(generation, EOS)
        params = SamplingParams(
            end_id=ends.end_id,
            stop_token_ids=list(ends.words),
            include_stop_str_in_output=True,
            n=n,
            temperature=1.0,
        )
        result = RequestOutput(1, [1], params, executor)
        return results.SequenceReader(5, 0, generation, ends), result

    return made


@pytest.fixture
def hand(installed):
    """Hands a response to a result, as its iterator does."""
    from tensorrt_llm._results import Logprob, Response

    def handed(result, *ids, sequence=0, logprobs=None, **fields):
        if logprobs is not None:
            logprobs = [
                {
                    token: Logprob(value, rank)
                    for rank, (token, value) in enumerate(entry.items(), 1)
                }
                for entry in logprobs
            ]
        fields.setdefault("final", "reason" in fields)
        result._handle(Response(sequence, list(ids), logprobs, **fields))

    return handed


def test_what_is_new_is_read_once(make, hand):
    reader, result = make()
    hand(result, 11, cached_tokens=32)
    first = reader.read(result)
    assert (first.key, first.sequence, first.token_ids) == (5, 0, [11])
    assert first.cached_prompt_tokens == 32
    assert reader.read(result) is None, "the object has not changed"
    hand(result, 12, 13)
    hand(result, 14)
    second = reader.read(result)
    assert second.token_ids == [12, 13, 14], "of two messages that were read as one"
    assert second.cached_prompt_tokens is None
    assert second.finish is None


def test_stale_diffs_of_other_sequences_are_not_read_again(make, hand):
    """The engine's own `token_ids_diff` repeats what the last message of a sequence brought."""
    from tokenwire_worker.engines.tensorrt_llm import results

    first, result = make(n=2)
    second = results.SequenceReader(5, 1, first._generation, first._ends)
    view = SimpleNamespace(outputs=[result.outputs[1]], cached_tokens=0)
    hand(result, 11, sequence=0)
    assert first.read(result).token_ids == [11]
    hand(result, 21, sequence=1)
    assert result.outputs[0].token_ids_diff == [11], "stale, as recorded"
    assert first.read(result) is None
    assert second.read(view).token_ids == [21]


@pytest.mark.parametrize(
    ("reason", "finish"),
    [("stop", Finish.STOP), ("length", Finish.LENGTH), ("cancelled", Finish.CANCELLED)],
)
def test_finish_reasons(make, hand, reason, finish):
    reader, result = make()
    hand(result, 11, reason=reason)
    output = reader.read(result)
    assert (output.finish, output.token_ids, output.error) == (finish, [11], None)


def test_an_unknown_reason_is_a_failure(make, hand):
    reader, result = make()
    hand(result, 11, reason="timeout")
    output = reader.read(result)
    assert output.finish is None
    assert output.error == "the engine ended it with 'timeout'"


# --- stop tokens ---------------------------------------------------------------------------------


def test_end_id_is_there_whether_or_not_the_sampler_outputs_it(make, hand):
    reader, result = make(stop_token_ids=EOS)
    hand(result, 11, EOS[0], reason="stop", by_end_id=True)  # TorchSampler
    assert reader.read(result).token_ids == [11, EOS[0]]
    reader, result = make(stop_token_ids=EOS)
    hand(result, 11)
    reader.read(result)
    hand(result, reason="stop", by_end_id=True)  # TRTLLMSampler
    output = reader.read(result)
    assert (output.token_ids, output.finish) == ([EOS[0]], Finish.STOP)


def test_end_id_alone_is_there_too(make, hand):
    reader, result = make(stop_token_ids=EOS)
    hand(result, reason="stop", by_end_id=True)
    assert reader.read(result).token_ids == [EOS[0]]


def test_a_stop_word_is_the_last_id(make, hand):
    reader, result = make(stop_token_ids=(9, *EOS))
    hand(result, 11, 9, reason="stop")
    output = reader.read(result)
    assert (output.token_ids, output.finish) == ([11, 9], Finish.STOP)


def test_what_is_cut_off_after_it_was_read_is_not_read_again(make, hand):
    reader, result = make(stop_token_ids=(9,))
    result.sampling_params.include_stop_str_in_output = False
    hand(result, 11, 9)
    assert reader.read(result).token_ids == [11, 9]
    hand(result, reason="stop")
    output = reader.read(result)
    assert (output.token_ids, output.finish) == ([], Finish.STOP)


def test_a_guide_ends_without_the_models_end_where_the_caller_has_none(make, hand):
    guide = Guide(Ability.GUIDED_REGEX, "a")
    reader, result = make(guide=guide, stop_token_ids=(9,), logprobs=True)
    entry = {11: -0.5}, {EOS[1]: -0.1}
    hand(result, 11, EOS[1], logprobs=entry, reason="stop")
    output = reader.read(result)
    assert (output.token_ids, output.finish) == ([11], Finish.STOP)
    assert [each.token_id for each in output.logprobs] == [11]
    reader, result = make(guide=guide, stop_token_ids=(9, *EOS))
    hand(result, 11, EOS[1], reason="stop")
    assert reader.read(result).token_ids == [11, EOS[1]]


def test_min_tokens_is_kept_here(make, hand):
    reader, result = make(stop_token_ids=(9, *EOS), min_tokens=4)
    hand(result, 9, EOS[0])
    assert reader.read(result).finish is None
    hand(result, 11)
    assert reader.read(result).token_ids == [11]
    hand(result, 12, EOS[1], 13)
    output = reader.read(result)
    assert (output.token_ids, output.finish) == ([12, EOS[1]], Finish.STOP)
    assert reader.stopped_here, "the engine is to be told"


def test_min_tokens_and_the_engines_end_in_one_message(make, hand):
    reader, result = make(stop_token_ids=EOS, min_tokens=2, logprobs=True)
    hand(result, 11, EOS[0], 12, logprobs=[{11: -1.0}, {EOS[0]: -2.0}, {12: -3.0}], reason="length")
    output = reader.read(result)
    assert (output.token_ids, output.finish) == ([11, EOS[0]], Finish.STOP)
    assert [each.logprob for each in output.logprobs] == [-1.0, -2.0]


# --- log probabilities and times -----------------------------------------------------------------


def test_log_probabilities_go_with_their_ids(make, hand):
    reader, result = make(logprobs=True, top_logprobs=2)
    hand(result, 11, logprobs=[{12: -0.2, 13: -1.0, 11: -3.0}])
    hand(result, 14, logprobs=[{14: -0.1, 15: -2.0}])
    assert reader.read(result).logprobs == [
        TokenLogprob(11, -3.0, (Alternative(12, -0.2), Alternative(13, -1.0))),
        TokenLogprob(14, -0.1, (Alternative(14, -0.1), Alternative(15, -2.0))),
    ]


def test_without_alternatives_there_are_none(make, hand):
    reader, result = make(logprobs=True)
    hand(result, 11, logprobs=[{12: -0.2, 11: -3.0}])
    assert reader.read(result).logprobs == [TokenLogprob(11, -3.0)]


def test_bare_numbers_are_taken_and_missing_ones_are_none(make, hand):
    reader, result = make(logprobs=True)
    result.outputs[0].token_ids.append(11)
    result.outputs[0].logprobs.append(-0.25)
    assert reader.read(result).logprobs == [TokenLogprob(11, -0.25)]
    result.outputs[0].token_ids.append(12)
    assert reader.read(result).logprobs is None


def test_the_engines_times_come_with_the_end(make, hand, installed):
    from tensorrt_llm._results import perf_metrics

    reader, result = make()
    hand(result, 11, reason="length", perf=perf_metrics(10.0, 10.5, 11.0, 12.5))
    assert reader.read(result).times == Times(10.5, 11.0, 12.5)


def test_times_that_were_never_taken_are_none(make, hand, installed):
    from tensorrt_llm._results import perf_metrics

    for perf in (None, perf_metrics(10.0, 0.0, 0.0, 0.0), perf_metrics(10.0, 10.5, 0.0, 0.0)):
        reader, result = make()
        hand(result, 11, reason="cancelled", perf=perf)
        assert reader.read(result).times is None
