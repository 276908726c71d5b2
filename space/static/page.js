/** The page: what is chosen, shown and said. The models are in `titok.js`, images in `images.js`. */

import { preprocess, psnr, readImage, toImage, toPixelValues } from "./images.js";
import { TorchGenerator } from "./random.js";
import { TiTok } from "./titok.js";

const LARGEST_SEED = 2 ** 32 - 1;
const $ = (id) => document.getElementById(id);

let model; // a TiTok
let colours; // red, green and blue of each code
let tokens = null; // what is shown: {codes, unchanged, original, origin}, see `show`
let chosen = null; // position of the token that the slider changes
let isDecoding = false;

// ---- What a visitor can do

/** @param {Blob | Promise<Blob>} source of an image file */
async function takeImage(source) {
    await busy("Encoding ...", async () => {
        const file = await source;
        const original = preprocess(await readImage(file), model.description.image_processor);
        const codes = await model.encode(toPixelValues(original));
        await show({ codes, original, origin: { image: file.name || "image.png" } });
        return `Encoded into ${codes.length} tokens.`;
    });
}

async function generate() {
    const seed = $("seed").valueAsNumber;
    if (!Number.isInteger(seed) || seed < 0 || seed > LARGEST_SEED) {
        say("", `The seed has to be a whole number from 0 to ${LARGEST_SEED}.`);
        return;
    }
    const label = Number($("class").value);
    const settings = {
        num_inference_steps: $("steps").valueAsNumber,
        guidance_scale: $("guidance").valueAsNumber,
        temperature: $("temperature").valueAsNumber,
    };
    const origin = { className: model.description.id2label[label], seed, settings };
    await busy("Generating ...", async () => {
        const started = performance.now();
        const random = new TorchGenerator(seed);
        const codes = await model.generate(label, {
            uniforms: (count) => random.uniforms(count),
            settings,
            onStep: async (step, { prevSample, predOriginalSample }) => {
                await show({ codes: prevSample, preview: predOriginalSample, original: null, origin });
                say(`Step ${step + 1} of ${settings.num_inference_steps}`);
                await new Promise((resolve) => setTimeout(resolve)); // so that the browser paints
            },
        });
        await show({ codes, original: null, origin });
        const seconds = ((performance.now() - started) / 1000).toFixed(1);
        return `${origin.className}, seed ${seed}: ${settings.num_inference_steps} steps in ${seconds} s.`;
    });
}

async function changeCode() {
    tokens.codes[chosen] = $("code").valueAsNumber;
    showTiles();
    if (isDecoding) {
        return; // the decoding that runs sees to it
    }
    isDecoding = true;
    try {
        for (let decoded = null; decoded !== tokens.codes.join(); ) {
            decoded = tokens.codes.join();
            await showDecoded(tokens.codes);
        }
    } finally {
        isDecoding = false;
    }
    showPython();
}

// ---- What is shown

/**
 * @param {object} shown
 * @param {Int32Array} shown.codes of the tokens, masked ones included
 * @param {Int32Array} [shown.preview] codes to decode instead, without masked ones
 * @param {object|null} shown.original the image that was encoded
 * @param {object} shown.origin `{image}` or `{className, seed, settings}`
 */
async function show({ codes, preview = codes, original, origin }) {
    tokens = { codes, unchanged: Int32Array.from(codes), original, origin };
    chosen = null;
    $("original-figure").hidden = !original;
    if (original) {
        draw($("original"), original);
    }
    showTiles();
    await showDecoded(preview);
    showPython();
    $("result").hidden = false;
    $("result").scrollIntoView({ block: "nearest" }); // it is below the controls on a phone
}

async function showDecoded(codes) {
    const decoded = toImage(await model.decode(Int32Array.from(codes)), model.description.image_size);
    draw($("decoded"), decoded);
    const { original } = tokens;
    $("decoded-caption").textContent = original ? `Decoded, ${psnr(original, decoded).toFixed(2)} dB PSNR` : "Decoded";
}

function showTiles() {
    const tiles = $("tiles");
    while (tiles.children.length < tokens.codes.length) {
        const tile = document.createElement("button");
        tile.type = "button";
        tiles.append(tile);
    }
    for (const [position, code] of tokens.codes.entries()) {
        const tile = tiles.children[position];
        const isMasked = code === model.maskTokenId;
        const [red, green, blue] = isMasked ? [] : colours[code];
        tile.className = isMasked ? "masked" : code === tokens.unchanged[position] ? "" : "changed";
        tile.textContent = isMasked ? "" : code;
        tile.style.background = isMasked ? "" : `rgb(${red}, ${green}, ${blue})`;
        tile.style.color = 0.299 * red + 0.587 * green + 0.114 * blue > 128 ? "#000" : "#fff";
        tile.ariaLabel = isMasked ? `Token ${position}: masked` : `Token ${position}: code ${code}`;
        tile.ariaPressed = position === chosen;
    }
    $("editor").hidden = chosen === null;
    if (chosen !== null) {
        $("code-label").textContent = `Code of token ${chosen}`;
        $("code").value = tokens.codes[chosen];
        $("code-value").textContent = tokens.codes[chosen];
    }
}

