"""MaskGitTransformer1DModel on tiny sizes: its equations, its inputs, and what diffusers and accelerate expect."""

import copy

import accelerate
import pytest
import torch
import torch.nn.functional as F
from transformers import BertConfig, BertModel

from stored_weights import WAYS_TO_OFFLOAD, offload, store_in_eight_bits
from titok_hf.configuration_maskgit import MASKGIT_VARIANTS
from titok_hf.modeling_maskgit import MaskGitTransformer1DModel

TINY = {
    "codebook_size": 20,
    "num_latent_tokens": 6,
    "num_classes": 3,
    "hidden_size": 32,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "intermediate_size": 48,
}


def tiny_model(architecture, **overrides):
    """A model in eval mode whose weights are large enough for every part of it to show in the logits."""
    model = MaskGitTransformer1DModel(architecture=architecture, **{**TINY, **overrides}).eval()
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.2 * torch.randn(parameter.shape, generator=generator))
    return model


@pytest.fixture(params=["vit", "uvit"])
def model(request):
    return tiny_model(request.param)


@pytest.fixture
def inputs(model):
    input_ids = torch.tensor([[20, 3, 20, 7, 19, 0], [20, 20, 20, 20, 20, 20]])
    return {"input_ids": input_ids, "class_labels": torch.tensor([2, model.null_class_label])}


def test_vit_equals_bert(inputs):
    model = tiny_model("vit")
    bert = BertModel(
        BertConfig(
            vocab_size=20 + 1 + 3 + 1,
            hidden_size=32,
            num_hidden_layers=4,
            num_attention_heads=4,
            intermediate_size=48,
            max_position_embeddings=7,
            layer_norm_eps=1e-12,
        ),
        add_pooling_layer=False,
    ).eval()
    ours = model.state_dict()
    names = {"embeddings.word_embeddings.weight": "token_embedding.weight"}
    names["embeddings.position_embeddings.weight"] = "position_embedding"
    names["embeddings.token_type_embeddings.weight"] = "backbone.token_type_embedding"
    for leaf in ("weight", "bias"):
        names[f"embeddings.LayerNorm.{leaf}"] = f"backbone.embedding_norm.{leaf}"
        for i in range(4):
            theirs, layer = f"encoder.layer.{i}", f"backbone.layers.{i}"
            names[f"{theirs}.attention.output.dense.{leaf}"] = f"{layer}.attention.out_proj.{leaf}"
            names[f"{theirs}.attention.output.LayerNorm.{leaf}"] = f"{layer}.attention_norm.{leaf}"
            names[f"{theirs}.intermediate.dense.{leaf}"] = f"{layer}.mlp.fc1.{leaf}"
            names[f"{theirs}.output.dense.{leaf}"] = f"{layer}.mlp.fc2.{leaf}"
            names[f"{theirs}.output.LayerNorm.{leaf}"] = f"{layer}.mlp_norm.{leaf}"
    state_dict = {theirs: ours[name] for theirs, name in names.items()}
    for i in range(4):
        for leaf in ("weight", "bias"):
            fused = ours[f"backbone.layers.{i}.attention.qkv_proj.{leaf}"]
            for part, tensor in zip(("query", "key", "value"), fused.chunk(3), strict=True):
                state_dict[f"encoder.layer.{i}.attention.self.{part}.{leaf}"] = tensor
    bert.load_state_dict(state_dict)

    tokens = torch.cat([20 + 1 + inputs["class_labels"][:, None], inputs["input_ids"]], dim=1)
    expected = model.lm_head(bert(tokens).last_hidden_state[:, 1:])
    torch.testing.assert_close(model(**inputs).logits, expected, rtol=1e-5, atol=1e-5)


