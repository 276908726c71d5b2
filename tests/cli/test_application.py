"""`titok-hf` as a user meets it: commands, files, errors."""

import json
import os
import signal
import subprocess
import sys
import time
import typing

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors import safe_open
from safetensors.torch import save_file

from commands import run, succeed
from tiny_pipeline import tiny_image_processor, tiny_pipeline, tiny_tokenizer
from titok_hf import __version__
from titok_hf.checkpoints.layout import INDEX_NAME, VERSION_KEY
from titok_hf.cli import app
from titok_hf.cli.application import COMMANDS
from titok_hf.cli.sampler_options import SamplerName
from titok_hf.pipeline_titok import TiTokPipeline
from titok_hf.sampler_settings import SETTINGS_OF
from titok_hf.samplers import SAMPLERS

MAIN = [sys.executable, "-c", "from titok_hf.cli import main; main()"]


@pytest.fixture(scope="session")
def model(tmp_path_factory):
    """The folder of a tiny pipeline."""
    folder = tmp_path_factory.mktemp("models") / "tiny"
    tiny_pipeline().save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def other_model(tmp_path_factory):
    """Another one of the same sizes, with another codebook."""
    folder = tmp_path_factory.mktemp("models") / "other"
    tiny_pipeline(seed=1).save_pretrained(folder)
    return folder


@pytest.fixture
def photos(tmp_path):
    """Three picture files of different sizes; two have the same name."""
    paths = [tmp_path / "a" / "cat.png", tmp_path / "b" / "cat.png", tmp_path / "dog [b].jpg"]
    for index, path in enumerate(paths):
        path.parent.mkdir(exist_ok=True)
        values = np.random.default_rng(index).integers(0, 256, (40 + index, 60, 3), dtype=np.uint8)
        Image.fromarray(values).save(path)
    return paths


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def pixels(path):
    return np.asarray(Image.open(path))


def test_generate_writes_a_file_a_picture_and_a_sheet(model, tmp_path):
    result = succeed("generate", "tabby", "2", "-n", 2, "-o", tmp_path / "out", "-m", model)
    assert names(tmp_path / "out") == [
        "000-tabby-000.png",
        "000-tabby-001.png",
        "002-cardigan-000.png",
        "002-cardigan-001.png",
        "contact-sheet-generated-tabby-cardigan.png",
    ]
    assert pixels(tmp_path / "out" / "000-tabby-000.png").shape == (32, 32, 3)
    assert pixels(tmp_path / "out" / "contact-sheet-generated-tabby-cardigan.png").shape[0] == 4 + 2 * (128 + 4)
    assert "4 images of 2 classes" in result.stdout


def test_a_picture_depends_on_seed_class_and_number_alone(model, tmp_path):
    settings = ("-m", model, "--temperature", 3)
    succeed("generate", "all", "-n", 3, "-o", tmp_path / "all", *settings)
    succeed("generate", "cardigan", "cardigan", "-n", 2, "--batch-size", 1, "-o", tmp_path / "one", *settings)
    succeed("generate", "cardigan", "-n", 2, "--seed", 1, "-o", tmp_path / "other", *settings)
    assert len(names(tmp_path / "all")) == 10 and len(names(tmp_path / "one")) == 3
    for name in ("002-cardigan-000.png", "002-cardigan-001.png"):
        assert np.array_equal(pixels(tmp_path / "all" / name), pixels(tmp_path / "one" / name))
        assert not np.array_equal(pixels(tmp_path / "all" / name), pixels(tmp_path / "other" / name))
    assert len({pixels(path).tobytes() for path in (tmp_path / "all").glob("0*.png")}) == 9


def test_settings_reach_the_sampler(model, tmp_path):
    succeed("generate", "all", "-n", 4, "-o", tmp_path / "plain", "-m", model)
    for option, value in (("--steps", 1), ("--guidance-scale", 50), ("--temperature", 0)):
        succeed("generate", "all", "-n", 4, "-o", tmp_path / option, "-m", model, option, value)
        assert any(
            not np.array_equal(pixels(path), pixels(tmp_path / option / path.name))
            for path in (tmp_path / "plain").glob("0*.png")
        ), option


