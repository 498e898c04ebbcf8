// The text of a trace, each token with the colour of the expert that leads it.

const search = new URL(import.meta.url).search;
const { element } = await import("./element.js" + search);
const { KINDS, TEXT, number, percent, several } = await import("./overview.js" + search);

const COLOURS = 8;
const TOLD = 60;

/** The text of a checked overview with its heading; it has no colours where no pieces are known. */
export function coloured(trace) {
  const { cut, pieces, text } = trace;
  const heading = element("h3", {}, ["Text"]);
  const box = element("pre", { tabIndex: 0 }, [text || "This trace holds no text."]);
  if (!pieces || !text) {
    const first = element("p", { className: "v4kit-hint" }, [
      `The first ${several(TEXT, "character")}.`,
    ]);
    return [heading, ...(cut ? [first] : []), box];
  }
  const top = leaders(pieces.tokens);
  fill(box, pieces.tokens, top);
  return [heading, legend(trace, top), told(box, pieces)];
}

/** The experts that lead most often with the tokens that each leads, most often first. */
function leaders(tokens) {
  const counts = new Map();
  for (const { expert } of tokens) {
    if (expert >= 0) counts.set(expert, (counts.get(expert) ?? 0) + 1);
  }
  return [...counts].sort(([a, n], [b, m]) => m - n || a - b).slice(0, COLOURS);
}

function fill(box, tokens, top) {
  const classes = new Map(top.map(([expert], i) => [expert, `v4kit-category-${i}`]));
  const spans = tokens.map(({ shown, expert }, i) => {
    const look = expert < 0 ? "" : (classes.get(expert) ?? "v4kit-other");
    const span = element("span", { className: look }, [shown]);
    span.dataset.token = i;
    return span;
  });
  // A document begins after a blank line.
  box.replaceChildren(...spans.flatMap((s, i) => (i && tokens[i].begins ? ["\n\n", s] : [s])));
}

function legend({ pieces, kinds, nExperts, tokens: all }, top) {
  const { tokens, layer, weighted } = pieces;
  const routed = tokens.filter(({ expert }) => expert >= 0).length;
  const others = top.reduce((left, [, count]) => left - count, routed);
  const some = `The first ${number(tokens.length)} of ${number(all)} tokens, `;
  const where = `layer ${layer} (${KINDS[kinds[layer]]})`;
  const by = weighted ? `coloured by the heaviest expert of ${where}. `
    : `without colours: the experts of ${where} have no order. `;
  const mark = (className, name, count) => {
    const share = ` ${percent(count / routed)}`;
    return element("span", {}, [element("mark", { className }, [name]), share]);
  };
  return element("div", { className: "v4kit-key" }, [
    element("p", {}, [
      `${tokens.length < all ? some + by : by[0].toUpperCase() + by.slice(1)}` +
        `An even split gives each expert ${percent(1 / nExperts)} of the tokens.`,
    ]),
    ...top.map(([expert, count], i) => mark(`v4kit-category-${i}`, `expert ${expert}`, count)),
    ...(others ? [mark("v4kit-other", "all others", others)] : []),
  ]);
}

/** The text in a frame that tells about the token under the mouse. */
function told(box, { tokens, layer, weighted }) {
  const tip = element("div", { className: "v4kit-told", hidden: true }, []);
  const frame = element("div", { className: "v4kit-text" }, [box, tip]);
  box.addEventListener("mouseover", ({ target }) => {
    const token = target.dataset.token;
    tip.hidden = token === undefined;
    if (tip.hidden) return;
    const { shown, expert } = tokens[token];
    const short = [...shown.replaceAll("\n", "")];
    const text = short.length > TOLD ? `${short.slice(0, TOLD - 1).join("")}…` : short.join("");
    const none = weighted ? "no expert" : "experts without order";
    const used = expert < 0 ? none : `expert ${expert}`;
    tip.textContent = `token ${number(Number(token))} “${text}”\nlayer ${layer}: ${used}`;
    place(tip, target, frame);
  });
  for (const left of ["mouseleave", "scroll"]) {
    box.addEventListener(left, () => (tip.hidden = true));
  }
  return frame;
}

/** Puts a tip below the first line of a token, on the side where there is room. */
function place(tip, target, frame) {
  const [line] = target.getClientRects();
  const { left, top, width } = frame.getBoundingClientRect();
  const x = line.left - left;
  const right = x > width / 2;
  tip.style.left = right ? "auto" : `${x}px`;
  tip.style.right = right ? `${Math.max(0, width - x - line.width)}px` : "auto";
  tip.style.top = `${line.bottom - top + 4}px`;
}
