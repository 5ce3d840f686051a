"""The process of the dying worker's engine, which leaves it to the pipeline to compile forms."""

from tokenwire_worker.engines.openvino import forms, process
from tokenwire_worker.engines.port import Guide


def compile_nothing(_self: forms.Forms, _guide: Guide, *, heavy: bool) -> forms.Form:
    """Stands in for `Forms.get`."""
    del heavy
    return forms.Form(until_s=0.0, done=True)


if __name__ == "__main__":
    forms.Forms.get = compile_nothing  # type: ignore[method-assign]
    process.main()
