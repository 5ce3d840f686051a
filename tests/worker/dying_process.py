"""The process of the dying worker's engine, which leaves it to the pipeline to read a regex."""

from typing import Any

import openvino_genai as ov_genai
from tokenwire_worker.engines.openvino import config, forms, process
from tokenwire_worker.engines.port import Guide


def compile_nothing(_self: forms.Forms, _guide: Guide, *, heavy: bool) -> forms.Form:
    """Stands in for `Forms.get`."""
    del heavy
    return forms.Form(until_s=0.0, done=True)


def as_it_is(guide: Guide) -> Any:
    """Stands in for `structured_output`, which refuses what the pipeline could not read."""
    return ov_genai.StructuredOutputConfig(regex=guide.text)


if __name__ == "__main__":
    forms.Forms.get = compile_nothing  # type: ignore[method-assign]
    config.structured_output = as_it_is
    process.main()