def test_the_sampler_and_its_settings_can_be_replaced(model, tmp_path):
    options = {
        "plain": (),
        "remdm": ("--sampler", "remdm"),
        "rescale": ("--sampler", "remdm", "--set", "remask=rescale", "--set", "eta=1"),
        "order": ("--sampler", "ordered", "--set", "token_order=[7,6,5,4,3,2,1,0]"),
        "auto": ("--guiding-model", model, "--set", "guidance_schedule=constant"),
        "unguided": ("--guidance-scale", 1),
    }
    for name, given in options.items():
        succeed("generate", "all", "-n", 4, "-o", tmp_path / name, "-m", model, *given)
    made = {name: [pixels(path).tobytes() for path in sorted((tmp_path / name).glob("0*.png"))] for name in options}
    assert made["auto"] == made["unguided"]  # a generator that guides itself changes nothing
    assert len(set(map(tuple, made.values()))) == len(options) - 1


def test_samplers_on_the_command_line_are_those_of_the_library():
    assert list(typing.get_args(SamplerName)) == list(SAMPLERS) == list(SETTINGS_OF)


def test_settings_of_another_sampler_are_refused(model, tmp_path):
    start = ("generate", "0", "-o", tmp_path / "out", "-m", model)
    fail(1, "--set eta is for the sampler remdm, and the sampler is confidence", *start, "--set", "eta=0.1")
    fail(1, "--set speed=1 names no setting", *start, "--set", "speed=1")
    fail(1, "--set eta names no setting", *start, "--set", "eta")
    fail(1, "eta is 7.0. Use at least 0", *start, "--sampler", "remdm", "--set", "eta=7")
    fail(1, "temperature is 2.0, but the sampler 'ordered'", *start, "--sampler", "ordered", "--temperature", 2)
    fail(1, "needs a weaker generator. Name one with --guiding-model", *start, "--set", "guidance=autoguidance")
    fail(1, "has neither a pipeline nor a generator", *start, "--guiding-model", tmp_path)
    fail(2, "--sampler", *start, "--sampler", "best")
    assert not list(tmp_path.glob("out/*.png"))


def test_reconstruct_writes_files_a_sheet_and_what_was_lost(model, photos, tmp_path):
    result = succeed("reconstruct", *photos, "-o", tmp_path / "out", "-m", model, "--batch-size", 2)
    expected = TiTokPipeline.from_pretrained(model).reconstruct(photos)
    for name, image in zip(["cat", "cat-2", "dog [b]"], expected, strict=True):
        assert np.array_equal(pixels(tmp_path / "out" / f"{name}-reconstructed.png"), np.asarray(image))
    assert len(names(tmp_path / "out")) == 4
    sheet = pixels(tmp_path / "out" / "contact-sheet-reconstructed-cat-cat-2-dog-b.png")
    assert sheet.shape[0] == 4 + 2 * (128 + 4)
    assert np.array_equal(sheet[136:264, -132:-4][::4, ::4], np.asarray(expected[2]))  # last column, lower row
    assert "[b]" in result.stdout  # a name is no markup
    assert "PSNR" in result.stdout and result.stdout.count("dB") == 4  # one a picture, and the mean


def test_encode_then_decode_is_reconstruct(model, photos, tmp_path):
    codes = tmp_path / "codes.safetensors"
    result = succeed("encode", *photos, "-o", codes, "-m", model, "--batch-size", 2)
    assert "16 bytes each" in result.stdout  # 8 codes of two bytes
    with safe_open(codes, framework="pt") as file:
        assert file.get_tensor("codes").dtype == torch.uint16
        assert torch.equal(file.get_tensor("codes").long(), TiTokPipeline.from_pretrained(model).encode(photos))
        assert json.loads(file.metadata()["names"]) == [str(path) for path in photos]
        assert file.metadata()["model"] == "tiny"  # a path means nothing elsewhere
    succeed("decode", codes, "-o", tmp_path / "decoded", "-m", model)
    succeed("reconstruct", *photos, "-o", tmp_path / "reconstructed", "-m", model)
    for name in ("cat", "cat-2", "dog [b]"):
        decoded = pixels(tmp_path / "decoded" / f"{name}-decoded.png")
        assert np.array_equal(decoded, pixels(tmp_path / "reconstructed" / f"{name}-reconstructed.png"))