def test_uvit_equals_its_equations(inputs):
    model = tiny_model("uvit")
    weights = model.state_dict()

    def linear(x, name):
        return F.linear(x, weights[f"{name}.weight"], weights.get(f"{name}.bias"))

    def norm(x, name):
        return F.layer_norm(x, (32,), weights[f"{name}.weight"], weights[f"{name}.bias"], 1e-5)

    def block(x, name):
        query, key, value = linear(norm(x, f"{name}.norm1"), f"{name}.attention.qkv_proj").chunk(3, dim=-1)
        heads = []
        for head in range(4):
            q, k, v = (part[..., 8 * head : 8 * (head + 1)] for part in (query, key, value))
            heads.append((q @ k.mT / 8**0.5).softmax(-1) @ v)
        x = x + linear(torch.cat(heads, dim=-1), f"{name}.attention.out_proj")
        return x + linear(F.gelu(linear(norm(x, f"{name}.norm2"), f"{name}.mlp.fc1")), f"{name}.mlp.fc2")

    tokens = torch.cat([20 + 1 + inputs["class_labels"][:, None], inputs["input_ids"]], dim=1)
    x = weights["token_embedding.weight"][tokens] + weights["position_embedding"]
    first = block(x, "backbone.in_blocks.0")
    second = block(first, "backbone.in_blocks.1")
    x = block(second, "backbone.middle_block")
    for i, skip in enumerate((second, first)):
        name = f"backbone.out_blocks.{i}"
        x = block(linear(torch.cat([x, skip], dim=-1), f"{name}.skip_proj"), name)
    expected = linear(norm(x, "backbone.norm"), "lm_head")[:, 1:]
    torch.testing.assert_close(model(**inputs).logits, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("variant", "num_latent_tokens", "num_parameters"),
    [
        ("l32", 32, 177_202_432),
        ("b64", 64, 177_202_432 + 32 * 768),
        ("s128", 128, 294_990_848),
        ("l64_512", 64, 177_202_432 + 32 * 768),
        ("b128_512", 128, 294_990_848),
    ],
)
def test_variants_have_the_published_size(variant, num_latent_tokens, num_parameters):
    with torch.device("meta"):
        model = MaskGitTransformer1DModel.from_variant(variant)
    assert model.num_parameters() == num_parameters
    assert model.config.num_latent_tokens == num_latent_tokens
    assert (model.config.codebook_size, model.config.num_classes, model.mask_token_id) == (4096, 1000, 4096)


def test_variants_take_overrides():
    model = MaskGitTransformer1DModel.from_variant("l32", **TINY)
    assert model.config.architecture == "vit" and model.config.hidden_size == 32


def test_logits_cover_codes_only(model, inputs):
    output = model(**inputs)
    assert output.logits.shape == (2, 6, 20)
    assert torch.equal(model(**inputs, return_dict=False)[0], output.logits)


def test_every_position_sees_the_class_and_every_other_position(model, inputs):
    reference = model(**inputs).logits[0]
    other_class = model(inputs["input_ids"], torch.tensor([0, 0])).logits[0]
    assert ((other_class - reference).abs().amax(-1) > 1e-3).all()
    for position in range(6):
        changed = inputs["input_ids"].clone()
        changed[0, position] = 11
        difference = (model(changed, inputs["class_labels"]).logits[0] - reference).abs().amax(-1)
        assert (difference > 1e-4).all()


def test_images_of_a_batch_are_independent(model, inputs):
    alone = model(inputs["input_ids"][:1], inputs["class_labels"][:1]).logits
    torch.testing.assert_close(model(**inputs).logits[:1], alone)


@pytest.mark.parametrize("architecture", ["vit", "uvit"])
def test_dropout_acts_in_training_only(architecture):
    model = tiny_model(architecture, dropout=0.5)
    ids, labels = torch.full((1, 6), 20), torch.tensor([1])
    assert torch.equal(model(ids, labels).logits, model(ids, labels).logits)
    model.train()
    assert not torch.equal(model(ids, labels).logits, model(ids, labels).logits)


@pytest.mark.parametrize("architecture", ["vit", "uvit"])
def test_dropout_acts_on_attention_weights_too(architecture):
    model = tiny_model(architecture, dropout=0.5).train()
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.eval()
    ids, labels = torch.full((1, 6), 20), torch.tensor([1])
    assert not torch.equal(model(ids, labels).logits, model(ids, labels).logits)


def test_published_uvit_trains_without_dropout():
    assert MASKGIT_VARIANTS["s128"]["dropout"] == 0.0
    model = tiny_model("uvit", dropout=0.0).train()
    ids, labels = torch.full((1, 6), 20), torch.tensor([1])
    assert torch.equal(model(ids, labels).logits, model(ids, labels).logits)


