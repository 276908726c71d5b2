"""The pipeline: generation, editing, parts, dtypes and devices. Tokens: `test_pipeline_tokens.py`."""

import numpy as np
import pytest
import torch
from accelerate.hooks import ModelHook, add_hook_to_module
from diffusers.callbacks import PipelineCallback
from torch._dynamo.testing import CompileCounter

from tiny_pipeline import (
    ID2LABEL,
    generators,
    random_codes,
    random_images,
    tiny_image_processor,
    tiny_pipeline,
    tiny_tokenizer,
)
from titok_hf import scheduling_maskgit
from titok_hf.pipeline_sampling import GuidedLogits
from titok_hf.pipeline_titok import TiTokPipeline
from titok_hf.scheduling_maskgit import MaskGitScheduler


@pytest.fixture
def pipe():
    return tiny_pipeline()


@pytest.fixture
def kl_pipe():
    return TiTokPipeline(tiny_tokenizer(quantizer="kl"), tiny_image_processor())


def codes_of(pipe, labels, *seeds, **arguments):
    return pipe(labels, generator=generators(*seeds), output_type="latent", **arguments).codes


def forward_batches(pipe):
    """The batch sizes of all forward passes of the generator from now on."""
    sizes = []
    pipe.transformer.register_forward_pre_hook(lambda module, inputs: sizes.append(len(inputs[0])))
    return sizes


def test_labels_by_number_and_name_give_pictures_in_order(pipe):
    output = pipe(["tabby", 1], num_images_per_class=2, generator=generators(0, 1, 2, 3))
    assert [image.size for image in output.images] == [(32, 32)] * 4 and output.codes.shape == (4, 8)
    assert torch.equal(output.codes[:2], codes_of(pipe, [0, 0], 0, 1))
    assert torch.equal(output.codes[2:], codes_of(pipe, [1, 1], 2, 3))
    assert not torch.equal(output.codes[2:], codes_of(pipe, [0, 0], 2, 3))  # the class matters


def test_codes_are_complete_and_pictures_are_their_decoding(pipe):
    output = pipe([0, 1, 2], generator=torch.Generator().manual_seed(0), output_type="pt")
    assert output.codes.dtype == torch.int64 and 0 <= output.codes.min() and output.codes.max() < 16
    pixel_values = pipe.tokenizer.decode(codes=output.codes).pixel_values
    assert torch.equal(output.images, pixel_values.clamp(0, 1))


def test_a_tokenizer_whose_configuration_asks_for_tuples_works_the_same(pipe):
    expected = pipe(1, generator=torch.Generator().manual_seed(0), output_type="pt")
    codes = pipe.encode(expected.images)
    pipe.tokenizer.config.return_dict = False
    output = pipe(1, generator=torch.Generator().manual_seed(0), output_type="pt")
    assert torch.equal(output.images, expected.images)
    assert torch.equal(pipe.encode(output.images), codes)


def test_output_types_agree(pipe):
    outputs = {kind: pipe(1, generator=generators(5), output_type=kind).images for kind in ("pil", "np", "pt")}
    assert outputs["np"].shape == (1, 32, 32, 3) and outputs["pt"].shape == (1, 3, 32, 32)
    assert np.array_equal(outputs["np"], outputs["pt"].permute(0, 2, 3, 1).numpy())
    assert np.array_equal(np.asarray(outputs["pil"][0]), np.rint(outputs["np"][0] * 255).astype(np.uint8))
    images, codes = pipe(1, generator=generators(5), output_type="latent", return_dict=False)
    assert torch.equal(images, codes) and torch.equal(images, codes_of(pipe, 1, 5))


def test_an_images_own_generator_makes_it_independent_of_its_batch(pipe):
    together = codes_of(pipe, [0, 1, 2, 0], 3, 4, 5, 6)
    alone = torch.cat([codes_of(pipe, label, seed) for label, seed in zip([0, 1, 2, 0], [3, 4, 5, 6], strict=True)])
    assert torch.equal(together, alone)
    assert torch.equal(together.flip(0), codes_of(pipe, [0, 2, 1, 0], 6, 5, 4, 3))
    assert len(together.unique(dim=0)) == 4