def test_a_kl_tokenizer_encodes_to_latents_and_decodes_them(photos, tmp_path):
    TiTokPipeline(tiny_tokenizer(quantizer="kl"), tiny_image_processor()).save_pretrained(tmp_path / "kl")
    succeed("encode", *photos, "-o", tmp_path / "latents.safetensors", "-m", tmp_path / "kl")
    succeed("decode", tmp_path / "latents.safetensors", "-o", tmp_path / "out", "-m", tmp_path / "kl")
    assert len(names(tmp_path / "out")) == 4
    result = run("generate", "0", "-o", tmp_path / "new", "-m", tmp_path / "kl")
    assert result.exit_code == 1 and "KL model" in result.stderr and not (tmp_path / "new").exists()


def test_info_shows_sizes_classes_and_sampler_settings(model):
    shown = succeed("info", model).stdout
    for expected in ("num_latent_tokens", "codebook_size", "temperature", "guidance_schedule", "tabby, Cardigan"):
        assert expected in shown
    described = json.loads(succeed("info", model, "--json").stdout)
    pipe = TiTokPipeline.from_pretrained(model)
    assert described["weights"]["transformer"]["num_parameters"] == pipe.transformer.num_parameters()
    assert described["weights"]["tokenizer"]["num_parameters"] == pipe.tokenizer.num_parameters()
    assert described["tokenizer"]["num_latent_tokens"] == 8 and described["scheduler"]["temperature"] == 2.0
    assert described["classes"]["2"] == "cardigan" and described["saved_by"] == __version__


def test_every_command_answers_one_json_object_where_asked(model, photos, tmp_path):
    def answer(*arguments):
        return json.loads(succeed(*arguments, "-m", model, "--json").stdout)

    made = answer("generate", "tabby", "2", "-n", 1, "-o", tmp_path / "new")
    assert [picture["label"] for picture in made["images"]] == [0, 2] and made["seed"] == 0
    assert all(os.path.isfile(picture["file"]) for picture in made["images"])
    again = answer("reconstruct", *photos, "-o", tmp_path / "again")
    assert [picture["original"] for picture in again["images"]] == [str(path) for path in photos]
    assert again["mean_psnr"] == pytest.approx(np.mean([picture["psnr"] for picture in again["images"]]))
    encoded = answer("encode", *photos, "-o", tmp_path / "codes.safetensors")
    assert encoded["num_images"] == 3 and encoded["bytes_per_image"] == 16
    decoded = answer("decode", encoded["file"], "-o", tmp_path / "decoded")
    assert len(decoded["images"]) == 3 and os.path.isfile(decoded["contact_sheet"])


def commands():
    """All commands, those of groups too, as typer builds them."""
    from typer.main import get_command

    groups = [get_command(app)]
    for group in groups:  # grows
        for command in group.commands.values():
            if hasattr(command, "commands"):
                groups.append(command)
            else:
                yield command


def test_every_command_has_the_option_json():
    found = list(commands())
    assert [each.name for each in found if not any("--json" in option.opts for option in each.params)] == []
    assert len(found) > 20


def test_one_thing_has_one_name():
    """Earlier names are accepted, but are not the first ones of their options."""
    first = {option.opts[0] for each in commands() for option in each.params if not getattr(option, "hidden", False)}
    assert first.isdisjoint({"--push", "--form"}) and {"--push-to-hub", "--format", "--dtype"} <= first
    accepted = {name for each in commands() for option in each.params for name in option.opts}
    assert {"--push", "--form"} <= accepted


def test_the_shell_completes_commands():
    environment = {"_TITOK_HF_COMPLETE": "complete_bash", "COMP_WORDS": "titok-hf pu", "COMP_CWORD": "1"}
    result = subprocess.run(MAIN, env=os.environ | environment, capture_output=True, text=True, timeout=60)
    assert result.stdout.split() == ["push", "pull"]


def test_info_shows_the_numbers_on_the_card():
    results = json.loads(succeed("info", "--json").stdout)["results"]
    assert {"metric": "psnr", "dataset": "Fashion-MNIST", "split": "test"}.items() <= results[0].items()
    assert str(results[0]["value"]) in succeed("info").stdout


def test_info_names_the_published_architecture(tmp_path):
    from titok_hf.configuration_titok import TiTokConfig

    for name in ("l32", "bl64_vae_c16", "sl256_vq8k"):
        TiTokConfig.from_variant(name).save_pretrained(tmp_path)
        described = json.loads(succeed("info", tmp_path, "--json").stdout)
        assert described["variant"] == name and described["kind"] == "tokenizer"


