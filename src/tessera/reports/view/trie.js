// The prefix trie of a group as SVG: a branch a line of text, the prompt on the left.

const STEP_X = 216, STEP_Y = 30, CHARACTER_X = 7;

function svg(tag, attributes, text) {
  const made = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  if (text !== undefined) made.textContent = text;
  return made;
}

// Leaves on lines of their own, parents in the middle of their children.
function placed(branches) {
  const children = branches.map(() => []);
  branches.forEach(([parent], n) => { if (parent >= 0) children[parent].push(n); });
  const places = new Array(branches.length);
  let line = 0;
  const stack = [[0, 0, false]];
  while (stack.length) {
    const [n, depth, done] = stack.pop();
    if (!children[n].length) places[n] = { x: depth, y: line++ };
    else if (done) places[n] = { x: depth, y: (places[children[n][0]].y + places[children[n].at(-1)].y) / 2 };
    else {
      stack.push([n, depth, true]);
      for (const child of [...children[n]].reverse()) stack.push([child, depth + 1, false]);
    }
  }
  return { places, lines: Math.max(1, line) };
}

function drawTrie(group, into, choose) {
  const { places, lines } = placed(group.trie), most = group.trie[0][3];
  const parents = new Set(group.trie.map(([parent]) => parent));
  const deepest = Math.max(...places.map(place => place.x));
  const width = 70 + deepest * STEP_X + 60, height = lines * STEP_Y + 20;
  const x = place => 60 + place.x * STEP_X, y = place => 20 + place.y * STEP_Y;
  const drawing = svg("svg", { width, height, viewBox: `0 0 ${width} ${height}`, role: "group", "aria-label": "Prefix trie" });
  drawing.append(svg("text", { x: 4, y: y(places[0]) - 9, class: "soft" }, "prompt"));
  drawing.append(svg("text", { x: 4, y: y(places[0]) + 16, class: "soft" }, shown(group.trie[0][4])));
  group.trie.forEach(([parent, text, tokens, count, mean, advantage, r, k], n) => {
    if (parent < 0) return;
    const from = places[parent], to = places[n], kind = advantage > 0 ? " up" : advantage < 0 ? " down" : "";
    const branch = svg("g", { class: `branch${kind}`, tabindex: -1, role: "button" });
    const told = `“${text}”: ${tokens} tokens, ${count} of ${most} completions, mean reward ${shown(mean)}, advantage ${shown(advantage)}`;
    branch.setAttribute("aria-label", told);
    branch.append(svg("title", {}, told));
    const bend = x(from) + 34;
    branch.append(svg("path", {
      d: `M${x(from)} ${y(from)}C${bend} ${y(from)} ${x(from) + 8} ${y(to)} ${bend} ${y(to)}H${x(to)}`,
      "stroke-width": 1.5 + 6.5 * count / most,
    }));
    branch.append(svg("circle", { cx: x(to), cy: y(to), r: 4 }));
    const room = Math.floor((STEP_X - 44) / CHARACTER_X);
    const label = text.length > room ? `${text.slice(0, room - 1)}…` : text;
    branch.append(svg("text", { x: bend + 2, y: y(to) - 6 }, label || "·"));
    const aside = parents.has(n) ? { x: x(to) - 6, y: y(to) + 17 } : { x: x(to) + 9, y: y(to) + 4 };
    branch.append(svg("text", { ...aside, class: "soft" }, shown(mean)));
    branch.addEventListener("click", () => choose(r, k));
    drawing.append(branch);
  });
  into.replaceChildren(drawing);
}
