// The state of the credit view, its controls, keys and numbers; and, served by `tessera view`, new rows as they come.

const $ = name => document.getElementById(`credit-${name}`);
const at = { group: 0, colour: 0, methods: [0], r: -1, k: -1 };
let groups = [];
let told = null; // the token whose numbers are shown

function load() {
  groups = JSON.parse($("data").textContent);
  $("count").textContent = $("data").dataset.count;
  const empty = !groups.length;
  for (const name of ["bar", "rollouts", "trie"]) $(name).hidden = empty;
  if (empty) return;
  at.group = Math.min(at.group, groups.length - 1);
  const known = groups[0].methods.length;
  at.methods = at.methods.filter(m => m < known);
  if (!at.methods.length) at.methods = [0];
  choices("colours", COLOURS.map(colour => colour.key), n => { at.colour = n; repaint(); });
  choices("methods", groups[0].methods.map(method => method.name), toggleMethod);
  draw();
}

function choices(name, labels, chosen) {
  $(name).replaceChildren(...labels.map((label, n) => {
    const button = element("button", "", label);
    button.type = "button";
    button.addEventListener("click", () => chosen(n));
    return button;
  }));
}

function toggleMethod(m) {
  const others = at.methods.filter(one => one !== m);
  at.methods = at.methods.includes(m) && others.length ? others : [...others, m].sort((a, b) => a - b);
  draw();
}

function steps() {
  return [...new Set(groups.map(group => group.step))];
}

function draw() {
  const group = groups[at.group];
  at.r = at.k = -1;
  $("tip").hidden = true;
  options("step", steps().map(step => [step, `${step} · ${groups.find(one => one.step === step).stage}`]), group.step);
  const beside = groups.flatMap((one, n) => one.step === group.step ? [[n, groupName(one)]] : []);
  options("group", beside, at.group);
  $("back").disabled = group.step === groups[0].step;
  $("on").disabled = group.step === groups.at(-1).step;
  $("problem").textContent = `Prompt of problem ${group.problem}`;
  $("prompt").textContent = group.prompt;
  drawRollouts(group, at.methods, $("rollouts"));
  drawTrie(group, $("drawing"), (r, k) => { moveTo(r, k); $("rollouts").focus({ preventScroll: true }); });
  repaint();
  fillFirst($("rollouts"));
}

function groupName(group) {
  const rewards = group.rollouts.map(rollout => rollout.reward);
  const mean = rewards.reduce((sum, reward) => sum + reward, 0) / rewards.length;
  return `${group.problem} · mean reward ${shown(mean)}${group.replay ? " · replay" : ""} (${group.group + 1} of ${group.groups})`;
}

function options(name, entries, chosen) {
  $(name).replaceChildren(...entries.map(([value, label]) => {
    const option = element("option", "", label);
    option.value = value;
    option.selected = value === chosen;
    return option;
  }));
}

function repaint() {
  const group = groups[at.group], colour = COLOURS[at.colour];
  const scales = scalesOf(colour, group, at.methods), scale = scales.get(at.methods[0]);
  paint(group, colour, scales, $("rollouts"));
  press("colours", n => n === at.colour);
  press("methods", n => at.methods.includes(n));
  const ramp = element("span", `ramp ${colour.scale}`);
  const several = colour.own && at.methods.length > 1;
  const [from, to] = several ? ["least", "greatest"] : scale.map(value => shown(value, colour.share));
  $("legend").replaceChildren(element("span", "", from), ramp, element("span", "", to));
  const flat = scale[0] === scale[1] || (colour.key === "weight" && !varies(colour, group));
  $("note").textContent = colour.note + (flat ? " The same for every token here." : "");
  mark();
  keepPlace();
}

function varies(colour, group) {
  const seen = new Set();
  for (const m of at.methods)
    group.rollouts.forEach((rollout, r) => {
      for (let k = 0; k < rollout.t.length && seen.size < 2; k++) {
        const value = colour.of(group, group.methods[m], r, k);
        if (isNumber(value) && credit(group.methods[m], r, "s", k)) seen.add(value);
      }
    });
  return seen.size > 1;
}

function press(name, chosen) {
  [...$(name).children].forEach((button, n) => button.setAttribute("aria-pressed", chosen(n)));
}

// The chosen token, in every column.
function spansAt(r, k) {
  const lines = [...$("rollouts").querySelectorAll(`.tokens[data-r="${r}"]`)];
  lines.forEach(fill);
  return lines.map(line => line.children[k]).filter(Boolean);
}

function mark() {
  for (const span of $("rollouts").querySelectorAll(".at, .twin")) span.classList.remove("at", "twin");
  spansAt(at.r, at.k).forEach((span, n) => span.classList.add(n ? "twin" : "at"));
}

function moveTo(r, k) {
  const group = groups[at.group];
  at.r = Math.min(Math.max(r, 0), group.rollouts.length - 1);
  at.k = Math.min(Math.max(k, 0), group.rollouts[at.r].t.length - 1);
  mark();
  const span = spansAt(at.r, at.k)[0];
  if (!span) return;
  span.scrollIntoView({ block: "nearest" });
  showNumbers(span, at.r, at.k);
  const [, text] = group.table[group.rollouts[at.r].t[at.k]], method = group.methods[at.methods[0]];
  $("said").textContent = `${text}, advantage ${shown(credit(method, at.r, "A", at.k))}, `
    + `gradient share ${shown(credit(method, at.r, "g", at.k), true)}`;
}

function showNumbers(span, r, k) {
  tokenNumbers(groups[at.group], at.methods, r, k, $("tip"));
  told = span;
  placeNumbers();
}