def test_info_of_a_tokenizer_alone(tmp_path):
    TiTokPipeline(tiny_tokenizer(), tiny_image_processor()).save_pretrained(tmp_path)
    assert json.loads(succeed("info", tmp_path, "--json").stdout)["transformer"] is None
    assert "none" in succeed("info", tmp_path).stdout


def fail(exit_code, message, *arguments):
    """The command must fail with one line that says `message`."""
    result = run(*arguments)
    assert result.exit_code == exit_code, result.output
    assert message in result.stderr
    assert len(result.stderr.strip().splitlines()) == 1 or exit_code == 2
    assert not result.stdout


def test_errors_are_one_line_and_leave_nothing(model, photos, tmp_path):
    out = tmp_path / "out"
    truncated = tmp_path / "truncated.png"
    truncated.write_bytes(photos[0].read_bytes()[:1000])
    text = tmp_path / "text.png"
    text.write_text("no picture")
    fail(1, "Nearest names: tabby", "generate", "tabbi", "-o", out, "-m", model)
    fail(1, "CLASS is 3, but this model has 3 classes", "generate", "3", "-o", out, "-m", model)
    fail(1, "holds no 'nowhere'", "generate", "0", "-o", out, "-m", tmp_path / "nowhere")
    fail(1, "is not a TiTok pipeline", "generate", "0", "-o", out, "-m", tmp_path)
    fail(1, "is not a TiTok pipeline", "info", tmp_path)
    fail(1, "device 'abacus' cannot be used", "generate", "0", "-o", out, "-m", model, "--device", "abacus")
    fail(1, "missing.png does not exist", "reconstruct", photos[0], tmp_path / "missing.png", "-o", out, "-m", model)
    fail(1, "is a folder. Name the images", "encode", tmp_path, "-o", out, "-m", model)
    for damaged in (truncated, text):
        fail(1, f"{damaged.name} is not an image", "reconstruct", photos[0], damaged, "-o", out, "-m", model)
        fail(1, f"{damaged.name} is not an image", "encode", photos[0], damaged, "-o", out, "-m", model)
    fail(2, "Missing argument", "generate")
    fail(2, "Missing argument", "reconstruct")
    fail(2, "--num-images", "generate", "0", "-n", 0)
    assert not out.exists() and not list(tmp_path.rglob(".unfinished*"))


def test_numbers_and_models_that_are_not_finite_make_no_picture(model, photos, tmp_path):
    out, generate = tmp_path / "out", ("generate", "0", "-o", tmp_path / "out", "-m", model)
    for option in ("--temperature", "--guidance-scale"):
        fail(2, option, *generate, option, "nan")
        fail(1, f"{option[2:]} is inf", *generate, option, "inf")
    fail(1, "--steps is 1000000000", *generate, "--steps", 10**9)
    pipe = TiTokPipeline.from_pretrained(model)
    with torch.no_grad():
        pipe.tokenizer.encoder.output_projection.weight.mul_(2e38)  # finite weights that overflow
        pipe.transformer.lm_head.weight.mul_(1e38)
    pipe.save_pretrained(tmp_path / "broken")
    fail(1, "logits of the transformer", "generate", "0", "-o", out, "-m", tmp_path / "broken")
    for command in ("encode", "reconstruct"):
        result = tmp_path / command  # a file of codes, or a folder
        fail(
            1, "tokens of the encoder are not all finite", command, photos[0], "-o", result, "-m", tmp_path / "broken"
        )
    assert not [
        path for place in (out, tmp_path / "encode", tmp_path / "reconstruct") for path in place.glob("**/*.*")
    ]
    assert not (tmp_path / "encode").exists()


@pytest.mark.parametrize("command", ["generate", "reconstruct", "encode", "decode"])
def test_an_output_that_cannot_be_written_is_one_line(command, model, photos, tmp_path):
    in_the_way = tmp_path / "file"
    in_the_way.write_text("mine")
    codes = tmp_path / "codes.safetensors"
    succeed("encode", photos[0], "-o", codes, "-m", model)
    inputs = {"generate": "0", "decode": codes}.get(command, photos[0])
    fail(1, "cannot be written", command, inputs, "-o", in_the_way / "deeper", "-m", model)
    assert in_the_way.read_text() == "mine"


