// Filters by columns: a histogram with two handles, or the most frequent values with ticks.
// Each reads its column's part of the condition and writes it there.

import { address, ask, Latest } from "./api.js";
import { breakable, byId, debounced, el, number, shape } from "./dom.js";
import { change, state } from "./state.js";
import { asked, columnsOf, without, withRange, withValues } from "./where.js";

const BINS = 40;
const USUAL = [/similarity$/, /^concept$/, /^width$/, /language_code$/, /aesthetic/, /^height$/];
const AT_FIRST = 3; // histograms where the user has not chosen any
const HIDDEN = new Set(["id", "uid", "sha256", "url", "caption"]);

const whole = new Map(); // index and column -> its histogram over all rows
let cards = []; // {column, card}

/** The columns that are shown: those chosen, or the usual ones, and those of the condition. */
function shown(columns) {
  const names = columns.map((column) => column.name).filter((name) => !HIDDEN.has(name));
  const wanted = state.columns === "none" ? [] : state.columns.split(",").filter(Boolean);
  const usual = USUAL.flatMap((like) => names.filter((name) => like.test(name)).slice(0, 1));
  const own = wanted.filter((name) => names.includes(name));
  const chosen = state.columns ? own : usual.slice(0, AT_FIRST);
  return [...new Set([...chosen, ...columnsOf(state.where, names)])];
}

/** Draw what `state` says, and count anew. `changed` is called when the condition is another. */
export function drawFilters({ name: index, columns }, changed) {
  const names = shown(columns);
  const same = cards.length === names.length && cards.every(
    ({ card, column }, place) => column === names[place] && card.index === index,
  );
  if (!same) {
    cards = names.map((column) => ({ column, card: new Filter(index, column, changed, remove) }));
    byId("columns").replaceChildren(...cards.map(({ card }) => card.element));
  }
  function remove(column) {
    const rest = names.filter((name) => name !== column);
    change({ columns: rest.join(",") || "none", where: without(state.where, column) });
    changed();
  }
  const others = columns.map((column) => column.name).filter((name) => !HIDDEN.has(name));
  byId("add").replaceChildren(
    el("option", { value: "" }, "choose…"),
    ...others.filter((name) => !names.includes(name)).map((name) => el("option", {}, name)),
  );
  byId("add").onchange = (event) => {
    change({ columns: [...names, event.target.value].join(",") });
    changed();
  };
  for (const { card } of cards) card.refresh();
  const active = columnsOf(state.where, others).length;
  byId("filter-count").hidden = !state.where;
  byId("filter-count").textContent = active || "1";
}

class Filter {
  #latest = new Latest();

