// The pictures that are selected, by index: they stay while other questions are asked.

const chosen = new Map(); // index -> set of uids

/** The selected uids of an index, in the order in which they were selected. */
export function selected(index) {
  if (!chosen.has(index)) chosen.set(index, new Set());
  return chosen.get(index);
}

/** Select or leave out; tells whoever listens on the document. */
export function choose(index, uids, on) {
  const all = selected(index);
  for (const uid of uids) on ? all.add(uid) : all.delete(uid);
  document.dispatchEvent(new Event("selection"));
}
