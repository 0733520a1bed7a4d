// What is asked, as the page's address says it: a link shows the same to whoever opens it.

const DEFAULTS = {
  index: "", // the index that is asked
  with: "", // the index that it is compared with
  q: "", // a text
  like: "", // the uid of an example
  picture: "", // which picture of this tab; the picture itself is not in the address
  weight: "0.5", // of the text, where there is a picture too
  where: "",
  least: "", // similarity
  dedup: "", // cosine
  k: "50",
  seed: "0", // of the sample that is shown where nothing is asked
  columns: "", // whose histograms are shown, if not the usual ones
  row: "", // the uid whose details are open
  of: "", // the index of that row, if not the first
};

export const state = { ...DEFAULTS };

const NUMBERS = {
  weight: [0, 1], least: [-1, 1], dedup: [0.01, 1], k: [1, 1000], seed: [0, 2 ** 31],
};
const WHOLE = ["k", "seed"];

/** Read the address into `state`; what is no number where one belongs is left out. */
export function read() {
  const given = new URLSearchParams(location.search);
  for (const [name, value] of Object.entries(DEFAULTS)) {
    const found = given.get(name);
    state[name] = found !== null && (!(name in NUMBERS) || fits(name, found)) ? found : value;
  }
}

function fits(name, text) {
  const [low, high] = NUMBERS[name];
  const value = Number(text);
  const whole = !WHOLE.includes(name) || Number.isInteger(value);
  return text.trim() !== "" && value >= low && value <= high && whole;
}

/** Change `state`, and the address with it; `push` makes a step that Back undoes. */
export function change(changes, push = true) {
  Object.assign(state, changes);
  const query = new URLSearchParams();
  for (const [name, value] of Object.entries(DEFAULTS)) {
    if (state[name] !== value) query.set(name, state[name]);
  }
  const url = `${location.pathname}${query.size ? `?${query}` : ""}`;
  if (url === location.pathname + location.search) return;
  if (push) history.pushState({ within: true }, "", url);
  else history.replaceState(history.state, "", url);
}

/** Whether anything is asked; if not, a sample is shown. */
export const isQuestion = () => Boolean(state.q || state.like || state.picture);

// Pictures that were asked with, by what `state.picture` calls them; they last as long as the tab.
const pictures = new Map();

/** Remember {data: base64, url, name} and return what it is called. */
export function keepPicture(picture) {
  const name = `${Date.now().toString(36)}`;
  pictures.set(name, picture);
  return name;
}

export const pictureAsked = () => pictures.get(state.picture);

/** How many pictures are asked for. */
export const asMany = () => Number(state.k);

/** What every search says, as the service wants it; null where a picture is gone with its tab. */
export function question() {
  const body = { k: asMany() };
  if (state.where) body.where = state.where;
  if (state.least !== "") body.min_similarity = Number(state.least);
  if (state.dedup !== "") body.dedup = Number(state.dedup);
  if (state.like) return { ...body, uid: state.like };
  if (state.q) body.text = state.q;
  if (!state.picture) return body;
  if (!pictureAsked()) return null;
  body.image = pictureAsked().data;
  if (state.q) body.weight = Number(state.weight);
  return body;
}
