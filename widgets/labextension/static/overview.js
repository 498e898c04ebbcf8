// What a trace's overview.json says, checked: whoever sent the file may have put anything into it.

const LAYERS = 1024;
const EXPERTS = 8192;
export const TEXT = 4000;
const SHARES = ["window", "compressed", "sink"];
export const KINDS = { hash: "hash-routed", topk: "learned router", dense: "dense, no experts" };

/** The overview as the viewer needs it. Throws an Error whose message says what is wrong. */
export function read(overview) {
  const architecture = overview?.meta?.architecture ?? {};
  const { layers, n_experts: nExperts, top_k: topK, n_shared: nShared } = architecture;
  const known = (layer) => Object.hasOwn(KINDS, layer?.routing);
  const fits = Array.isArray(layers) && layers.length <= LAYERS && whole(nExperts) && whole(topK);
  if (!fits || nExperts > EXPERTS || topK > nExperts || !layers.every(known)) {
    throw new Error("The overview does not describe the model's layers and experts.");
  }
  const rows = Array.isArray(overview.counts) ? overview.counts.slice(0, LAYERS) : [];
  const counts = rows.map((row) => numbers(row, nExperts + 1));
  const counted = (row) => row.length === nExperts && row.every(whole);
  if (rows.length !== layers.length || !counts.every(counted)) {
    throw new Error(`The overview does not hold ${layers.length} × ${nExperts} counts of tokens.`);
  }
  const kinds = layers.map((layer) => layer.routing);
  const text = [...String(overview.text ?? "").slice(0, 2 * TEXT)].slice(0, TEXT);
  return {
    ...{ counts, nExperts, topK, kinds },
    nShared: whole(nShared) ? nShared : 0,
    attention: layers.map((layer) => line(layer.attention, 20)),
    // Every token uses top-k experts, so a layer's counts tell how many tokens it routed.
    routed: counts.map((row) => Math.round(row.reduce((sum, n) => sum + n, 0) / (topK || 1))),
    chance: topK / (nExperts || 1),
    tokens: whole(overview.tokens) ? overview.tokens : 0,
    generated: whole(overview.generated) ? overview.generated : 0,
    documents: whole(overview.documents) ? overview.documents : 0,
    shares: shares(overview.attention, layers.length),
    text: block(text.join("")),
    cut: text.length >= TEXT,
    pieces: pieces(overview, text, kinds, nExperts),
    model: line(overview.meta.model ?? "unnamed model"),
    created: line(overview.meta.created ?? "", 40),
    dtype: line(overview.meta.dtype ?? "", 40),
    routerDtype: line(overview.meta.router_dtype ?? "", 40),
    meta: described(overview.meta),
  };
}

/** What one cell of the map stands for, as a sentence. */
export function describe(trace, layer, expert) {
  const { kinds, counts, routed, chance } = trace;
  const where = `layer ${layer} (${KINDS[kinds[layer]]})`;
  if (kinds[layer] === "dense") return where;
  const [used, of] = [counts[layer][expert], routed[layer]];
  if (!of) return `${where}, expert ${expert}: no token was routed`;
  const times = (used / of / chance).toFixed(2);
  return (
    `${where}, expert ${expert}: used by ${number(used)} of ${number(of)} tokens, ` +
    `${percent(used / of)}; ${times} × chance (${percent(chance)})`
  );
}

export const number = (value) => value.toLocaleString("en");
export const percent = (share) => `${(100 * share).toFixed(share < 0.1 ? 2 : 1)}\u00a0%`;

/** A count with its noun. */
export const several = (count, noun) => `${number(count)} ${noun}${count === 1 ? "" : "s"}`;

/** Any value as one line of text in which nothing is invisible. */
export function line(value, limit = 160) {
  const text = plain(value, 0).slice(0, limit + 1);
  const shown = block(text).replaceAll("\n", "⏎").replaceAll("\t", "⇥");
  return text.length > limit ? `${shown.slice(0, limit - 1)}…` : shown;
}

const whole = (value) => Number.isSafeInteger(value) && value >= 0;

/** Numbers of a list, or of a string as notebooks have it; no more of them than the limit. */
function numbers(row, limit) {
  if (typeof row === "string") return row ? row.split(" ", limit).map(Number) : [];
  return Array.isArray(row) ? row.slice(0, limit) : [];
}

/** The text token by token with each one's leading expert, or null where that is not known. */
function pieces({ pieces: given }, text, kinds, nExperts) {
  const { layer, weighted } = given ?? {};
  if (!whole(layer) || layer >= kinds.length || kinds[layer] === "dense") return null;
  const [lengths, experts, begins] = ["lengths", "experts", "begins"].map((name) =>
    numbers(given[name], TEXT),
  );
  const known = (expert) => expert === -1 || (whole(expert) && expert < nExperts);
  const sound = lengths.every(whole) && experts.every(known) && experts.length === lengths.length;
  if (!sound || !lengths.length) return null;
  const first = new Set(begins);
  let end = 0;
  const tokens = lengths.map((length, i) => {
    const shown = visible(text.slice(end, (end += length)).join(""));
    // Without weights no expert leads: ids alone come in no order.
    return { shown, expert: weighted === true ? experts[i] : -1, begins: first.has(i) };
  });
  return { layer, weighted: weighted === true, tokens };
}

const MARKS = { "\x7f": "␡", "\u00a0": "⍽" };

/** Text whose controls, direction marks and halves of characters can be seen. */
function block(text) {
  return text.replace(/[\p{Cc}\p{Cf}\p{Cs}\p{Co}\p{Cn}\p{Zl}\p{Zp}\u00a0]/gu, (character) => {
    const code = character.codePointAt(0);
    if (character === "\n" || character === "\t") return character;
    if (code < 0x20) return String.fromCharCode(0x2400 + code);
    return MARKS[character] ?? `⟦U+${code.toString(16).toUpperCase().padStart(4, "0")}⟧`;
  });
}

/** A token's text, in which line breaks and what has no text of its own can be seen, too. */
function visible(text) {
  if (!text) return "▯";
  const shown = block(text).replaceAll("\n", "⏎\n").replaceAll("\t", "⇥");
  return /^\p{M}/u.test(shown) ? `◌${shown}` : shown;
}

function plain(value, depth) {
  if (value === null || typeof value !== "object") return String(value);
  if (depth > 3) return "…";
  const pairs = Object.entries(value).slice(0, 50);
  if (Array.isArray(value)) return pairs.map(([, item]) => plain(item, depth + 1)).join(", ");
  return pairs.map(([key, item]) => `${key} ${plain(item, depth + 1)}`).join(", ");
}

/** Names and values of the meta; the layers stand in the map. */
function described(meta) {
  const { architecture, ...others } = meta;
  const { layers, ...model } = architecture;
  const entries = Object.entries({ ...others, architecture: model }).slice(0, 100);
  return entries.map(([key, value]) => [line(key, 60), value === null ? "–" : line(value)]);
}

/** Shares of attention by layer, or null where there are none. */
function shares(attention, layers) {
  const sound = SHARES.every((name) => {
    const means = attention?.[name];
    return Array.isArray(means) && means.length === layers && means.every(Number.isFinite);
  });
  if (!sound) return null;
  return Array.from({ length: layers }, (_, layer) => {
    const parts = SHARES.map((name) => Math.max(0, attention[name][layer]));
    // A layer of which nothing was recorded has 0 in all of them.
    return parts.some((part) => part > 0) ? parts : null;
  });
}
