// Saving: the selected pictures, or all rows that meet what is asked, as a dataset of their own.

import { address, ask } from "./api.js";
import { byId, closable, copy, count, el, number } from "./dom.js";
import { selected } from "./selection.js";
import { isQuestion, question, state } from "./state.js";

const NAME = "[A-Za-z0-9][A-Za-z0-9_.\\-]*";

/** Ask for a name and for what to save. `first` is "chosen" or "all". */
export function openSubset(index, first) {
  const dialog = byId("subset");
  const uids = [...selected(index)];
  const all = everything();
  const preferred = first === "all" && all.refused ? "chosen" : first;
  const radio = (value, words, disabled) => {
    const checked = !disabled && value === preferred;
    const input = el("input", { type: "radio", name: "what", value, disabled, checked });
    return el("label", { className: "row choice" }, el("span", {}, input, " ", words));
  };
  const name = el("input", { name: "name", required: true, pattern: NAME, maxLength: 100,
    autocomplete: "off", autocapitalize: "off", spellcheck: false,
    title: "letters, digits and any of _ . -, a letter or digit first" });
  const said = el("div", { role: "status" });
  const save = el("button", { className: "main" }, "Save");
  const form = el("form", {},
    el("h2", { id: "subset-title" }, "Save a subset"),
    el("p", { className: "quiet" }, `A dataset version of rows of ${index}. Nothing is copied; `,
      "pretraining takes it as it is."),
    el("label", { className: "row" }, "Name ", name),
    radio("chosen", count(uids.length, "selected picture"), uids.length === 0),
    radio("all", all.words, Boolean(all.refused)),
    all.refused ? el("p", { className: "quiet" }, all.refused) : null,
    said,
    el("p", { className: "buttons" },
      el("button", { type: "button", onclick: () => dialog.close() }, "Close"), save));
  form.onsubmit = async (event) => {
    event.preventDefault();
    const what = new FormData(form).get("what");
    if (!what) return void said.replaceChildren(el("p", {}, "Select some pictures first."));
    save.disabled = true;
    said.replaceChildren(el("p", { className: "quiet" }, "Saving…"));
    said.replaceChildren(...(await saved(index, name.value, what === "all" ? all.body : { uids })));
    save.disabled = false;
  };
  dialog.replaceChildren(form);
  closable(dialog);
  dialog.showModal();
  name.focus();
}

/** What "all that meet this" would be, or why it cannot be. */
function everything() {
  const { k: _k, dedup: _dedup, ...body } = question() ?? {};
  const where = state.where ? `meet ${state.where}` : "";
  if (!isQuestion()) {
    const refused = where ? "" : "Set a condition to save all rows that meet it.";
    return { body, words: where ? `All rows that ${where}` : "All rows of a condition", refused };
  }
  const least = state.least === "" ? "" : `are at least ${state.least} similar`;
  const words = `All rows that ${[least || "are similar", where].filter(Boolean).join(" and ")}`;
  return { body, words, refused: least ? "" : "Set a least similarity to save all rows above it." };
}

async function saved(index, name, what) {
  try {
    const body = { name, ...what };
    const { dataset, version, rows } = await ask(address(index, "subsets"), { body });
    const full = `${dataset}@${version}`;
    const press = el("button", { type: "button", onclick: () => copy(full, press) }, "Copy name");
    return [el("p", { className: "message good" }, el("b", {}, "Saved. "),
      `${count(rows, "row")} as `, el("code", {}, full)), el("p", { className: "buttons" }, press)];
  } catch (error) {
    const out = error.wayOut ? ` Way out: ${error.wayOut}` : "";
    return [el("p", { className: "message bad" }, el("b", {}, error.message), out)];
  }
}

/** How many are selected, in words. */
export const told = (index) => `${number(selected(index).size)} selected`;
