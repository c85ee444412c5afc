// The completions of one group. Spans are made once, those far below the screen when they come near it; a change of
// colour only changes their classes.

const AT_ONCE = 2000; // tokens whose spans are made at once, in all columns together

let painting = null; // what paint was last told: spans that are made later are painted alike
const nearing = new IntersectionObserver(
  entries => entries.filter(entry => entry.isIntersecting).forEach(entry => fillCard(entry.target)),
  { rootMargin: "800px" },
);

function element(tag, kind, text) {
  const made = document.createElement(tag);
  if (kind) made.className = kind;
  if (text !== undefined) made.textContent = text;
  return made;
}

function tokenText(group, rollout, k) {
  const text = group.table[rollout.t[k]][1];
  return text === "" ? "·" : text.replace(/\n/g, "↵\n").replace(/\t/g, "⇥\t");
}

function rolloutHead(group, r) {
  const rollout = group.rollouts[r], head = element("header");
  head.append(element("strong", "", `${r + 1}. reward ${shown(rollout.reward)}`));
  if (rollout.right !== null)
    head.append(element("span", rollout.right ? "right" : "soft", rollout.right ? "✓ right" : "✗ not right"));
  for (const [name, value] of Object.entries(rollout.parts)) head.append(element("span", "soft", `${name} ${shown(value)}`));
  const end = rollout.end === "length" ? "cut at the limit" : "ended by itself";
  head.append(element("span", "soft", `${rollout.t.length} tokens, ${end}`));
  return head;
}

// What a method spends on a completion: selected tokens, and its part of the gradient.
function spent(group, method, r) {
  const length = group.rollouts[r].t.length;
  let selected = 0, share = 0;
  for (let k = 0; k < length; k++) {
    selected += credit(method, r, "s", k) ? 1 : 0;
    share += Math.abs(credit(method, r, "g", k) ?? 0);
  }
  return `${selected} of ${length} tokens, ${shown(share, true)} of the gradient`;
}

function tokenLine(group, r, m) {
  const rollout = group.rollouts[r], line = element("div", "tokens");
  line.dataset.r = r;
  line.dataset.m = m;
  line.dir = "ltr";
  line.style.minHeight = `${Math.ceil(rollout.t.length / 15)}lh`; // about what the spans will take
  return line;
}

function fill(line) {
  if (line.firstChild) return;
  const group = painting.group, rollout = group.rollouts[line.dataset.r], spans = [];
  for (let k = 0; k < rollout.t.length; k++) {
    const span = element("span", "", tokenText(group, rollout, k));
    span.setAttribute("data-k", k);
    spans.push(span);
  }
  line.append(...spans);
  line.style.minHeight = "";
  paintLine(line);
}

function fillCard(card) {
  nearing.unobserve(card);
  card.querySelectorAll(".tokens").forEach(fill);
}

function methodName(method) {
  return method.name === "as trained" && method.algorithm ? `as trained (${method.algorithm})` : method.name;
}

function drawRollouts(group, methods, into) {
  const cards = group.rollouts.map((rollout, r) => {
    const card = element("article", "rollout"), columns = element("div", "columns");
    columns.style.setProperty("--columns", methods.length);
    for (const m of methods) {
      const method = group.methods[m], column = element("div");
      if (methods.length > 1) {
        const name = element("h4", "", methodName(method)), range = element("span", "soft");
        if (!method.error) range.dataset.range = m;
        name.append(" ", range);
        column.append(name);
      }
      column.append(element("div", "soft note", method.error ?? spent(group, method, r)));
      if (!method.error) column.append(tokenLine(group, r, m));
      columns.append(column);
    }
    card.append(rolloutHead(group, r), columns);
    return card;
  });
  nearing.disconnect();
  into.replaceChildren(...cards);
}

// Makes the spans of the first completions, and lets the others wait until they are near.
function fillFirst(into) {
  let left = AT_ONCE;
  for (const card of into.children) {
    if (left <= 0) { nearing.observe(card); continue; }
    for (const line of card.querySelectorAll(".tokens")) left -= painting.group.rollouts[line.dataset.r].t.length;
    fillCard(card);
  }
}

function paint(group, colour, scales, into) {
  for (const range of into.querySelectorAll("[data-range]")) {
    const [from, to] = scales.get(Number(range.dataset.range));
    range.textContent = colour.own ? `${shown(from)} to ${shown(to)}` : "";
  }
  painting = { group, colour, scales };
  into.querySelectorAll(".tokens").forEach(paintLine);
}

function paintLine(line) {
  const { group, colour, scales } = painting;
  const r = Number(line.dataset.r), rollout = group.rollouts[r], m = Number(line.dataset.m);
  const method = group.methods[m], scale = scales.get(m);
  let written = 1;
  for (let k = 0, span = line.firstChild; span; k++, span = span.nextSibling) {
    const before = written;
    written = valueAt(rollout.written, k);
    if (!written) { span.className = before ? "given turn" : "given"; continue; }
    const kept = colour.key === "probability" || colour.key === "entropy" || credit(method, r, "s", k);
    span.className = kept ? levelOf(colour, scale, colour.of(group, method, r, k)) : "off";
  }
}

// The numbers of a token: of the policies, then a column a method shown.
function tokenNumbers(group, methods, r, k, tip) {
  const rollout = group.rollouts[r], [id, text] = group.table[rollout.t[k]];
  const title = element("div");
  title.append(element("b", "", text === "" ? "(no text of its own)" : text.replace(/\n/g, "↵").replace(/\t/g, "⇥")));
  const place = `id ${id}, token ${k + 1} of ${rollout.t.length}, completion ${r + 1}`;
  title.append(element("div", "soft", valueAt(rollout.written, k) ? place : `${place}; not written by the policy`));
  const chances = [["new", "policy, last update"], ["old", "old, first update"], ["ref", "reference"], ["sampler", "sampler"]]
    .map(([kind, name]) => [name, logProb(rollout, kind, k)])
    .filter(([, value]) => value !== null)
    .map(([name, value]) => [name, shown(value), shown(Math.exp(value), true)]);
  const entropy = valueAt(rollout.entropy, k);
  if (entropy !== null) chances.push(["entropy, nats", shown(entropy), ""]);
  tip.replaceChildren(title, numberTable(["", "log-prob", "probability"], chances));
  const own = methods.map(m => group.methods[m]).filter(method => !method.error);
  const rows = [["selected", "s"], ["advantage", "A"], ["weight", "w"], ["gradient share", "g"], ["covariance", "c"]].map(
    ([name, key]) => [name, ...own.map(method => {
      const value = credit(method, r, key, k);
      return key === "s" ? (value ? "yes" : "no") : shown(value, key === "g");
    })]);
  tip.append(numberTable(["", ...own.map(methodName)], rows));
}

function numberTable(head, rows) {
  const table = element("table"), top = element("thead"), body = element("tbody");
  const line = element("tr");
  line.append(...head.map(text => element("th", "", text)));
  top.append(line);
  for (const [name, ...values] of rows) {
    const row = element("tr");
    row.append(element("th", "", name), ...values.map(text => element("td", "", text)));
    body.append(row);
  }
  table.append(top, body);
  return table;
}