def test_settings_of_a_call_are_those_of_a_scheduler_saved_with_them(pipe):
    settings = {"num_inference_steps": 3, "guidance_scale": 7.0, "temperature": 0.5}
    called = codes_of(pipe, [0, 1, 2], 0, 1, 2, **settings)
    assert (pipe.guidance_scale, pipe.num_timesteps) == (7.0, 3)
    assert torch.equal(called, codes_of(tiny_pipeline(**settings), [0, 1, 2], 0, 1, 2))
    plain = codes_of(pipe, [0, 1, 2], 0, 1, 2)
    assert torch.equal(plain, codes_of(tiny_pipeline(), [0, 1, 2], 0, 1, 2))  # nothing of the call stays behind
    assert not torch.equal(called, plain)


def test_guidance_is_one_batched_pass_and_none_where_it_is_useless(pipe):
    sizes = forward_batches(pipe)
    codes_of(pipe, [0, 1], 0, 1)
    assert sizes == [2, 4, 4, 4]  # the linear schedule starts at 1, which is no guidance
    for scale in (1.0, 0.5, 0, -1.5):
        sizes.clear()
        codes_of(pipe, [0, 1], 0, 1, guidance_scale=scale)
        assert sizes == [2, 2, 2, 2]


def test_guidance_pushes_away_from_the_unconditional_logits(pipe):
    codes, labels = torch.full((2, 8), 16), torch.tensor([0, 2])
    scheduler = MaskGitScheduler(mask_token_id=16, guidance_scale=2.0, guidance_schedule="constant")
    conditional = pipe.transformer(codes, class_labels=labels).logits
    unconditional = pipe.transformer(codes, class_labels=torch.tensor([3, 3])).logits
    guided = GuidedLogits(pipe.transformer, scheduler, labels)(codes, scheduler.timesteps[0])
    torch.testing.assert_close(guided, unconditional + 2 * (conditional - unconditional))


def test_the_callback_sees_every_step(pipe):
    seen = []

    def callback(pipe, step, timestep, tensors):
        seen.append((step, float(timestep), tensors["codes"].clone(), pipe.decode(tensors["predicted_codes"])))

    names = ["codes", "predicted_codes"]
    output = pipe(0, generator=generators(0), callback_on_step_end=callback, callback_on_step_end_tensor_inputs=names)
    assert [step for step, *_ in seen] == [0, 1, 2, 3]
    assert seen[0][1] == 1.0 and all(earlier[1] > later[1] for earlier, later in zip(seen, seen[1:], strict=False))
    num_masked = [(codes == 16).sum().item() for _, _, codes, _ in seen]
    assert num_masked == sorted(num_masked, reverse=True) and num_masked[0] > 0 and num_masked[-1] == 0
    assert torch.equal(seen[-1][2], output.codes)
    assert np.array_equal(np.asarray(seen[-1][3][0]), np.asarray(output.images[0]))  # the preview of the last step