function showPython() {
    const { codes, unchanged, origin } = tokens;
    const changes = Array.from(codes.entries(), ([i, code]) => (code === unchanged[i] ? "" : `codes[0, ${i}] = ${code}\n`));
    $("python").textContent =
        (origin.image ? "" : "import torch\n") +
        "from titok_hf import TiTokPipeline, bundled_checkpoint\n\n" +
        "pipe = TiTokPipeline.from_pretrained(bundled_checkpoint())\n" +
        (origin.image ? `codes = pipe.encode(${JSON.stringify(origin.image)})\n` : generationInPython(origin)) +
        changes.join("") +
        "image = pipe.decode(codes)[0]\n";
}

function generationInPython({ className, seed, settings }) {
    const values = Object.entries(settings).map(([name, value]) => `    ${name}=${value},\n`);
    const generator = `    generator=torch.Generator().manual_seed(${seed}),\n`;
    return `codes = pipe(\n    ${JSON.stringify(className)},\n${values.join("")}${generator}).codes\n`;
}

function draw(canvas, { data, width, height }) {
    canvas.width = width;
    canvas.height = height;
    canvas.getContext("2d").putImageData(new ImageData(data, width, height), 0, 0);
}

/** Show what the page does, or a sentence on what went wrong. */
function say(status, error = "") {
    $("status").textContent = status;
    $("error").textContent = error;
    $("error").hidden = !error;
}

/** Do something that takes time, while the controls wait; `work` returns what to say at the end. */
async function busy(status, work) {
    if ($("controls").disabled) {
        return;
    }
    const focused = document.activeElement; // disabling takes the focus away
    $("controls").disabled = true;
    say(status);
    try {
        say(await work());
    } catch (error) {
        say("", error.message);
    }
    $("controls").disabled = false;
    focused?.focus({ preventScroll: true });
}

// ---- What the page listens to

function listen() {
    $("file").addEventListener("change", async ({ target }) => {
        const [file] = target.files;
        if (file) {
            await takeImage(file);
        }
        target.value = ""; // so that the same file can be chosen again
    });
    document.addEventListener("paste", ({ clipboardData }) => takeTransferred(clipboardData));
    document.addEventListener("dragover", (event) => {
        event.preventDefault();
        $("image").classList.add("dropping");
    });
    document.addEventListener("dragleave", () => $("image").classList.remove("dropping"));
    document.addEventListener("drop", (event) => {
        event.preventDefault();
        $("image").classList.remove("dropping");
        takeTransferred(event.dataTransfer);
    });

    $("generate").addEventListener("click", generate);
    $("next").addEventListener("click", () => {
        $("seed").value = ($("seed").valueAsNumber + 1) % (LARGEST_SEED + 1);
        generate();
    });
    for (const slider of document.querySelectorAll("details input[type=range]")) {
        slider.addEventListener("input", () => showValue(slider));
    }

    $("tiles").addEventListener("click", ({ target }) => {
        if (target.matches("button")) {
            chosen = Array.from($("tiles").children).indexOf(target);
            showTiles();
        }
    });
    $("tiles").addEventListener("keydown", ({ key, target }) => {
        const neighbour = { ArrowLeft: target.previousElementSibling, ArrowRight: target.nextElementSibling }[key];
        neighbour?.focus();
    });
    $("code").addEventListener("input", changeCode);
    $("undo").addEventListener("click", () => show({ ...tokens, codes: tokens.unchanged }));
}

async function takeTransferred(data) {
    if (data.files.length) {
        await takeImage(data.files[0]);
    }
}

async function exampleFile(address) {
    const content = await (await fetch(address)).blob();
    return new File([content], address.split("/").pop());
}

function showValue(slider) {
    slider.nextElementSibling.textContent = slider.value;
}

function fillIn(examples) {
    const { id2label, scheduler, codebook_size } = model.description;
    for (const [label, name] of Object.entries(id2label)) {
        $("class").add(new Option(name, label));
    }
    for (const { file, label } of examples) {
        const image = Object.assign(new Image(), { src: file, alt: label });
        const button = document.createElement("button");
        button.type = "button";
        button.append(image);
        button.addEventListener("click", () => takeImage(exampleFile(file)));
        $("examples").append(button);
    }
    $("steps").value = scheduler.num_inference_steps;
    $("guidance").value = scheduler.guidance_scale;
    $("temperature").value = scheduler.temperature;
    document.querySelectorAll("details input[type=range]").forEach(showValue);
    $("code").max = codebook_size - 1;
}

async function start() {
    $("controls").dataset.loading = "";
    say("Loading the model ...");
    try {
        const settings = await (await fetch("page.json")).json();
        colours = settings.colours;
        model = await TiTok.load("model/", (share) => say(`Loading the model: ${Math.round(100 * share)} %`));
        fillIn(settings.examples);
        listen();
        delete $("controls").dataset.loading;
        $("controls").disabled = false;
        say("Ready.");
    } catch (error) {
        say("", error.message);
        console.error(error);
    }
}

await start();
