// One index's answer to the question: its state in words, and its pictures as a grid.

import { ask, address, Latest, showPicture } from "./api.js";
import { count, el, number } from "./dom.js";
import { choose, selected } from "./selection.js";
import { asMany, isQuestion, question, state } from "./state.js";

const SLOW = 2; // seconds until the page says that it waits
const SIZE = window.devicePixelRatio > 1.5 ? 512 : 256;

export class Pane {
  #latest = new Latest();
  #comparing = new Latest();
  #anchor = 0; // where a range of selected pictures starts
  #clock = 0;

  /**
   * `open(hit, pane)` and `like(uid, index)` are called for details and for more like one.
   * `lost(index)` is asked whether the index is gone and the page shows another.
   */
  constructor({ open, like, lost, choosable }) {
    this.open = open;
    this.like = like;
    this.lost = lost;
    this.choosable = choosable;
    this.index = "";
    this.hits = [];
    this.title = el("h2");
    this.status = el("p", { className: "status", role: "status" });
    this.how = el("p", { className: "quiet how" });
    this.message = el("div", { className: "message", hidden: true });
    this.list = el("ul", { className: "grid", "aria-label": "Pictures found" });
    this.list.onkeydown = (event) => this.#key(event);
    this.list.onkeyup = (event) => {
      if (event.key === " " && onPicture(event)) event.preventDefault(); // it would be a click
    };
    this.more = el("button", { className: "more", type: "button", hidden: true }, "Show more");
    const parts = [this.title, this.status, this.how, this.message, this.list, this.more];
    this.element = el("section", { className: "pane" }, ...parts);
  }

  /** Ask the index what `state` says; rejects never, says what went wrong instead. */
  async search(index) {
    if (index !== this.index) this.#clear();
    this.index = index;
    this.title.textContent = index;
    this.element.setAttribute("aria-label", `Pictures of ${index}`);
    this.#comparing.stop();
    this.#wait();
    try {
      await this.#latest.run(async (signal) => this.#show(await this.#find(signal)));
    } catch (error) {
      if (error.status === 404 && (await this.lost(index))) return;
      this.#fail(error);
    }
  }

  stop() {
    this.#latest.stop();
    this.#comparing.stop();
    if (this.element.hasAttribute("aria-busy")) this.#settle("Stopped");
  }

  /** Show nothing. */
  clear() {
    this.stop();
    this.#clear();
    this.#settle("");
  }

