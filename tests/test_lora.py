"""LoRA adapters of the generator: loaded, weighted, fused and removed as in diffusers, with the classes they bring."""

from pathlib import Path
from typing import Any

import pytest
import torch

import titok_hf.checkpoints.lora_mixin as lora_mixin
from tiny_pipeline import ID2LABEL, generators, tiny_pipeline
from titok_hf import MaskGitTransformer1DModel, TiTokPipeline

peft = pytest.importorskip("peft")


def codes_of(pipe: TiTokPipeline, label: Any = 0) -> torch.Tensor:
    return pipe(label, generator=generators(0), output_type="latent").codes


def save_adapter(folder: Path, names: tuple[str, ...] = (), seed: int = 0) -> torch.Tensor:
    """Saves an adapter with random weights; returns the codes of class 0 with it."""
    pipe = tiny_pipeline()
    torch.manual_seed(seed)
    config = peft.LoraConfig(r=4, lora_alpha=8, target_modules=["qkv_proj", "fc1"], init_lora_weights=False)
    pipe.transformer.add_adapter(config)
    pipe.save_lora_weights(
        folder,
        peft.get_peft_model_state_dict(pipe.transformer, adapter_name="default"),
        pipe.transformer.peft_config["default"].to_dict(),
        class_embeddings=torch.randn(len(names), 32) if names else None,
        class_names=names,
    )
    return codes_of(pipe)


@pytest.fixture
def pipe() -> TiTokPipeline:
    return tiny_pipeline()


@pytest.fixture(scope="module")
def plain() -> torch.Tensor:
    """Codes of class 0 without an adapter."""
    return codes_of(tiny_pipeline())


def test_an_adapter_changes_images_and_brings_its_classes(pipe, plain, tmp_path):
    adapted = save_adapter(tmp_path, ("robot",))
    assert [path.name for path in tmp_path.iterdir()] == ["pytorch_lora_weights.safetensors"]
    pipe.load_lora_weights(tmp_path)
    assert torch.equal(codes_of(pipe), adapted) and not torch.equal(adapted, plain)
    assert pipe.id2label == ID2LABEL | {3: "robot"} and pipe.transformer.config.num_classes == 4
    assert torch.equal(codes_of(pipe, "robot"), codes_of(pipe, 3))
    pipe.unload_lora_weights()
    assert torch.equal(codes_of(pipe), plain)
    assert pipe.id2label == ID2LABEL and pipe.transformer.config.num_classes == 3


def test_adapters_are_weighted_switched_off_and_deleted_with_their_classes(pipe, plain, tmp_path):
    first = save_adapter(tmp_path / "first", ("robot",))
    save_adapter(tmp_path / "second", ("kite", "lamp"), seed=1)
    pipe.load_lora_weights(tmp_path / "first", adapter_name="first")
    pipe.load_lora_weights(tmp_path / "second", adapter_name="second")
    pipe.set_adapters(["first", "second"], [1.0, 0.0])
    assert torch.equal(codes_of(pipe), first)
    pipe.set_adapters("first")
    assert torch.equal(codes_of(pipe), first) and pipe.get_active_adapters() == ["first"]
    pipe.disable_lora()
    assert torch.equal(codes_of(pipe), plain)
    pipe.enable_lora()
    row = pipe.transformer.class_embeddings[5].clone()  # that of "lamp"
    pipe.delete_adapters("first")
    assert pipe.id2label == ID2LABEL | {3: "kite", 4: "lamp"}
    assert torch.equal(pipe.transformer.class_embeddings[4], row)
    assert pipe.get_list_adapters() == {"transformer": ["second"]}


