"""Model cards: what they say, that their Python runs, and that a person's card is left alone."""

import ast
import json
import re
import shutil
import subprocess
import sys

import pytest
import torch
import yaml
from matplotlib.figure import Figure
from PIL import Image

from tiny_pipeline import tiny_image_processor, tiny_pipeline, tiny_tokenizer
from titok_hf.bundled import bundled_checkpoint, example_images
from titok_hf.checkpoints.cards import (
    CARD_NAME,
    CardContent,
    Measured,
    card_results,
    is_edited,
    is_generated,
    model_card,
    readdressed,
    write_model_card,
)
from titok_hf.checkpoints.curves import _draw_panel, draw_curves
from titok_hf.checkpoints.locations import is_hub_id
from titok_hf.configuration_maskgit_vqgan import MaskGitVQGANConfig
from titok_hf.image_processing_pil_titok import TiTokImageProcessorPil
from titok_hf.modeling_maskgit_vqgan import MaskGitVQGANModel
from titok_hf.pipeline_titok import TiTokPipeline
from titok_hf.scheduling_maskgit import MaskGitScheduler

PSNR = Measured("PSNR", 25.46, "psnr", "user/clothes", "Clothes", "test", "dB", "measure --psnr")
ACCURACY = Measured("accuracy", 0.958, "accuracy", "user/clothes", "Clothes", command="measure --judge")
RFID = Measured("rFID", 2.21, "fid", "ILSVRC/imagenet-1k", "ImageNet-1k", "validation", published_in="2406.07550")


@pytest.fixture
def folder(tmp_path):
    """A saved pipeline, with its card."""
    tiny_pipeline().save_pretrained(tmp_path / "tiny")
    return tmp_path / "tiny"


def head(card):
    return yaml.safe_load(card.split("---\n")[1])


def python_of(card):
    return re.search(r"```python\n(.*?)```", card, re.DOTALL)[1]


def test_a_saved_pipeline_has_a_card_that_describes_it(folder):
    card = (folder / CARD_NAME).read_text()
    data = head(card)
    assert data["library_name"] == "titok-hf" and data["pipeline_tag"] == "unconditional-image-generation"
    assert data["arxiv"] == ["2406.07550", "2501.07730", "2202.04200"]
    assert not {"license", "datasets", "base_model", "model-index"} & set(data)
    parameters = sum(parameter.numel() for parameter in tiny_pipeline().tokenizer.parameters())
    assert f"| parameters of the tokenizer | {parameters / 1e6:,.1f}M" in card
    assert "# tiny\n" in card and "it turns an image into 8 codes of 16" in card and "| classes | 3 |" in card
    assert "| `temperature` | 2.0 |" in card and "| `guidance_schedule` | linear |" in card
    assert "Nothing was measured" in card and is_generated(card)


def test_a_card_tells_the_settings_that_its_sampler_uses(folder):
    card = model_card(folder, CardContent())
    assert "| `sampler` | confidence |" in card and "`eta`" not in card and "`token_order`" not in card
    MaskGitScheduler(16, sampler="remdm", eta=0.25).save_pretrained(folder / "scheduler")
    card = model_card(folder, CardContent())
    assert "| `eta` | 0.25 |" in card and "`temperature`" not in card and "`entropy_bound`" not in card


def test_a_card_tells_the_guidance_scale_that_the_folder_loads_with(folder):
    path = folder / "scheduler" / "scheduler_config.json"
    saved = json.loads(path.read_text())
    del saved["_no_guidance"]  # as a version wrote it whose linear scales were smaller by 1
    path.write_text(json.dumps(saved | {"guidance_scale": 4.5}))
    assert TiTokPipeline.from_pretrained(folder).scheduler.config.guidance_scale == 5.5
    assert "| `guidance_scale` | 5.5 |" in model_card(folder, CardContent())


