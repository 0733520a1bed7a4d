// SQL conditions: taken apart into what is joined by `and`, so that a column's handles and ticks
// can be read from a condition that was typed, and be written into it.

// Texts, quoted names, comments, words and numbers, spaces, and any other character.
const QUOTED = /'(?:[^']|'')*'|"(?:[^"]|"")*"|--[^\n]*|\/\*[^]*?\*\//.source;
const TOKEN = new RegExp(`${QUOTED}|\\w[\\w.]*|\\s+|[^\\s]`, "g");
const COMMENT = /^(--|\/\*)/;
const WORD = /^[a-z_][a-z0-9_]*$/;

/** The conditions that `and` joins at the top. One that has a top-level `or` stays whole. */
export function clauses(condition) {
  // A comment would swallow what is joined to it.
  const where = condition.replace(TOKEN, (token) => (COMMENT.test(token) ? " " : token));
  const found = [];
  let depth = 0;
  let open = 0; // `between` whose `and` has not come yet
  let start = 0;
  for (const { 0: token, index } of where.matchAll(TOKEN)) {
    const word = token.toLowerCase();
    if (word === "(" || word === "[" || word === "case") depth += 1;
    if (word === ")" || word === "]" || word === "end") depth -= 1;
    if (depth) continue;
    if (word === "or") return [where.trim()];
    if (word === "between") open += 1;
    if (word === "and" && open) open -= 1;
    else if (word === "and") {
      found.push(where.slice(start, index).trim());
      start = index + token.length;
    }
  }
  found.push(where.slice(start).trim());
  return found.filter(Boolean);
}

/** The conditions as one; one that holds a top-level `or` is put in parentheses. */
export function joined(parts) {
  const several = parts.length > 1;
  return parts.map((part) => (several && isAlternative(part) ? `(${part})` : part)).join(" and ");
}

function isAlternative(part) {
  let depth = 0;
  for (const [token] of part.matchAll(TOKEN)) {
    if (token === "(") depth += 1;
    if (token === ")") depth -= 1;
    if (!depth && token.toLowerCase() === "or") return true;
  }
  return false;
}

/** A column's name as SQL. */
export function name(column) {
  return WORD.test(column) ? column : `"${column.replaceAll('"', '""')}"`;
}

/** A value as SQL. */
export function literal(value) {
  if (typeof value === "number" || typeof value === "boolean") return String(value);
  return `'${String(value).replaceAll("'", "''")}'`;
}

function unquoted(text) {
  if (text.startsWith("'")) return text.slice(1, -1).replaceAll("''", "'");
  if (text === "true" || text === "false") return text === "true";
  return Number(text);
}

const escaped = (text) => text.replace(/[.*+?^${}()|[\]\\]/g, "\\$&");
const NUMBER = String.raw`(-?\d+(?:\.\d+)?(?:e[+-]?\d+)?)`;
const VALUE = String.raw`(?:'(?:[^']|'')*'|true|false|-?\d+(?:\.\d+)?(?:e[+-]?\d+)?)`;

/** What one clause says of a column: {low} or {high} or {values, nulls}, or null if not of it. */
function said(clause, column) {
  const of = escaped(name(column));
  const bound = clause.match(new RegExp(`^${of}\\s*(>=|<=)\\s*${NUMBER}$`, "i"));
  if (bound) return { [bound[1] === ">=" ? "low" : "high"]: Number(bound[2]) };
  const both = clause.match(new RegExp(`^${of}\\s+between\\s+${NUMBER}\\s+and\\s+${NUMBER}$`, "i"));
  if (both) return { low: Number(both[1]), high: Number(both[2]) };
  const equal = clause.match(new RegExp(`^${of}\\s*=\\s*(${VALUE})$`, "i"));
  if (equal) return { values: [unquoted(equal[1])], nulls: false };
  if (new RegExp(`^${of}\\s+is\\s+null$`, "i").test(clause)) return { values: [], nulls: true };
  const list = String.raw`${of}\s+in\s*\(\s*(${VALUE}(?:\s*,\s*${VALUE})*)\s*\)`;
  const many = clause.match(new RegExp(`^${list}$`, "i"));
  const missing = String.raw`\s+or\s+${of}\s+is\s+null`;
  const orNull = clause.match(new RegExp(String.raw`^\(\s*${list}${missing}\s*\)$`, "i"));
  const found = many ?? orNull;
  if (!found) return null;
  const values = found[1].match(new RegExp(VALUE, "gi")).map(unquoted);
  return { values, nulls: orNull !== null };
}

/** What a condition asks of a column: {low?, high?, values?, nulls?}; {} where nothing. */
export function asked(where, column) {
  return Object.assign({}, ...clauses(where).map((clause) => said(clause, column)));
}

/** The condition without what handles and ticks of this column say. */
export function without(where, column) {
  return joined(clauses(where).filter((clause) => said(clause, column) === null));
}

/** The condition with other bounds for a column; undefined: no bound on that side. */
export function withRange(where, column, low, high) {
  const parts = clauses(without(where, column));
  if (low !== undefined) parts.push(`${name(column)} >= ${low}`);
  if (high !== undefined) parts.push(`${name(column)} <= ${high}`);
  return joined(parts);
}

/** The condition with these values alone for a column, and rows that have none if `nulls`. */
export function withValues(where, column, values, nulls) {
  const parts = clauses(without(where, column));
  const list = `${name(column)} in (${values.map(literal).join(", ")})`;
  const missing = `${name(column)} is null`;
  if (values.length && nulls) parts.push(`(${list} or ${missing})`);
  else if (values.length) parts.push(list);
  else if (nulls) parts.push(missing);
  return joined(parts);
}

/** The columns of a list that a condition names by handles or ticks. */
export function columnsOf(where, columns) {
  return columns.filter((column) => Object.keys(asked(where, column)).length > 0);
}
