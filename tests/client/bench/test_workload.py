"""Lengths, arrivals and prompts: what a load asks for, and when."""

from itertools import islice, pairwise
from random import Random

import pytest
from tokenwire.bench.arrivals import TraceEntry, read_trace, starts
from tokenwire.bench.lengths import distribution
from tokenwire.bench.plan import Arrivals, Flow, Phase
from tokenwire.bench.prompts import Prompts
from tokenwire.bench.vocabulary import Vocabulary


@pytest.mark.parametrize(
    ("spec", "median", "most"),
    [
        ("128", 128, 128),
        ("uniform:10-30", 20, 30),
        ("normal:100,10", 100, float("inf")),
        ("lognormal:50,0.5", 50, float("inf")),
    ],
)
def test_distributions_have_the_middle_that_they_name(spec, median, most):
    random, read = Random(1), distribution(spec)
    values = sorted(read.count(random) for _ in range(2001))
    assert values[1000] == pytest.approx(median, rel=0.05)
    assert read.most == most
    assert values[0] >= 1


def test_lengths_come_from_a_file(tmp_path):
    path = tmp_path / "lengths"
    path.write_text("3\n7\n")
    random, read = Random(1), distribution(f"file:{path}")
    assert {read.count(random) for _ in range(50)} == {3, 7}
    path.write_text("3\nx\n")
    with pytest.raises(ValueError, match="every line must be a number"):
        distribution(f"file:{path}")


@pytest.mark.parametrize(
    "spec", ["", "x", "-1", "nan", "uniform:5", "uniform:9-3", "zipf:3", "inf"]
)
def test_what_is_no_distribution_is_refused(spec):
    with pytest.raises(ValueError, match=r"is not|is above"):
        distribution(spec)


@pytest.mark.parametrize("kind", ["poisson", "constant"])
def test_a_schedule_does_not_depend_on_the_number_of_processes(kind):
    arrivals = Arrivals(kind, rate_per_s=50.0)
    alone = list(islice(starts(arrivals, 1, 0, 1), 3000))
    together = [each for index in range(3) for each in islice(starts(arrivals, 1, index, 3), 1000)]
    assert sorted(together, key=lambda each: each.number) == alone
    assert alone[-1].at_s == pytest.approx(60, rel=0.1)
    gaps = [b.at_s - a.at_s for a, b in pairwise(alone)]
    spread = max(gaps) / (sum(gaps) / len(gaps))
    assert spread == pytest.approx(1) if kind == "constant" else spread > 5


def test_a_trace_starts_at_its_first_request_and_can_be_faster(tmp_path):
    path = tmp_path / "trace.jsonl"
    path.write_text('{"at_s": 12, "output_tokens": 3}\n\n{"at_s": 10, "text": "hi"}\n')
    assert read_trace(str(path)) == [
        TraceEntry(0, text="hi"),
        TraceEntry(2, output_tokens=3),
    ]
    found = list(starts(Arrivals("replay", trace=str(path), speed=4), 1, 1, 2))
    assert [(each.number, each.at_s) for each in found] == [(1, 0.5)]


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("{", "2: not JSON"),
        ("[]", "2: not a JSON object"),
        ("{}", r"2: at_s \(seconds\) or timestamp \(milliseconds\) is required"),
        ('{"at_s": "soon"}', "2: at_s: not a number"),
        ('{"at_s": 1, "input_tokens": -1}', "2: input_tokens: not a number"),
        ('{"at_s": 1, "text": 5}', "2: text: not a text"),
    ],
)
def test_a_bad_line_of_a_trace_is_named(tmp_path, line, said):
    path = tmp_path / "trace.jsonl"
    path.write_text(f'{{"at_s": 0}}\n{line}\n')
    with pytest.raises(ValueError, match=f"trace.jsonl:{said}"):
        read_trace(str(path))


WORDS = Vocabulary([f"w{n}" for n in range(300)], list(range(300)), anchor_tokens=2)


def prompts(nonce="n", limit=4096, name="p", **flow):
    phase = Phase(name, (), 1, 1, 1, seed=7, nonce=nonce, prompt_limit=limit)
    return Prompts(Flow(**flow), phase, WORDS)


def sent(made, number):
    """Returns a first request's prompt as a list of words or ids."""
    prompt = made.conversation(number).request().prompt
    return prompt.text.split() or list(prompt.token_ids.ids)


@pytest.mark.parametrize("count", [1, 3, 31, 32, 33, 64, 65, 1000])
@pytest.mark.parametrize("prompt", ["text", "ids"])
def test_a_prompt_has_the_tokens_that_were_asked_for(prompt, count):
    words = sent(prompts(input=str(count), output="5", prompt=prompt), 3)
    special = 1 if prompt == "text" else 0  # of the tokenizer's own, beside the first word
    assert len(words) == max(1, count - special)


def test_a_seed_repeats_lengths_and_a_nonce_changes_words():
    flow = {"input": "uniform:10-200", "output": "uniform:5-50"}
    one, again, other = prompts(**flow), prompts(**flow), prompts("m", **flow)
    phase = prompts(name="q", **flow)
    for number in range(5):
        assert sent(one, number) == sent(again, number)
        for changed in (other, phase):
            assert sent(one, number) != sent(changed, number)
            assert len(sent(one, number)) == len(sent(changed, number))
            asked = [each.conversation(number).request().stop.max_tokens for each in (one, changed)]
            assert asked[0] == asked[1]


def test_a_share_of_the_prompts_begins_with_one_of_the_prefixes():
    made = prompts(
        input="10", output="5", prompt="ids", prefixes=3, prefix_tokens=40, prefix_share=0.5
    )
    found = [sent(made, number) for number in range(400)]
    shared = [each[:40] for each in found if len(each) == 50]
    assert len(shared) / 400 == pytest.approx(0.5, abs=0.1)
    assert len({tuple(each) for each in shared}) == 3
    assert {len(each) for each in found} == {10, 50}


def test_random_lengths_are_cut_to_what_the_model_takes():
    made = prompts(limit=100, input="lognormal:90,1", output="lognormal:50,1", prompt="ids")
    for number in range(200):
        request = made.conversation(number).request()
        tokens = len(request.prompt.token_ids.ids)
        assert tokens >= 1
        assert tokens + request.stop.max_tokens <= 100