def test_measured_numbers_have_their_commands_and_published_ones_their_paper(folder):
    card = model_card(folder, CardContent(results=[PSNR, ACCURACY, RFID], license="mit", datasets=["user/clothes"]))
    assert "| PSNR | Clothes, test | 25.46 dB | measured, command 1 |" in card
    assert "| accuracy | Clothes, generated | 0.958 | measured, command 2 |" in card
    assert "| rFID | ImageNet-1k, validation | 2.21 | published in arXiv 2406.07550; not measured here |" in card
    assert "# command 1\nmeasure --psnr\n# command 2\nmeasure --judge\n" in card
    data = head(card)
    assert data["license"] == "mit" and data["datasets"] == ["user/clothes"]
    metrics = {
        metric["name"]: metric["value"] for result in data["model-index"][0]["results"] for metric in result["metrics"]
    }
    assert metrics == {"PSNR": 25.46, "accuracy": 0.958, "rFID (published)": 2.21}
    psnr, accuracy, rfid = card_results(card)
    assert psnr["source"] is None and psnr["split"] == "test" and accuracy["dataset"] == "Clothes"
    assert rfid["source"] == "arXiv 2406.07550; not measured here"


def test_pictures_recipe_and_commands_are_shown_where_there_are_any(folder):
    for name in ("generated.png", "reconstructed.png", "curves.png"):
        assert f"]({name})" not in model_card(folder, CardContent())
        Image.new("RGB", (8, 8)).save(folder / name)
        assert f"]({name})" in model_card(folder, CardContent())
    card = model_card(
        folder, CardContent(recipe="seed: 0\n", training_commands=["train clothes"], base_models=["a/b"])
    )
    assert "```yaml\nseed: 0\n```" in card and "```bash\ntrain clothes\n```" in card
    assert head(card)["base_model"] == ["a/b"]


def test_a_card_that_a_person_edited_stays(folder):
    path = folder / CARD_NAME
    path.write_text(path.read_text().replace("Nothing was measured", "Much was measured"))
    edited = path.read_text()
    assert is_edited(path)
    write_model_card(folder, CardContent(title="other"))
    tiny_pipeline().save_pretrained(folder)
    assert path.read_text() == edited
    path.write_text("all my own\n")
    write_model_card(folder, CardContent(title="other"))
    assert path.read_text() == "all my own\n"


def test_a_generated_card_is_replaced_even_with_other_line_ends(folder):
    path = folder / CARD_NAME
    path.write_bytes(path.read_bytes().replace(b"\n", b"\r\n"))
    write_model_card(folder, CardContent(title="other"))
    assert "# other\n" in path.read_text() and not is_edited(path)


def test_a_card_can_move_to_another_address(folder):
    card = (folder / CARD_NAME).read_text()
    moved = readdressed(card, "user/clothes")
    assert 'from_pretrained("user/clothes")' in moved and 'from_pretrained("tiny")' not in moved
    assert is_generated(moved) and readdressed(moved, "tiny") == card
    assert readdressed("my own card of tiny", "user/clothes") == "my own card of tiny"


def save_generator(folder):
    pipe = tiny_pipeline()
    pipe.transformer.save_pretrained(folder)
    pipe.scheduler.save_pretrained(folder)


def save_vqgan(folder):
    config = MaskGitVQGANConfig(
        base_channels=8,
        num_groups=8,
        num_resnet_blocks=1,
        channel_multipliers=(1, 1),
        codebook_size=16,
        codebook_dim=8,
    )
    MaskGitVQGANModel(config).save_pretrained(folder)


def save_tokenizer(folder, **fields):
    tiny_tokenizer(**fields).save_pretrained(folder)


def save_tokenizer_pipeline(folder):
    TiTokPipeline(tiny_tokenizer(quantizer="kl"), tiny_image_processor()).save_pretrained(folder)


def padding_processor():
    """Small images lie on black, as the bundled model's do."""
    return TiTokImageProcessorPil(size={"shortest_edge": 32}, do_enlarge=False)


def save_padding_tokenizer(folder):
    tiny_tokenizer().save_pretrained(folder)
    padding_processor().save_pretrained(folder)