def test_saved_model_computes_the_same(model, inputs, tmp_path):
    model.save_pretrained(tmp_path)
    reloaded = MaskGitTransformer1DModel.from_pretrained(tmp_path)
    assert torch.equal(reloaded(**inputs).logits, model(**inputs).logits)
    assert dict(reloaded.config).items() >= TINY.items()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_stays_close(model, inputs, dtype):
    expected = model(**inputs).logits
    logits = model.to(dtype)(**inputs).logits
    assert logits.dtype == dtype
    assert (logits.float() - expected).norm() / expected.norm() < 0.05


def test_autocast_trains(model, inputs):
    model.train()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        logits = model(**inputs).logits
    logits.float().square().mean().backward()
    gradients = {name: parameter.grad for name, parameter in model.named_parameters()}
    assert all(gradient is not None and gradient.isfinite().all() for gradient in gradients.values())


@pytest.mark.parametrize("architecture", ["vit", "uvit"])
def test_gradient_checkpointing_changes_no_gradient(architecture):
    model = tiny_model(architecture, dropout=0.0).train()
    ids, labels = torch.full((2, 6), 20), torch.tensor([0, 1])

    def gradients():
        model.zero_grad()
        model(ids, labels).logits.square().mean().backward()
        return [parameter.grad.clone() for parameter in model.parameters()]

    expected = gradients()
    calls = []
    model.enable_gradient_checkpointing(lambda layer, *args: calls.append(layer) or layer(*args))
    gradients()
    assert len(calls) == (4 if architecture == "vit" else 5)
    model.enable_gradient_checkpointing()
    for gradient, reference in zip(gradients(), expected, strict=True):
        torch.testing.assert_close(gradient, reference)


def test_compiles_without_a_graph_break(model, inputs):
    compiled = torch.compile(model, backend="eager", fullgraph=True)
    torch.testing.assert_close(compiled(**inputs).logits, model(**inputs).logits)


@pytest.mark.parametrize("way", WAYS_TO_OFFLOAD)
def test_weights_can_be_offloaded(model, inputs, way, tmp_path):
    expected = model(**inputs).logits
    model.save_pretrained(tmp_path)
    assert torch.equal(offload(model, way, tmp_path)(**inputs).logits, expected)


def test_matrices_may_be_stored_in_eight_bits(model, inputs):
    eight_bit = copy.deepcopy(model)
    with torch.no_grad():
        for name, layer in store_in_eight_bits(eight_bit).items():
            model.get_submodule(name).weight.copy_(layer.weight * layer.scale)
    assert torch.equal(eight_bit(**inputs).logits, model(**inputs).logits)


def test_runs_on_the_meta_device(model, inputs):
    logits = model.to("meta")(**{name: value.to("meta") for name, value in inputs.items()}).logits
    assert logits.is_meta and logits.shape == (2, 6, 20)


@torch.no_grad()
def test_attention_of_the_uvit_is_float32_under_autocast(inputs):
    model, seen = tiny_model("uvit"), {}
    attention = model.backbone.middle_block.attention
    attention.qkv_proj.register_forward_hook(lambda module, args, output: seen.update(qkv=output))
    attention.out_proj.register_forward_pre_hook(lambda module, args: seen.update(context=args[0]))
    tokens = torch.randn(2, 7, 32, generator=torch.Generator().manual_seed(0))
    with torch.autocast("cpu", torch.bfloat16):
        attention(tokens)
    query, key, value = seen["qkv"].unflatten(2, (3, 4, 8)).permute(2, 0, 3, 1, 4).float()
    context = (query @ key.mT / 8**0.5).softmax(-1) @ value
    assert seen["qkv"].dtype == seen["context"].dtype == torch.bfloat16
    # One rounding, of the result: products in bfloat16 are ten times further off.
    torch.testing.assert_close(seen["context"], context.transpose(1, 2).flatten(2).bfloat16(), rtol=2**-8, atol=1e-6)


