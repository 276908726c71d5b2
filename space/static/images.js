/**
 * Images to pixel values and back, as `titok_hf.image_processing_pil_titok` does it: margins or bicubic resizing with
 * Pillow's arithmetic, a centre crop, values in [0, 1].
 *
 * An image is `{data, width, height}` with `data` in red, green, blue and alpha of 8 bits, as `ImageData` has it.
 */

const MAX_BYTES = 20_000_000;
const MAX_PIXELS = 89_478_485; // as in Python
const MAX_ASPECT_RATIO = 32; // of a longer image only the middle is resized
const CHANNELS = 3;

/**
 * Read an image file in the browser: upright, transparent pixels on white, its colours as they are stored.
 * @param {Blob} file
 * @returns {Promise<ImageData>}
 * @throws {Error} no image, or one that is too large
 */
export async function readImage(file) {
    if (file.size > MAX_BYTES) {
        throw new Error(`This file has ${Math.ceil(file.size / 1e6)} MB; the limit is ${MAX_BYTES / 1e6} MB.`);
    }
    const size = await sizeOf(file);
    if (size.width * size.height > MAX_PIXELS) {
        throw new Error(`This image has ${size.width} x ${size.height} pixels, which is too many. Make it smaller.`);
    }
    const bitmap = await createImageBitmap(file, { colorSpaceConversion: "none" }).catch(() => {
        throw new Error("This file is damaged, or not an image that this browser can read.");
    });
    const canvas = new OffscreenCanvas(bitmap.width, bitmap.height);
    const context = canvas.getContext("2d", { willReadFrequently: true });
    context.fillStyle = "white";
    context.fillRect(0, 0, canvas.width, canvas.height);
    context.drawImage(bitmap, 0, 0);
    bitmap.close();
    return context.getImageData(0, 0, canvas.width, canvas.height);
}

/** Width and height of an image file, which the browser knows before it decodes the pixels. */
function sizeOf(file) {
    const address = URL.createObjectURL(file);
    const image = new Image();
    return new Promise((resolve, reject) => {
        image.onload = () => resolve({ width: image.naturalWidth, height: image.naturalHeight });
        image.onerror = () => reject(new Error("This file is damaged, or not an image that this browser can read."));
        image.src = address;
    }).finally(() => URL.revokeObjectURL(address));
}

/**
 * The image that the model sees.
 * @param {object} image
 * @param {object} processor `image_processor` of `titok_export.json`
 * @returns {object} an image of the size of the crop
 */
export function preprocess(image, processor) {
    const size = processor.size.shortest_edge;
    const crop = processor.crop_size;
    if (!(processor.do_enlarge ?? true)) {
        image = onBlack(image, size);
    }
    image = cropped(image, ...withinAspectLimit(image));
    const long = Math.max(image.width, image.height);
    const short = Math.min(image.width, image.height);
    const longer = Math.floor((size * long) / short);
    const [width, height] = image.width <= image.height ? [size, longer] : [longer, size];
    image = transposed(resizedWidth(transposed(resizedWidth(image, width)), height));
    const left = roundHalfToEven((width - crop.width) / 2);
    const top = roundHalfToEven((height - crop.height) / 2);
    return cropped(image, left, top, crop.width, crop.height);
}

/**
 * @param {object} image
 * @returns {Float32Array} shape (3, height, width), in [0, 1]
 */
export function toPixelValues({ data, width, height }) {
    const pixels = width * height;
    return new Float32Array(CHANNELS * pixels).map((_, i) => data[4 * (i % pixels) + Math.floor(i / pixels)] * (1 / 255));
}

/**
 * As `post_process`: values are clamped and rounded to 8 bits, half to even.
 * @param {Float32Array} pixelValues shape (3, size, size)
 * @param {number} size
 * @returns {object} an image
 */
export function toImage(pixelValues, size) {
    const pixels = size * size;
    const data = new Uint8ClampedArray(4 * pixels).fill(255);
    for (let i = 0; i < CHANNELS * pixels; i++) {
        const clamped = Math.min(1, Math.max(0, pixelValues[i]));
        data[4 * (i % pixels) + Math.floor(i / pixels)] = Math.fround(clamped * 255);
    }
    return { data, width: size, height: size };
}

