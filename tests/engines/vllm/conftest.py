"""What the tests of the real vLLM share."""

import pytest


@pytest.fixture(scope="module")
def adapter(tmp_path_factory):
    """A LoRA adapter of the demo model that changes what it says."""
    torch = pytest.importorskip("torch")
    save = pytest.importorskip("safetensors.torch").save_file
    folder = tmp_path_factory.mktemp("adapter")
    rank, width = 8, 320
    torch.manual_seed(3)
    weights = {}
    for layer in range(6):
        name = f"base_model.model.model.layers.{layer}.self_attn.q_proj"
        weights[f"{name}.lora_A.weight"] = torch.randn(rank, width)
        weights[f"{name}.lora_B.weight"] = torch.randn(width, rank)
    save(weights, str(folder / "adapter_model.safetensors"))
    (folder / "adapter_config.json").write_text(
        '{"peft_type": "LORA", "task_type": "CAUSAL_LM", "r": 8, "lora_alpha": 16, "bias": "none",'
        ' "target_modules": ["q_proj"], "base_model_name_or_path": "demo"}'
    )
    return folder
