// Everything a model or a user wrote gets into the page as text (textContent), never as markup.
"use strict";

const $ = (id) => document.getElementById(id);
const MOST_LABELS = 20;
const MOST_LOOKS = 8;
let health = null;
let running = null;

function make(tag, className, text) {
  const element = document.createElement(tag);
  if (className) element.className = className;
  if (text !== undefined) element.textContent = text;
  return element;
}

const percent = (share) => `${(100 * share).toFixed(share > 0 && share < 0.001 ? 2 : 1)}%`;

async function ask(path, body, signal) {
  const headers = { "Content-Type": "application/json" };
  if ($("token").value) headers.Authorization = `Bearer ${$("token").value}`;
  let response;
  try {
    response = await fetch(path, { method: "POST", headers, body: JSON.stringify(body), signal });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Error("The service cannot be reached.");
  }
  const said = await response.json().catch(() => ({ error: `status ${response.status}` }));
  if (!response.ok) throw new Error(said.error);
  return said;
}

// One list of names with bars; entries: [name, share of the bar, text of the value].
function bars(entries, className) {
  const list = make("ol", className ? `bars ${className}` : "bars");
  for (const [name, share, value, isBest] of entries) {
    const item = make("li", isBest ? "best" : "");
    const label = make("span", "name", name);
    label.title = name;
    const track = make("span", "track");
    const bar = make("span");
    bar.style.setProperty("--w", Math.min(1, Math.max(0, share)));
    track.append(bar);
    item.append(label, track, make("span", "value", value));
    list.append(item);
  }
  return list;
}

const CUT = "The text is longer than the model reads; its end was left out.";

function showLabels(result) {
  const parts = [];
  if (result.tokens) {
    const line = make("p", "tagged");
    result.tokens.forEach((token, number) => {
      const tag = result.prediction[number];
      const word = make("span", tag === "O" ? "word" : "word is-tagged", token);
      if (tag !== "O") word.append(make("small", "", tag));
      line.append(word, " ");
    });
    parts.push(line);
  } else if (result.probabilities) {
    const chosen = [].concat(result.prediction);
    const sorted = Object.entries(result.probabilities).sort((a, b) => b[1] - a[1]);
    parts.push(bars(sorted.slice(0, MOST_LABELS).map(([name, p]) => [name, p, percent(p), chosen.includes(name)])));
    if (sorted.length > MOST_LABELS) parts.push(make("p", "note", `and ${sorted.length - MOST_LABELS} more labels`));
  } else {
    parts.push(make("p", "", String(result.prediction)));
  }
  if (result.cut) parts.push(make("p", "note", CUT));
  return parts;
}

const showMasks = (result) =>
  result.masks.flatMap((candidates, number) => [
    make("h3", "", result.masks.length > 1 ? `Mask ${number + 1}` : "The mask"),
    bars(candidates.map(({ token, probability }, rank) => [token, probability, percent(probability), rank === 0])),
  ]);

const showSpans = (results) =>
  results.length
    ? [bars(results.map(({ answer, score }, rank) => [answer || "(the text does not say)", score, percent(score), rank === 0]))]
    : [make("p", "", "No answer was found in the text.")];

// What the model's head can do, and how its answer is shown.
async function askHead(signal) {
  const text = $("text").value;
  const read = health.reads_pairs ? [text, $("second").value] : text;
  if (health.abilities.includes("classify")) {
    return showLabels((await ask("classify", { texts: [read] }, signal)).results[0]);
  }
  if (health.abilities.includes("fill") && text.includes(health.mask_token)) {
    return showMasks((await ask("fill", { texts: [text], top: 8 }, signal)).results[0]);
  }
  if (health.abilities.includes("answer") && $("question").value.trim()) {
    const body = { question: $("question").value, context: text, top: 3 };
    return showSpans((await ask("answer", body, signal)).results);
  }
  return null;
}

async function run(event) {
  event?.preventDefault();
  if (!health) return;
  running?.abort();
  const control = (running = new AbortController());
  $("error").hidden = true;
  $("status").textContent = "reading …";
  const start = performance.now();
  const text = health.reads_pairs ? [$("text").value, $("second").value] : $("text").value;
  try {
    const [answer, funnel] = await Promise.all([
      askHead(control.signal),
      health.abilities.includes("inspect") ? ask("inspect", { text }, control.signal) : null,
    ]);
    $("answer").hidden = answer === null;
    if (answer) $("answer-body").replaceChildren(...answer);
    $("funnel").hidden = funnel === null;
    if (funnel) drawFunnel(funnel);
    $("status").textContent = `${Math.round(performance.now() - start)} ms`;
  } catch (error) {
    if (error.name === "AbortError") return;
    $("status").textContent = "";
    $("error").textContent = error.message;
    $("error").hidden = false;
    $("answer").hidden = $("funnel").hidden = true;
  }
}

// ---- the funnel

// The words of some tokens: WordPiece's "##ing" goes on with the word before.
function spell(tokens, members) {
  return members.reduce((said, place, number) => {
    const token = tokens[place];
    if (number > 0 && token.startsWith("##")) return said + token.slice(2);
    return number > 0 ? `${said} ${token}` : token;
  }, "");
}

