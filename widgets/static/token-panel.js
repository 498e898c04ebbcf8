// One token: its path through all layers.

import { button, h } from "./dom.js";
import { inkOn, mix } from "./colours.js";

/**
 * The panel of one token.
 *
 * @param choose Called with {layer, expert} when an expert is clicked.
 */
export function tokenPanel({ look, choose }) {
  const title = h("h3", { className: "v4-token" });
  const facts = h("p", { className: "v4-hint" });
  const table = h("table", {});
  const node = h("section", { className: "v4-panel", "aria-label": "Chosen token" },
    title, facts, h("div", { className: "v4-scroll", tabIndex: 0, role: "region",
      "aria-label": "Experts of this token in every layer" }, table));

  function chip(layer, one, kind, top, chosen) {
    const share = one.weight === null ? 0.5 : one.weight / top;
    const fill = mix(look()[kind === "hash" ? "hash" : "learned"], share);
    const weight = one.weight === null ? "" : ` · ${one.weight.toFixed(4)}`;
    const made = button(`${one.expert}${weight}`, () => choose({ layer, expert: one.expert }), {
      className: "v4-chip",
      title: one.rank ? `rank ${one.rank}` : "no rank",
      "aria-pressed": String(chosen),
    });
    made.style.background = fill;
    made.style.color = inkOn(fill);
    return made;
  }

  /** Shows a row; `details` is what the kernel told of it, or null. */
  function show(tape, row, { layer, expert }, details) {
    if (!tape.rows) {
      title.textContent = "Token";
      facts.textContent = "No tokens yet.";
      table.replaceChildren();
      return;
    }
    title.textContent = `“${tape.text(row) ?? ""}”`;
    facts.textContent = said(tape, row, details);
    table.replaceChildren(
      ...tape.layers.map((index) => {
        const kind = tape.about.kinds[index];
        const chips = tape.used(row, index).map((one) =>
          chip(index, one, kind, tape.about.weightTop, index === layer && one.expert === expert));
        const name = h("th", { scope: "row" }, `${index} ${kind === "hash" ? "hash" : ""}`);
        const gone = details?.displaced?.[index] ?? [];
        const cell = h("td", {}, ...(chips.length ? chips : ["–"]),
          ...(gone.length ? [h("span", { className: "v4-hint" }, `instead of ${gone.join(", ")}`)]
            : []));
        return h("tr", { className: index === layer ? "v4-here" : "" }, name, cell);
      }),
    );
  }

  return { node, show };
}

/** What is known of a token, in a line. */
function said(tape, row, details) {
  const parts = [`token ${row} of ${tape.rows}`, tape.generated(row) ? "generated" : "prompt"];
  if (details?.document !== null && details?.document !== undefined) {
    parts.push(`position ${details.position} of document ${details.document}`);
  }
  if (details && details.id >= 0) parts.push(`id ${details.id}`);
  if (details?.role && details.role !== "text") parts.push(details.role);
  if (details?.logprob !== null && details?.logprob !== undefined) {
    parts.push(`log-probability ${details.logprob.toFixed(3)}`);
  }
  if (details?.entropy !== null && details?.entropy !== undefined) {
    parts.push(`entropy ${details.entropy.toFixed(3)} nats`);
  }
  if (!tape.layers.some((layer) => tape.used(row, layer).length)) {
    parts.push("no experts: not fed to the model yet");
  }
  return parts.join(" · ");
}
