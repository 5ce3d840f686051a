"""What OpenVINO GenAI makes of a GGUF file: what it computes right, ignores, and can't load.

Each was found by running 2026.4 against a float32 forward pass of the same file; docs/models.md has
the figures.
"""

from __future__ import annotations

from collections.abc import Iterable

from tokenwire_worker.engines import EngineError
from tokenwire_worker.gguf.header import Header, Tensor

ARCHITECTURES = ("llama", "qwen2", "qwen3")

RIGHT = frozenset({"F16", "Q8_0", "Q6_K", "Q4_0"})
"""Types of matrices that are computed as the file says. Of Q4_K and Q4_1, whose blocks have a
minimum, OpenVINO rounds it to a whole number of steps; the others it can't load."""

CONVERTIBLE = frozenset(
    {
        "F32", "BF16", "Q4_1", "Q5_0", "Q5_1", "Q2_K", "Q3_K", "Q4_K", "Q5_K", "IQ4_NL", "IQ4_XS",
        "IQ1_S", "IQ1_M", "IQ2_XXS", "IQ2_XS", "IQ2_S", "IQ3_XXS", "IQ3_S", "TQ1_0", "TQ2_0",
        "MXFP4",
    }
)  # fmt: skip
"""Types that the gguf package can read, so that they can be made one of the others."""

BIASES = ("attn_q.bias", "attn_k.bias", "attn_v.bias")


def check(header: Header) -> None:
    """Raises EngineError, or ModelError, where OpenVINO can't compute the file as it is meant."""
    architecture = header.architecture
    if architecture not in ARCHITECTURES:
        raise EngineError(
            f"its architecture is {architecture!r}; of GGUF, OpenVINO supports "
            f"{', '.join(ARCHITECTURES)}"
        )
    ignored = _ignored(header, architecture)
    if ignored is not None:
        raise EngineError(
            f"it has {ignored}, which OpenVINO ignores in a GGUF file, so answers would be wrong; "
            f"convert the model's Hugging Face form instead, see docs/models.md"
        )
    unknown = sorted({each.type.name for each in matrices(header)} - RIGHT - CONVERTIBLE)
    if unknown:
        raise EngineError(f"it has weights of type {', '.join(unknown)}, which is not supported")


def matrices(header: Header) -> Iterable[Tensor]:
    """Returns the tensors whose type matters; vectors are float32 in every file."""
    return (each for each in header.tensors if len(each.shape) > 1)


def wrong_types(header: Header) -> list[str]:
    """Returns the types in a file that OpenVINO computes otherwise than the file says."""
    return sorted({each.type.name for each in matrices(header)} - RIGHT)


def _ignored(header: Header, architecture: str) -> str | None:
    """Returns what of the model is not computed, or None."""
    if header.number(f"{architecture}.expert_count", 0):
        return "a mixture of experts"
    scaling = header.pairs.get(f"{architecture}.rope.scaling.type", "none")
    if scaling != "none":
        return f"positions scaled by {scaling} (rope.scaling.type)"
    if any(each.name.startswith("rope_f") for each in header.tensors):
        return "factors for positions, as Llama 3.1 and later have (tensor rope_freqs.weight)"
    if architecture == "llama" and any(each.name.endswith(BIASES) for each in header.tensors):
        return "biases of attention"
    return None
