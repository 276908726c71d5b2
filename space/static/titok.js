/** TiTok's models in the browser: the programs that `titok-hf export` wrote, run by ONNX Runtime Web. */

import * as ort from "./onnxruntime/ort.wasm.min.mjs";

import { MaskGitScheduler } from "./sampler.js";

// One thread: more need headers that a static server does not send.
ort.env.wasm.numThreads = 1;
ort.env.wasm.wasmPaths = new URL("./onnxruntime/", import.meta.url).href;
ort.env.logLevel = "error";

const PROGRAMS = { encoder: "encoder_model", decoder: "decoder_model", generator: "generator_model" };

/** A tokenizer and its generator. Make one with `TiTok.load`. */
export class TiTok {
    /**
     * @param {object} description `titok_export.json`
     * @param {Object<string, ort.InferenceSession>} sessions by the keys of `PROGRAMS`
     */
    constructor(description, sessions) {
        this.description = description;
        this.sessions = sessions;
    }

    /**
     * Download and open an exported model.
     * @param {string} folder its address, with a slash at the end
     * @param {(share: number) => void} onProgress called with the share of bytes that have arrived, in [0, 1]
     * @returns {Promise<TiTok>}
     * @throws {Error} a file that is missing or cannot be opened
     */
    static async load(folder, onProgress = () => {}) {
        const description = await (await fetched(`${folder}titok_export.json`)).json();
        const programs = description.exports.find(({ engine }) => engine === "onnx").programs;
        const files = Object.values(PROGRAMS).map((name) => Object.entries(programs[name].files)[0]);
        const total = files.reduce((sum, [, { bytes }]) => sum + bytes, 0);
        const responses = await Promise.all(files.map(([path]) => fetched(`${folder}${path}`)));
        let arrived = 0;
        const onBytes = (bytes) => onProgress((arrived += bytes) / total);
        const contents = await Promise.all(responses.map((response) => received(response, onBytes)));
        const sessions = {};
        for (const [index, name] of Object.keys(PROGRAMS).entries()) {
            sessions[name] = await ort.InferenceSession.create(contents[index], { executionProviders: ["wasm"] });
        }
        return new TiTok(description, sessions);
    }

    get numLatentTokens() {
        return this.description.num_latent_tokens;
    }

    get maskTokenId() {
        return this.description.mask_token_id;
    }

    /**
     * @param {Float32Array} pixelValues one image, (3, image_size, image_size), in [0, 1]
     * @returns {Promise<Int32Array>} its codes
     */
    async encode(pixelValues) {
        const { num_channels, image_size } = this.description;
        const tensor = new ort.Tensor("float32", pixelValues, [1, num_channels, image_size, image_size]);
        const { codes } = await this.sessions.encoder.run({ pixel_values: tensor });
        return Int32Array.from(codes.data, Number);
    }

    /**
     * @param {Int32Array} codes of one image, none of them masked
     * @returns {Promise<Float32Array>} pixel values, (3, image_size, image_size), not clamped
     */
    async decode(codes) {
        const { pixel_values } = await this.sessions.decoder.run({ codes: integers(codes, [1, codes.length]) });
        return pixel_values.data;
    }

    /**
     * @param {Int32Array} codes of one image, `mask_token_id` where unknown
     * @param {number[]} labels classes, `null_class_label` for no class
     * @returns {Promise<Float32Array[]>} logits for each class, num_latent_tokens x codebook_size
     */
    async logits(codes, labels) {
        const repeated = labels.flatMap(() => Array.from(codes));
        const { logits } = await this.sessions.generator.run({
            input_ids: integers(repeated, [labels.length, codes.length]),
            class_labels: integers(labels, [labels.length]),
        });
        const length = logits.data.length / labels.length;
        return labels.map((_, i) => logits.data.slice(i * length, (i + 1) * length));
    }

    /**
     * Generate the codes of an image of a class.
     *
     * @param {number} label of the class
     * @param {object} options
     * @param {(count: number) => Float32Array} options.uniforms source of random numbers in [0, 1)
     * @param {object} options.settings replace those of the model's scheduler, such as `num_inference_steps`,
     *     `guidance_scale` and `temperature`
     * @param {(step: number, result: object) => Promise<void>} options.onStep called after each step, counted from 0,
     *     with what the scheduler's `step` returned
     * @returns {Promise<Int32Array>}
     */
    async generate(label, { uniforms, settings = {}, onStep = async () => {} }) {
        const scheduler = new MaskGitScheduler({ ...this.description.scheduler, ...settings });
        const noClass = this.description.null_class_label;
        let codes = new Int32Array(this.numLatentTokens).fill(this.maskTokenId);
        for (let step = 0; step < scheduler.numInferenceSteps; step++) {
            const isGuided = scheduler.needsUnconditional(step);
            const [conditional, unconditional] = await this.logits(codes, isGuided ? [label, noClass] : [label]);
            const logits = isGuided ? scheduler.guide(conditional, unconditional, step) : conditional;
            const result = scheduler.step(logits, step, codes, uniforms);
            codes = result.prevSample;
            await onStep(step, result);
        }
        return codes;
    }
}

function integers(values, shape) {
    return new ort.Tensor("int64", BigInt64Array.from(values, BigInt), shape);
}

async function fetched(address) {
    const response = await fetch(address).catch(() => ({ ok: false, status: "no connection" }));
    if (!response.ok) {
        throw new Error(`The model cannot be loaded: ${address} (${response.status}). Reload the page.`);
    }
    return response;
}

async function received(response, onBytes) {
    const chunks = [];
    const reader = response.body.getReader();
    for (let part = await reader.read(); !part.done; part = await reader.read()) {
        chunks.push(part.value);
        onBytes(part.value.length);
    }
    return new Uint8Array(await new Blob(chunks).arrayBuffer());
}
