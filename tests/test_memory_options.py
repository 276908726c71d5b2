"""What diffusers offers for memory and speed, on the pipeline: device maps, quantisation, attention backends."""

import pytest
import torch
from diffusers import PipelineQuantizationConfig

from tiny_pipeline import generators, tiny_pipeline
from titok_hf import MaskGitTransformer1DModel, TiTokPipeline, bundled_checkpoint
from titok_hf.bundled import example_images


def images_of(pipe: TiTokPipeline) -> torch.Tensor:
    pipe.set_progress_bar_config(disable=True)
    return pipe([0, 1], generator=generators(0, 1), output_type="pt").images


@pytest.fixture
def pipe() -> TiTokPipeline:
    return tiny_pipeline()


@pytest.mark.parametrize("device_map", ["balanced", "cpu"])
def test_device_maps_place_the_models(pipe, device_map, tmp_path):
    pipe.save_pretrained(tmp_path)
    placed = TiTokPipeline.from_pretrained(tmp_path, device_map=device_map)
    for _ in range(2):
        torch.testing.assert_close(images_of(placed).cpu(), images_of(pipe))


@pytest.mark.parametrize("backend", ["native", "_native_math"])
@pytest.mark.parametrize("architecture", ["vit", "uvit"])
def test_attention_backends_compute_the_same(backend, architecture):
    sizes = {"codebook_size": 16, "num_latent_tokens": 8, "num_classes": 3, "num_hidden_layers": 2}
    sizes |= {"hidden_size": 32, "num_attention_heads": 2, "intermediate_size": 64}
    torch.manual_seed(0)
    model = MaskGitTransformer1DModel(architecture, **sizes).eval()
    inputs = {"input_ids": torch.arange(16).reshape(2, 8), "class_labels": torch.tensor([0, 3])}
    expected = model(**inputs).logits
    model.set_attention_backend(backend)
    used = {processor._attention_backend for processor in model.attn_processors.values()}
    assert {each.value for each in used} == {backend}
    torch.testing.assert_close(model(**inputs).logits, expected)


def test_an_unknown_attention_backend_is_refused(pipe):
    with pytest.raises(ValueError, match="backend='fastest'` must be one of"):
        pipe.transformer.set_attention_backend("fastest")


def test_layers_of_a_loaded_pipeline_are_stored_in_eight_bits(pipe):
    pipe.transformer.enable_layerwise_casting(storage_dtype=torch.float8_e4m3fn, compute_dtype=torch.float32)
    assert pipe.transformer.backbone.layers[0].mlp.fc1.weight.dtype == torch.float8_e4m3fn
    assert torch.equal(images_of(pipe), images_of(pipe)) and images_of(pipe).isfinite().all()


def test_repeated_blocks_compile_in_the_pipeline(pipe):
    expected = images_of(pipe)
    pipe.transformer.compile_repeated_blocks(backend="eager", fullgraph=True)
    torch.testing.assert_close(images_of(pipe), expected)


def test_torchao_stores_both_models_in_eight_bits(pipe, tmp_path):
    torchao = pytest.importorskip("torchao.quantization")
    from diffusers import TorchAoConfig as ForDiffusers
    from transformers import TorchAoConfig as ForTransformers

    pipe.save_pretrained(tmp_path)
    int8 = torchao.Int8WeightOnlyConfig()
    quantization = PipelineQuantizationConfig(
        quant_mapping={"transformer": ForDiffusers(int8), "tokenizer": ForTransformers(int8)}
    )
    loaded = TiTokPipeline.from_pretrained(tmp_path, quantization_config=quantization, dtype=torch.float32)
    for layer in (loaded.transformer.backbone.layers[0].mlp.fc1, loaded.tokenizer.encoder.layers[0].mlp.fc1):
        assert "torchao" in type(layer.weight).__module__
    codes = torch.arange(16).reshape(2, 8)
    difference = loaded.decode(codes, "pt") - pipe.decode(codes, "pt")
    assert 0 < difference.abs().mean() < 0.05  # of values in [0, 1]
    assert torch.equal(images_of(loaded), images_of(loaded))


@pytest.mark.parametrize("bits", [{"load_in_8bit": True}, {"load_in_4bit": True, "bnb_4bit_quant_type": "nf4"}])
def test_bitsandbytes_stores_the_tokenizer_and_on_a_gpu_the_generator(bits, tmp_path):
    pytest.importorskip("bitsandbytes")
    from diffusers import BitsAndBytesConfig as ForDiffusers
    from transformers import BitsAndBytesConfig as ForTransformers

    folder = bundled_checkpoint()
    plain = TiTokPipeline.from_pretrained(folder)
    configs = {"tokenizer": ForTransformers(**bits)}
    if torch.cuda.is_available():  # diffusers refuses it elsewhere
        configs["transformer"] = ForDiffusers(**bits)
    loaded = TiTokPipeline.from_pretrained(
        folder, quantization_config=PipelineQuantizationConfig(quant_mapping=configs)
    )
    for name in configs:
        layers = {type(module).__module__ for module in getattr(loaded, name).modules()}
        assert any(module.startswith("bitsandbytes") for module in layers), name
    codes = plain.encode(example_images())
    assert 0.7 < (loaded.encode(example_images()).cpu() == codes).float().mean() < 1
    difference = loaded.decode(codes, "pt").cpu() - plain.decode(codes, "pt")
    assert 0 < difference.abs().mean() < 0.02  # of values in [0, 1]
