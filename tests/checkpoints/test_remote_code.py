"""What lets transformers and diffusers load a checkpoint without `import titok_hf`, without disturbing its classes."""

import json

import pytest
import torch

from tiny_pipeline import generators, tiny_image_processor, tiny_pipeline, tiny_tokenizer
from titok_hf import MaskGitVQGANConfig, TiTokConfig, TiTokPipeline
from titok_hf.checkpoints.layout import INDEX_NAME
from titok_hf.checkpoints.remote_code import REMOTE_CODE


def python_files(folder):
    """Path and content of each Python file in a folder."""
    return {path.relative_to(folder).as_posix(): path.read_text() for path in folder.rglob("*.py")}


@pytest.fixture
def folder(tmp_path):
    tiny_pipeline().save_pretrained(tmp_path)
    return tmp_path


def test_a_saved_pipeline_holds_the_file_wherever_the_libraries_look(folder):
    assert python_files(folder) == dict.fromkeys(
        [
            "titok.py",
            "tokenizer/titok.py",
            "tokenizer/titok_hf.modeling_titok.py",
            "image_processor/titok.py",
            "image_processor/titok_hf.image_processing_pil_titok.py",
            "transformer/titok_hf.modeling_maskgit.py",
            "scheduler/titok_hf.scheduling_maskgit.py",
        ],
        REMOTE_CODE,
    )
    assert json.loads((folder / INDEX_NAME).read_text())["_class_name"] == ["titok", "TiTokPipeline"]


def test_its_own_class_asks_for_no_trust_and_runs_nothing(folder):
    for path in folder.rglob("*.py"):
        path.write_text("raise AssertionError('this file has been run')")
    pipe = TiTokPipeline.from_pretrained(folder)
    assert pipe.config.tokenizer == ("titok_hf.modeling_titok", "TiTokModel")
    TiTokPipeline.from_pretrained(folder, trust_remote_code=True)


def test_a_pipeline_saved_without_the_files_loads_as_before(folder):
    for path in folder.rglob("*.py"):
        path.unlink()
    index = json.loads((folder / INDEX_NAME).read_text())
    (folder / INDEX_NAME).write_text(json.dumps(index | {"_class_name": "TiTokPipeline"}))
    assert TiTokPipeline.from_pretrained(folder).transformer is not None


class Watermarked(TiTokPipeline):
    """Somebody's pipeline with one more setting."""

    def __init__(
        self, tokenizer, image_processor, transformer=None, scheduler=None, id2label=None, watermark="none"
    ) -> None:
        super().__init__(tokenizer, image_processor, transformer, scheduler, id2label)
        self.register_to_config(watermark=watermark)


def test_a_subclass_of_somebody_else_keeps_its_own_name_and_settings(tmp_path):
    pipe = tiny_pipeline()
    Watermarked(**pipe.components, id2label=pipe.id2label, watermark="x").save_pretrained(tmp_path)
    assert json.loads((tmp_path / INDEX_NAME).read_text())["_class_name"] == "Watermarked"
    loaded = Watermarked.from_pretrained(tmp_path)
    assert loaded.config.watermark == "x" and loaded.id2label == pipe.id2label
    for again in (loaded, TiTokPipeline.from_pretrained(tmp_path)):
        codes = [each([0, 1], generator=generators(0, 1), output_type="latent").codes for each in (pipe, again)]
        assert torch.equal(*codes)
    loaded.save_pretrained(tmp_path)  # over itself
    assert Watermarked.from_pretrained(tmp_path).config.watermark == "x"


@pytest.mark.parametrize("config", [TiTokConfig(), MaskGitVQGANConfig()], ids=lambda config: config.model_type)
def test_a_saved_configuration_names_its_classes(config, tmp_path):
    config.save_pretrained(tmp_path)
    assert python_files(tmp_path) == {"titok.py": REMOTE_CODE}
    name = type(config).__name__
    saved = json.loads((tmp_path / "config.json").read_text())
    assert saved["auto_map"] == {
        "AutoConfig": f"titok.{name}",
        "AutoModel": f"titok.{name.replace('Config', 'Model')}",
    }
    assert type(config).from_pretrained(tmp_path).to_dict() == config.to_dict()


def test_the_package_is_never_copied_into_a_checkpoint(tmp_path):
    """transformers marks classes that it loaded as remote code, and would save their modules next time."""
    model, processor = tiny_tokenizer(), tiny_image_processor()
    type(model.config).register_for_auto_class()
    type(processor).register_for_auto_class()
    model.save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    assert python_files(tmp_path) == {"titok.py": REMOTE_CODE}
    assert json.loads((tmp_path / "preprocessor_config.json").read_text())["auto_map"] == {
        "AutoImageProcessor": ["titok.TiTokImageProcessorPil", "titok.TiTokImageProcessor"]
    }