  constructor(index, column, changed, remove) {
    this.index = index;
    this.column = column;
    this.commit = (where) => {
      change({ where });
      changed();
    };
    this.soon = debounced(250, (...bounds) => this.#bound(...bounds));
    this.body = el("div", { className: "body" }, "…");
    const leave = el("button", {
      type: "button",
      className: "remove",
      title: "Remove this filter",
      "aria-label": `Remove the filter of ${column}`,
      onclick: () => remove(column),
    }, "×");
    const legend = el("legend", {}, el("span", {}, ...breakable(column)), leave);
    this.element = el("fieldset", {}, legend, this.body);
  }

  /** Count the rows that meet the other conditions, over the picture of all rows. */
  async refresh() {
    const where = without(state.where, this.column);
    try {
      await this.#latest.run(async (signal) => {
        const all = await this.#count("", signal);
        this.#draw(all, where ? await this.#countOr(none(all), where, signal) : all);
      });
    } catch (error) {
      this.body.replaceChildren(el("p", { className: "quiet" }, error.message));
    }
  }

  // A condition that cannot be asked is told over the pictures, once.
  async #countOr(instead, where, signal) {
    try {
      return await this.#count(where, signal);
    } catch (error) {
      if (error.status === 400) return instead;
      throw error;
    }
  }

  async #count(where, signal) {
    const key = `${this.index} ${this.column}`;
    if (!where && whole.has(key)) return whole.get(key);
    const query = { column: this.column, where, bins: BINS };
    const found = await ask(address(this.index, "histogram", query), { signal });
    if (!where) whole.set(key, found);
    return found;
  }

  #draw(all, now) {
    if (all.values) this.#drawValues(all, now);
    else if (all.edges?.length > 1 && all.edges[0] < all.edges.at(-1)) this.#drawRange(all, now);
    else this.body.replaceChildren(el("p", { className: "quiet" }, only(all)));
  }

  #drawRange(all, now) {
    const { low, high } = asked(state.where, this.column);
    if (!this.range || !this.body.contains(this.range.element)) {
      this.range = new Range(this.column, all, (from, to, soon) => {
        this.soon.stop();
        if (soon) this.soon(from, to);
        else this.#bound(from, to);
      });
      this.body.replaceChildren(this.range.element);
    }
    this.range.draw(now, low, high);
  }

  #bound(low, high) {
    this.commit(withRange(state.where, this.column, low, high));
  }

  #drawValues(all, now) {
    const { values = [], nulls = false } = asked(state.where, this.column);
    const live = new Map(now.values);
    const most = Math.max(all.nulls, ...all.values.map(([, many]) => many), 1);
    const listed = all.values.map(([value]) => value);
    const rows = [...values.filter((value) => !listed.includes(value)), ...listed].map((value) =>
      this.#value(String(value), now.uncounted ? null : (live.get(value) ?? 0), most, values.includes(value), (on) => {
        const rest = values.filter((other) => other !== value);
        this.commit(withValues(state.where, this.column, on ? [...rest, value] : rest, nulls));
      }));
    if (all.nulls) {
      rows.push(this.#value("no value", now.uncounted ? null : now.nulls, most, nulls, (on) => {
        this.commit(withValues(state.where, this.column, values, on));
      }));
    }
    const focus = [...this.body.querySelectorAll("input")].indexOf(document.activeElement);
    const top = this.body.firstElementChild?.scrollTop ?? 0;
    this.body.replaceChildren(el("ul", { className: "values" }, ...rows));
    this.body.firstElementChild.scrollTop = top;
    if (focus >= 0) this.body.querySelectorAll("input")[focus]?.focus();
  }

  #value(words, many, most, checked, choose) {
    const box = el("input", { type: "checkbox", checked, onchange: () => choose(box.checked) });
    const meter = el("span", { className: "share" });
    meter.style.setProperty("--share", many / most);
    const told = el("span", { className: "quiet" }, many === null ? "–" : number(many));
    return el("li", {}, el("label", {}, box, el("bdi", {}, words), told), meter);
  }
}

/** Nothing counted, over the edges of a histogram. */
function none({ edges, counts }) {
  const empty = counts ? { edges, counts: counts.map(() => 0) } : { values: [] };
  return { ...empty, nulls: 0, uncounted: true };
}

function only({ edges, counts, nulls }) {
  const many = counts?.reduce((sum, each) => sum + each, 0) ?? 0;
  if (!many) return `no row has a value (${number(nulls)} without)`;
  return `${number(edges[0])} in all ${number(many)} rows that have a value`;
}

