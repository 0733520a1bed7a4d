// The service's answers: one call at a time for each place of the page, its errors in words.

import { el, byId } from "./dom.js";

const KEY = "sluice-api-key";
const BUSY = [429, 503];
const TRIES = 4;
const LONGEST_WAIT = 10; // seconds between two tries, whatever the server wishes

/** What went wrong, and the way out, both for people. */
export class ApiError extends Error {
  constructor(status, what, wayOut) {
    super(what);
    this.status = status;
    this.wayOut = wayOut ?? "";
  }
}

/** The address of a thing of an index; `query` without what is empty. */
export function address(index, what, query = {}) {
  const url = new URL(`api/indexes/${encodeURIComponent(index)}/${what}`, document.baseURI);
  for (const [name, value] of Object.entries(query)) {
    if (value !== undefined && value !== "") url.searchParams.set(name, value);
  }
  return url;
}

/** Ask for JSON: GET, or POST where there is a body. `say` is told when the server is busy. */
export async function ask(url, { body, signal, say } = {}) {
  const response = await request(url, { body, signal, say });
  const text = await response.text();
  signal?.throwIfAborted();
  return JSON.parse(text, exact);
}

// Whole numbers beyond 2^53, such as hashes, stay what they are: as texts.
function exact(_, value, context) {
  const large = Number.isInteger(value) && !Number.isSafeInteger(value);
  return large && /^-?\d+$/.test(context?.source) ? context.source : value;
}

/** The answer itself; asks for a key at 401 and again after a while at 429 and 503. */
export async function request(url, { body, signal, say } = {}) {
  for (let attempt = 1; ; attempt += 1) {
    const response = await once(url, body, signal);
    signal?.throwIfAborted();
    if (response.ok) return response;
    if (response.status === 401) {
      await newKey(sessionStorage.getItem(KEY) !== null);
      signal?.throwIfAborted();
      attempt = 0;
    } else if (BUSY.includes(response.status) && attempt < TRIES) {
      const wait = Math.min(Number(response.headers.get("retry-after")) || attempt, LONGEST_WAIT);
      say?.(`The server is busy; asking again in ${wait} s`);
      await pause(wait * 1000, signal);
    } else throw await failure(response);
  }
}

async function once(url, body, signal) {
  const headers = {};
  const key = sessionStorage.getItem(KEY);
  if (key) headers.authorization = `Bearer ${key}`;
  if (body) headers["content-type"] = "application/json";
  const options = { headers, signal, method: body ? "POST" : "GET" };
  if (body) options.body = JSON.stringify(body);
  try {
    return await fetch(url, options);
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new ApiError(0, "The server does not answer", "Is it running? Then try again.");
  }
}

async function failure(response) {
  let said = {};
  try {
    said = await response.json();
  } catch {
    said = {};
  }
  const what = typeof said.error === "string" ? said.error : `The server says ${response.status}`;
  return new ApiError(response.status, what, typeof said.way_out === "string" ? said.way_out : "");
}

function pause(ms, signal) {
  return new Promise((resolve, reject) => {
    const timer = setTimeout(resolve, ms);
    const stop = () => (clearTimeout(timer), reject(signal.reason));
    signal?.addEventListener("abort", stop, { once: true });
  });
}

let asking = null; // one question for the key, however many answers wait for it

function newKey(again) {
  asking ??= new Promise((resolve) => {
    const dialog = byId("key");
    const input = el("input", { type: "password", required: true, autocomplete: "off" });
    const form = el(
      "form",
      {},
      el("h2", { id: "key-title" }, "This server wants a key"),
      el("p", { className: "quiet" }, again ? "The key was not taken. " : "", "It is kept in this ",
        "tab until the tab is closed, and sent to this server only."),
      el("label", { className: "row" }, "API key ", input),
      el("p", { className: "buttons" }, el("button", { className: "main" }, "Use it")),
    );
    form.onsubmit = (event) => {
      event.preventDefault();
      sessionStorage.setItem(KEY, input.value.trim());
      dialog.close();
    };
    dialog.replaceChildren(form);
    dialog.oncancel = (event) => event.preventDefault(); // without a key there is nothing to see
    dialog.onclose = () => {
      asking = null;
      resolve();
    };
    dialog.showModal();
  });
  return asking;
}

/** Runs one task at a time: a newer one stops the older, whose answer is never seen. */
export class Latest {
  #controller = null;

  /** `task` is given a signal; what it throws once it is stopped is dropped. */
  async run(task) {
    this.stop();
    const controller = new AbortController();
    this.#controller = controller;
    try {
      await task(controller.signal);
    } catch (error) {
      if (!controller.signal.aborted) throw error;
    }
  }

  stop() {
    this.#controller?.abort();
  }
}

/** Shows a thumbnail when it comes near the screen, or says that there is none. */
export function showPicture(image, index, uid, size) {
  const url = address(index, `thumbnails/${encodeURIComponent(uid)}`, { size });
  image.onerror = () => image.parentElement?.classList.add("missing");
  if (sessionStorage.getItem(KEY) === null) {
    image.loading = "lazy";
    image.src = url.href;
    return;
  }
  withKey.set(image, url); // an <img> cannot send a key
  near.observe(image);
}

const withKey = new WeakMap();
const near = new IntersectionObserver((seen) => {
  for (const { isIntersecting, target } of seen) {
    if (!isIntersecting) continue;
    near.unobserve(target);
    fetchPicture(target, withKey.get(target));
  }
}, { rootMargin: "300px" });

async function fetchPicture(image, url) {
  try {
    const blob = await (await request(url)).blob();
    image.onload = () => URL.revokeObjectURL(image.src);
    image.src = URL.createObjectURL(blob);
  } catch {
    image.parentElement?.classList.add("missing");
  }
}