function drawFunnel({ tokens, cut, stages }) {
  const grid = $("grid");
  grid.replaceChildren();
  grid.style.setProperty("grid-template-columns", `max-content repeat(${tokens.length}, minmax(max-content, auto))`);
  const rows = stages.map(({ mixer, members }, block) => {
    const name = make("div", "row-name");
    name.append(make("strong", "", `Block ${block + 1}`));
    name.append(`${members.length} ${members.length === 1 ? "vector" : "vectors"}, ${mixer}`);
    name.style.setProperty("grid-row", block + 1);
    name.style.setProperty("grid-column", 1);
    grid.append(name);
    return members.map((places, number) => {
      const cell = make("button", "cell", spell(tokens, places));
      cell.type = "button";
      cell.tabIndex = -1;
      cell.dataset.block = block + 1;
      cell.title = cell.textContent;
      cell.setAttribute("aria-pressed", "false");
      cell.setAttribute("aria-label", `Block ${block + 1}, vector ${number + 1}: ${cell.textContent}`);
      cell.style.setProperty("grid-row", block + 1);
      cell.style.setProperty("grid-column", `${places[0] + 2} / ${places[places.length - 1] + 3}`);
      cell.addEventListener("click", () => select(block, number));
      cell.addEventListener("keydown", (event) => move(event, block, number));
      grid.append(cell);
      return cell;
    });
  });
  const shortens = stages.length > 1;
  const left = stages.at(-1).members.length;
  const notes = shortens
    ? [
        `${tokens.length} tokens become ${left === 1 ? "one vector" : `${left} vectors`}.`,
        "Choose one: blue frames are what it stands for, orange is where its query looks.",
      ]
    : ["This model has one block: every token keeps its own vector."];
  if (new Set(stages.at(-1).members.flat()).size < tokens.length) {
    notes.push("What no vector of a later block stands for was dropped on the way.");
  }
  if (cut) notes.push(`The first ${tokens.length} tokens are shown.`);
  $("funnel-note").textContent = notes.join(" ");

  function select(block, number, takeFocus = false) {
    const chosen = new Set(stages[block].members[number]);
    const looks = stages[block].looks?.[number];
    const most = looks ? Math.max(...looks) : 0;
    rows.forEach((cells, row) =>
      cells.forEach((cell, place) => {
        const isChosen = row === block && place === number;
        const isMember = row < block && stages[row].members[place].every((token) => chosen.has(token));
        cell.setAttribute("aria-pressed", String(isChosen));
        cell.tabIndex = isChosen ? 0 : -1;
        cell.classList.toggle("is-member", isMember);
        const weight = looks && row === block - 1 ? looks[place] / most : 0;
        cell.style.setProperty("--w", weight.toFixed(3));
      }),
    );
    if (takeFocus) rows[block][number].focus();
    describe(block, number, looks);
  }

  function describe(block, number, looks) {
    const sentence = make("p");
    const places = stages[block].members[number];
    sentence.append(
      `Vector ${number + 1} of block ${block + 1} stands for ${places.length === 1 ? "one token" : `${places.length} tokens`}: `,
      make("q", "", spell(tokens, places)),
    );
    const parts = [sentence];
    if (looks) {
      parts.push(make("h3", "", `Where its query looks, among the ${looks.length} vectors of block ${block}`));
      const order = [...looks.keys()].sort((a, b) => looks[b] - looks[a] || a - b).slice(0, MOST_LOOKS);
      const before = stages[block - 1].members;
      const most = looks[order[0]];
      parts.push(bars(order.map((place) => [spell(tokens, before[place]), looks[place] / most, percent(looks[place])]), "heat"));
    } else if (block > 0) {
      parts.push(make("p", "note", "This block mixes vectors that are pooled already: no query looks back."));
    }
    $("detail").replaceChildren(...parts);
  }

  function move(event, block, number) {
    const steps = { ArrowLeft: [0, -1], ArrowRight: [0, 1], ArrowUp: [-1, 0], ArrowDown: [1, 0] };
    const step = steps[event.key];
    if (!step) return;
    event.preventDefault();
    const row = block + step[0];
    if (!rows[row]) return;
    let place = number + step[1];
    if (step[0]) {
      const first = stages[block].members[number][0];
      place = Math.max(0, stages[row].members.findLastIndex((members) => members[0] <= first));
    }
    if (rows[row][place]) select(row, place, true);
  }

  select(stages.length - 1, 0);
}

// ---- the start

// Of several models each has the page in a folder of its own.
function chooseModel({ models, version }) {
  const links = Object.entries(models).map(([name, { layout, kind }]) => {
    const link = make("a", "", [name, layout, kind].filter(Boolean).join(", "));
    link.href = `models/${encodeURIComponent(name)}/`;
    const item = make("li");
    item.append(link);
    return item;
  });
  const list = make("ul");
  list.append(...links);
  const card = make("section", "card");
  card.append(make("h2", "", "Models"), list);
  $("form").replaceWith(card);
  $("model").replaceChildren(make("span", "", `funnelformer ${version}`));
  health = null;
  document.documentElement.dataset.ready = "true";
}

async function begin() {
  try {
    health = await (await fetch("health")).json();
  } catch {
    $("error").textContent = "The service cannot be reached.";
    $("error").hidden = false;
    return;
  }
  if (health.models) {
    chooseModel(health);
    return;
  }
  const facts = [health.model, health.layout, health.kind, `funnelformer ${health.version}`];
  $("model").replaceChildren(...facts.filter(Boolean).map((fact) => make("span", "", fact)));
  $("token-field").hidden = !health.needs_token;
  $("second-field").hidden = !health.reads_pairs;
  if (health.abilities.includes("answer")) {
    $("question-field").hidden = false;
    $("text-label").textContent = "Passage";
  }
  if (health.abilities.includes("fill")) {
    $("mask").hidden = false;
    $("mask").textContent = `Insert ${health.mask_token}`;
    $("mask").addEventListener("click", () => {
      const field = $("text");
      field.setRangeText(health.mask_token, field.selectionStart, field.selectionEnd, "end");
      field.focus();
    });
  }
  document.documentElement.dataset.ready = "true";
}

$("form").addEventListener("submit", run);
$("form").addEventListener("keydown", (event) => {
  if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) run(event);
});
begin();
