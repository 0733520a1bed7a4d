// All that is known of one picture: its columns, what was decided of it and why, its duplicates.

import { address, ask, Latest, showPicture } from "./api.js";
import { breakable, byId, closable, copy, count, el, linked, number } from "./dom.js";

const latest = new Latest();
// Shown over the table, or not of the row itself.
const ABOVE = ["id", "uid", "caption", "rank", "similarity"];

/** Show the details of a row. `on` has: like(uid), open(uid), step(n) or null, closed(). */
export async function openDetails(index, uid, on) {
  const dialog = byId("details");
  dialog.onclose = () => {
    latest.stop();
    on.closed();
  };
  closable(dialog);
  dialog.onkeydown = (event) => {
    const step = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
    if (step && !event.target.matches("input, textarea")) on.step(step);
  };
  const body = el("div", { className: "facts", "aria-busy": "true" }, "Loading…");
  dialog.replaceChildren(frame(index, uid, on), body);
  if (!dialog.open) dialog.showModal();
  dialog.scrollTop = 0;
  try {
    await latest.run(async (signal) => {
      const row = await ask(address(index, `rows/${encodeURIComponent(uid)}`), { signal });
      body.replaceChildren(...facts(index, uid, row, on));
    });
  } catch (error) {
    const words = [el("b", {}, error.message), ` ${error.wayOut ?? ""}`];
    body.replaceChildren(el("p", { className: "message bad", role: "alert" }, ...words));
  }
  body.removeAttribute("aria-busy");
}

function frame(index, uid, on) {
  const image = el("img", { alt: "" });
  showPicture(image, index, uid, 1024);
  image.loading = "eager";
  const press = (words, label, call) =>
    el("button", { type: "button", title: label, "aria-label": label, onclick: call }, words);
  return el("div", { className: "seen" },
    el("p", { className: "buttons" },
      press("←", "The picture before", () => on.step(-1)),
      press("→", "The picture after", () => on.step(1)),
      el("button", { type: "button", onclick: () => on.like(uid) }, "More like this"),
      el("button", { className: "close", type: "button", "aria-label": "Close", autofocus: true,
        onclick: () => byId("details").close() }, "×")),
    el("figure", {}, image));
}

function facts(index, uid, { columns, verdict, duplicates }, on) {
  const title = el("h2", { id: "details-title", dir: "auto" }, columns.caption || "No caption");
  const link = el("button", { type: "button" }, "Copy link");
  link.onclick = () => copy(location.href, link);
  const line = el("p", { className: "row" }, el("span", { className: "quiet uid" }, uid), link);
  const parts = [title, line];
  if (verdict) parts.push(...decided(index, verdict, on));
  if (duplicates?.length) {
    parts.push(el("h3", {}, count(duplicates.length, "duplicate")), strip(index, duplicates, on));
  }
  parts.push(el("h3", {}, "Columns"), table(columns));
  return parts;
}

function decided(index, verdict, on) {
  const kept = verdict.kept === true;
  const reasons = (verdict.reasons ?? []).filter((reason) => reason !== verdict.reason);
  const chip = el("b", { className: kept ? "chip good" : "chip bad" }, kept ? "Kept" : "Dropped");
  const line = el("p", { className: "verdict" }, chip, " ", words(verdict.reason));
  const more = `, and ${reasons.map(words).join(", ")}`;
  if (reasons.length) line.append(el("span", { className: "quiet" }, more));
  const parts = [el("h3", {}, "Verdict"), line];
  if (isNumber(verdict.score) && isNumber(verdict.threshold)) {
    const told = `score ${number(verdict.score)}, threshold ${number(verdict.threshold)}`;
    parts.push(el("p", { className: "quiet" }, told));
  }
  if (verdict.twin_uid) {
    const twin = { uid: verdict.twin_uid, similarity: verdict.twin_similarity, kind: "kept twin" };
    parts.push(strip(index, [twin], on));
  }
  return parts;
}

const isNumber = (value) => typeof value === "number";
const words = (reason) => (reason ?? "").replaceAll("_", " ");

function strip(index, rows, on) {
  return el("ul", { className: "strip" }, ...rows.map(({ uid, similarity, kind }) => {
    const image = el("img", { alt: "" });
    showPicture(image, index, uid, 256);
    const told = isNumber(similarity) ? similarity.toFixed(3) : "";
    const label = `${words(kind)} ${uid}${told && `, similarity ${told}`}`;
    const open = { type: "button", className: "picture", "aria-label": label };
    return el("li", {}, el("button", { ...open, onclick: () => on.open(uid) }, image),
      el("b", {}, told), el("span", { className: "quiet" }, ...breakable(words(kind))));
  }));
}

function table(columns) {
  const names = Object.keys(columns).filter((name) => !ABOVE.includes(name));
  const known = names.filter((name) => columns[name] !== null);
  const missing = names.filter((name) => columns[name] === null);
  const rows = known.map((name) => el("tr", {}, el("th", { scope: "row" }, ...breakable(name)),
    el("td", { dir: "auto" }, value(columns[name]))));
  const made = el("div", {}, el("table", {}, el("tbody", {}, ...rows)));
  const none = `No value: ${missing.join(", ")}`;
  if (missing.length) made.append(el("p", { className: "quiet" }, none));
  return made;
}

function value(found) {
  if (typeof found === "string") return linked(found);
  if (typeof found === "number") return number(found);
  return typeof found === "object" ? JSON.stringify(found) : String(found);
}
