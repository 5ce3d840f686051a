"""What the tests of the adapter on the stand-in share, and those of the real vLLM."""

import json

import pytest
from tokenwire_worker.engines.vllm.settings import VllmSettings
from tokenwire_worker.settings import WorkerSettings

from tests.engines.vllm import stand_in
from tests.engines.vllm.heard import Listener


@pytest.fixture(scope="module")
def vllm_adapter():
    with stand_in.installed():
        from tokenwire_worker.engines.vllm import adapter

        yield adapter


@pytest.fixture
def model(tmp_path):
    config = {"vocab_size": 4096, "max_position_embeddings": 4096, "eos_token_id": [3, 5000]}
    (tmp_path / "config.json").write_text(json.dumps(config))
    return tmp_path


@pytest.fixture
def build(vllm_adapter, model):
    built = []

    def build(drain_grace_s=30.0, phases="any", **options):
        settings = WorkerSettings(
            model=str(model),
            engine="vllm",
            vllm=VllmSettings(**options),
            drain_grace_s=drain_grace_s,
            phases=phases,
        )
        vllm_adapter.check_model(settings)
        engine = vllm_adapter.build(settings)
        built.append(engine)
        engine.listener = Listener()
        engine.start(engine.listener)
        return engine

    yield build
    for engine in built:
        engine.close()


@pytest.fixture
def engine(build):
    return build()


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
