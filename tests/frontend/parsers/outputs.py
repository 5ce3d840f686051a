"""Outputs of each model family as its chat template writes them, with what is in them."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any

ODD = 'Zürich "old{town}" 😀 ]}\\ </tool'
"""A value with what other parsers stumble over."""

WEATHER = {"city": ODD, "days": 3, "options": {"a": [1, {"b": "}"}], "c": None}}


def js(value: object) -> str:
    return json.dumps(value, ensure_ascii=False)


@dataclass(frozen=True)
class Output:
    format: str
    raw: str
    text: str = ""
    reasoning: str = ""
    calls: tuple[tuple[str, dict[str, Any]], ...] = ()
    thinks: str | None = "think"
    in_reasoning: bool = False
    names: dict[str, str] = field(default_factory=dict)


XML = (
    "<tool_call>\n<function=get_weather>\n<parameter=city>\n{0}\n</parameter>\n"
    "<parameter=days>\n3\n</parameter>\n<parameter=options>\n{1}\n</parameter>\n"
    "</function>\n</tool_call>"
)
GLM = (
    "<tool_call>get_weather\n<arg_key>city</arg_key>\n<arg_value>{0}</arg_value>\n"
    "<arg_key>days</arg_key>\n<arg_value>3</arg_value>\n<arg_key>options</arg_key>\n"
    "<arg_value>{1}</arg_value>\n</tool_call>"
)
DSML = (
    '<｜DSML｜invoke name="get_weather">\n<｜DSML｜parameter name="city" string="true">{0}'  # noqa: RUF001
    '</｜DSML｜parameter>\n<｜DSML｜parameter name="days" string="false">3</｜DSML｜parameter>\n'  # noqa: RUF001
    '<｜DSML｜parameter name="options" string="false">{1}</｜DSML｜parameter>\n</｜DSML｜invoke>\n'  # noqa: RUF001
)
MINIMAX = (
    '<invoke name="get_weather">\n<parameter name="city">{0}</parameter>\n'
    '<parameter name="days">3</parameter>\n<parameter name="options">{1}</parameter>\n</invoke>\n'
)
DEEPSEEK_BEGIN, DEEPSEEK_END = "<｜tool▁calls▁begin｜>", "<｜tool▁calls▁end｜>"  # noqa: RUF001
CALL_BEGIN, SEP, CALL_END = "<｜tool▁call▁begin｜>", "<｜tool▁sep｜>", "<｜tool▁call▁end｜>"  # noqa: RUF001
HARMONY_CALL = (
    "<|start|>assistant<|channel|>commentary to=functions.{0}"
    " <|constrain|>json<|message|>{1}<|call|>"
)


def xml(template: str) -> str:
    return template.replace("{0}", ODD).replace("{1}", js(WEATHER["options"]))


def call(name: str, arguments: object, key: str = "arguments") -> str:
    return f'{{"name": "{name}", "{key}": {js(arguments)}}}'


BOTH = (("get_weather", WEATHER), ("now", {}))
ONCE = (("get_weather", WEATHER),)

OUTPUTS = {
    "hermes": Output(
        "hermes",
        "<think>\nIs it <b>?\n</think>\n\nLet me look.\n"
        f"<tool_call>\n{call('get_weather', WEATHER)}\n</tool_call>\n"
        f"<tool_call>\n{call('now', {})}\n</tool_call>",
        "Let me look.",
        "Is it <b>?",
        BOTH,
    ),
    "hermes, text after": Output(
        "hermes",
        f"A <b> tag, 1 < 2.\n\n<tool_call>{call('now', {})}</tool_call>\n\nThat is all.\n",
        "A <b> tag, 1 < 2.\n\nThat is all.\n",
        "",
        (("now", {}),),
    ),
    "hermes, arguments first, as a string, or absent": Output(
        "hermes",
        f'<tool_call>{{"id": 7, "arguments": {js(WEATHER)}, "name": "get_weather"}}</tool_call>'
        f'<tool_call>{{"name": "get_weather", "arguments": {js(js(WEATHER))}}}</tool_call>'
        '<tool_call>{"name": "now"}</tool_call>'
        '<tool_call>{"name": "now", "arguments": null}</tool_call>',
        "",
        "",
        (*ONCE, *BOTH, ("now", {})),
    ),
    "hermes, a line feed within a string, and a brace too few": Output(
        "hermes",
        '<tool_call>{"name": "now", "arguments": {"a": "1\n2\t"}\n</tool_call>',
        "",
        "",
        (("now", {"a": "1\n2\t"}),),
    ),
    "hermes, reasoning opened by the prompt": Output(
        "hermes",
        f"Hm.\n</think>\n\n<tool_call>{call('now', {})}</tool_call>",
        "",
        "Hm.",
        (("now", {}),),
        in_reasoning=True,
    ),
    "qwen3_coder": Output(
        "qwen3_coder",
        f"Look:\n\n{xml(XML)}\n<tool_call>\n<function=now>\n</function>\n</tool_call>\n",
        "Look:",
        "",
        BOTH,
    ),
    "qwen3_coder, without the outer tag": Output(
        "qwen3_coder",
        "<function=get_weather>\n<parameter=city>\n\n two\nlines \n\n</parameter>\n"
        "<parameter=exact>\nTrue\n</parameter>\n<parameter=note>\n12\n</parameter>\n"
        "<parameter=units>\nc\n</parameter>\n<parameter=places>\n['a', \"b\"]\n</parameter>\n"
        "<parameter=unknown>\n[1.50]\n</parameter>\n<parameter=other>\n[see below\n</parameter>\n"
        "</function>",
        "",
        "",
        (
            (
                "get_weather",
                {
                    "city": "\n two\nlines \n",
                    "exact": True,
                    "note": "12",
                    "units": "c",
                    "places": ["a", "b"],
                    "unknown": [1.5],
                    "other": "[see below",
                },
            ),
        ),
    ),
    "mistral, names and arguments": Output(
        "mistral",
        f"[THINK]Hm[/THINK]Well.[TOOL_CALLS]get_weather[CALL_ID]abcDEF123[ARGS]{js(WEATHER)}"
        "[TOOL_CALLS]now[ARGS]{}",
        "Well.",
        "Hm",
        BOTH,
        thinks="mistral",
        names={"0": "abcDEF123"},
    ),
    "mistral, a list": Output(
        "mistral",
        f"[TOOL_CALLS] [{call('get_weather', WEATHER)}, {call('now', {})}]",
        "",
        "",
        BOTH,
        thinks="mistral",
    ),
    "llama3_json": Output(
        "llama3_json",
        f"{call('get_weather', WEATHER, 'parameters')}; {call('now', {}, 'parameters')}",
        "",
        "",
        BOTH,
    ),
    "llama3_json, tagged": Output(
        "llama3_json",
        f'Now:<|python_tag|>{{"type": "function", {call("now", {}, "parameters")[1:]}',
        "Now:",
        "",
        (("now", {}),),
    ),
    "llama3_json, text that is JSON": Output(
        "llama3_json",
        '{"name": "Ada", "age": 36}\n{"name": "now"}\nx = {"name": "now", "parameters": {}}',
        '{"name": "Ada", "age": 36}\n{"name": "now"}\nx = {"name": "now", "parameters": {}}',
    ),
    "pythonic": Output(
        "pythonic",
        f"[get_weather(city={ODD!r}, days=3, options={WEATHER['options']!r}), now()]",
        "",
        "",
        BOTH,
    ),
    "pythonic, notation": Output(
        "pythonic",
        'Calls:\n[get_weather(city="""a "quoted" \'text\'\n""", days=-1_000,\n'
        "  places=('\\x41\\u00e9\\101\\n\\d', \"\",), options={1: .5, 'x': True,}, note=None, )]",
        "Calls:",
        "",
        (
            (
                "get_weather",
                {
                    "city": "a \"quoted\" 'text'\n",
                    "days": -1000,
                    "places": ["AéA\n\\d", ""],
                    "options": {"1": 0.5, "x": True},
                    "note": None,
                },
            ),
        ),
    ),
    "pythonic, without commas": Output(
        "pythonic",
        "[get_weather(city='x'days=3 exact=True), now()]",
        calls=(("get_weather", {"city": "x", "days": 3, "exact": True}), ("now", {})),
    ),
    "lfm2": Output(
        "lfm2",
        "<think>Hm</think><|tool_call_start|>[now(), get_weather(city='x')]<|tool_call_end|>Ok.",
        "Ok.",
        "Hm",
        (("now", {}), ("get_weather", {"city": "x"})),
    ),
    "olmo3": Output(
        "olmo3",
        "<function_calls>\nnow()\nget_weather(city='x')\n</function_calls>",
        "",
        "",
        (("now", {}), ("get_weather", {"city": "x"})),
    ),
    "deepseek_v3": Output(
        "deepseek_v3",
        f"Ok.{DEEPSEEK_BEGIN}{CALL_BEGIN}function{SEP}get_weather\n```json\n{js(WEATHER)}\n```"
        f"{CALL_END}\n{CALL_BEGIN}function{SEP}now\n```json\n{{}}\n```{CALL_END}{DEEPSEEK_END}",
        "Ok.",
        "",
        BOTH,
    ),
    "deepseek_v31": Output(
        "deepseek_v31",
        f"Hm</think>Ok.{DEEPSEEK_BEGIN}{CALL_BEGIN}get_weather{SEP}{js(WEATHER)}{CALL_END}"
        f"{CALL_BEGIN}now{SEP}{{}}{CALL_END}{DEEPSEEK_END}",
        "Ok.",
        "Hm",
        BOTH,
        in_reasoning=True,
    ),
    "deepseek_v32": Output(
        "deepseek_v32",
        f"Ok.\n\n<｜DSML｜function_calls>\n{xml(DSML)}"  # noqa: RUF001
        '<｜DSML｜invoke name="now">\n</｜DSML｜invoke>\n</｜DSML｜function_calls>',  # noqa: RUF001
        "Ok.",
        "",
        BOTH,
    ),
    "deepseek_v4": Output(
        "deepseek_v32",
        f"<｜DSML｜tool_calls>\n{xml(DSML)}</｜DSML｜tool_calls>",  # noqa: RUF001
        "",
        "",
        ONCE,
    ),
    "glm45": Output(
        "glm45",
        f"\n<think>Hm</think>\nOk.\n{xml(GLM)}\n<tool_call>now\n</tool_call>",
        "Ok.",
        "Hm",
        BOTH,
    ),
    "glm45, on one line": Output(
        "glm45",
        "<tool_call>get_weather<arg_key>city</arg_key><arg_value>12</arg_value></tool_call>"
        "<tool_call>now</tool_call>",
        "",
        "",
        (("get_weather", {"city": "12"}), ("now", {})),
    ),
    "kimi_k2": Output(
        "kimi_k2",
        "Ok.<|tool_calls_section_begin|><|tool_call_begin|>functions.get_weather:0"
        f"<|tool_call_argument_begin|>{js(WEATHER)}<|tool_call_end|><|tool_call_begin|>"
        "functions.now:1<|tool_call_argument_begin|>{}<|tool_call_end|>"
        "<|tool_calls_section_end|>",
        "Ok.",
        "",
        BOTH,
        names={"0": "functions.get_weather:0", "1": "functions.now:1"},
    ),
    "harmony": Output(
        "harmony",
        "<|channel|>analysis<|message|>Hm\n<|end|><|start|>assistant<|channel|>commentary"
        "<|message|>Ok.<|end|>"
        + HARMONY_CALL.replace("{0}", "get_weather").replace("{1}", js(WEATHER))
        + HARMONY_CALL.replace("{0}", "now").replace("{1}", "{}")
        + "<|start|>assistant<|channel|>final<|message|>Done.<|return|>",
        "Ok.Done.",
        "Hm\n",
        BOTH,
        thinks="harmony",
    ),
    "harmony, recipient in the role": Output(
        "harmony",
        " to=functions.now<|channel|>commentary <|constrain|>json<|message|>{}<|call|>",
        "",
        "",
        (("now", {}),),
        thinks="harmony",
    ),
    "harmony, reasoning opened by the prompt": Output(
        "harmony",
        "Hm<|end|><|start|>assistant<|channel|>final<|message|>Ok.",
        "Ok.",
        "Hm",
        thinks="harmony",
        in_reasoning=True,
    ),
    "minimax_m2": Output(
        "minimax_m2",
        f"Hm\n</think>\n\nOk.\n<minimax:tool_call>\n{xml(MINIMAX)}"
        '<invoke name="now">\n</invoke>\n</minimax:tool_call>',
        "Ok.",
        "Hm",
        BOTH,
        in_reasoning=True,
    ),
    "cohere": Output(
        "cohere",
        "<|START_THINKING|>Hm<|END_THINKING|><|START_ACTION|>[\n"
        f'    {{"tool_call_id": "0", "tool_name": "get_weather", "parameters": {js(WEATHER)}}},\n'
        '    {"tool_call_id": "1", "tool_name": "now", "parameters": {}}\n]<|END_ACTION|>',
        "",
        "Hm",
        BOTH,
        thinks="cohere",
        names={"0": "0", "1": "1"},
    ),
    "hunyuan": Output(
        "hunyuan",
        f"Ok.<tool_calls>[{call('get_weather', WEATHER)}, {call('now', {})}]</tool_calls>",
        "Ok.",
        "",
        BOTH,
    ),
    "nemotron": Output("nemotron", f"<TOOLCALL>[{call('now', {})}]</TOOLCALL>", calls=BOTH[1:]),
    "granite_20b": Output("granite_20b", f"<function_call> {call('now', {})}", calls=BOTH[1:]),
    "gigachat": Output("gigachat", f"Ok.<|function_call|>{call('now', {})}", "Ok.", calls=BOTH[1:]),
    "the demo model's": Output(
        "json",
        f"{call('get_weather', WEATHER)}\n{call('now', {})}",
        "",
        "",
        BOTH,
        thinks=None,
    ),
    "a guided list": Output(
        "json", f"[{call('get_weather', WEATHER)},{call('now', {})}]", calls=BOTH, thinks=None
    ),
    "gemma4 reasoning": Output(
        "hermes", "<|channel>thought\nHm\n<channel|>Ok.", "Ok.", "Hm", thinks="gemma4"
    ),
}
