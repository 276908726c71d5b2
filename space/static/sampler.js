/**
 * The scheduler of `titok_hf.scheduling_maskgit` in JavaScript, with its sampler "confidence": from masked codes to an
 * image's codes in a few steps. One image at a time.
 *
 * Values are rounded to float32 after each operation, as PyTorch rounds them: given noise, codes equal Python's.
 */

const NO_GUIDANCE = 1;

const MASK_SCHEDULES = {
    arccos: (progress) => Math.acos(progress) / (Math.PI / 2),
    cosine: (progress) => Math.cos(progress * (Math.PI / 2)),
    linear: (progress) => 1 - progress,
    root: (progress) => 1 - Math.sqrt(progress),
};

const { fround } = Math;

/**
 * Standard Gumbel noise.
 * @param {number} uniform in [0, 1)
 */
export function gumbel(uniform) {
    const smallest = fround(1e-20); // keeps both logarithms finite
    const log = fround(Math.log(Math.max(uniform, smallest)));
    return -fround(Math.log(Math.max(-log, smallest)));
}

export class MaskGitScheduler {
    /**
     * @param {object} config `scheduler` of `titok_export.json`, in which any setting may be replaced
     * @throws {Error} a sampler or a kind of guidance that this page does not have
     */
    constructor(config) {
        for (const [name, known] of [["sampler", "confidence"], ["guidance", "classifier-free"]]) {
            if ((config[name] ?? known) !== known) {
                throw new Error(`The model's ${name} is "${config[name]}", and this page has "${known}" only.`);
            }
        }
        this.config = config;
        this.setTimesteps(config.num_inference_steps);
    }

    /**
     * Compute the values of all steps.
     * @param {number} numInferenceSteps
     */
    setTimesteps(numInferenceSteps) {
        const { mask_schedule, temperature, softmax_temperature_annealing } = this.config;
        const softmaxTemperature = this.config.softmax_temperature ?? 1;
        const begins = Array.from({ length: numInferenceSteps }, (_, step) => step / numInferenceSteps);
        const ends = begins.map((_, step) => (step + 1) / numInferenceSteps);
        this.numInferenceSteps = numInferenceSteps;
        this.maskRatios = ends.map(MASK_SCHEDULES[mask_schedule]);
        this.temperatures = ends.map((progress) => temperature * (1 - progress));
        this.softmaxTemperatures = ends.map(
            (progress) => softmaxTemperature * (softmax_temperature_annealing ? 0.5 + 0.8 * (1 - progress) : 1),
        );
        this.guidanceScales = begins.map((progress) => this.#guidanceScale(progress));
    }

    #guidanceScale(progress) {
        const { guidance_scale, guidance_schedule, guidance_power, guidance_interval } = this.config;
        const [first, last] = guidance_interval ?? [0, 1];
        const added = guidance_scale - NO_GUIDANCE;
        if (added <= 0 || progress < first || progress > last) {
            return NO_GUIDANCE;
        }
        if (guidance_schedule === "constant") {
            return NO_GUIDANCE + added;
        }
        if (guidance_schedule === "linear") {
            return NO_GUIDANCE + added * progress;
        }
        const cosine = fround(Math.cos(fround(progress ** guidance_power * Math.PI))); // "power-cosine"
        return fround(NO_GUIDANCE + fround(fround(fround(added) * fround(1 - cosine)) / 2));
    }

    /** Whether a step is guided, so that it needs logits for no class too. */
    needsUnconditional(step) {
        return this.guidanceScales[step] > NO_GUIDANCE;
    }

    /**
     * Guidance with the scale of a step.
     * @param {Float32Array} conditional logits given the class
     * @param {Float32Array} unconditional logits given no class
     * @param {number} step from 0
     * @returns {Float32Array}
     */
    guide(conditional, unconditional, step) {
        const scale = this.guidanceScales[step];
        if (this.config.guidance_schedule === "power-cosine") {
            const factor = fround(scale);
            return unconditional.map((weaker, i) => weaker + fround(factor * fround(conditional[i] - weaker)));
        }
        const factor = fround(scale - NO_GUIDANCE);
        return conditional.map((logit, i) => logit + fround(factor * fround(logit - unconditional[i])));
    }

    /**
     * One step: codes for masked positions, of which fewer stay masked; the last step leaves none. Codes that were not
     * masked never change.
     *
     * @param {Float32Array} logits after guidance, num_latent_tokens x codebook_size
     * @param {number} step from 0
     * @param {Int32Array} sample num_latent_tokens codes, `mask_token_id` where unknown
     * @param {(count: number) => Float32Array} uniforms draws random numbers in [0, 1): first for the codes, shape of
     *     `logits`, then for the positions, shape of `sample`; not called where the temperature is 0
     * @returns {{prevSample: Int32Array, predOriginalSample: Int32Array}} the input of the next step, and the
     *     prediction of this step for all codes
     * @throws {Error} logits that are not finite
     */
    step(logits, step, sample, uniforms) {
        const mask = this.config.mask_token_id;
        const codebookSize = logits.length / sample.length;
        const temperature = fround(this.temperatures[step]);
        const softmaxTemperature = fround(this.softmaxTemperatures[step]);
        const isLast = step === this.numInferenceSteps - 1;
        if (!logits.every(Number.isFinite)) {
            throw new Error("The logits of the model are not finite. Choose a smaller guidance scale.");
        }

        const noisy = (value, uniform) =>
            temperature > 0 ? fround(value + fround(temperature * gumbel(uniform))) : value;
        const codeNoise = temperature > 0 ? uniforms(logits.length) : [];
        const predicted = Int32Array.from(sample);
        const confidence = new Float32Array(sample.length).fill(Infinity);
        for (let position = 0; position < sample.length; position++) {
            if (sample[position] !== mask) {
                continue;
            }
            let largest = -Infinity;
            for (let code = 0; code < codebookSize; code++) {
                const index = position * codebookSize + code;
                const logit = fround(logits[index] / softmaxTemperature);
                const value = noisy(logit, codeNoise[index]);
                if (value > largest) {
                    largest = value;
                    predicted[position] = code;
                    confidence[position] = logit;
                }
            }
        }
        if (isLast) {
            return { prevSample: predicted, predOriginalSample: predicted };
        }

        const positionNoise = temperature > 0 ? uniforms(sample.length) : [];
        const noisyConfidence = confidence.map((logit, position) => noisy(logit, positionNoise[position]));
        const numMasked = this.#numMasked(step, sample);
        const cutOff = Float32Array.from(noisyConfidence).sort()[numMasked - 1];
        const prevSample = predicted.map((code, position) => {
            const staysMasked = sample[position] === mask && noisyConfidence[position] <= cutOff; // with ties, more
            return staysMasked ? mask : code;
        });
        return { prevSample, predOriginalSample: predicted };
    }

    /** How many tokens stay masked: the scheduled number, but at least 1, and fewer than are masked now. */
    #numMasked(step, sample) {
        const scheduled = Math.floor(sample.length * this.maskRatios[step]);
        const now = sample.filter((code) => code === this.config.mask_token_id).length;
        return Math.max(1, Math.min(scheduled, now - 1));
    }
}
