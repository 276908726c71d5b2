"""The page without a server: its JavaScript computes what Python computes, and a visitor can use it in Chromium.

`SCREENSHOTS=docs/web_page` keeps the screenshots that the docs show."""

import base64
import functools
import hashlib
import http.server
import importlib
import importlib.util
import io
import json
import shutil
import threading
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

from chromium import NEEDS_CHROMIUM, PATIENCE, PHONE, keep
from titok_hf import ExportedTiTokPipeline, MaskGitScheduler
from titok_hf.bundled import example_images

playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
pytest.importorskip("transformers.exporters.runners", reason="exporting needs transformers 5.23")
pytestmark = [pytest.mark.slow, NEEDS_CHROMIUM]
playwright.expect.set_options(timeout=PATIENCE)
SOURCE = Path(__file__).parents[2] / "space" / "static"
BOOT = example_images()[18]


@pytest.fixture(scope="module")
def build():
    """The module `space/static/build.py`."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(SOURCE))
        spec = importlib.util.spec_from_file_location("build_static_page", SOURCE / "build.py")
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        yield module


@pytest.fixture
def onnxruntime_web(build, monkeypatch, tmp_path):
    """The module, with an empty cache."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return importlib.import_module("onnxruntime_web")


@pytest.fixture(scope="module")
def folder(build, tmp_path_factory):
    """The page that `make static-page` builds."""
    if importlib.import_module("onnxruntime_web").cached_archive() is None:
        pytest.skip("ONNX Runtime Web is not in the cache: run python space/static/onnxruntime_web.py")
    folder = tmp_path_factory.mktemp("static") / "page"
    build.build_page(folder)
    return folder


class Handler(http.server.SimpleHTTPRequestHandler):
    """Answers with the bare headers of a static server."""

    def log_message(self, *arguments):
        pass


@pytest.fixture(scope="module")
def address(folder):
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Handler, directory=folder))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/index.html"
    server.shutdown()
    server.server_close()


def opened(browser, address, **settings):
    page = browser.new_page(**{"viewport": {"width": 1060, "height": 900}, **settings})
    page.set_default_timeout(PATIENCE)
    page.goto(address)
    page.get_by_role("status").get_by_text("Ready.").wait_for()
    return page


@pytest.fixture(scope="module")
def page(browser, address):
    """The page, loaded once; a test leaves it as another one can use it."""
    page = opened(browser, address)
    page.evaluate("""async () => {
        for (const name of ["sampler", "random", "images", "titok"]) window[name] = await import(`./${name}.js`);
        window.model = await titok.TiTok.load("model/");
    }""")
    return page


@pytest.fixture(scope="module")
def exported(folder):
    return ExportedTiTokPipeline.from_pretrained(folder / "model")


def wait_for_tokens(page):
    page.locator("#result").wait_for()
    page.locator("#controls:enabled").wait_for()
    assert page.locator("#tiles button").count() == 32


def call(page, function, argument):
    """What a function returns for an argument; as JSON, because Playwright is slow with long lists."""
    code = f"async (text) => JSON.stringify(await ({function})(JSON.parse(text)))"
    return json.loads(page.evaluate(code, json.dumps(argument)))


# ---- The JavaScript beside Python

SETTINGS = [
    {"softmax_temperature_annealing": True, "guidance_schedule": "linear"},
    {"num_inference_steps": 5, "temperature": 9.5, "guidance_scale": 5.5},
    {"num_inference_steps": 12, "temperature": 0.0, "mask_schedule": "cosine", "guidance_schedule": "power-cosine"},
    {"num_inference_steps": 7, "mask_schedule": "linear", "softmax_temperature": 0.7, "guidance_interval": [0.2, 0.6]},
    {"num_inference_steps": 64, "mask_schedule": "root", "guidance_schedule": "power-cosine", "guidance_power": 1.5},
    {"num_inference_steps": 1},
]


@pytest.mark.parametrize("settings", SETTINGS)
def test_the_values_of_all_steps_equal_python(page, settings):
    scheduler = MaskGitScheduler(mask_token_id=16, **settings)
    values = call(page, "(config) => new sampler.MaskGitScheduler(config)", dict(scheduler.config))
    assert values["maskRatios"] == pytest.approx(scheduler.mask_ratios, rel=1e-14, abs=1e-16)
    for num_tokens in (8, 32, 128, 256):
        lengths = [int(num_tokens * ratio) for ratio in values["maskRatios"]]
        assert lengths == [int(num_tokens * ratio) for ratio in scheduler.mask_ratios]
    assert values["temperatures"] == scheduler.temperatures
    assert values["softmaxTemperatures"] == scheduler.softmax_temperatures
    # The cosine of power-cosine is computed in float32, and rounded in other ways.
    assert values["guidanceScales"] == pytest.approx(scheduler.guidance_scales, rel=3e-7)