/** Peak signal-to-noise ratio of two images of one size, in dB. */
export function psnr(first, second) {
    let sum = 0;
    for (let i = 0; i < first.data.length; i++) {
        sum += i % 4 < CHANNELS ? (first.data[i] - second.data[i]) ** 2 : 0;
    }
    return 10 * Math.log10((255 ** 2 * CHANNELS * first.width * first.height) / sum);
}

function blackImage(width, height) {
    const data = new Uint8ClampedArray(4 * width * height);
    new Uint32Array(data.buffer).fill(0xff000000); // opaque
    return { data, width, height };
}

/** The part of an image from a corner; black where it reaches beyond the image. */
function cropped(source, left, top, width, height) {
    const part = blackImage(width, height);
    for (let y = Math.max(0, -top); y < Math.min(height, source.height - top); y++) {
        for (let x = Math.max(0, -left); x < Math.min(width, source.width - left); x++) {
            const from = 4 * ((y + top) * source.width + x + left);
            part.data.set(source.data.subarray(from, from + 4), 4 * (y * width + x));
        }
    }
    return part;
}

/** An image in the middle of a larger black one, if an edge is shorter than `size`. */
function onBlack(source, size) {
    const columns = Math.max(0, size - source.width);
    const rows = Math.max(0, size - source.height);
    const [left, top] = [Math.floor(columns / 2), Math.floor(rows / 2)];
    return cropped(source, -left, -top, source.width + columns, source.height + rows);
}

function withinAspectLimit({ width, height }) {
    const limit = MAX_ASPECT_RATIO * Math.min(width, height);
    const left = Math.max(0, Math.floor((width - limit) / 2));
    const top = Math.max(0, Math.floor((height - limit) / 2));
    return [left, top, width - 2 * left, height - 2 * top];
}

function transposed(source) {
    const turned = blackImage(source.height, source.width);
    const from = new Uint32Array(source.data.buffer);
    const to = new Uint32Array(turned.data.buffer);
    for (let y = 0; y < source.height; y++) {
        for (let x = 0; x < source.width; x++) {
            to[x * source.height + y] = from[y * source.width + x];
        }
    }
    return turned;
}

/** Pillow's bicubic resampling of one axis, antialiased, in whole numbers of 22 binary digits as in Pillow. */
function resizedWidth(source, width) {
    if (width === source.width) {
        return source;
    }
    const one = 1 << 22;
    const resized = blackImage(width, source.height);
    const scale = source.width / width;
    const widening = Math.max(scale, 1);
    for (let x = 0; x < width; x++) {
        const center = (x + 0.5) * scale;
        const first = Math.max(0, Math.trunc(center - 2 * widening + 0.5));
        const end = Math.min(source.width, Math.trunc(center + 2 * widening + 0.5));
        const raw = Array.from({ length: end - first }, (_, i) => bicubic((i + first - center + 0.5) * (1 / widening)));
        const sum = raw.reduce((total, weight) => total + weight, 0);
        const weights = raw.map((weight) => {
            const share = sum === 0 ? weight : weight * (1 / sum);
            return Math.trunc(share * one + (share < 0 ? -0.5 : 0.5));
        });
        for (let y = 0; y < source.height; y++) {
            for (let channel = 0; channel < CHANNELS; channel++) {
                let value = one / 2;
                let from = 4 * (y * source.width + first) + channel;
                for (const weight of weights) {
                    value += source.data[from] * weight;
                    from += 4;
                }
                resized.data[4 * (y * width + x) + channel] = value >> 22;
            }
        }
    }
    return resized;
}

function bicubic(x) {
    const a = -0.5;
    const distance = Math.abs(x);
    if (distance < 1) {
        return ((a + 2) * distance - (a + 3)) * distance * distance + 1;
    }
    if (distance < 2) {
        return (((distance - 5) * distance + 8) * distance - 4) * a;
    }
    return 0;
}

function roundHalfToEven(value) {
    const floor = Math.floor(value);
    const odd = Math.abs(floor % 2);
    return value - floor === 0.5 ? floor + odd : Math.round(value);
}
