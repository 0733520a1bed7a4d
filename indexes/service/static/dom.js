// Elements from names and texts. What the server says is never read as markup: strings become
// text nodes, and only http and https become links.

export const byId = (id) => document.getElementById(id);

/** An element; `attributes` are properties where there are such (className, onclick, hidden). */
export function el(name, attributes = {}, ...children) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) {
    if (value === undefined || value === null) continue;
    if (key in made) made[key] = value;
    else made.setAttribute(key, value);
  }
  made.append(...children.filter((child) => child !== null && child !== undefined));
  return made;
}

/** A shape for a drawing. */
export function shape(name, attributes = {}, ...children) {
  const made = document.createElementNS("http://www.w3.org/2000/svg", name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  made.append(...children);
  return made;
}

/** A link where the text is an address on the web, else the text alone. */
export function linked(text) {
  let url = null;
  try {
    url = new URL(text);
  } catch {
    return text;
  }
  if (url.protocol !== "http:" && url.protocol !== "https:") return text;
  return el("a", { href: url.href, target: "_blank", rel: "noopener noreferrer" }, text);
}

/** A number for people: four significant digits, whole numbers whole. */
export function number(value) {
  if (value === null || value === undefined) return "";
  if (typeof value !== "number") return String(value);
  if (Number.isInteger(value)) return value.toLocaleString("en");
  return Math.abs(value) >= 1000 ? Math.round(value).toLocaleString("en") : short(value);
}

const short = (value) => String(Number(value.toPrecision(4)));

/** "1 picture", "2 pictures". */
export function count(many, one) {
  return `${number(many)} ${one}${many === 1 ? "" : "s"}`;
}

/** A name, to be broken after an underscore or slash where it is too long for its line. */
export function breakable(name) {
  const parts = name.split(/(?<=[_/])/);
  return parts.flatMap((part, at) => (at ? [el("wbr"), part] : [part]));
}

/** Calls after `ms` of quiet; `stop` forgets a call that waits. */
export function debounced(ms, call) {
  let timer = 0;
  const later = (...values) => {
    clearTimeout(timer);
    timer = setTimeout(() => call(...values), ms);
  };
  later.stop = () => clearTimeout(timer);
  return later;
}

/** Closes a dialog by a click beside it, too. */
export function closable(dialog) {
  dialog.onclick = (event) => {
    if (event.target === dialog) dialog.close();
  };
}

/** Copies a text and says so on the button for a moment. */
export async function copy(text, button) {
  const before = button.textContent;
  try {
    await navigator.clipboard.writeText(text);
    button.textContent = "Copied";
  } catch {
    button.textContent = "This browser does not copy";
  }
  setTimeout(() => (button.textContent = before), 1500);
}