def sampling_cases(settings, num_tokens=8, codebook_size=16):
    """Steps over made-up logits, rounded ones with ties, and over samples from fully masked to fully known."""
    random = torch.Generator().manual_seed(len(str(settings)))
    scheduler = MaskGitScheduler(mask_token_id=codebook_size, **settings)
    for case in range(60):
        step = case % scheduler.num_inference_steps
        both = 4 * torch.randn(2, 1, num_tokens, codebook_size, generator=random)
        if case % 2:
            both = both.round()
        sample = torch.randint(codebook_size, (1, num_tokens), generator=random)
        sample[torch.rand(sample.shape, generator=random) < case % 5 / 4] = codebook_size
        noise = [torch.rand(both[0].shape, generator=random), torch.rand(sample.shape, generator=random)]
        if case % 3 == 0:
            noise = [torch.floor(4 * each) / 4 for each in noise]  # 0 too, of which no logarithm exists
        yield scheduler, step, both, sample, noise


STEP = """({config, cases}) => {
    const scheduler = new sampler.MaskGitScheduler(config);
    return cases.map(({step, conditional, unconditional, codes, noise}) => {
        let logits = Float32Array.from(conditional);
        if (scheduler.needsUnconditional(step)) {
            logits = scheduler.guide(logits, Float32Array.from(unconditional), step);
        }
        const left = noise.map((numbers) => Float32Array.from(numbers));
        const result = scheduler.step(logits, step, Int32Array.from(codes), () => left.shift());
        return [Array.from(result.prevSample), Array.from(result.predOriginalSample)];
    });
}"""


@pytest.mark.parametrize("settings", SETTINGS)
def test_a_step_equals_python_for_given_noise(page, settings):
    cases, expected = [], []
    for scheduler, step, (conditional, unconditional), sample, noise in sampling_cases(settings):
        timestep, logits = scheduler.timesteps[step], conditional
        if scheduler.needs_unconditional(timestep):
            logits = scheduler.guide(conditional, unconditional, timestep)
        output = scheduler.step(logits, timestep, sample, noise=tuple(noise))
        expected.append([output.prev_sample[0].tolist(), output.pred_original_sample[0].tolist()])
        lists = {"conditional": conditional, "unconditional": unconditional, "codes": sample}
        lists = {name: tensor.flatten().tolist() for name, tensor in lists.items()}
        cases.append({"step": step, "noise": [each.flatten().tolist() for each in noise], **lists})
    computed = call(page, STEP, {"config": dict(scheduler.config), "cases": cases})
    assert computed == expected
    assert any(before["codes"] != after for before, (after, _) in zip(cases, computed, strict=True))


def test_logits_that_are_not_finite_and_other_samplers_are_errors(page):
    config = dict(MaskGitScheduler(mask_token_id=16).config)
    with pytest.raises(playwright.Error, match="not finite"):
        page.evaluate(
            "(config) => new sampler.MaskGitScheduler(config).step(Float32Array.of(1, NaN), 0, [16], () => [0, 0])",
            config,
        )
    with pytest.raises(playwright.Error, match=r"""sampler is "moment", and this page has "confidence" only"""):
        page.evaluate("(config) => new sampler.MaskGitScheduler(config)", config | {"sampler": "moment"})


@pytest.mark.parametrize("seed", [0, 1, 2**32 - 1])
def test_a_seed_gives_the_random_numbers_of_torch(page, seed):
    numbers = call(page, "(seed) => Array.from(new random.TorchGenerator(seed).uniforms(2000))", seed)
    assert numbers == torch.rand(2000, generator=torch.Generator().manual_seed(seed)).tolist()


READ = """async (content) => {
    const bytes = Uint8Array.from(atob(content), (character) => character.charCodeAt());
    const processor = window.model.description.image_processor;
    return Array.from(images.toPixelValues(images.preprocess(await images.readImage(new Blob([bytes])), processor)));
}"""


def pixel_values_in_the_browser(page, image, format="PNG", **options):
    file = io.BytesIO()
    image.save(file, format, **options)
    values = call(page, READ, base64.b64encode(file.getvalue()).decode())
    return torch.tensor(values).reshape(1, 3, 32, 32), Image.open(file)


@pytest.mark.parametrize("size", [(28, 28), (32, 32), (20, 50), (33, 47), (640, 427), (101, 700), (2000, 40), (1, 1)])
def test_images_become_the_pixel_values_of_python(page, exported, size):
    noise = np.random.default_rng(0).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    values, image = pixel_values_in_the_browser(page, Image.fromarray(noise))
    assert torch.equal(values, exported.preprocess(image))


