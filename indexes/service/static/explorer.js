// The page: reads its address, asks, draws; every control changes `state` and calls `show`.

import { address, ask, Latest, request } from "./api.js";
import { openDetails } from "./details.js";
import { byId, debounced, el, number } from "./dom.js";
import { drawFilters } from "./filters.js";
import { Pane } from "./pane.js";
import { readPicture } from "./picture.js";
import { drawQuery, wireQuery } from "./query.js";
import { choose, selected } from "./selection.js";
import { asMany, change, isQuestion, keepPicture, question, read, state } from "./state.js";
import { openSubset, told } from "./subset.js";

const MORE = [50, 100, 200, 500, 1000];

let indexes = [];
let shown = ""; // what the panes answer, so that a step in history does not ask it again
const actions = { open: (hit, pane) => openRow(hit.uid, pane), like, lost };
const panes = [true, false].map((choosable) => new Pane({ ...actions, choosable }));

async function start() {
  read();
  wire();
  byId("panes").replaceChildren(panes[0].element);
  try {
    await list();
  } catch (error) {
    return say(`${error.message}. ${error.wayOut ?? ""}`, start);
  }
  if (!indexes.length) return say("This server holds no index.");
  show();
}

async function list() {
  indexes = await ask(new URL("api/indexes", document.baseURI));
}

/** Whether an index is gone, as after a newer version went live; then the page shows that one. */
async function lost(index) {
  try {
    await list();
  } catch {
    return false;
  }
  if (named(index) || !indexes.length) return false;
  show();
  return true;
}

// A followed dataset's newest version goes by the dataset's name, too.
const named = (name) => indexes.find((index) => [index.name, index.follows].includes(name));

const dataset = (name) => name.split("@")[0];
const sibling = (name) => indexes.find((index) => dataset(index.name) === dataset(name));

/** Make the page what `state` says. */
function show() {
  const gone = state.index && !named(state.index) ? state.index : "";
  change({ index: (named(state.index) ?? sibling(state.index) ?? indexes[0]).name }, false);
  const other = state.with && named(state.with)?.name;
  change({ with: other && other !== state.index ? other : "" }, false);
  say(gone ? `This server does not hold ${gone}; this is ${state.index}.` : "");
  drawHead();
  drawQuery();
  drawControls();
  drawTray();
  const { row: _row, of: _of, columns: _columns, ...asked } = state;
  const key = JSON.stringify(asked);
  if (key !== shown) {
    shown = key;
    search();
  }
  drawFilters(named(state.index), show);
  drawDetails();
}

async function search() {
  const uses = state.with ? panes : panes.slice(0, 1);
  byId("panes").replaceChildren(...uses.map((pane) => pane.element));
  byId("panes").classList.toggle("two", uses.length > 1);
  for (const pane of panes) pane.stop();
  if (question() === null) {
    for (const pane of panes) pane.clear();
    return say("This link was made with a picture, which is not part of a link. "
      + "Paste, drop or choose it again.");
  }
  const asked = shown;
  await Promise.all([panes[0].search(state.index), state.with && panes[1].search(state.with)]);
  if (!state.with || asked !== shown) return;
  try {
    await Promise.all([panes[0].compareWith(state.with), panes[1].compareWith(state.index)]);
  } catch (error) {
    say(`The two could not be compared: ${error.message}`);
  }
}

/** A line over the pictures; with `again`, a button that tries once more. */
function say(words, again) {
  const note = byId("note");
  note.hidden = !words;
  note.replaceChildren(words);
  const button = el("button", { type: "button", onclick: () => again() }, "Try again");
  if (again) note.append(" ", button);
}

function drawHead() {
  const names = indexes.map((index) => index.name);
  const options = (list) => list.map((name) => el("option", { value: name }, name));
  byId("index").replaceChildren(...options(names));
  byId("index").value = state.index;
  const others = names.filter((name) => name !== state.index);
  byId("compare").replaceChildren(el("option", { value: "" }, "nothing"), ...options(others));
  byId("compare").value = state.with;
  byId("compare").disabled = others.length === 0;
  byId("swap").hidden = !state.with;
  const { vectors, dimension, kind, text } = named(state.index);
  byId("about").replaceChildren(`${number(vectors)} pictures`,
    el("span", { className: "wide" }, `, ${dimension} dimensions, ${kind}`));
  byId("text").disabled = !text;
  byId("pick").disabled = !text;
  byId("text").placeholder = text
    ? "Search by words, or paste or drop a picture"
    : "This index has no model: search by example";
}

function drawControls() {
  byId("where").value = state.where;
  byId("least").value = state.least;
  byId("dedup").checked = state.dedup !== "";
  if (state.dedup) byId("alike").value = state.dedup;
  const sample = !isQuestion();
  byId("least").disabled = sample;
  byId("dedup").disabled = sample;
  byId("alike").disabled = sample;
  byId("dedup-note").hidden = !sample;
  byId("again").hidden = !sample;
}