def test_files_that_hold_no_codes_of_this_model_are_refused(model, other_model, photos, tmp_path):
    codes, out = tmp_path / "codes.safetensors", tmp_path / "out"
    succeed("encode", *photos, "-o", codes, "-m", model)
    fail(1, "made by the model 'tiny'", "decode", codes, "-o", out, "-m", other_model)
    fail(1, "does not exist", "decode", tmp_path / "none.safetensors", "-o", out, "-m", model)
    fail(1, "no safetensors file", "decode", photos[0], "-o", out, "-m", model)
    with safe_open(codes, framework="pt") as file:
        tensor, metadata = file.get_tensor("codes"), file.metadata()
    wrong = tmp_path / "wrong.safetensors"
    for tensors, changes, message in (
        ({"codes": tensor}, {"format": "another"}, "is no file of codes"),
        ({"weight": tensor}, {}, "is no file of codes"),
        ({"codes": tensor[:2].clone()}, {}, "3 names for 2 rows"),
        ({"codes": tensor[:, :4].clone()}, {}, "made by the model"),
        ({"codes": tensor.long() + 16}, {}, "lie in [0, 16)"),
    ):
        save_file(tensors, wrong, metadata | changes)
        fail(1, message, "decode", wrong, "-o", out, "-m", model)
    wrong.write_bytes(codes.read_bytes()[:-10])
    fail(1, "is damaged", "decode", wrong, "-o", out, "-m", model)
    assert not out.exists()


def test_a_checkpoint_of_a_newer_version_is_refused(tmp_path):
    (tmp_path / INDEX_NAME).write_text(json.dumps({VERSION_KEY: "999.0"}))
    fail(1, "saved by titok_hf 999.0", "info", tmp_path)
    fail(1, "saved by titok_hf 999.0", "generate", "0", "-m", tmp_path)


def test_help_has_examples_and_needs_no_torch():
    program = (
        "import sys; from typer.testing import CliRunner; from titok_hf.cli import app;"
        "print(CliRunner().invoke(app, ['generate', '--help']).output);"
        "print(sorted({'torch', 'transformers', 'diffusers'} & set(sys.modules)))"
    )
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60)
    assert result.returncode == 0, result.stderr
    assert "Examples" in result.stdout and "titok-hf generate all" in result.stdout
    assert result.stdout.strip().endswith("[]")


def test_help_imports_no_command_and_nothing_heavy():
    """The modules rather than the time, which depends on the machine: what is imported is what takes time."""
    program = (
        "import sys, json; before = set(sys.modules); sys.argv = ['titok-hf', '--help']\n"
        "from titok_hf.cli import main\n"
        "try:\n    main()\nexcept SystemExit:\n"
        "    print(json.dumps(sorted(set(sys.modules) - before)))"
    )
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60)
    assert result.returncode == 0, result.stderr
    imported = json.loads(result.stdout.splitlines()[-1])
    ours = {name.removeprefix("titok_hf").removeprefix(".") for name in imported if name.startswith("titok_hf")}
    assert ours == {
        "",
        "auto",
        "checkpoints",
        "checkpoints.mixin",
        "cli",
        "cli.application",
        "cli.boundary",
        "cli.lazy_group",
    }
    heavy = {"torch", "numpy", "PIL", "transformers", "diffusers", "huggingface_hub", "importlib.resources", "rich"}
    assert heavy.isdisjoint(imported)
    assert all(name in result.stdout for name in COMMANDS)


def test_every_command_of_the_list_exists():
    from typer.main import get_command

    group = get_command(app)
    assert list(group.commands) == list(COMMANDS)
    for name, command in group.commands.items():
        assert command.name == name and command.help


def test_version():
    assert succeed("--version").stdout.strip() == f"titok-hf {__version__}"


@pytest.mark.slow
def test_the_program_stops_cleanly_at_ctrl_c(model, tmp_path):
    out = tmp_path / "out"
    command = ["generate", "0", "-n", "1000000", "--batch-size", "2", "-o", str(out), "-m", str(model)]
    process = subprocess.Popen(
        [*MAIN, *command],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        # A shell that starts the tests in the background makes all its children deaf to Ctrl-C.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    try:
        deadline = time.monotonic() + 240
        while not list(out.glob("0*.png")) and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.05)
        os.kill(process.pid, signal.SIGINT)
        stdout, stderr = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 130 and not stdout
    assert stderr.strip().splitlines()[-1].strip().endswith("interrupted") and "Traceback" not in stderr
    written = list(out.iterdir())
    assert written and all(pixels(path).shape == (32, 32, 3) for path in written)