def test_transparent_and_turned_images_become_those_of_python(page, exported):
    noise = np.random.default_rng(0).integers(0, 256, (40, 60, 4), dtype=np.uint8)
    values, image = pixel_values_in_the_browser(page, Image.fromarray(noise))
    # The browser multiplies colours by alpha and rounds before it lays them on white.
    assert (values - exported.preprocess(image)).abs().max() < 2.1 / 255
    exif = Image.Exif()
    exif[0x0112] = 6
    turned = Image.fromarray(np.repeat(noise[:2, :2, :3], 20, axis=0).repeat(30, axis=1))
    values, image = pixel_values_in_the_browser(page, turned, "JPEG", exif=exif, quality=95)
    assert (values - exported.preprocess(image)).abs().mean() < 1 / 255


ENCODE = "(values) => model.encode(Float32Array.from(values)).then((codes) => Array.from(codes))"
DECODE = "(codes) => model.decode(Int32Array.from(codes)).then((values) => Array.from(values))"


def test_images_become_the_codes_of_python_and_codes_the_images(page, exported):
    """The same files on ONNX Runtime in Python and in the browser: kernels differ, and so may near ties."""
    pixel_values = exported.preprocess(example_images())
    codes = exported.encode(example_images())
    computed = torch.tensor([call(page, ENCODE, image.flatten().tolist()) for image in pixel_values])
    assert (computed != codes).sum() <= 1, "of 640"
    for row in codes[::5]:
        decoded = torch.tensor(call(page, DECODE, row.tolist())).reshape(1, 3, 32, 32)
        expected = exported.tokenizer.decode(row[None]).pixel_values
        assert (decoded - expected).abs().max() < 2e-3  # half a step of float16


GENERATE = """async ({label, seed, settings}) => {
    const generator = new random.TorchGenerator(seed);
    const uniforms = (count) => generator.uniforms(count);
    return Array.from(await model.generate(label, {uniforms, settings}));
}"""


@pytest.mark.parametrize(
    "settings", [{}, {"num_inference_steps": 4, "guidance_scale": 1.0, "temperature": 0.0}], ids=str
)
def test_a_seed_generates_the_image_of_python(page, exported, settings):
    for label, seed in ((7, 0), (1, 1), (9, 2**32 - 1)):
        codes = exported(label, generator=torch.Generator().manual_seed(seed), **settings).codes
        computed = call(page, GENERATE, {"label": label, "seed": seed, "settings": settings})
        assert computed == codes[0].tolist()


# ---- The page in the hands of a visitor


def test_an_image_is_shown_as_tokens_and_one_is_changed(page):
    page.get_by_role("button", name="Ankle boot").click()
    wait_for_tokens(page)
    playwright.expect(page.locator("#decoded-caption")).to_contain_text("dB PSNR")
    before = page.locator("#decoded").evaluate("canvas => canvas.toDataURL()")
    tile = page.locator("#tiles button").nth(5)
    old = int(tile.inner_text())
    tile.click()
    slider = page.get_by_label("Code of token 5")
    slider.fill("7" if old != 7 else "8")
    playwright.expect(page.locator("#tiles .changed")).to_have_count(1)
    page.wait_for_function("(before) => document.getElementById('decoded').toDataURL() !== before", arg=before)
    keep(page, "static_tokens")
    page.get_by_role("button", name="Undo all changes").click()
    playwright.expect(page.locator("#tiles .changed")).to_have_count(0)
    playwright.expect(tile).to_have_text(str(old))


def test_an_image_is_generated_by_a_click(page):
    page.get_by_label("Class").select_option("Sneaker")
    page.get_by_label("Seed").fill("3")
    page.get_by_role("button", name="Generate with the next seed").click()
    playwright.expect(page.get_by_role("status")).to_contain_text("Sneaker, seed 4: 8 steps in")
    wait_for_tokens(page)
    assert page.locator("#original-figure").is_hidden() and page.locator("#tiles .masked").count() == 0
    keep(page, "static_generate")


