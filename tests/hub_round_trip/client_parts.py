"""Push and pull of single parts and data sets, and the tasks by id."""

import tarfile
from io import BytesIO

import numpy as np
import pytest
import torch
from datasets import Dataset, Features, Image, Value, load_dataset
from huggingface_hub import HfApi
from PIL import Image as PILImage
from transformers import AutoConfig, AutoImageProcessor, AutoModel, pipeline
from typer.testing import CliRunner

from hub_server import STRANGER_TOKEN
from tiny_pipeline import generators, tiny_pipeline
from titok_hf import (
    MaskGitScheduler,
    MaskGitTransformer1DModel,
    MaskGitVQGANConfig,
    MaskGitVQGANModel,
    TiTokConfig,
    TiTokModel,
    TiTokPipeline,
    bundled_checkpoint,
)
from titok_hf.checkpoints.push import push_folder
from titok_hf.cli import app
from titok_hf.data.encoders import ImageEncoder
from titok_hf.data.prepare import PrepareSettings, prepare
from titok_hf.data.pretokenize import pretokenize


def equal_weights(first, second):
    pairs = zip(first.state_dict().items(), second.state_dict().items(), strict=True)
    return all(name == other and torch.equal(tensor, twin) for (name, tensor), (other, twin) in pairs)


@pytest.fixture(scope="module")
def pipe():
    return tiny_pipeline()


def test_a_tokenizer_with_its_image_processor(hub, pipe):
    pipe.tokenizer.push_to_hub("user/tokenizer")
    pipe.image_processor.push_to_hub("user/tokenizer")
    assert equal_weights(TiTokModel.from_pretrained("user/tokenizer"), pipe.tokenizer)
    assert type(AutoConfig.from_pretrained("user/tokenizer")) is TiTokConfig
    assert equal_weights(AutoModel.from_pretrained("user/tokenizer"), pipe.tokenizer)
    processor = AutoImageProcessor.from_pretrained("user/tokenizer")
    assert processor.to_dict() == pipe.image_processor.to_dict()
    assert hub.fetched.count("model.safetensors") == 1
    assert "titok.py" in hub.repository("user/tokenizer").files() and "titok.py" not in hub.fetched


def test_the_tasks_work_by_id(hub, pipe):
    pipe.tokenizer.push_to_hub("user/tasks")
    pipe.image_processor.push_to_hub("user/tasks")
    noise = (torch.rand(2, 32, 32, 3, generator=generators(0)[0]) * 255).byte().numpy()
    pictures = [PILImage.fromarray(picture) for picture in noise]
    codes = pipeline("image-to-codes", model="user/tasks", device="cpu")(pictures, batch_size=2)
    assert codes == pipe.encode(pictures).tolist()
    assert pipeline("codes-to-image", model="user/tasks", device="cpu")(codes) == pipe.decode(codes)
    latents = pipeline("image-to-latents", model="user/tasks", device="cpu")(pictures, batch_size=2)
    expected = pipe.tokenizer.quantizer.lookup(torch.tensor(codes))
    torch.testing.assert_close(torch.tensor(latents), expected, rtol=0, atol=1e-6)


def test_the_tokenizer_of_a_pipeline_is_a_model_for_the_tasks(hub):
    hub.repository("user/fashion").add_folder(bundled_checkpoint())
    to_image = pipeline("codes-to-image", model="user/fashion", device="cpu", model_kwargs={"subfolder": "tokenizer"})
    codes = list(range(32))
    assert to_image(codes) == TiTokPipeline.from_pretrained(bundled_checkpoint()).decode([codes])[0]


def test_a_teacher(hub):
    config = MaskGitVQGANConfig(base_channels=8, channel_multipliers=(1, 2), num_groups=4, codebook_dim=4)
    model = MaskGitVQGANModel(config)
    model.push_to_hub("user/teacher", private=True)
    assert equal_weights(AutoModel.from_pretrained("user/teacher"), model)
    with pytest.raises(OSError):
        AutoModel.from_pretrained("user/teacher", token=STRANGER_TOKEN, force_download=True)


def test_a_generator_with_its_scheduler(hub, pipe):
    pipe.transformer.push_to_hub("user/generator")
    pipe.scheduler.push_to_hub("user/generator")
    pulled = MaskGitTransformer1DModel.from_pretrained("user/generator")
    assert equal_weights(pulled, pipe.transformer)
    assert MaskGitScheduler.from_pretrained("user/generator").to_json_string() == pipe.scheduler.to_json_string()
    assert pipe.transformer.push_to_hub("user/generator", create_pr=True)
    assert equal_weights(MaskGitTransformer1DModel.from_pretrained("user/generator", revision="refs/pr/1"), pulled)


