"""What the demo shows.

A long conversation goes on, sooner at its second turn; a tool is called; the model reasons.
"""

from __future__ import annotations

from tokenwire import Answer, ChatMessage, Client
from tokenwire.cli import waterfall

CAPITALS = {
    "France": "Paris",
    "Spain": "Madrid",
    "Italy": "Rome",
    "Portugal": "Lisbon",
    "Norway": "Oslo",
    "Sweden": "Stockholm",
    "Finland": "Helsinki",
    "Poland": "Warsaw",
    "Austria": "Vienna",
    "Greece": "Athens",
    "Ireland": "Dublin",
    "Egypt": "Cairo",
    "Kenya": "Nairobi",
    "Japan": "Tokyo",
    "Thailand": "Bangkok",
    "Peru": "Lima",
    "Chile": "Santiago",
    "Cuba": "Havana",
    "Canada": "Ottawa",
    "Hungary": "Budapest",
}

WEATHER_TOOL = {
    "name": "get_weather",
    "description": "Get the weather in a city.",
    "parameters": {
        "type": "object",
        "properties": {"city": {"type": "string"}},
        "required": ["city"],
    },
}
WEATHER = "What is the weather in Paris?"
STORY = "Tell me a story about a dog."
NAME = "What is my name?"
SUM = "What is 345 + 678?"


def show(target: str) -> None:
    """Prints two turns of a conversation, a call of a tool, and an answer after reasoning.

    Args:
        target: the frontend's address.
    """
    with Client(target, timeout=60) as client:
        # The first request of a process also pays for what is made once; the comparison is without.
        client.generate("Hello", max_tokens=1)
        messages = _earlier_turns()
        print(f"A conversation of {len(messages) // 2} turns goes on. The worker reads all of it.")
        first = _ask(client, messages, NAME)
        print("\nThe next turn begins with the same tokens, whose KV cache the worker still has.")
        second = _ask(client, messages, STORY)
        print(f"\n{_compare(first, second)}")
        print("\nThe model may call a tool. What it calls comes as a call, not as text.")
        _use_tool(client)
        print("\nThe model may reason first. Its reasoning comes apart from the text.")
        _reason(client)


def _earlier_turns() -> list[ChatMessage]:
    turns = [
        ("My name is Ada.", "Nice to meet you, Ada!"),
        *(
            (f"What is the capital of {c}?", f"The capital of {c} is {CAPITALS[c]}.")
            for c in CAPITALS
        ),
        *((f"What is {i} + {i}?", f"{i} + {i} = {2 * i}.") for i in range(1, 21)),
    ]
    return [
        message
        for question, answer in turns
        for message in (ChatMessage("user", question), ChatMessage("assistant", answer))
    ]


def _ask(client: Client, messages: list[ChatMessage], question: str) -> Answer:
    """Streams the answer to the question, and adds both to the conversation."""
    messages.append(ChatMessage("user", question))
    print(f"\n> {question}")
    with client.stream(chat=messages, temperature=0, max_tokens=240) as stream:
        for delta in stream:
            print(delta.text, end="", flush=True)
        answer = stream.result
    print()
    print(waterfall.render(answer))
    messages.append(ChatMessage("assistant", answer.text))
    return answer


def _use_tool(client: Client) -> None:
    """Prints a question, the model's call, a result of our own and the answer."""
    messages = [ChatMessage("user", WEATHER)]
    print(f"\n> {WEATHER}")
    first = client.generate(chat=messages, tools=[WEATHER_TOOL], temperature=0, max_tokens=100)
    for call in first.tool_calls:
        print(f"call   {call.name} {call.arguments}")
        result = '{"temperature": 21, "sky": "sunny"}'
        print(f"result {result}")
        messages += [first.message(), ChatMessage("tool", result, tool_call_id=call.id)]
    last = client.generate(chat=messages, tools=[WEATHER_TOOL], temperature=0, max_tokens=100)
    print(last.text)


def _reason(client: Client) -> None:
    """Prints a question, the model's reasoning and its answer."""
    print(f"\n> {SUM}")
    answer = client.generate(
        chat=[ChatMessage("user", SUM)],
        template_arguments={"enable_thinking": True},
        temperature=0,
        max_tokens=100,
    )
    print(f"reasoning {answer.reasoning}")
    print(answer.text)


def _compare(first: Answer, second: Answer) -> str:
    before_s, after_s = (each.timings.time_to_first_token_s or 0.0 for each in (first, second))
    return (
        f"Time to first token: {before_s * 1e3:.0f} ms for {first.usage.prompt_tokens} tokens, "
        f"then {after_s * 1e3:.0f} ms for {second.usage.prompt_tokens}."
    )