@pytest.mark.parametrize("start", ["Bag", "Generate"])
def test_the_python_under_the_tokens_gives_the_same_tokens(page, start, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shutil.copy(example_images()[16], tmp_path)
    page.get_by_role("button", name=start, exact=True).click()
    wait_for_tokens(page)
    page.locator("#tiles button").nth(31).click()
    page.get_by_label("Code of token 31").fill("100")
    playwright.expect(page.locator("#python")).to_contain_text("codes[0, 31] = 100")
    variables = {}
    exec(page.locator("#python").text_content(), variables)
    assert variables["codes"][0].tolist() == [int(text) for text in page.locator("#tiles button").all_inner_texts()]
    assert variables["image"].size == (32, 32)


@pytest.mark.parametrize("kind", ["text", "truncated", "too many pixels", "too many bytes"])
def test_an_upload_that_cannot_be_used_is_answered_with_a_sentence(page, tmp_path, kind):
    file = tmp_path / "private-name.png"
    if kind == "text":
        file.write_text("no image")
    elif kind == "truncated":
        file.write_bytes(BOOT.read_bytes()[:100])
    elif kind == "too many pixels":
        Image.new("1", (20_000, 10_000)).save(file)
    else:
        file.write_bytes(bytes(20_000_001))
    page.locator("#file").set_input_files(file)
    alert = page.get_by_role("alert")
    alert.wait_for()
    assert alert.inner_text() in {
        "This file is damaged, or not an image that this browser can read.",
        "This image has 20000 x 10000 pixels, which is too many. Make it smaller.",
        "This file has 21 MB; the limit is 20 MB.",
    }
    page.get_by_role("button", name="Coat").click()
    alert.wait_for(state="hidden")
    wait_for_tokens(page)


def test_a_seed_that_cannot_be_used_is_answered_with_a_sentence(page):
    for seed in ("-1", "1.5", "4294967296", ""):
        page.get_by_label("Seed").fill(seed)
        page.get_by_role("button", name="Generate", exact=True).click()
        playwright.expect(page.get_by_role("alert")).to_contain_text("whole number from 0 to 4294967295")
    page.get_by_label("Seed").fill("0")


def test_a_missing_model_is_answered_with_a_sentence(browser, address):
    page = browser.new_page()
    page.route("**/generator_model_fp16.onnx", lambda route: route.fulfill(status=404))
    page.goto(address)
    alert = page.get_by_role("alert")
    playwright.expect(alert).to_have_text(
        "The model cannot be loaded: model/onnx/generator_model_fp16.onnx (404). Reload the page."
    )
    page.close()


def test_the_page_fits_a_phone_and_asks_no_other_server(browser, address):
    page = browser.new_page(**PHONE)
    asked, errors = [], []
    page.on("request", lambda request: asked.append(request.url))
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.on("console", lambda message: errors.append(message.text) if message.type == "error" else None)
    page.goto(address)
    page.locator("#controls:enabled").wait_for()
    page.get_by_role("button", name="Pullover").tap()
    wait_for_tokens(page)
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    playwright.expect(page.locator("#decoded")).to_be_in_viewport()
    assert [url for url in asked if not url.startswith((address.removesuffix("index.html"), "blob:", "data:"))] == []
    assert errors == []
    for theme in ("light", "dark"):
        page.emulate_media(color_scheme=theme)
        keep(page, f"static_phone_{theme}")
    page.close()


# ---- The folder


def test_the_folder_is_small_and_a_space(folder):
    files = [path for path in folder.rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) < 20_000_000
    front_matter = yaml.safe_load((folder / "README.md").read_text(encoding="utf-8").split("---")[1])
    assert front_matter["sdk"] == "static" and (folder / front_matter["app_file"]).is_file()
    assert len(front_matter["short_description"]) <= 60
    assert {path.suffix for path in folder.iterdir() if path.is_file()} == {".html", ".css", ".js", ".json", ".md"}


def test_a_build_that_fails_leaves_what_was_there(build, folder, tmp_path, monkeypatch):
    (tmp_path / "page").mkdir()
    (tmp_path / "page" / "page.json").write_text("{}")

    def fail(*arguments, **options):
        raise ImportError("ONNX Runtime needs onnx, which is not installed.")

    monkeypatch.setattr(build, "export_pipeline", fail)
    with pytest.raises(ImportError):
        build.build_page(tmp_path / "page")
    assert [path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*")] == ["page", "page/page.json"]


def test_another_folder_is_not_overwritten(build, tmp_path):
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(FileExistsError, match="is not a page that was built before. Choose another folder"):
        build.build_page(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


def test_a_changed_package_is_refused(onnxruntime_web, tmp_path, monkeypatch):
    monkeypatch.setattr(onnxruntime_web, "urlopen", lambda *arguments, **options: io.BytesIO(b"something else"))
    with pytest.raises(OSError, match="has another content than expected"):
        onnxruntime_web.archive_path()
    assert list(tmp_path.iterdir()) == []


def test_a_package_is_downloaded_once(onnxruntime_web, tmp_path, monkeypatch):
    answers = [io.BytesIO(b"package")]
    monkeypatch.setattr(onnxruntime_web, "urlopen", lambda *arguments, **options: answers.pop())
    digest = base64.b64encode(hashlib.sha512(b"package").digest())
    monkeypatch.setattr(onnxruntime_web, "SHA512", digest)
    path = onnxruntime_web.archive_path()
    assert onnxruntime_web.archive_path() == path and path.read_bytes() == b"package"
    assert [file.name for file in path.parent.iterdir()] == [path.name]
    path.write_bytes(b"damaged")
    assert onnxruntime_web.cached_archive() is None