def test_device_maps_do_not_split_layers(model):
    size = sum(parameter.numel() * 4 for parameter in model.parameters())
    device_map = accelerate.infer_auto_device_map(
        model, {"cpu": size // 2, "disk": size}, no_split_module_classes=model._no_split_modules
    )
    assert set(device_map.values()) == {"cpu", "disk"}
    layers = ("layers.", "_blocks.", "middle_block.")
    inside_layers = [name for name in device_map if any(layer in name + "." for layer in layers)]
    assert inside_layers and all("attention" not in name and "mlp" not in name for name in inside_layers)


@pytest.mark.parametrize("num_tokens", [5, 7])
def test_wrong_number_of_tokens_is_refused(model, num_tokens):
    with pytest.raises(ValueError, match=rf"\(1, {num_tokens}\).*\(batch, 6\)"):
        model(torch.zeros(1, num_tokens, dtype=torch.long), torch.tensor([0]))


def test_codes_without_a_batch_are_refused(model):
    with pytest.raises(ValueError, match=r"shape \(6,\)"):
        model(torch.zeros(6, dtype=torch.long), torch.tensor([0]))


@pytest.mark.parametrize("code", [-1, 21])
def test_unknown_codes_are_refused(model, code):
    with pytest.raises(ValueError, match=f"input_ids has {code}.*0 to 20; 20 is the mask token"):
        model(torch.tensor([[0, 1, 2, 3, 20, code]]), torch.tensor([0]))


@pytest.mark.parametrize("kind", [torch.Tensor.float, torch.Tensor.bool])
def test_codes_and_classes_are_integers(model, inputs, kind):
    for name in inputs:
        with pytest.raises(ValueError, match=f"{name} has dtype {kind(torch.ones(1)).dtype}"):
            model(**(inputs | {name: kind(inputs[name])}))


@pytest.mark.parametrize("label", [-1, 4])
def test_unknown_classes_are_refused(model, label):
    with pytest.raises(ValueError, match=f"class_labels has {label}.*0 to 3; 3 is no class"):
        model(torch.zeros(1, 6, dtype=torch.long), torch.tensor([label]))


@pytest.mark.parametrize("labels", [torch.tensor([0]), torch.tensor([[0], [1]]), torch.tensor(0)])
def test_one_label_an_image_is_wanted(model, labels):
    with pytest.raises(ValueError, match="one label for each image"):
        model(torch.zeros(2, 6, dtype=torch.long), labels)


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("hidden_size", "64", "hidden_size is '64', but an integer is expected"),
        ("num_classes", 2.5, "num_classes is 2.5, but an integer"),
        ("num_latent_tokens", True, "num_latent_tokens is True, but an integer"),
        ("num_attention_heads", 0, "num_attention_heads is 0. Use at least 1"),
        ("codebook_size", -3, "codebook_size is -3"),
        ("codebook_size", 10**12, "codebook_size is 1000000000000. Use at most 1048576"),
        ("num_hidden_layers", 10**9, "num_hidden_layers is 1000000000. Use at most 1024"),
        ("dropout", "no", "dropout is 'no', but a number"),
        ("dropout", float("nan"), "dropout is nan, but a finite number"),
        ("architecture", ["vit"], "architecture is \\['vit'\\]"),
    ],
)
def test_impossible_fields_are_refused(field, value, message):
    with pytest.raises(ValueError, match=message):
        MaskGitTransformer1DModel(**{**TINY, field: value})


def test_sizes_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match="'unet'.*'vit', 'uvit'"):
        MaskGitTransformer1DModel(architecture="unet")
    with pytest.raises(ValueError, match="hidden_size is 30.*4 attention heads"):
        MaskGitTransformer1DModel(**{**TINY, "hidden_size": 30})
    with pytest.raises(ValueError, match="num_hidden_layers is 3.*even"):
        MaskGitTransformer1DModel(architecture="uvit", **{**TINY, "num_hidden_layers": 3})
    with pytest.raises(ValueError, match="'xl'.*l32"):
        MaskGitTransformer1DModel.from_variant("xl")


def test_weights_can_be_stored_in_eight_bits(model, inputs):
    expected = model(**inputs).logits
    model.enable_layerwise_casting(storage_dtype=torch.float8_e4m3fn, compute_dtype=torch.float32)
    stored = {parameter.dtype for name, parameter in model.named_parameters() if "_proj.weight" in name}
    assert stored == {torch.float8_e4m3fn} and model.token_embedding.weight.dtype == torch.float32
    logits = model(**inputs).logits
    assert (logits - expected).norm() / expected.norm() < 0.2


def test_layers_alone_can_be_compiled(model, inputs):
    expected = model(**inputs).logits
    model.compile_repeated_blocks(backend="eager", fullgraph=True)
    torch.testing.assert_close(model(**inputs).logits, expected)