def test_weights_in_pieces_and_variants_of_single_parts(hub, pipe):
    pipe.tokenizer.push_to_hub("user/pieces", max_shard_size="50KB")
    pipe.transformer.push_to_hub("user/half", variant="fp16")
    assert "model.safetensors.index.json" in hub.repository("user/pieces").files()
    assert equal_weights(TiTokModel.from_pretrained("user/pieces"), pipe.tokenizer)
    assert equal_weights(MaskGitTransformer1DModel.from_pretrained("user/half", variant="fp16"), pipe.transformer)


def test_parts_of_a_pipeline_load_by_subfolder(hub, pipe):
    pipe.push_to_hub("user/whole")
    for subfolder, model_class, part in (
        ("tokenizer", TiTokModel, pipe.tokenizer),
        ("tokenizer", AutoModel, pipe.tokenizer),
        ("transformer", MaskGitTransformer1DModel, pipe.transformer),
    ):
        assert equal_weights(model_class.from_pretrained("user/whole", subfolder=subfolder), part)
    assert not any("scheduler" in path for path in hub.fetched)


def test_prepared_and_pretokenized_data_sets(hub, tmp_path):
    features = Features({"image": Image(), "label": Value("int64")})
    rows = {"image": [], "label": list(range(6))}
    for seed in rows["label"]:
        stream = BytesIO()
        noise = torch.rand(40, 36, 3, generator=generators(seed)[0])
        PILImage.fromarray((noise * 255).byte().numpy()).save(stream, "PNG")
        rows["image"].append({"bytes": stream.getvalue(), "path": None})
    source = Dataset.from_dict(rows, features=features)
    prepare(source, tmp_path / "squares", PrepareSettings(image_size=32, image_format="png"), workers=0)
    pretokenize(source, tmp_path / "codes", ImageEncoder(str(bundled_checkpoint()), batch_size=4), workers=0)
    for name, column in {"squares": "image", "codes": "codes"}.items():
        push_folder(tmp_path / name, f"user/{name}", private=name == "codes")
        pulled = load_dataset(f"user/{name}", split="train")
        local = load_dataset(str(tmp_path / name), split="train")
        assert len(pulled) == len(local) and pulled.features == local.features
        assert all(np.array_equal(one[column], other[column]) for one, other in zip(pulled, local, strict=True))
    assert hub.repositories["datasets", "user/codes"].private


def webdataset_shard(labels):
    """A tar file with a picture and a label each."""
    stream = BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as archive:
        for number, label in enumerate(labels):
            picture = BytesIO()
            PILImage.new("RGB", (40, 36), (number, 0, 0)).save(picture, "PNG")
            for suffix, data in (("png", picture.getvalue()), ("cls", label)):
                member = tarfile.TarInfo(f"{number:04d}.{suffix}")
                member.size = len(data)
                archive.addfile(member, BytesIO(data))
    return stream.getvalue()


@pytest.mark.parametrize("options", [[], ["--streaming"]], ids=["whole", "streaming"])
def test_webdataset_shards_are_prepared_by_id_without_their_wrong_labels_and_pushed(hub, tmp_path, options):
    api = HfApi()
    api.create_repo("user/shards", repo_type="dataset", exist_ok=True)
    shard = webdataset_shard([b"0", b"cat", b"1", b"", b"2", b"1"])
    api.upload_file(path_or_fileobj=shard, path_in_repo="train-0.tar", repo_id="user/shards", repo_type="dataset")
    out, target = tmp_path / "out", f"user/prepared{len(options)}"
    arguments = ["prepare", "user/shards", "-o", str(out), "--size", "32", "--push-to-hub", target, *options]
    result = CliRunner().invoke(app, [*arguments, "--workers", "0", "--json"])
    assert result.exit_code == 0, result.output
    pulled = load_dataset(target, split="train")
    assert pulled["label"][:] == [0, 1, 2, 1] and pulled["source_index"][:] == [0, 2, 4, 5]
    assert not any(
        path.startswith(".") and path != ".gitattributes" for path in hub.repository(target, "datasets").files()
    )
