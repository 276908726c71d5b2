/**
 * The random numbers of `torch.Generator().manual_seed(seed)` on a CPU, so that a seed makes the same image here and in
 * Python: the Mersenne Twister MT19937, of whose 32 bits `torch.rand` keeps 24.
 */

const LENGTH = 624;
const MIDDLE = 397;

export class TorchGenerator {
    /** @param {number} seed a whole number in [0, 2^32) */
    constructor(seed) {
        this.state = new Uint32Array(LENGTH);
        this.state[0] = seed;
        for (let i = 1; i < LENGTH; i++) {
            const previous = this.state[i - 1] ^ (this.state[i - 1] >>> 30);
            this.state[i] = Math.imul(previous, 1812433253) + i;
        }
        this.next = LENGTH;
    }

    /**
     * As `torch.rand(count)`.
     * @param {number} count
     * @returns {Float32Array} numbers in [0, 1)
     */
    uniforms(count) {
        const numbers = new Float32Array(count);
        for (let i = 0; i < count; i++) {
            numbers[i] = (this.#bits() & 0xffffff) / 0x1000000;
        }
        return numbers;
    }

    #bits() {
        if (this.next === LENGTH) {
            this.#renew();
        }
        let bits = this.state[this.next++];
        bits ^= bits >>> 11;
        bits ^= (bits << 7) & 0x9d2c5680;
        bits ^= (bits << 15) & 0xefc60000;
        return (bits ^ (bits >>> 18)) >>> 0;
    }

    #renew() {
        const state = this.state;
        for (let i = 0; i < LENGTH; i++) {
            const joined = (state[i] & 0x80000000) | (state[(i + 1) % LENGTH] & 0x7fffffff);
            state[i] = state[(i + MIDDLE) % LENGTH] ^ (joined >>> 1) ^ (joined & 1 ? 0x9908b0df : 0);
        }
        this.next = 0;
    }
}