def test_the_callback_can_change_the_codes(pipe):
    chosen = random_codes(1)
    output = pipe(0, callback_on_step_end=lambda pipe, step, timestep, tensors: {"codes": chosen})
    assert torch.equal(output.codes, chosen)


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"class_labels": True}, "class_labels has True"),
        ({"class_labels": np.array([True])}, "class_labels has True"),
        ({"class_labels": [torch.tensor(True)]}, "class_labels has tensor"),
        ({"class_labels": 0, "num_images_per_class": 1.5}, r"num_images_per_class is 1\.5, but an integer"),
        ({"class_labels": 0, "num_images_per_class": 10**9}, "num_images_per_class is 1000000000. Use at most"),
        ({"class_labels": 0, "num_inference_steps": 10**9}, "num_inference_steps is 1000000000. Use at most 5000"),
        ({"class_labels": 0, "num_inference_steps": 8.0}, r"num_inference_steps is 8\.0, but an integer"),
        ({"class_labels": 0, "num_inference_steps": True}, "num_inference_steps is True"),
        ({"class_labels": 0, "guidance_scale": float("nan")}, "guidance_scale is nan, but a finite"),
        ({"class_labels": 0, "guidance_scale": "3"}, "guidance_scale is '3', but a number"),
        ({"class_labels": 0, "temperature": float("inf")}, "temperature is inf, but a finite"),
        ({"class_labels": 0, "generator": 42}, r"generator is 42.*torch.Generator\(\).manual_seed\(seed\)"),
        ({"class_labels": [0, 1], "generator": [42, 43]}, "generator is 42"),
        ({"class_labels": 0, "generator": []}, "list of 0 for 1 images"),
        ({"class_labels": 0, "generator": [None]}, "Give one for each image"),
        ({"class_labels": 0, "callback_on_step_end_tensor_inputs": "codes"}, "Give a list of names"),
        ({"class_labels": 0, "callback_on_step_end": 3}, "callback_on_step_end is 3, but a function"),
        ({"class_labels": 0, "init_codes": random_codes(1), "strength": float("nan")}, "strength is nan"),
        ({"class_labels": 0, "init_codes": random_codes(1), "strength": True}, "strength is True"),
        ({"class_labels": 0, "init_codes": random_codes(1) > 3, "strength": 0.5}, "dtype torch.bool"),
        ({"class_labels": 0, "init_codes": [[1, 2], [3]], "strength": 0.5}, "init_codes cannot be read as one tensor"),
        ({"class_labels": "tabbi"}, "Nearest names: tabby"),
        ({"class_labels": 3}, "from 0 to 2"),
        ({"class_labels": []}, "class_labels is empty"),
        ({"class_labels": 0, "num_images_per_class": 0}, "num_images_per_class is 0"),
        ({"class_labels": 0, "num_inference_steps": 0}, "num_inference_steps is 0"),
        ({"class_labels": 0, "temperature": -1.0}, r"temperature is -1\.0"),
        ({"class_labels": 0, "output_type": "jpg"}, "output_type is 'jpg'.*pil, np, pt, latent"),
        ({"class_labels": [0, 1], "generator": generators(0)}, "list of 1 for 2 images"),
        ({"class_labels": 0, "callback_on_step_end_tensor_inputs": ["logits"]}, "has logits"),
        ({"class_labels": 0, "strength": 0.5}, "Pass init_codes"),
        ({"class_labels": 0, "init_codes": random_codes(1)}, "exactly one of strength and mask"),
        ({"class_labels": 0, "init_codes": random_codes(1), "strength": 0.0}, r"strength is 0\.0"),
        ({"class_labels": 0, "init_codes": random_codes(1), "strength": 1.5}, r"strength is 1\.5"),
        ({"class_labels": 0, "init_codes": random_codes(1)[:, :4], "strength": 0.5}, r"shape \(1, 4\)"),
        ({"class_labels": 0, "init_codes": random_codes(1).float(), "strength": 0.5}, "dtype torch.float32"),
        ({"class_labels": 0, "init_codes": random_codes(1) + 16, "strength": 0.5}, r"codes lie in \[0, 16\)"),
        ({"class_labels": [0, 1], "init_codes": random_codes(3), "strength": 0.5}, "2 entries and init_codes 3 rows"),
        ({"class_labels": 0, "init_codes": random_codes(1), "mask": torch.ones(1, 8)}, "must be bool"),
        ({"class_labels": 0, "init_codes": random_codes(1), "mask": torch.ones(1, 4).bool()}, r"shape \(1, 4\)"),
    ],
)
def test_arguments_that_do_not_fit_are_refused(pipe, arguments, message):
    with pytest.raises(ValueError, match=message):
        pipe(**arguments)


@pytest.mark.parametrize("label", [np.int64(1), np.uint8(1), torch.tensor(1), np.array([1]), np.str_("cardigan")])
def test_labels_come_from_any_library(pipe, label):
    expected = codes_of(pipe, 2 if isinstance(label, str) else 1, 0)
    assert torch.equal(codes_of(pipe, label, 0), expected)


def test_numbers_of_numpy_are_numbers(pipe):
    settings = {"num_inference_steps": np.int64(3), "guidance_scale": np.float32(2.5), "temperature": np.float64(0.5)}
    plain = {"num_inference_steps": 3, "guidance_scale": 2.5, "temperature": 0.5}
    assert torch.equal(codes_of(pipe, [0, 1], 0, 1, **settings), codes_of(pipe, [0, 1], 0, 1, **plain))


@pytest.mark.parametrize(
    "returned, message",
    [
        ([1], "returned list"),
        ({"codes": [[1] * 8]}, "codes of type list"),
        ({"codes": random_codes(2)}, r"shape \(2, 8\), but they had \(1, 8\)"),
        ({"codes": random_codes(1).float()}, "dtype torch.float32"),
        ({"codes": random_codes(1) > 3}, "dtype torch.bool"),
        ({"codes": random_codes(1) + 17}, r"do not exist.*\[0, 16\); 16 is the mask token"),
        ({"codes": random_codes(1) - 17}, "do not exist"),
        ({"codes": torch.full((1, 8), 16)}, "masked codes after the last step"),
    ],
)
def test_a_callback_that_returns_no_codes_is_refused(pipe, returned, message):
    for output_type in ("pil", "latent"):
        with pytest.raises(ValueError, match=message):
            pipe(0, callback_on_step_end=lambda *arguments: returned, output_type=output_type)
    narrow = {"codes": random_codes(1).to(torch.uint8)}
    assert pipe(0, callback_on_step_end=lambda *arguments: narrow).codes.dtype == torch.int64


