// What is asked: words, a picture that was chosen, pasted or dropped, or an example.

import { showPicture } from "./api.js";
import { byId, debounced, el } from "./dom.js";
import { change, keepPicture, pictureAsked, state } from "./state.js";

const READ = ["image/jpeg", "image/png", "image/webp"]; // what the service reads
const LARGEST = 2 ** 20; // bytes that are sent as they are
const EDGE = 1024; // pixels of the longer side of what is sent instead

/** Wire the form. `changed` is called for a new question, `fail` with what is wrong in words. */
export function wireQuery(changed, fail) {
  byId("ask").onsubmit = (event) => {
    event.preventDefault();
    const q = byId("text").value.trim();
    change({ q, like: q ? "" : state.like });
    changed();
  };
  byId("pick").onclick = () => byId("file").click();
  byId("file").onchange = () => {
    take(byId("file").files[0]);
    byId("file").value = "";
  };
  const weigh = debounced(200, changed);
  byId("weight").oninput = () => {
    change({ weight: byId("weight").value }, false);
    drawQuery();
    weigh();
  };
  document.addEventListener("paste", (event) => {
    const file = [...(event.clipboardData?.files ?? [])].find(isPicture);
    if (!file) return;
    event.preventDefault();
    take(file);
  });
  wireDrop();

  async function take(file) {
    if (!file) return;
    try {
      const picture = await readPicture(file);
      change({ picture: keepPicture(picture), like: "", q: byId("text").value.trim() });
      changed();
    } catch {
      fail(`${file.name || "That"} is no picture that this browser can read`);
    }
  }

  function wireDrop() {
    const veil = byId("drop");
    const holds = (event) => event.dataTransfer?.types.includes("Files");
    document.addEventListener("dragover", (event) => {
      if (!holds(event)) return;
      event.preventDefault();
      veil.hidden = false;
    });
    document.addEventListener("dragleave", (event) => {
      if (!event.relatedTarget) veil.hidden = true;
    });
    document.addEventListener("drop", (event) => {
      veil.hidden = true;
      if (!holds(event)) return;
      event.preventDefault();
      take(event.dataTransfer.files[0]);
    });
  }

  document.addEventListener("unask", () => {
    change({ like: "", picture: "" });
    changed();
  });
}

const isPicture = (file) => file.type.startsWith("image/");

/** A file -> {data: base64, url, name}: as it is, or smaller where it is large. */
async function readPicture(file) {
  const bitmap = await createImageBitmap(file); // throws for what is no picture
  const name = file.name || "a picture";
  let blob = file;
  if (file.size > LARGEST || !READ.includes(file.type)) {
    const scale = Math.min(EDGE / Math.max(bitmap.width, bitmap.height), 1);
    const size = [bitmap.width, bitmap.height].map((edge) => Math.max(Math.round(edge * scale), 1));
    const canvas = new OffscreenCanvas(...size);
    const pen = canvas.getContext("2d");
    pen.fillStyle = "white"; // as the service lays transparency
    pen.fillRect(0, 0, ...size);
    pen.drawImage(bitmap, 0, 0, ...size);
    blob = await canvas.convertToBlob({ type: "image/jpeg", quality: 0.95 });
  }
  bitmap.close();
  return { data: await base64(blob), url: URL.createObjectURL(blob), name };
}

function base64(blob) {
  return new Promise((resolve, reject) => {
    const reader = new FileReader();
    reader.onload = () => resolve(reader.result.slice(reader.result.indexOf(",") + 1));
    reader.onerror = () => reject(reader.error);
    reader.readAsDataURL(blob);
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
