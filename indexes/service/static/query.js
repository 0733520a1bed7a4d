// What is asked: words, a picture of one's own, or an example.

import { showPicture } from "./api.js";
import { byId, debounced, el } from "./dom.js";
import { readPicture, wirePictures } from "./picture.js";
import { change, keepPicture, pictureAsked, state } from "./state.js";

/** Wire the form. `changed` is called for a new question, `fail` with what is wrong in words. */
export function wireQuery(changed, fail) {
  byId("ask").onsubmit = (event) => {
    event.preventDefault();
    const q = byId("text").value.trim();
    change({ q, like: q ? "" : state.like });
    changed();
  };
  const weigh = debounced(200, changed);
  byId("weight").oninput = () => {
    change({ weight: byId("weight").value }, false);
    drawQuery();
    weigh();
  };
  document.addEventListener("unask", () => {
    change({ like: "", picture: "" });
    changed();
  });
  wirePictures(async (file) => {
    let picture = null;
    try {
      picture = await readPicture(file);
    } catch {
      return fail(`${file.name || "That"} is no picture that this browser can read`);
    }
    change({ picture: keepPicture(picture), like: "", q: byId("text").value.trim() });
    changed();
  });
}

/** Draw the question of `state`. */
export function drawQuery() {
  const text = byId("text");
  if (document.activeElement !== text || text.value.trim() !== state.q) text.value = state.q;
  byId("mix").hidden = !(state.picture && state.q);
  byId("weight").value = state.weight;
  byId("weight-said").textContent = `${Math.round(Number(state.weight) * 100)} %`;
  drawExample();
}

function drawExample() {
  const chip = byId("example");
  chip.hidden = !state.like && !state.picture;
  const key = `${state.index} ${state.like} ${state.picture}`;
  if (chip.hidden || chip.dataset.key === key) return;
  chip.dataset.key = key;
  const image = el("img", { alt: "" });
  const words = state.like ? "like this" : (pictureAsked()?.name ?? "a picture");
  if (state.like) showPicture(image, state.index, state.like, 64);
  else if (pictureAsked()) image.src = pictureAsked().url;
  const leave = el("button", {
    type: "button",
    "aria-label": "Do not ask with this picture",
    title: "Do not ask with this picture",
    onclick: () => document.dispatchEvent(new Event("unask")),
  }, "×");
  chip.replaceChildren(image, el("span", { className: "name" }, words), leave);
}
