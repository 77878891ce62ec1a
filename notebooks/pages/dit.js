// The DiT of minidit/dit.py and the DDIM of minidit/sampling.py for one image, in plain JavaScript,
// for a page and for Node. Arrays are flat, row by row; comments say their shapes:
// n patches, d the width, p·p pixels of a patch. The names of weights are those of the file.
"use strict";

// A safetensors file of float16 numbers, in base64 → {config, weights: {name: Float32Array}}.
function readWeights(base64) {
  const bytes = Uint8Array.from(atob(base64), (c) => c.charCodeAt(0));
  const start = 8 + new DataView(bytes.buffer).getUint32(0, true);
  const header = JSON.parse(new TextDecoder().decode(bytes.subarray(8, start)));
  const config = JSON.parse(header.__metadata__.minidit).model, weights = {};
  const numbers = Float32Array.from({ length: 2 ** 16 }, (_, bits) => float16(bits));
  delete header.__metadata__;
  for (const [name, { data_offsets: [first, last] }] of Object.entries(header)) {
    const bits = new Uint16Array(bytes.buffer, start + first, (last - first) / 2);
    weights[name] = Float32Array.from(bits, (b) => numbers[b]);
  }
  return { config, weights };
}

function float16(bits) {
  const exponent = (bits >> 10) & 31, fraction = (bits & 1023) / 1024;
  const size = exponent ? 2 ** (exponent - 15) * (1 + fraction) : 2 ** -14 * fraction;
  return bits >> 15 ? -size : size;
}

const silu = (x) => x / (1 + Math.exp(-x));
const gelu = (x) => 0.5 * x * (1 + Math.tanh(Math.sqrt(2 / Math.PI) * (x + 0.044715 * x ** 3)));

// x (n, i) → (n, o), with the layer's weight (o, i), i a multiple of 4, and bias (o).
function linear(net, layer, x) {
  const w = net.weights[layer + ".weight"], b = net.weights[layer + ".bias"];
  const o = b.length, i = w.length / o, n = x.length / i, y = new Float32Array(n * o);
  for (let c = 0; c < o; c++) {
    for (let r = 0; r < n; r++) {
      let s0 = b[c], s1 = 0, s2 = 0, s3 = 0; // four sums at a time, which is faster
      for (let k = 0, p = r * i, q = c * i; k < i; k += 4, p += 4, q += 4) {
        s0 += x[p] * w[q];
        s1 += x[p + 1] * w[q + 1];
        s2 += x[p + 2] * w[q + 2];
        s3 += x[p + 3] * w[q + 3];
      }
      y[r * o + c] = s0 + s1 + s2 + s3;
    }
  }
  return y;
}

// LayerNorm without weights, then x·(1 + scale) + shift: x (n, d), shift and scale (d).
function modulate(x, shift, scale) {
  const d = shift.length, y = new Float32Array(x.length);
  for (let r = 0; r < x.length; r += d) {
    let mean = 0, variance = 0;
    for (let k = 0; k < d; k++) mean += x[r + k] / d;
    for (let k = 0; k < d; k++) variance += (x[r + k] - mean) ** 2 / d;
    const factor = 1 / Math.sqrt(variance + 1e-6);
    for (let k = 0; k < d; k++) y[r + k] = (x[r + k] - mean) * factor * (1 + scale[k]) + shift[k];
  }
  return y;
}

// softmax(q kᵀ / √k) v: qkv (n, 3·d) → (n, d); the weights, (n, n), are added to `seen`, by head.
function attend(qkv, n, heads, seen) {
  const d = qkv.length / n / 3, width = d / heads, out = new Float32Array(n * d), row = new Float64Array(n);
  for (let head = 0; head < heads; head++) {
    for (let a = 0; a < n; a++) {
      const q = a * 3 * d + head * width;
      for (let b = 0; b < n; b++) {
        const k = b * 3 * d + d + head * width;
        row[b] = 0;
        for (let j = 0; j < width; j++) row[b] += qkv[q + j] * qkv[k + j];
        row[b] /= Math.sqrt(width);
      }
      const top = Math.max(...row);
      let total = 0;
      for (let b = 0; b < n; b++) total += row[b] = Math.exp(row[b] - top);
      for (let b = 0; b < n; b++) {
        const share = row[b] / total, v = b * 3 * d + 2 * d + head * width;
        seen[a * n + b] += share / heads;
        for (let j = 0; j < width; j++) out[a * d + head * width + j] += share * qkv[v + j];
      }
    }
  }
  return out;
}