def test_a_fused_adapter_is_saved_with_the_pipeline(pipe, tmp_path):
    adapted = save_adapter(tmp_path / "adapter", ("robot",))
    pipe.load_lora_weights(tmp_path / "adapter")
    with pytest.raises(ValueError, match="has LoRA adapters, which a pipeline is not saved with. Call fuse_lora"):
        pipe.save_pretrained(tmp_path / "pipeline")
    pipe.fuse_lora()
    pipe.unload_lora_weights()
    pipe.save_pretrained(tmp_path / "pipeline")
    loaded = TiTokPipeline.from_pretrained(tmp_path / "pipeline")
    assert loaded.id2label[3] == "robot" and torch.equal(codes_of(loaded), adapted)
    assert torch.equal(codes_of(loaded, "robot"), codes_of(pipe, "robot"))


def test_a_fused_adapter_can_be_taken_out_again(pipe, plain, tmp_path):
    adapted = save_adapter(tmp_path)
    pipe.load_lora_weights(tmp_path)
    weight = pipe.transformer.backbone.layers[0].mlp.fc1.weight.clone()
    pipe.fuse_lora()
    assert torch.equal(codes_of(pipe), adapted)
    pipe.unfuse_lora()
    torch.testing.assert_close(pipe.transformer.backbone.layers[0].mlp.fc1.weight, weight)


@pytest.mark.parametrize("way", ["model", "group"])
def test_an_adapter_can_be_loaded_into_an_offloaded_pipeline(pipe, way, tmp_path):
    adapted = save_adapter(tmp_path, ("robot",))
    if way == "group":
        pipe.enable_group_offload(onload_device=torch.device("cpu"), offload_type="leaf_level")
    else:
        pipe.enable_model_cpu_offload(device="cpu")
    pipe.load_lora_weights(tmp_path)
    assert torch.equal(codes_of(pipe), adapted) and pipe.id2label[3] == "robot"


def test_an_adapter_of_another_model_is_refused(tmp_path):
    save_adapter(tmp_path)
    sizes = {"codebook_size": 16, "num_latent_tokens": 8, "num_classes": 3, "num_attention_heads": 2}
    for other, message in (
        ({"hidden_size": 64}, "size 32, this transformer's 64"),
        ({"num_hidden_layers": 1}, "layers.1"),
    ):
        fields = {"hidden_size": 32, "num_hidden_layers": 2, "intermediate_size": 64} | sizes | other
        pipe = TiTokPipeline(**(tiny_pipeline().components | {"transformer": MaskGitTransformer1DModel(**fields)}))
        with pytest.raises(ValueError, match=f"The adapter is of another model: .*{message}"):
            pipe.load_lora_weights(tmp_path)
        assert not getattr(pipe.transformer, "peft_config", None)


def test_what_is_no_adapter_is_refused(pipe, tmp_path):
    with pytest.raises(ValueError, match="'x', which is no LoRA matrix of a transformer"):
        pipe.load_lora_weights({"x": torch.zeros(2, 2)})
    (tmp_path / "empty").mkdir()
    with pytest.raises(OSError, match="empty has no safetensors file, so there is no adapter"):
        pipe.load_lora_weights(tmp_path / "empty")
    with pytest.raises(OSError, match="nowhere"):
        pipe.load_lora_weights(tmp_path / "nowhere")
    with pytest.raises(ValueError, match="transformer_lora_layers is empty"):
        pipe.save_lora_weights(tmp_path, {})
    with pytest.raises(ValueError, match="1 names for 2 class_embeddings"):
        pipe.save_lora_weights(tmp_path, {"a": torch.zeros(1)}, None, torch.zeros(2, 4), ["a"])


def test_a_class_is_not_added_twice(pipe, tmp_path):
    save_adapter(tmp_path, ("robot",))
    pipe.load_lora_weights(tmp_path)
    with pytest.raises(ValueError, match="adds the class 'robot', which the pipeline has already. Unload"):
        pipe.load_lora_weights(tmp_path)
    assert pipe.transformer.config.num_classes == 4


def test_without_peft_the_error_names_the_extra(pipe, monkeypatch):
    monkeypatch.setattr(lora_mixin, "is_peft_available", lambda: False)
    with pytest.raises(ImportError, match=r"The library peft is needed .*titok-hf\[lora\]"):
        pipe.load_lora_weights("anywhere")
