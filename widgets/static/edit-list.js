// The edits of the next run: a list with a switch, a layer, experts and a slider for each.

import { button, fill, h, labelled } from "./dom.js";

const TOKENS = [["all", "all tokens"], ["prompt", "the prompt"], ["generated", "the answer"]];
const ENGINE = "An engine runs elsewhere, so that its routing can't be edited.";

/** Builds the list, folded; `chosen` tells which layer and expert are looked at. */
export function editList({ model, scope, link, chosen }) {
  const kinds = new Map(model.get("_kinds").map((kind) => [kind.name, kind]));
  const about = model.get("_about");
  const shown = new Map();
  let draws = 0;
  const summary = h("summary", {});
  const list = h("ol", { className: "v4-edits" });
  const notice = h("p", { className: "v4-notice", role: "alert", hidden: true });
  const add = button("Add an edit", () => save([...rows(), fresh()]),
    { title: "Of the expert that is chosen in the grid" });
  const hint = h("span", { className: "v4-hint" }, "They act in the next run. " +
    "Compare(*playground.traces[-2:]) shows two runs side by side.");
  const node = h("details", { className: "v4-editing" }, summary, ...(model.get("_editable")
    ? [list, notice, h("div", { className: "v4-bar" }, add, hint)]
    : [h("p", { className: "v4-hint" }, ENGINE)]));

  const rows = () => model.get("_rows");
  function save(changed) {
    model.set("_rows", changed);
    model.save_changes();
  }
  const change = (key, values) =>
    save(rows().map((row) => (row.key === key ? { ...row, ...values } : row)));
  const newKey = () => Math.max(-1, ...rows().map((row) => row.key)) + 1;

  function fresh() {
    const { layer, expert } = chosen();
    const able = about.kinds[layer] === "topk" ? layer : about.start;
    return { kind: "ablate", layer: able, experts: [expert ?? 0], amount: null, tokens: "all",
      on: true, key: newKey() };
  }

  /** Layers that a kind of edit can act on. */
  const layers = (kind) => [["", "all layers"], ...about.names.map((name, i) => [i, name])
    .filter(([i]) => about.kinds[i] === "topk" || (kind.hashed && about.kinds[i] === "hash"))];

  async function control(key) {
    const row = rows().find((one) => one.key === key);
    try {
      const { experts } = await link.ask("matched",
        { layer: row.layer, experts: row.experts, seed: draws++ });
      save(rows().flatMap((one) => (one.key !== key ? [one]
        : [{ ...one, on: false }, { ...one, experts, on: true, key: newKey() }])));
    } catch (error) {
      say(error.message);
    }
  }

  function say(text) {
    notice.textContent = text;
    notice.hidden = !text;
  }

  // ---- one row ---------------------------------------------------------------------------------

  function line({ key }) {
    const set = (values) => change(key, values);
    const on = h("input", { type: "checkbox", "aria-label": "This edit acts",
      onchange: () => set({ on: on.checked }) });
    const remove = button("✕", () => {
      save(rows().filter((row) => row.key !== key));
      add.focus();
    }, { "aria-label": "Remove this edit" });
    const kind = h("select", { "aria-label": "What it does", onchange: () => {
      const next = kinds.get(kind.value), one = rows().find((row) => row.key === key);
      const able = one.layer === null || layers(next).some(([layer]) => layer === one.layer);
      set({ kind: kind.value, amount: next.amount?.first ?? null,
        layer: able ? one.layer : about.start,
        experts: next.experts && !one.experts.length ? [chosen().expert ?? 0] : one.experts });
    } });
    fill(kind, [...kinds.values()].map(({ name, label }) => [name, label]));
    const layer = h("select", { "aria-label": "Layer of the edit",
      onchange: () => set({ layer: layer.value === "" ? null : Number(layer.value) }) });
    const experts = h("input", { type: "text", size: 10, inputMode: "numeric", autocomplete: "off",
      onchange: () => set({ experts: (experts.value.match(/\d+/g) ?? []).map(Number) }) });
    const named = labelled("experts", experts);
    const value = h("output", {});
    const slider = h("input", { type: "range", oninput: () => {
      value.textContent = slider.value;
    }, onchange: () => set({ amount: slider.valueAsNumber }), onblur: () => draw() });
    const amount = labelled("", slider);
    amount.append(value);
    const tokens = h("select", { "aria-label": "Tokens that it acts on",
      onchange: () => set({ tokens: tokens.value }) });
    fill(tokens, TOKENS);
    const drawn = button("Control", () => control(key),
      { title: "Do the same to as many random experts of like load instead" });
    const text = h("code", {});
    const item = h("li", {}, h("div", { className: "v4-bar" },
      on, text, kind, layer, named, amount, tokens, drawn, remove));

    function show(row, wrong) {
      on.checked = row.on;
      item.classList.toggle("v4-off", !row.on);
      item.classList.toggle("v4-wrong", wrong);
      experts.setAttribute("aria-invalid", String(wrong));
      const known = kinds.get(row.kind);
      text.textContent = row.text ?? "";
      text.hidden = Boolean(known);
      for (const part of [kind, layer, named, amount, tokens, drawn]) part.hidden = !known;
      if (!known) return;
      kind.value = row.kind;
      fill(layer, layers(known));
      layer.value = row.layer ?? "";
      named.hidden = !known.experts;
      if (document.activeElement !== experts) experts.value = row.experts.join(", ");
      amount.hidden = !known.amount;
      if (known.amount) showAmount(known.amount, row.amount ?? known.amount.first);
      tokens.value = row.tokens;
      drawn.hidden = !known.experts;
      drawn.disabled = row.layer === null || !row.experts.length;
    }

    /** Shows a number as it is: one that Python gave may lie off the slider's steps and ends. */
    function showAmount({ name, least, most, step }, now) {
      amount.firstChild.textContent = name;
      if (document.activeElement === slider && slider.valueAsNumber !== now) return;
      const steps = (now - least) / step, whole = Math.abs(steps - Math.round(steps)) < 1e-6;
      Object.assign(slider, { min: Math.min(least, now), max: Math.max(most, now),
        step: whole && now >= least ? step : "any" });
      slider.valueAsNumber = now;
      value.textContent = String(Number(now.toPrecision(4)));
    }
    return { item, show };
  }

  // ---- all rows --------------------------------------------------------------------------------

  function draw() {
    const now = rows(), refused = model.get("_refused");
    const acting = now.filter((row) => row.on).length;
    summary.textContent = acting ? `Edit the routing: ${acting} in the next run`
      : "Edit the routing";
    for (const key of [...shown.keys()]) {
      if (now.some((row) => row.key === key)) continue;
      shown.get(key).item.remove();
      shown.delete(key);
    }
    now.forEach((row, i) => {
      if (!shown.has(row.key)) shown.set(row.key, line(row));
      const { item, show } = shown.get(row.key);
      show(row, refused.row === i);
      if (list.children[i] !== item) list.insertBefore(item, list.children[i] ?? null);
    });
    say(refused.why ? `Edit ${refused.row + 1}: ${refused.why}` : "");
  }

  for (const name of ["_rows", "_refused"]) scope.hear(model, `change:${name}`, draw);
  draw();
  node.open = rows().length > 0;
  return node;
}
