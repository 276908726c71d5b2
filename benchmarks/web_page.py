"""How fast the page of `titok-hf serve` answers in a real browser, and the memory of its server.

    python benchmarks/web_page.py --browser /usr/bin/chromium

Printed are the seconds from opening the page to its first answer, from clicks on "Generate" to the first step and to
the last image, from a click on an example to its tokens, and the largest resident memory of the server's process.
"""

import argparse
import json
import statistics
import subprocess
import sys
import time

from harness import peak_memory
from playwright.sync_api import Page, sync_playwright

from titok_hf.bundled import example_images


def generated(page: Page) -> tuple[float, float]:
    """Seconds from a click until the page answers with a step, and until the images are there."""
    start = time.perf_counter()
    page.get_by_role("button", name="Generate").click()
    page.wait_for_function("() => /Step [1-7] of 8/.test(document.querySelector('#progress').innerText)")
    first = time.perf_counter() - start
    page.locator("#progress", has_text="Step 8 of 8").wait_for()
    page.locator(".small-images:visible img").nth(3).wait_for()
    return first, time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--browser", required=True, help="path of Chromium")
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    command = [sys.executable, "-m", "titok_hf.cli", "serve", "--json"]
    server = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        address = "".join(iter(server.stdout.readline, "}\n")) + "}"
        with sync_playwright() as engine:
            browser = engine.chromium.launch(executable_path=options.browser, args=["--no-sandbox"])
            page = browser.new_page(viewport={"width": 1200, "height": 900})
            start = time.perf_counter()
            page.goto(json.loads(address)["url"])
            page.get_by_role("tab", name="Generate").click()
            page.get_by_role("button", name="Generate").wait_for()
            print(f"page shown and a tab opened: {time.perf_counter() - start:.2f} s")
            times = [generated(page) for _ in range(options.rounds)]
            for name, values in zip(("first step", "four images"), zip(*times, strict=True), strict=True):
                print(f"{name}: first click {values[0]:.2f} s, median {statistics.median(values):.2f} s")
            page.get_by_role("tab", name="Variations").click()
            page.locator("#varied-image input[type=file]").first.set_input_files(str(example_images()[0]))
            page.locator("#varied-image img").first.wait_for()
            start = time.perf_counter()
            page.get_by_role("button", name="Vary").click()
            page.locator(".small-images:visible img").first.wait_for()
            print(f"variations: {time.perf_counter() - start:.2f} s")
            browser.close()
        print(f"largest memory of the server: {peak_memory(server.pid):.2f} GiB")
    finally:
        server.terminate()


if __name__ == "__main__":
    main()
