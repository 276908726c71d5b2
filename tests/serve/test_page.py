"""The web page in a real browser. `SCREENSHOTS=docs/serve` keeps the screenshots that the docs show."""

import time
from pathlib import Path

import pytest
from PIL import Image

from chromium import NEEDS_CHROMIUM, PATIENCE, PHONE, keep
from titok_hf.bundled import example_images

gradio = pytest.importorskip("gradio", reason="the extra serve is not installed")
playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
pytestmark = [pytest.mark.slow, NEEDS_CHROMIUM]
playwright.expect.set_options(timeout=PATIENCE)


@pytest.fixture(scope="module")
def address():
    from titok_hf.cli.models import load_pipeline
    from titok_hf.serve.actions import ServedModels
    from titok_hf.serve.page import serve

    page = serve(ServedModels([], lambda name: load_pipeline(name, "cpu")), prevent_thread_lock=True, quiet=True)
    yield page.local_url
    page.close()


@pytest.fixture
def page(browser, address):
    page = opened(browser, address)
    yield page
    page.close()


def opened(browser, address, **settings):
    page = browser.new_page(**{"viewport": {"width": 1200, "height": 900}, **settings})
    page.set_default_timeout(PATIENCE)
    page.goto(address)
    page.get_by_role("button", name="Show its tokens").wait_for()
    return page


def upload(page, file, where="#tokens-image"):
    page.locator(f"{where} input[type=file]").first.set_input_files(str(file))


def show_tokens(page, file):
    """On a busy machine, an editor that is not ready yet loses the file; so it is given until its tokens are shown."""
    page.locator("#tokens-image canvas").first.wait_for()
    for _ in range(6):
        upload(page, file)
        page.wait_for_timeout(1000)  # the editor uploads what it draws
        page.get_by_role("button", name="Show its tokens").click()
        try:
            page.locator(".tile").first.wait_for(timeout=20_000)
            return
        except playwright.TimeoutError:
            continue
    raise AssertionError("no tokens were shown")


def test_tokens_are_shown_and_one_is_changed(page):
    show_tokens(page, example_images()[8])
    assert page.locator(".tile").count() == 32
    playwright.expect(page.locator("#psnr")).to_contain_text("dB")
    page.locator(".tile").nth(5).click()
    playwright.expect(page.get_by_label("Token", exact=True)).to_have_value("5")
    slider = page.locator("#code input[type=range]")
    before = slider.input_value()
    slider.press("ArrowRight")
    playwright.expect(page.locator(".tile.changed")).to_have_count(1)
    assert page.locator(".tile.changed").inner_text() == str(int(before) + 1)
    keep(page, "tokens")
    page.get_by_text("The same in Python").first.click()
    playwright.expect(page.get_by_text(f"codes[0, 5] = {int(before) + 1}")).to_be_visible()
    page.get_by_role("button", name="Undo all changes").click()
    playwright.expect(page.locator(".tile.changed")).to_have_count(0)


def test_images_are_generated_step_by_step(page):
    page.get_by_role("tab", name="Generate").click()
    page.get_by_role("button", name="Generate").click()
    playwright.expect(page.locator("#progress")).to_contain_text("Step 8 of 8")
    playwright.expect(page.locator(".tile:visible")).to_have_count(32)
    playwright.expect(page.locator(".small-images:visible img")).to_have_count(4)
    keep(page, "generate")


def test_two_images_are_interpolated(page):
    page.get_by_role("tab", name="Interpolate").click()
    for name, file in zip(("#first-image", "#second-image"), example_images()[:3:2], strict=True):
        upload(page, file, name)
        page.locator(f"{name} img").first.wait_for()
    page.get_by_role("button", name="Interpolate").click()
    playwright.expect(page.locator(".small-images:visible img")).to_have_count(8)
    keep(page, "interpolate")


@pytest.mark.parametrize("kind", ["text", "truncated", "too_large"])
def test_an_upload_that_cannot_be_used_is_answered_with_a_sentence(page, tmp_path, kind):
    file = tmp_path / "private-name.png"
    if kind == "text":
        file.write_text("no image")
    elif kind == "truncated":
        file.write_bytes(example_images()[0].read_bytes()[:100])
    else:
        Image.new("L", (20_000, 10_000)).save(file)
    page.get_by_role("tab", name="Variations").click()
    upload(page, file, "#varied-image")
    page.locator("#varied-image img").first.wait_for(state="attached")
    page.get_by_role("button", name="Vary").click()
    message = page.locator(".toast-body").first
    message.wait_for()
    assert "This file" in message.inner_text()
    assert "/tmp" not in message.inner_text() and "Traceback" not in message.inner_text()


def test_a_missing_image_is_asked_for(page):
    page.get_by_role("button", name="Show its tokens").click()
    playwright.expect(page.locator(".toast-body").first).to_contain_text("There is no image yet")


def test_ten_visitors_get_their_images(browser, address):
    pages = [opened(browser, address) for _ in range(10)]
    for page in pages:
        page.get_by_role("tab", name="Generate").click()
    start = time.monotonic()
    for page in pages:
        page.get_by_role("button", name="Generate").click()
    for page in pages:
        playwright.expect(page.locator(".small-images:visible img")).to_have_count(4)
        page.close()
    print(f"ten visitors had their images after {time.monotonic() - start:.1f} s")


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_the_page_fits_a_phone(browser, address, theme):
    page = opened(browser, f"{address}?__theme={theme}", **PHONE)
    show_tokens(page, example_images()[4])
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    keep(page, f"phone_{theme}")
    page.close()


def test_files_of_the_server_are_not_served(address):
    import httpx

    for path in ("/etc/passwd", str(Path(__file__).resolve()), "setup.cfg"):
        assert httpx.get(f"{address}gradio_api/file={path}").status_code in (403, 404)


def test_an_address_that_cannot_be_used_is_refused_at_once():
    import socket

    from titok_hf.serve.page import serve

    with socket.create_server(("127.0.0.1", 0)) as taken:
        with pytest.raises(OSError, match=f"port {taken.getsockname()[1]} .*Choose another one"):
            serve(None, port=taken.getsockname()[1])
    with pytest.raises(OSError, match=r"cannot listen at 300\.1\.1\.1"):
        serve(None, host="300.1.1.1")


def test_a_brushed_region_of_a_test_image_is_filled(page):
    page.get_by_role("tab", name="Inpaint").click()
    page.locator("button.gallery-item:visible").last.click()
    editor = page.locator("#inpaint-image")
    playwright.expect(editor.get_by_text("1000%")).to_be_visible()  # a small image is shown enlarged
    editor.get_by_label("Brush", exact=True).click()
    box = editor.locator("canvas").first.bounding_box()
    height = box["y"] + box["height"] / 2
    page.mouse.move(box["x"] + 0.4 * box["width"], height)
    page.mouse.down()
    page.mouse.move(box["x"] + 0.6 * box["width"], height, steps=10)
    page.mouse.up()
    page.wait_for_timeout(1500)  # the editor uploads what was drawn
    page.get_by_role("button", name="Fill").click()
    playwright.expect(page.locator("#filled img")).to_be_visible()
    keep(page, "inpaint")