// Beside the token, as long as that is on the screen.
function placeNumbers() {
  const tip = $("tip"), box = told.getClientRects()[0] ?? told.getBoundingClientRect();
  tip.hidden = box.bottom < 0 || box.top > innerHeight;
  const { width, height } = tip.getBoundingClientRect();
  const below = box.bottom + 8 + height <= innerHeight || box.top - 8 - height < 0;
  tip.style.left = `${Math.max(8, Math.min(box.left, innerWidth - width - 8))}px`;
  tip.style.top = `${below ? box.bottom + 8 : box.top - 8 - height}px`;
}

function goStep(by) {
  const all = steps(), next = all[all.indexOf(groups[at.group].step) + by];
  if (next !== undefined) goGroup(groups.findIndex(group => group.step === next));
}

function goGroup(n) {
  if (n < 0 || n >= groups.length) return;
  at.group = n;
  draw();
}

const KEYS = {
  ",": () => goStep(-1),
  ".": () => goStep(1),
  "[": () => goGroup(at.group - 1),
  "]": () => goGroup(at.group + 1),
  m: () => { at.methods = [(at.methods.at(-1) + 1) % groups[0].methods.length]; draw(); },
  Escape: () => { $("tip").hidden = true; },
};
COLOURS.forEach((colour, n) => { KEYS[n + 1] = () => { at.colour = n; repaint(); }; });
const MOVES = {
  ArrowLeft: () => moveTo(at.r, at.k - 1),
  ArrowRight: () => moveTo(at.r, at.k + 1),
  ArrowUp: () => moveTo(at.r - 1, at.k),
  ArrowDown: () => moveTo(at.r + 1, at.k),
  Home: () => moveTo(at.r, 0),
  End: () => moveTo(at.r, Infinity),
};

function keyed(event) {
  if (event.ctrlKey || event.metaKey || event.altKey || event.target.closest("select, input") || !groups.length) return;
  const act = KEYS[event.key] ?? (event.target === $("rollouts") ? MOVES[event.key] : undefined);
  if (!act) return;
  if (MOVES[event.key]) event.preventDefault();
  act();
}

// The place survives a reload, and can be sent to somebody.
function keepPlace() {
  const { step, group, problem } = groups[at.group];
  const place = new URLSearchParams({ step, group, problem, colour: COLOURS[at.colour].key, methods: at.methods.join(".") });
  history.replaceState(null, "", `#credit?${place}`);
}

function takePlace() {
  const place = new URLSearchParams(location.hash.split("?")[1] ?? "");
  at.colour = Math.max(0, COLOURS.findIndex(colour => colour.key === place.get("colour")));
  at.methods = (place.get("methods") ?? "0").split(".").map(Number).filter(m => m >= 0);
  const all = JSON.parse($("data").textContent);
  const same = group => String(group.step) === place.get("step") && String(group.group) === place.get("group");
  const found = all.findIndex(same);
  at.group = Math.max(0, found < 0 ? all.findIndex(credited) : found);
}

// Whether anything was to be learned from a group; the first such is shown first.
function credited(group) {
  return group.methods[0].rollouts.some(({ A }) => (Array.isArray(A) ? A.some(Boolean) : A));
}

function listen() {
  $("step").addEventListener("change", event => goGroup(groups.findIndex(group => group.step === Number(event.target.value))));
  $("group").addEventListener("change", event => goGroup(Number(event.target.value)));
  $("back").addEventListener("click", () => goStep(-1));
  $("on").addEventListener("click", () => goStep(1));
  const area = $("rollouts"), spanOf = event => event.target.closest?.(".tokens > span");
  area.addEventListener("pointerover", event => {
    const span = spanOf(event);
    if (span) showNumbers(span, Number(span.parentNode.dataset.r), Number(span.dataset.k));
    else $("tip").hidden = true;
  });
  area.addEventListener("pointerleave", () => { $("tip").hidden = true; });
  area.addEventListener("click", event => {
    const span = spanOf(event);
    if (span) moveTo(Number(span.parentNode.dataset.r), Number(span.dataset.k));
  });
  area.addEventListener("blur", () => { $("tip").hidden = true; });
  document.addEventListener("keydown", keyed);
  window.addEventListener("beforeprint", () => [...area.children].forEach(fillCard));
  document.addEventListener("scroll", () => { if (!$("tip").hidden) placeNumbers(); }, { passive: true });
}

// Served while a run trains: what has changed is put in the place of what was there.
async function refresh() {
  const fresh = new DOMParser().parseFromString(await (await fetch("/")).text(), "text/html");
  for (const part of fresh.querySelectorAll("[data-part]")) {
    const here = document.querySelector(`[data-part="${part.dataset.part}"]`);
    here.replaceChildren(...part.childNodes);
  }
  const data = fresh.getElementById("credit-data");
  if (data.textContent === $("data").textContent) return;
  const newest = at.group === groups.length - 1, place = groups[at.group];
  $("data").textContent = data.textContent;
  $("data").dataset.count = data.dataset.count;
  const next = JSON.parse(data.textContent);
  const same = next.findIndex(group => place && group.step === place.step && group.group === place.group && group.replay === place.replay);
  at.group = newest || same < 0 ? next.length - 1 : same;
  load();
}

async function follow(seen) {
  let now = seen;
  try {
    now = await (await fetch("/version")).text();
    if (now !== seen) await refresh();
    document.title = document.title.replace(/^\(not connected\) /, "");
  } catch (error) {
    if (!document.title.startsWith("(")) document.title = `(not connected) ${document.title}`;
  }
  setTimeout(follow, 2000, now);
}

listen();
takePlace();
load();
if (document.documentElement.dataset.version) follow(document.documentElement.dataset.version);