  async #find(signal) {
    const say = (text) => (this.status.textContent = text);
    if (isQuestion()) {
      return ask(address(this.index, "search"), { body: question(), signal, say });
    }
    const query = { n: asMany(), seed: state.seed, where: state.where };
    return ask(address(this.index, "sample", query), { signal, say });
  }

  #wait() {
    clearInterval(this.#clock);
    const since = performance.now();
    const stop = el("button", { type: "button", onclick: () => this.stop() }, "Stop");
    this.element.setAttribute("aria-busy", "true");
    this.message.hidden = true;
    this.status.textContent = "Searching…";
    if (!this.hits.length) {
      const empty = () => el("li", { className: "card empty", "aria-hidden": "true" });
      this.list.replaceChildren(...Array.from({ length: 12 }, empty));
    }
    this.#clock = setInterval(() => {
      const seconds = Math.round((performance.now() - since) / 1000);
      if (seconds === SLOW) {
        this.message.replaceChildren(el("p", {}, "The server takes its time. "), stop);
        this.message.hidden = false;
      }
      if (seconds >= SLOW) this.status.textContent = `Still searching, ${seconds} s`;
    }, 1000);
  }

  #settle(words) {
    clearInterval(this.#clock);
    this.element.removeAttribute("aria-busy");
    this.message.hidden = true;
    this.status.textContent = words;
    if (!this.hits.length) this.list.replaceChildren();
  }

  #clear() {
    this.hits = [];
    this.list.replaceChildren();
    this.how.textContent = "";
    this.more.hidden = true;
  }

  #fail(error) {
    this.#clear();
    this.#settle("No answer");
    const again = () => this.search(this.index);
    this.message.replaceChildren(
      el("p", {}, el("b", {}, error.message), error.wayOut ? ` Way out: ${error.wayOut}` : ""),
      el("button", { type: "button", onclick: again }, "Try again"),
    );
    this.message.className = "message bad";
    this.message.setAttribute("role", "alert");
    this.message.hidden = false;
  }

  #show({ hits, how, took_ms: took }) {
    this.hits = hits;
    this.#anchor = 0;
    this.message.className = "message";
    this.message.removeAttribute("role");
    const what = isQuestion() ? "picture" : "random picture";
    const told = `${count(hits.length, what)}, ${number(Math.ceil(took))} ms`;
    this.#settle(hits.length ? told : "Nothing found");
    this.how.textContent = how ?? "";
    this.list.replaceChildren(...hits.map((hit, place) => this.#card(hit, place)));
    this.more.hidden = hits.length < asMany() || asMany() >= 1000;
    if (!hits.length) this.#sayEmpty();
  }

  #sayEmpty() {
    const limits = [];
    if (state.where) limits.push("the condition");
    if (state.least !== "") limits.push("the least similarity");
    const out = limits.length ? `Loosen ${limits.join(" or ")}.` : "The index answers with no row.";
    this.message.replaceChildren(el("p", {}, el("b", {}, "No picture meets all of this. "), out));
    this.message.hidden = false;
  }

  #card(hit, place) {
    const image = el("img", { alt: "", decoding: "async" });
    const caption = hit.caption || "no caption";
    const near = hit.similarity === null ? "" : hit.similarity.toFixed(3);
    const picture = el("button", {
      className: "picture",
      type: "button",
      tabIndex: place ? -1 : 0,
      "aria-label": `${place + 1}. ${caption}${near && `, similarity ${near}`}`,
      onclick: (event) => this.#click(event, hit, place),
      onfocus: () => this.#rove(place),
    }, image);
    const like = el("button", {
      className: "like",
      type: "button",
      tabIndex: place ? -1 : 0,
      title: "More like this",
      "aria-label": `More like picture ${place + 1}`,
      onclick: () => this.like(hit.uid, this.index),
    }, "≈ more");
    const line = el("p", { className: "line" }, el("b", {}, near), like);
    const words = el("p", { className: "caption", dir: "auto" }, caption);
    if (!hit.caption) words.classList.add("quiet");
    const card = el("li", { className: "card" }, picture, line, words);
    card.dataset.uid = hit.uid;
    if (this.choosable) card.append(this.#tick(hit, place));
    card.classList.toggle("chosen", this.choosable && selected(this.index).has(hit.uid));
    showPicture(image, this.index, hit.uid, SIZE);
    return card;
  }

  #tick(hit, place) {
    const box = el("input", {
      type: "checkbox",
      tabIndex: place ? -1 : 0,
      checked: selected(this.index).has(hit.uid),
      "aria-label": `Select picture ${place + 1}`,
    });
    box.onclick = (event) => this.select(place, box.checked, event.shiftKey);
    return el("label", { className: "tick" }, box);
  }

  #click(event, hit, place) {
    const picks = event.shiftKey || event.ctrlKey || event.metaKey;
    if (!picks || !this.choosable) this.open(hit, this);
    else this.select(place, !selected(this.index).has(hit.uid) || event.shiftKey, event.shiftKey);
  }

  /** Select a picture or leave it out; with `range` all from the last one that was. */
  select(place, on, range = false) {
    const from = range ? Math.min(this.#anchor, place) : place;
    const to = range ? Math.max(this.#anchor, place) : place;
    this.#anchor = place;
    choose(this.index, this.hits.slice(from, to + 1).map((hit) => hit.uid), on);
  }

  /** Show which of the pictures are selected now. */
  drawSelection() {
    const uids = selected(this.index);
    [...this.list.children].forEach((card, place) => {
      const on = this.hits.length > 0 && uids.has(this.hits[place]?.uid);
      card.classList.toggle("chosen", on);
      const box = card.querySelector(".tick input");
      if (box) box.checked = on;
    });
  }

  /** Mark what the other index does not hold, and say how many those are. */
  async compareWith(other) {
    const uids = this.hits.map((hit) => hit.uid);
    if (!uids.length) return;
    await this.#comparing.run(async (signal) => {
      const { contained } = await ask(address(other, "contains"), { body: { uids }, signal });
      [...this.list.children].forEach((card, place) => {
        card.classList.toggle("only", !contained[place]);
        if (!contained[place]) card.append(el("span", { className: "badge" }, "only here"));
      });
      const only = contained.filter((there) => !there).length;
      this.status.textContent += only ? `, ${number(only)} only here` : ", all in both";
    });
  }

  /** The hit `step` places from the one with this uid. */
  beside(uid, step) {
    const place = this.hits.findIndex((hit) => hit.uid === uid);
    return place < 0 ? undefined : this.hits[place + step];
  }

  /** Bring the focus to a picture. */
  focus(uid) {
    const place = this.hits.findIndex((hit) => hit.uid === uid);
    this.#pictures()[Math.max(place, 0)]?.focus();
  }

  #pictures() {
    return this.list.querySelectorAll(".picture");
  }

  // Tab reaches one card's controls; arrows go from card to card.
  #rove(place) {
    [...this.list.children].forEach((card, other) => {
      for (const each of card.querySelectorAll("button, input")) {
        each.tabIndex = other === place ? 0 : -1;
      }
    });
  }

  #key(event) {
    const pictures = [...this.#pictures()];
    const place = pictures.indexOf(event.target);
    if (place < 0 || event.ctrlKey || event.metaKey || event.altKey) return;
    const hit = this.hits[place];
    const columns = getComputedStyle(this.list).gridTemplateColumns.split(" ").length;
    const last = pictures.length - 1;
    const goal = {
      ArrowLeft: place - 1,
      ArrowRight: place + 1,
      ArrowUp: place - columns,
      ArrowDown: Math.min(place + columns, Math.max(last, place)),
      Home: 0,
      End: last,
    }[event.key];
    if (goal !== undefined) pictures[goal]?.focus();
    else if (event.key === "m") this.like(hit.uid, this.index);
    else if (event.key === " " && this.choosable) {
      this.select(place, event.shiftKey || !selected(this.index).has(hit.uid), event.shiftKey);
    } else return;
    event.preventDefault();
  }
}

const onPicture = (event) => event.target.classList.contains("picture");