def test_an_interrupted_call_ends_with_the_preview_of_its_step(pipe):
    sizes = forward_batches(pipe)
    previews = []

    def stop(pipe, step, timestep, tensors):
        previews.append(tensors["predicted_codes"])
        pipe._interrupt = step == 1

    settings = {"num_inference_steps": 6, "callback_on_step_end_tensor_inputs": ["predicted_codes"]}
    stopped = pipe(0, generator=generators(0), callback_on_step_end=stop, **settings)
    assert len(sizes) == 2 and pipe.interrupt and torch.equal(stopped.codes, previews[-1])
    assert len(stopped.images) == 1
    sizes.clear()
    codes_of(pipe, 0, 0, num_inference_steps=6)
    assert len(sizes) == 6 and not pipe.interrupt  # the next call is not stopped


def test_callback_objects_of_diffusers_say_which_tensors_they_read(pipe):
    class Preview(PipelineCallback):
        tensor_inputs = ["predicted_codes"]

        def callback_fn(self, pipeline, step, timestep, tensors):
            seen.append(sorted(tensors))
            return {}

    seen = []
    codes_of(pipe, 0, 0, callback_on_step_end=Preview(cutoff_step_ratio=1.0, cutoff_step_index=None))
    assert seen == [["predicted_codes"]] * 4


@pytest.mark.parametrize("on_an_accelerator", [False, True])
@pytest.mark.parametrize("dtype, scale", [(torch.float16, 1e6), (torch.float32, float("nan"))])
def test_logits_that_are_not_finite_make_no_picture(pipe, monkeypatch, on_an_accelerator, dtype, scale):
    if on_an_accelerator:  # there a step may not look
        monkeypatch.setattr(scheduling_maskgit, "can_look_at", lambda tensor: False)
    with torch.no_grad():
        pipe.transformer.lm_head.weight.mul_(scale)
    pipe.to(dtype)
    for output_type in ("pil", "latent"):
        with pytest.raises(ValueError, match="logits of the transformer, guided, are not all finite"):
            pipe([0, 1], output_type=output_type)


def test_values_are_looked_at_after_the_last_step_alone(pipe):
    steps = []

    def callback(pipe, step, timestep, tensors):
        steps.append(step)
        return {"codes": tensors["codes"].clone()}

    pipe.to("meta")  # tensors without values: looking at one raises
    with pytest.raises((NotImplementedError, RuntimeError), match="meta"):
        pipe([0, 1], generator=generators(0, 1), callback_on_step_end=callback)
    assert steps == [0, 1, 2, 3]


@pytest.mark.parametrize("strength, num_changed", [(0.01, 1), (0.25, 2), (0.5, 4), (1.0, 8)])
def test_strength_is_the_share_of_codes_that_is_made_anew(pipe, strength, num_changed):
    init_codes = random_codes(3)
    masked_at_first = []

    def callback(pipe, step, timestep, tensors):
        masked_at_first.append(tensors["codes"] != init_codes)

    output = codes_of(
        pipe, [0, 1, 2], 0, 1, 2, init_codes=init_codes, strength=strength, callback_on_step_end=callback
    )
    touched = torch.stack([*masked_at_first, output != init_codes]).any(dim=0)
    assert touched.sum(dim=1).max() <= num_changed
    assert (output[~touched] == init_codes[~touched]).all() and output.max() < 16


def test_the_schedule_runs_over_the_masked_codes_alone(pipe):
    num_masked = []

    def callback(pipe, step, timestep, tensors):
        num_masked.append((tensors["codes"] == 16).sum(dim=1).tolist())

    mask = torch.tensor([[True] * 4 + [False] * 4, [True] * 8])
    codes_of(
        pipe,
        [0, 1],
        *(0, 1),
        init_codes=random_codes(2),
        mask=mask,
        num_inference_steps=2,
        temperature=0.5,
        callback_on_step_end=callback,
    )
    # Half-way, arccos(1/2) / (pi/2) = 2/3 of the masked codes are still unknown, rounded down: of 4 and of 8.
    assert num_masked == [[2, 5], [0, 0]]


