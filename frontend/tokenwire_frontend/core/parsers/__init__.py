"""Parsers that find tool calls and reasoning in a sequence's output while it comes.

    ids -> Detokenizer -> OutputParser -> events -> a StopMatcher for each channel

For a model, once::

    names = choose(template, added_tokens, tokenizer_config, model_type)
    output_format = OutputFormat(
        tool_format(setting, names[0], tokenizer_config),
        reasoning_format(other_setting, names[1], tokenizer_config),
        special_tokens,
    )

A request without tools takes an OutputFormat whose first argument is None; one that a guide holds
to one or several calls, TOOL_FORMATS["json"]. For each sequence::

    parser = OutputParser(
        output_format, lambda index: f"call_{sequence}_{index}", tools,
        in_reasoning=output_format.opened_by(prompt_text),
    )
    for each id:    events = parser.push(output_format.marks.get(id) or the id's text)
    at the end:     events = parser.push(detokenizer.held()) + parser.finish()

**Special tokens.** The plain text leaves them out, and the parser has to see those that its format
knows. `OutputFormat.marks` has them by id: push the mark where such an id stands, after the text
before it and never in one piece with text. They are each format's markers, as far as the tokenizer
has them as special tokens: those of `ToolFormat.markers` and ReasoningFormat. A marker that is a
special token is met by the token alone, so text that looks like it, such as a user's that the model
repeats, does nothing. A marker that is not a special token is met by its text. A special token that
marks nothing where it stands has no text, unless `shows_tokens` is given.

**Events.** Text, Reasoning, CallBegin, Arguments and CallEnd, each with the raw output that it came
from. What was pushed, joined, is the events' `raw`, joined; so nothing is ever lost. Events are the
same for every split once neighbouring parts are joined. Text and reasoning come at once, but for
white space and what may be the beginning of a marker: less than 100 characters. A call begins when
its name and the beginning of its arguments are there. Arguments are always JSON text; formats
without quotes are converted by the types in the tool's JSON Schema (`parameters`).

**What is not a call.** Where a format is broken before its call has begun, all of it becomes text,
markers included, and reading goes on where it broke; so does what an output's end cuts off there.
After that, CallEnd has `complete` False, and what follows is text. The arguments of a complete call
are one valid JSON object. An unknown tool's name makes a call where markers stand around it; a bare
call counts only with the name of one of `tools`, at the beginning of the output, of a line or after
a call, and only with arguments, since JSON that has a name is also what users ask for.

**Bounds.** A call's arguments have none, since they are given out as they come. Names, keys and ids
have NAME_LIMIT characters; arguments that stand before the name, and values that are held to their
end since they may be no string, 64 KiB; nesting has DEPTH_LIMIT levels. What exceeds them is
broken, or a string. A character costs the same wherever it stands.

**White space.** Up to SPACE_LIMIT characters of white space directly before a call's marker, and
between the markers of calls, belong to the format, and so does that after the last call at the
output's end. Where text follows a call, white space before it is the text's. Of reasoning, line
feeds beside the markers belong to the format, as in the chat templates that write and remove them;
white space before the opening marker does, too. Values of parameters are taken as they stand, but
for one line feed at either side in the XML of Qwen3-Coder, whose template writes it there.

**Reasoning** begins with its marker, before any text or after a call, or where `opened_by` says
that the prompt ends within it. It ends with its marker, or where a special token begins calls. A
closing marker without reasoning is text.

**Stop strings** are looked for in the text of the channel that a request asks for: join `text` of
Text events, and of Reasoning events apart, each with a StopMatcher of its own. Arguments are not
searched, unless a request asks for it: then their `raw` is what the model wrote. An event that is
cut by a stop string is the last one; a call that has begun is then to be ended as incomplete.

**Ids.** Those that the output has are kept (Mistral's, Kimi's, Cohere's), if they stand before the
arguments. Others come from the caller's function; for Mistral they are made 9 letters and digits,
which its template demands.
"""

from __future__ import annotations

from tokenwire_frontend.core.parsers.choice import choose, reasoning_format, tool_format
from tokenwire_frontend.core.parsers.events import (
    Arguments,
    CallBegin,
    CallEnd,
    Event,
    Reasoning,
    Text,
)
from tokenwire_frontend.core.parsers.formats import (
    REASONING_FORMATS,
    TOOL_FORMATS,
)
from tokenwire_frontend.core.parsers.parser import OutputFormat, OutputParser

__all__ = [
    "REASONING_FORMATS",
    "TOOL_FORMATS",
    "Arguments",
    "CallBegin",
    "CallEnd",
    "Event",
    "OutputFormat",
    "OutputParser",
    "Reasoning",
    "Text",
    "choose",
    "reasoning_format",
    "tool_format",
]
