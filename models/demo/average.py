"""Average two sets of weights of the same shape; halfway between two runs keeps most of what each does well."""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file


def main() -> None:
    """Write (1 - share) * first + share * second in bf16."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("first", type=Path)
    parser.add_argument("second", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--share", type=float, default=0.5, help="weight of the second")
    options = parser.parse_args()
    first, second = load_file(options.first), load_file(options.second)
    state = {
        name: torch.lerp(value.float(), second[name].float(), options.share).to(torch.bfloat16)
        for name, value in first.items()
    }
    save_file(state, options.out, metadata={"format": "pt"})


if __name__ == "__main__":
    main()