def test_unmasked_codes_never_change(pipe):
    init_codes, mask = random_codes(4), torch.rand(4, 8) < 0.5
    mask[3] = False  # an image that is kept as it is

    def callback(pipe, step, timestep, tensors):
        assert torch.equal(tensors["codes"][~mask], init_codes[~mask])

    output = codes_of(pipe, [0, 1, 2, 0], 0, 1, 2, 3, init_codes=init_codes, mask=mask, callback_on_step_end=callback)
    assert torch.equal(output[~mask], init_codes[~mask]) and output.max() < 16
    assert not torch.equal(output[mask], init_codes[mask])


def test_an_edit_is_independent_of_its_batch(pipe):
    init_codes = random_codes(3)
    together = codes_of(pipe, [2, 1, 0], 0, 1, 2, init_codes=init_codes, strength=0.6)
    for row, label in enumerate([2, 1, 0]):
        alone = codes_of(pipe, label, row, init_codes=init_codes[row : row + 1], strength=0.6)
        assert torch.equal(alone[0], together[row])


def test_one_image_serves_many_classes_and_one_class_many_images(pipe):
    mask = torch.tensor([[True, False] * 4])
    one = random_codes(1)
    variations = codes_of(pipe, [0, 1], 0, 1, 2, 3, init_codes=one, mask=mask, num_images_per_class=2)
    assert variations.shape == (4, 8) and (variations[:, 1::2] == one[:, 1::2]).all()
    many = random_codes(3)
    edited = codes_of(pipe, "tabby", 0, 1, 2, init_codes=many.numpy(), mask=mask.expand(3, -1))
    assert torch.equal(edited[:, 1::2], many[:, 1::2])


def test_masking_everything_is_generation_from_nothing(pipe):
    everything = torch.ones(2, 8, dtype=torch.bool)
    edited = codes_of(pipe, [0, 1], 0, 1, init_codes=random_codes(2), mask=everything)
    assert torch.equal(edited, codes_of(pipe, [0, 1], 0, 1))


def test_a_tokenizer_alone_is_a_pipeline(tmp_path):
    pipe = TiTokPipeline(tiny_tokenizer(), tiny_image_processor())
    pipe.save_pretrained(tmp_path / "tokenizer")
    loaded = TiTokPipeline.from_pretrained(tmp_path / "tokenizer")
    assert loaded.transformer is None and loaded.scheduler is None
    assert torch.equal(loaded.encode(random_images(2)), pipe.encode(random_images(2)))
    assert len(loaded.reconstruct(random_images(2))) == 2
    with pytest.raises(ValueError, match="a tokenizer only"):
        loaded(0)


def test_a_stage_1_tokenizer_cannot_show_pixels():
    pipe = TiTokPipeline(tiny_tokenizer(decoder_head="proxy_codes", proxy_codebook_size=32), tiny_image_processor())
    with pytest.raises(ValueError, match="stage-1 tokenizer"):
        pipe.decode(random_codes(1))


@pytest.mark.parametrize(
    "parts, message",
    [
        ({"scheduler": None}, "transformer and scheduler need one another"),
        ({"scheduler": MaskGitScheduler(mask_token_id=15)}, "mask_token_id is 15 in the scheduler and 16"),
        ({"tokenizer": tiny_tokenizer(num_latent_tokens=4)}, "num_latent_tokens is 4 in the tokenizer and 8"),
        ({"tokenizer": tiny_tokenizer(codebook_size=8)}, "codebook_size is 8 in the tokenizer and 16"),
        ({"tokenizer": tiny_tokenizer(quantizer="kl")}, "KL model and has no codes to generate"),
    ],
)
def test_parts_that_do_not_fit_one_another_are_refused(pipe, parts, message):
    with pytest.raises(ValueError, match=message):
        TiTokPipeline(**(pipe.components | parts))


def test_from_pipe_shares_the_weights(pipe):
    other = TiTokPipeline.from_pipe(pipe, scheduler=MaskGitScheduler(mask_token_id=16, num_inference_steps=2))
    assert other.transformer is pipe.transformer and other.tokenizer is pipe.tokenizer
    assert other.id2label == ID2LABEL and other.scheduler.config.num_inference_steps == 2
    same = TiTokPipeline.from_pipe(pipe)
    assert torch.equal(codes_of(same, [0, 1], 0, 1), codes_of(pipe, [0, 1], 0, 1))


