// Pictures to ask with: chosen, pasted or dropped, and as the service takes them.

import { byId } from "./dom.js";

const READ = ["image/jpeg", "image/png", "image/webp"]; // what the service reads
const LARGEST = 2 ** 20; // bytes that are sent as they are
const EDGE = 1024; // pixels of the longer side of what is sent instead

/** Calls `take(file)` for each picture that is chosen, pasted or dropped. */
export function wirePictures(take) {
  byId("pick").onclick = () => byId("file").click();
  byId("file").onchange = () => {
    const [file] = byId("file").files;
    byId("file").value = ""; // so that the same file can be chosen again
    if (file) take(file);
  };
  document.addEventListener("paste", (event) => {
    const files = [...(event.clipboardData?.files ?? [])];
    const file = files.find((each) => each.type.startsWith("image/"));
    if (!file) return;
    event.preventDefault();
    take(file);
  });
  wireDrop(take);
}

function wireDrop(take) {
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

/** A file -> {data: base64, url, name}: as it is, or smaller where it is large. */
export async function readPicture(file, name = file.name || "a picture") {
  const bitmap = await createImageBitmap(file); // throws for what is no picture
  const fits = file.size <= LARGEST && READ.includes(file.type);
  const blob = fits ? file : await smaller(bitmap);
  bitmap.close();
  return { data: await base64(blob), url: URL.createObjectURL(blob), name };
}

async function smaller(bitmap) {
  const scale = Math.min(EDGE / Math.max(bitmap.width, bitmap.height), 1);
  const size = [bitmap.width, bitmap.height].map((edge) => Math.max(Math.round(edge * scale), 1));
  const canvas = new OffscreenCanvas(...size);
  const pen = canvas.getContext("2d");
  pen.fillStyle = "white"; // as the service lays transparency
  pen.fillRect(0, 0, ...size);
  pen.drawImage(bitmap, 0, 0, ...size);
  return canvas.convertToBlob({ type: "image/jpeg", quality: 0.95 });
}

function base64(blob) {
  return new Promise((resolve, reject) => {
    const reader = new FileReader();
    reader.onload = () => resolve(reader.result.slice(reader.result.indexOf(",") + 1));
    reader.onerror = () => reject(reader.error);
    reader.readAsDataURL(blob);
  });
}