// The time as a vector: sinusoids in float32, as PyTorch has them, and an MLP → (d).
function timeEmbedding(net, t) {
  const half = net.weights["time_embed.mlp.0.weight"].length / net.config.hidden_size / 2;
  const x = new Float32Array(2 * half);
  for (let k = 0; k < half; k++) {
    const angle = Math.fround(t * Math.fround(Math.exp(Math.fround(-Math.log(10000) * k) / half)));
    x[k] = Math.cos(angle);
    x[half + k] = Math.sin(angle);
  }
  return linear(net, "time_embed.mlp.2", linear(net, "time_embed.mlp.0", x).map(silu));
}

// An image (size·size), a time, a label → the prediction (size·size), and of every block who
// attends to whom, the mean of its heads (n, n).
function forward(net, image, t, label) {
  const { input_size: size, patch_size: p, hidden_size: d, depth, num_heads: heads } = net.config;
  const grid = size / p, n = grid * grid, attention = [];
  const pixel = (patch, k) => (Math.floor(patch / grid) * p + Math.floor(k / p)) * size + (patch % grid) * p + (k % p);
  const patches = Float32Array.from({ length: n * p * p }, (_, k) => image[pixel(Math.floor(k / p / p), k % (p * p))]);
  const x = linear(net, "patch_embed.proj", patches).map((v, k) => v + net.weights.pos_embed[k]); // (n, d)
  const table = net.weights["label_embed.table.weight"];
  const cond = timeEmbedding(net, t).map((v, k) => silu(v + table[label * d + k])); // (d)
  for (let block = 0; block < depth; block++) {
    const name = `blocks.${block}.`, regressed = linear(net, name + "adaln", cond); // (6·d)
    const [shift1, scale1, gate1, shift2, scale2, gate2] = [0, 1, 2, 3, 4, 5].map((k) => regressed.subarray(k * d, k * d + d));
    attention.push(new Float32Array(n * n));
    const heard = attend(linear(net, name + "attn.qkv", modulate(x, shift1, scale1)), n, heads, attention[block]);
    linear(net, name + "attn.proj", heard).forEach((v, k) => { x[k] += gate1[k % d] * v; });
    const inner = linear(net, name + "mlp.up", modulate(x, shift2, scale2)).map(gelu); // (n, 4·d)
    linear(net, name + "mlp.down", inner).forEach((v, k) => { x[k] += gate2[k % d] * v; });
  }
  const last = linear(net, "final.adaln", cond);
  const tokens = linear(net, "final.proj", modulate(x, last.subarray(0, d), last.subarray(d))); // (n, p·p)
  const out = new Float32Array(size * size);
  tokens.forEach((v, k) => { out[pixel(Math.floor(k / p / p), k % (p * p))] = v; });
  return { out, attention };
}

// DDIM on the straight line, for a network that predicts x0: yields {t, x, x0, attention} after each
// step, from the noise x on. Guidance is u + scale·(c - u); 1 needs one pass instead of two.
function* ddim(net, x, label, scale, steps) {
  const T = 1000, stride = (T - 1) / (steps - 1), times = [];
  for (let k = 0, at = 0; k < steps; k++, at += stride) { // a half is rounded to the even number
    times.push(Math.round(at) - (at % 1 === 0.5 && Math.round(at) % 2));
  }
  for (let k = steps - 1; k >= 0; k--) {
    const { out: x0, attention } = forward(net, x, times[k], label);
    if (scale !== 1) {
      const { out: free } = forward(net, x, times[k], net.config.num_classes);
      x0.forEach((v, j) => { x0[j] = free[j] + scale * (v - free[j]); });
    }
    const sigma = (times[k] + 1) / (T + 1), next = k ? (times[k - 1] + 1) / (T + 1) : 0;
    x = x.map((v, j) => (1 - next) * x0[j] + (next * (v - (1 - sigma) * x0[j])) / sigma);
    yield { t: times[k], x, x0, attention };
  }
}

// Standard normal numbers, the same for the same seed: mulberry32, and Box and Muller's transform.
function noise(seed, count) {
  const uniform = () => {
    seed = (seed + 0x6d2b79f5) | 0;
    let z = Math.imul(seed ^ (seed >>> 15), 1 | seed);
    z = (z + Math.imul(z ^ (z >>> 7), 61 | z)) ^ z;
    return ((z ^ (z >>> 14)) >>> 0) / 2 ** 32;
  };
  return Float32Array.from({ length: count }, () => Math.sqrt(-2 * Math.log(1 - uniform())) * Math.cos(2 * Math.PI * uniform()));
}

if (typeof module !== "undefined") module.exports = { readWeights, forward, ddim, noise };