def test_half_precision_gives_float32_pictures(pipe, tmp_path):
    pipe.save_pretrained(tmp_path)
    half = TiTokPipeline.from_pretrained(tmp_path, dtype=torch.bfloat16)
    assert half.tokenizer.dtype == half.transformer.dtype == torch.bfloat16
    images = half(0, output_type="pt").images
    assert images.dtype == torch.float32 and images.isfinite().all()
    assert half.encode(random_images(2)).shape == (2, 8)
    assert pipe.to(torch.bfloat16).reconstruct(random_images(1), "np").dtype == np.float32


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_all_parts_have_the_saved_dtype_unless_another_is_asked_for(pipe, tmp_path, dtype):
    pipe.to(dtype).save_pretrained(tmp_path)
    loaded = TiTokPipeline.from_pretrained(tmp_path)
    assert loaded.tokenizer.dtype == loaded.transformer.dtype == loaded.dtype == dtype
    for name, part in loaded.components.items():
        if isinstance(part, torch.nn.Module):
            assert {parameter.dtype for parameter in part.parameters()} == {dtype}
            assert type(part).from_pretrained(tmp_path, subfolder=name).dtype == dtype
    for name in ("dtype", "torch_dtype"):
        other = TiTokPipeline.from_pretrained(tmp_path, **{name: torch.float32})
        assert other.tokenizer.dtype == other.transformer.dtype == torch.float32


def test_parts_saved_in_different_dtypes_keep_them(pipe, tmp_path):
    pipe.transformer.to(torch.bfloat16)
    pipe.save_pretrained(tmp_path)
    loaded = TiTokPipeline.from_pretrained(tmp_path)
    assert loaded.tokenizer.dtype == torch.float32 and loaded.transformer.dtype == torch.bfloat16


def test_parts_of_different_dtypes_work_together_again_and_again(pipe):
    pipe.transformer.to(torch.bfloat16)
    first, second = (pipe(0, generator=generators(0), output_type="pt") for _ in range(2))
    assert torch.equal(first.images, second.images) and first.images.dtype == torch.float32
    assert pipe.tokenizer.dtype == torch.float32 and pipe.transformer.dtype == torch.bfloat16
    pipe.transformer.float(), pipe.tokenizer.to(torch.bfloat16)
    assert torch.equal(*(pipe.encode(random_images(2)) for _ in range(2)))
    assert pipe(0, generator=generators(0), output_type="pt").images.isfinite().all()


def test_the_tokenizer_is_brought_to_its_device_before_it_is_used(pipe):
    brought = []

    class Hook(ModelHook):
        def pre_forward(self, module, *args, **kwargs):
            brought.append(module)
            return args, kwargs

    add_hook_to_module(pipe.tokenizer, Hook())  # accelerate's own act on `forward`, which the pipeline does not call
    codes = pipe.encode(random_images(1))
    assert brought == [pipe.tokenizer]
    pipe.decode(codes)
    assert brought == [pipe.tokenizer] * 2


def test_offloaded_models_come_and_go(pipe):
    expected = codes_of(pipe, [0, 1], 0, 1)
    reconstructions = pipe.reconstruct(random_images(2), "pt")
    pipe.enable_model_cpu_offload(device="cpu")  # the hooks are those of an accelerator; only the moves are free

    def preview(pipe, step, timestep, tensors):
        pipe.decode(tensors["codes"].clamp(max=15))

    assert torch.equal(codes_of(pipe, [0, 1], 0, 1, callback_on_step_end=preview), expected)
    assert torch.equal(pipe.reconstruct(random_images(2), "pt"), reconstructions)
    assert pipe.tokenizer._hf_hook is not None and pipe.transformer._hf_hook is not None


def test_a_compiled_generator_gives_the_same_codes_and_compiles_once_for_each_batch_size(pipe):
    expected = codes_of(pipe, [0, 1], 5, 6, num_inference_steps=6)
    counter = CompileCounter()
    pipe.transformer.compile(backend=counter, fullgraph=True, dynamic=False)
    assert torch.equal(codes_of(pipe, [0, 1], 5, 6, num_inference_steps=6), expected)
    assert counter.frame_count == 2  # the first step has no guidance, all others have it in one batch
    assert torch.equal(codes_of(pipe, [0, 1], 5, 6, num_inference_steps=6), expected)
    codes_of(pipe, [2, 1], 7, 8, num_inference_steps=9)
    assert counter.frame_count == 2