SAVED = {
    "pipeline": (lambda folder: tiny_pipeline().save_pretrained(folder), ["decoded.png", "generated.png"]),
    "tokenizer pipeline": (save_tokenizer_pipeline, ["decoded.png"]),
    "tokenizer": (save_tokenizer, ["decoded.png"]),
    "tokenizer and processor": (save_padding_tokenizer, ["decoded.png"]),
    "stage 1": (lambda folder: save_tokenizer(folder, decoder_head="proxy_codes"), []),
    "kl": (lambda folder: save_tokenizer(folder, quantizer="kl"), ["decoded.png"]),
    "vqgan": (save_vqgan, ["decoded.png"]),
    "generator": (save_generator, []),
}
RUN_CARDS = """
import os, pathlib, sys
for name in sys.argv[1:]:
    os.chdir(name)
    exec(compile(pathlib.Path("card.py").read_text(), name, "exec"), {"__name__": "card"})
"""


def test_the_python_of_every_card_runs_as_it_stands_in_a_new_process(tmp_path, monkeypatch):
    for name, (save, _) in SAVED.items():
        place = tmp_path / name
        place.mkdir()
        monkeypatch.chdir(place)
        save(place / "runs" / "model")
        card = write_model_card("runs/model").read_text()
        assert str(tmp_path) not in card
        (place / "card.py").write_text(python_of(card))
    places = [str(tmp_path / name) for name in SAVED]
    subprocess.run([sys.executable, "-c", RUN_CARDS, *places], check=True, timeout=300)
    for name, (_, expected) in SAVED.items():
        assert sorted(path.name for path in (tmp_path / name).glob("*.png")) == expected
        assert all(Image.open(tmp_path / name / image).mode == "RGB" for image in expected)


