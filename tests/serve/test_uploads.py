"""What visitors upload, before a model sees it."""

import numpy as np
import pytest
from PIL import Image

gradio = pytest.importorskip("gradio", reason="the extra serve is not installed")

from gradio.data_classes import FileData, ImageData  # noqa: E402

from titok_hf.serve.page import _brushed  # noqa: E402
from titok_hf.serve.uploads import drawing_upload, image_upload, open_upload  # noqa: E402


@pytest.fixture(scope="module")
def component():
    return image_upload("image", height=100, elem_id="image")


def uploaded(component, path):
    return component.preprocess(ImageData(path=str(path), orig_name=path.name))


def test_cmyk_and_transparent_images_become_rgb(component, tmp_path):
    Image.new("CMYK", (6, 4), (0, 255, 255, 0)).save(tmp_path / "red.jpg")
    image = uploaded(component, tmp_path / "red.jpg")
    assert image.mode == "RGB" and image.getpixel((2, 2))[0] > 200 > 60 > image.getpixel((2, 2))[1]
    Image.new("RGBA", (4, 4), (0, 0, 0, 0)).save(tmp_path / "nothing.png")
    assert uploaded(component, tmp_path / "nothing.png").getpixel((0, 0)) == (255, 255, 255)


def test_of_an_animation_the_first_frame_is_used(component, tmp_path):
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "blue")]
    frames[0].save(tmp_path / "two.gif", save_all=True, append_images=frames[1:])
    image = uploaded(component, tmp_path / "two.gif")
    assert image.size == (8, 8) and image.getpixel((4, 4))[0] > 200


def test_an_image_is_turned_as_its_file_says(component, tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (8, 4)).save(tmp_path / "turned.jpg", exif=exif)
    assert uploaded(component, tmp_path / "turned.jpg").size == (4, 8)


@pytest.mark.parametrize("content", [b"", b"text", b"\x89PNG\r\n\x1a\n\x00"])
def test_what_is_no_image_is_answered_with_a_sentence_without_a_path(tmp_path, content):
    path = tmp_path / "private.png"
    path.write_bytes(content)
    with pytest.raises(gradio.Error) as raised:
        open_upload(path)
    message = raised.value.message
    assert message.startswith("This file is not an image") and message.endswith(".")
    assert "private" not in message and "0x" not in message


def test_a_drawing_has_its_image_and_what_was_brushed(tmp_path):
    component = drawing_upload(gradio.Brush())
    Image.new("RGB", (8, 6), "white").save(tmp_path / "background.png")
    layer = np.zeros((6, 8, 4), dtype=np.uint8)
    layer[2:4, 3:5] = (249, 115, 22, 255)
    Image.fromarray(layer).save(tmp_path / "layer.png")
    files = {name: FileData(path=str(tmp_path / f"{name}.png")) for name in ("background", "layer")}
    payload = component.data_model(background=files["background"], layers=[files["layer"]], composite=None)
    drawing = component.preprocess(payload)
    mask = np.asarray(_brushed(drawing))
    assert mask.shape == (6, 8) and np.array_equal(mask > 0, layer[..., 3] > 0)
    assert component.preprocess(component.data_model(background=None, layers=[], composite=None)) is None
    with pytest.raises(gradio.Error, match="Nothing is brushed"):
        _brushed(drawing | {"layers": []})
