// Reading the page's data. A line of values is a list, a string of bits, one number for all tokens, or null.

const LEVELS = 8;

function valueAt(line, k) {
  if (Array.isArray(line)) return line[k];
  if (typeof line === "string") return line.charCodeAt(k) === 49 ? 1 : 0;
  return line === undefined ? null : line;
}

// A log-prob of kind sampler, new, old or ref; null where it was not computed.
function logProb(rollout, kind, k) {
  const line = rollout[kind];
  return typeof line === "string" ? logProb(rollout, line, k) : valueAt(line, k);
}

function current(rollout, k) {
  const scored = logProb(rollout, "new", k);
  return scored === null ? logProb(rollout, "sampler", k) : scored;
}

function credit(method, r, name, k) {
  return method.error ? null : valueAt(method.rollouts[r][name], k);
}

// What a token can be coloured by. `of` gives the value; `scale` how it is drawn; `note` what it means; `own`: methods
// measure it in units of their own, so each has its own scale.
const COLOURS = [
  { key: "advantage", scale: "diverging", own: true, of: (g, m, r, k) => credit(m, r, "A", k),
    note: "How much better than the rest of its group. Blue: above, orange and dotted: below." },
  { key: "gradient", scale: "diverging", of: (g, m, r, k) => credit(m, r, "g", k), share: true,
    note: "Share of the group's Σ|∂ loss / ∂ log π|. Blue: the update makes the token likelier, orange and dotted: less likely." },
  { key: "weight", scale: "sequential", own: true, of: (g, m, r, k) => credit(m, r, "w", k),
    note: "What the method multiplies a token's part in the numerator by. Grey text: not scored." },
  { key: "selection", scale: "sequential", of: (g, m, r, k) => credit(m, r, "s", k),
    note: "The tokens that the method selects." },
  { key: "probability", scale: "sequential", of: (g, m, r, k) => Math.exp(current(g.rollouts[r], k) ?? NaN), fixed: [1, 0], share: true,
    note: "The policy's probability of the token: the darker, the less likely." },
  { key: "entropy", scale: "sequential", of: (g, m, r, k) => valueAt(g.rollouts[r].entropy, k),
    note: "Entropy of the policy where the token was drawn, in nats. Grey text: not scored." },
  { key: "covariance", scale: "diverging", own: true, of: (g, m, r, k) => credit(m, r, "c", k),
    note: "(log π − mean)(advantage − mean) over the group's selected tokens. Blue: log-prob and advantage go together." },
];

const isNumber = value => typeof value === "number" && Number.isFinite(value);

// The values that the ends of the scale stand for, over the methods shown.
function scaleOf(colour, group, methods) {
  if (colour.fixed) return colour.fixed;
  let low = Infinity, high = -Infinity;
  for (const method of methods)
    group.rollouts.forEach((rollout, r) => {
      for (let k = 0; k < rollout.t.length; k++) {
        const value = valueAt(rollout.written, k) ? colour.of(group, method, r, k) : null;
        if (isNumber(value)) { low = Math.min(low, value); high = Math.max(high, value); }
      }
    });
  if (colour.scale === "diverging") {
    const most = Math.max(Math.abs(low), Math.abs(high));
    return Number.isFinite(most) ? [-most, most] : [0, 0];
  }
  return Number.isFinite(low) ? [Math.min(low, 0), high] : [0, 0];
}

// The class of a value: p1..p8 and n1..n8 beside 0, q0..q8 from one end to the other; "" for no colour.
function levelOf(colour, [from, to], value) {
  if (!isNumber(value) || from === to) return "";
  if (colour.scale === "diverging") {
    const level = Math.ceil(LEVELS * Math.min(1, Math.abs(value) / to) - 1e-9);
    return level === 0 ? "" : value > 0 ? `p${level}` : `n${level} less`;
  }
  const level = Math.round(LEVELS * Math.min(1, Math.max(0, (value - from) / (to - from))));
  return level === 0 ? "" : `q${level}`;
}

function scalesOf(colour, group, shownMethods) {
  const methods = shownMethods.map(m => group.methods[m]);
  const together = scaleOf(colour, group, methods);
  return new Map(shownMethods.map((m, n) => [m, colour.own ? scaleOf(colour, group, [methods[n]]) : together]));
}

function shown(value, share = false) {
  if (!isNumber(value)) return "–";
  if (share) return `${Number((100 * value).toPrecision(3))} %`;
  if (value !== 0 && (Math.abs(value) < 1e-3 || Math.abs(value) >= 1e5)) return value.toExponential(2);
  return String(Number(value.toPrecision(4)));
}