/** A histogram with a handle at each end, which are sliders to the keyboard. */
class Range {
  /** `chosen(low, high, soon)`: a bound is undefined at its end of the histogram. */
  constructor(column, all, chosen) {
    this.all = all;
    this.chosen = chosen;
    const { edges } = all;
    const bins = edges.length - 1;
    const size = { class: "histogram", viewBox: `0 0 ${bins} 40`, preserveAspectRatio: "none" };
    this.drawing = shape("svg", { ...size, "aria-hidden": "true" });
    const slider = (words, at) => {
      const told = { type: "range", min: 0, max: bins, step: 1, "aria-label": words };
      const made = el("input", { ...told, oninput: () => this.#slide(made, true) });
      made.onchange = () => this.#slide(made, false);
      made.value = at;
      return made;
    };
    const typed = (words) => el("input", {
      type: "number", step: "any", inputMode: "decimal", "aria-label": words,
      onchange: () => this.#type(),
    });
    this.low = slider(`Least ${column}`, 0);
    this.high = slider(`Greatest ${column}`, bins);
    this.from = typed(`${column} from`);
    this.to = typed(`${column} to`);
    this.from.placeholder = tidy(edges[0], edges);
    this.to.placeholder = tidy(edges.at(-1), edges);
    this.told = el("span", { className: "quiet" });
    this.element = el("div", { className: "range" }, this.drawing,
      el("div", { className: "sliders" }, this.low, this.high),
      el("div", { className: "ends" }, this.from, this.told, this.to));
  }

  draw(now, low, high) {
    const dragged = [this.low, this.high].includes(document.activeElement) && this.moving;
    this.now = now;
    if (!dragged) {
      this.low.value = low === undefined ? 0 : this.#place(low);
      this.high.value = high === undefined ? this.all.counts.length : this.#place(high);
      this.from.value = low ?? "";
      this.to.value = high ?? "";
    }
    this.#bars(low ?? -Infinity, high ?? Infinity);
  }

  /** The edge nearest to a value. */
  #place(value) {
    const { edges } = this.all;
    const far = edges.map((edge) => Math.abs(edge - value));
    return far.indexOf(Math.min(...far));
  }

  #slide(moved, moving) {
    this.moving = moving;
    if (this.low.valueAsNumber >= this.high.valueAsNumber) {
      if (moved === this.low) this.low.value = this.high.valueAsNumber - 1;
      else this.high.value = this.low.valueAsNumber + 1;
    }
    const bound = (slider, end) =>
      slider.valueAsNumber === end ? undefined : Number(tidy(this.#edge(slider), this.all.edges));
    const from = bound(this.low, 0);
    const to = bound(this.high, this.all.counts.length);
    this.from.value = from ?? "";
    this.to.value = to ?? "";
    moved.setAttribute("aria-valuetext", tidy(this.#edge(moved), this.all.edges));
    this.#bars(from ?? -Infinity, to ?? Infinity);
    this.chosen(from, to, moving);
  }

  #edge(slider) {
    return this.all.edges[slider.valueAsNumber];
  }

  #type() {
    const bound = (input) => (input.value === "" ? undefined : Number(input.value));
    this.chosen(bound(this.from), bound(this.to), false);
  }

  // The rows that meet the other conditions before the outline of all rows, each by its highest
  // bar: it is the shape that tells.
  #bars(low, high) {
    const { edges, counts } = this.all;
    const step = (edges.at(-1) - edges[0]) / counts.length;
    const bars = [];
    const add = (from, to, share, kind) => {
      if (!share) return;
      const height = Math.max(share * 40, 0.8);
      const x = (from - edges[0]) / step;
      const width = Math.max((to - from) / step, 0.3);
      bars.push(shape("rect", { class: kind, x, y: 40 - height, width, height }));
    };
    const most = Math.max(...counts, 1);
    counts.forEach((many, at) => add(edges[at], edges[at + 1], many / most, "all"));
    const now = this.now;
    const highest = Math.max(...now.counts, 1);
    let met = 0;
    now.counts.forEach((many, at) => {
      const middle = (now.edges[at] + now.edges[at + 1]) / 2;
      const within = middle >= low && middle <= high;
      if (within) met += many;
      add(now.edges[at], now.edges[at + 1], many / highest, within ? "in" : "out");
    });
    this.drawing.replaceChildren(...bars);
    const about = low > -Infinity || high < Infinity ? "about " : "";
    this.told.textContent = now.uncounted ? "–" : `${about}${number(met)}`;
  }
}

/** An edge with as many digits as tell it from the next. */
function tidy(value, edges) {
  const step = (edges.at(-1) - edges[0]) / (edges.length - 1);
  const digits = Math.min(Math.max(Math.ceil(1 - Math.log10(step)), 0), 12);
  return String(Number(value.toFixed(digits)));
}