function drawTray() {
  byId("tray").hidden = selected(state.index).size === 0;
  byId("chosen").textContent = told(state.index);
  panes[0].drawSelection();
}

/** Change what is asked, and ask. */
function set(changes, push = true) {
  change(changes, push);
  show();
}

function wire() {
  wireQuery(show, say);
  wireControls();
  wireSelection();
  document.addEventListener("keydown", toSearch);
  addEventListener("popstate", () => {
    read();
    show();
  });
  const bar = () => `${byId("ask").offsetHeight}px`;
  const measure = () => document.documentElement.style.setProperty("--bar", bar());
  new ResizeObserver(measure).observe(byId("ask"));
  const wide = matchMedia("(min-width: 60rem)");
  const fold = () => (byId("filters").open = wide.matches);
  wide.addEventListener("change", fold);
  fold();
}

function wireControls() {
  byId("index").onchange = (event) => set({ index: event.target.value, row: "", columns: "" });
  byId("compare").onchange = (event) => set({ with: event.target.value });
  byId("swap").onclick = () => set({ index: state.with, with: state.index });
  byId("again").onclick = () => set({ seed: String(Number(state.seed) + 1) });
  byId("apply").onclick = () => set({ where: byId("where").value.trim() });
  byId("clear").onclick = () => set({ where: "" });
  byId("where").onkeydown = (event) => {
    if (event.key !== "Enter" || event.shiftKey) return;
    event.preventDefault();
    byId("apply").click();
  };
  const limit = debounced(250, () => set({
    least: byId("least").value,
    dedup: byId("dedup").checked ? byId("alike").value : "",
  }));
  for (const id of ["least", "dedup", "alike"]) byId(id).oninput = limit;
  const further = () => String(MORE.find((k) => k > asMany()) ?? MORE.at(-1));
  for (const pane of panes) pane.more.onclick = () => set({ k: further() }, false);
}

function wireSelection() {
  byId("all").onclick = () => choose(state.index, panes[0].hits.map((hit) => hit.uid), true);
  byId("forget").onclick = () => choose(state.index, [...selected(state.index)], false);
  byId("keep").onclick = () => openSubset(state.index, "chosen");
  byId("save").onclick = () => openSubset(state.index, "all");
  document.addEventListener("selection", drawTray);
}

function toSearch(event) {
  const typing = event.target.matches("input:not([type=checkbox], [type=range]), textarea, select");
  if (event.key !== "/" || typing || document.querySelector("dialog[open]")) return;
  event.preventDefault();
  byId("text").focus();
  byId("text").select();
}

const liking = new Latest();

/** Ask for more like a row; by its picture where an index that is asked does not hold it. */
async function like(uid, index) {
  byId("text").value = "";
  const plain = { q: "", row: "", of: "" };
  try {
    await liking.run(async (signal) => {
      const held = await isHeld(uid, index, signal);
      const picture = held ? "" : keepPicture(await thumbnail(uid, index, signal));
      set({ ...plain, like: held ? uid : "", picture });
      scrollTo({ top: 0 });
    });
  } catch (error) {
    say(`${error.message}. ${error.wayOut ?? ""}`);
  }
}

async function isHeld(uid, index, signal) {
  const shows = index === state.index && panes[0].hits.some((hit) => hit.uid === uid);
  if (shows && !state.with) return true;
  const asked = [state.index, state.with].filter(Boolean);
  const answers = await Promise.all(
    asked.map((name) => ask(address(name, "contains"), { body: { uids: [uid] }, signal })),
  );
  return answers.every(({ contained }) => contained[0]);
}

async function thumbnail(uid, index, signal) {
  const url = address(index, `thumbnails/${encodeURIComponent(uid)}`, { size: 1024 });
  const blob = await (await request(url, { signal })).blob();
  signal.throwIfAborted();
  return readPicture(blob, "like this");
}

// Details are a step in history, so that Back closes them on a phone.

function openRow(uid, pane) {
  const of = pane === panes[1] ? state.with : "";
  change({ row: uid, of }, !state.row);
  drawDetails();
}

let drawn = ""; // the row whose details are open

function drawDetails() {
  const key = state.row && `${state.of || state.index} ${state.row}`;
  if (key === drawn) return;
  drawn = key;
  if (!key) return byId("details").close();
  const pane = state.of && state.of === state.with ? panes[1] : panes[0];
  const index = state.of || state.index;
  openDetails(index, state.row, {
    like: (uid) => {
      drawn = "";
      change({ row: "", of: "" }, false);
      byId("details").close();
      like(uid, index);
    },
    open: (uid) => openRow(uid, pane),
    step: (by) => {
      const hit = pane.beside(state.row, by);
      if (hit) openRow(hit.uid, pane);
    },
    closed: () => {
      if (!state.row) return;
      const uid = state.row;
      drawn = "";
      change({ row: "", of: "" }, false);
      pane.focus(uid);
    },
  });
}

start();