def test_the_python_of_a_tokenizer_prepares_images_as_the_saved_processor_does(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    save_padding_tokenizer("model")
    variables = {"__name__": "card"}
    exec(compile(python_of(write_model_card("model").read_text()), CARD_NAME, "exec"), variables)
    images = example_images()[:4]
    expected = padding_processor()(images, return_tensors="pt").pixel_values
    assert torch.equal(variables["pixel_values"], expected)
    assert not torch.equal(tiny_image_processor()(images, return_tensors="pt").pixel_values, expected)


@pytest.mark.parametrize(
    "name", ['5" nail', "a\\b", "C:\\new", "Newton's cradle", "yes: it's", "{x}", "crane, bird", ", x"]
)
def test_a_class_of_any_name_can_be_asked_for(name, tmp_path):
    base = tiny_pipeline()
    pipe = TiTokPipeline(**base.components, id2label={0: name, 1: "b", 2: "crane, machine"})
    pipe.save_pretrained(tmp_path / 'my "model"')
    code = python_of((tmp_path / 'my "model"' / CARD_NAME).read_text())
    call = next(node for node in ast.walk(ast.parse(code)) if isinstance(node, ast.Call) and node.keywords)
    assert pipe.get_label_ids(ast.literal_eval(call.args[0])) == [0]
    assert any(isinstance(node, ast.Constant) and node.value == 'my "model"' for node in ast.walk(ast.parse(code)))
    moved = readdressed((tmp_path / 'my "model"' / CARD_NAME).read_text(), "user/clothes")
    assert 'from_pretrained("user/clothes")' in moved and "model" not in python_of(moved)


def test_a_loss_of_a_generator_is_not_called_reconstruction(folder):
    loss = Measured("masked-token loss", 5.0, "cross_entropy", "codes", "codes", "test", task="generation")
    (result,) = head(model_card(folder, CardContent(results=[loss])))["model-index"][0]["results"]
    assert result["task"] == {"type": "unconditional-image-generation", "name": "Class-conditional generation"}


def test_a_folder_with_one_slash_is_no_hub_id(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data" / "photos").mkdir(parents=True)
    assert is_hub_id("user/photos") and not is_hub_id("data/photos")
    for text in ("photos", "/data", "a/b/c", "./photos", "~/photos", "user/", "user/my photos"):
        assert not is_hub_id(text), text


def test_a_card_needs_a_checkpoint(tmp_path):
    with pytest.raises(OSError, match="is not a TiTok pipeline, nor a tokenizer"):
        write_model_card(tmp_path)
    (tmp_path / "config.json").write_text('{"model_type": "bert"}')
    with pytest.raises(OSError, match="is not a TiTok pipeline, nor a tokenizer"):
        write_model_card(tmp_path)
    assert not (tmp_path / CARD_NAME).exists()


def test_the_bundled_card_counts_as_a_persons(tmp_path):
    folder = shutil.copytree(bundled_checkpoint(), tmp_path / "copy")
    before = (folder / CARD_NAME).read_text()
    assert write_model_card(folder).read_text() == before
    assert {result["metric"] for result in card_results(before)} == {"psnr", "ssim", "accuracy"}


def test_the_bundled_card_has_the_shape_of_the_generated_ones_and_its_python_runs(tmp_path, monkeypatch):
    folder = bundled_checkpoint()
    card, generated = (folder / CARD_NAME).read_text(), model_card(folder, CardContent())
    sections = re.findall(r"^## .*", generated, re.MULTILINE)
    assert [line for line in re.findall(r"^## .*", card, re.MULTILINE) if line in sections] == sections
    facts = re.findall(r"^\| (.*? \| .*?) \|$", generated.split("## Use")[0], re.MULTILINE)
    assert len(facts) == 11 and all(f"| {fact} |" in card for fact in facts[2:])
    assert set(head(card)["arxiv"]) == set(head(generated)["arxiv"])
    monkeypatch.chdir(tmp_path)
    exec(compile(python_of(card), CARD_NAME, "exec"), {"__name__": "card"})
    assert {path.name for path in tmp_path.iterdir()} == {"sneaker.png", "reconstruction.png"}


def test_curves_are_drawn_of_losses_and_test_measures(tmp_path):
    rows = [{"step": step, "loss": 300 / step, "gan_loss": 0.1, "learning_rate": 1e-4} for step in range(1, 300)]
    rows[99] |= {"test/psnr": 20.0}
    rows[199] |= {"test/psnr": 21.0, "test/ssim": 0.9}
    three = Image.open(draw_curves(rows, tmp_path / "three.png"))
    one = Image.open(draw_curves([{"step": 1, "loss": 1.0}], tmp_path / "one.png"))
    assert three.width == 3 * one.width and three.height == one.height
    assert len(three.convert("L").getcolors()) > 20
    with pytest.raises(ValueError, match="neither a loss"):
        draw_curves([{"step": 1, "learning_rate": 1.0}], tmp_path / "none.png")
    with pytest.raises(ValueError, match="has no step"):
        draw_curves([{"loss": 1.0}], tmp_path / "none.png")
    assert not (tmp_path / "none.png").exists()


def test_curves_say_of_which_images_they_are_and_equal_ones_are_both_seen():
    series = {"loss": ([1, 2, 3], [3.0, 2.0, 1.0]), "reconstruction_loss": ([1, 2, 3], [3.0, 2.0, 1.0])}
    series["test/loss"] = ([2], [2.5])
    losses, test = Figure().subplots(1, 2)
    _draw_panel(losses, ["loss", "reconstruction_loss"], series)
    _draw_panel(test, ["test/loss"], series)
    assert (losses.get_title(), test.get_title()) == ("losses (train)", "loss (test)")
    assert [text.get_text() for text in losses.get_legend().get_texts()] == ["loss", "reconstruction_loss"]
    below, above = losses.get_lines()
    assert above.get_linewidth() < below.get_linewidth() and above.get_linestyle() != below.get_linestyle()


def test_no_path_of_this_machine_is_saved(folder, tmp_path):
    TiTokPipeline.from_pretrained(folder).save_pretrained(tmp_path / "again")
    files = [path for path in (tmp_path / "again").rglob("*") if path.suffix in (".json", ".md")]
    assert len(files) >= 6 and not [path for path in files if str(tmp_path) in path.read_text()]
    assert TiTokPipeline.from_pretrained(tmp_path / "again").id2label == tiny_pipeline().id2label
