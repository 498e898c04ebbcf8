// A trace or a run: text, grid, token and expert, and the controls that move through them.

import { button, fill, h, labelled, speaker } from "./dom.js";
import { mix, percent } from "./colours.js";
import { expertGrid } from "./grid.js";
import { expertPanel } from "./expert-panel.js";
import { Tape } from "./tape.js";
import { tokenPanel } from "./token-panel.js";
import { tokenText } from "./tokens.js";

const SPEEDS = [2, 5, 10, 20];

/** Builds the view inside `el`; the theme is kept by whoever calls. */
export function routing({ model, el, scope, link, plotly, look, categories }) {
  let tape = new Tape(model.get("_about"));
  let palettes = new Map(), details = null, playing = null, shows = 0;
  const state = () => ({ layer: model.get("layer"), expert: model.get("expert") });
  const row = () => model.get("token") ?? tape.newest;

  // ---- choosing --------------------------------------------------------------------------------

  function choose({ token, layer, expert }) {
    if (token !== undefined) model.set("token", token);
    if (layer !== undefined) model.set("layer", layer);
    if (expert !== undefined) model.set("expert", expert);
    model.save_changes();
  }

  const pickToken = (token) => {
    if (playing) play();
    choose({ token });
  };

  // ---- parts -----------------------------------------------------------------------------------

  const layerBox = h("select", { "aria-keyshortcuts": "[ ]",
    onchange: () => choose({ layer: Number(layerBox.value), expert: null }) });
  const mode = h("span", { className: "v4-hint" });
  const reset = button("Colour by the heaviest", () => choose({ expert: null }));
  const legend = h("div", { className: "v4-legend", role: "group", "aria-label": "Colours" });
  const text = tokenText(scope, { label: "Tokens of the text", colour, choose: pickToken, hint });
  const scrub = h("input", { type: "range", min: 0, max: 0, step: 1, "aria-label": "Token",
    oninput: () => pickToken(Number(scrub.value)) });
  const playButton = button("▶ Play", () => play(), { "aria-pressed": "false" });
  const speed = h("select", { onchange: () => playing && (play(), play()) });
  fill(speed, SPEEDS.map((n) => [n, `${n} tokens/s`]));
  speed.value = "5";
  const newest = button("Newest", () => choose({ token: null }),
    { title: "Show the newest token, and follow while the model writes" });
  const place = h("span", { className: "v4-hint" });
  const grid = expertGrid(scope, { plotly, look, choose });
  const token = tokenPanel({ look, choose });
  const expert = expertPanel({ choose: (what) => choose(what),
    ask: (layer, expert) => link.ask("expert", { layer, expert }) });
  const spoken = speaker();
  const controls = h("div", { className: "v4-bar" },
    labelled("Layer", layerBox),
    button("‹", () => turn(-1),
      { "aria-label": "Previous layer", title: "Previous layer, key [" }),
    button("›", () => turn(1), { "aria-label": "Next layer", title: "Next layer, key ]" }),
    mode, reset);
  const travel = h("div", { className: "v4-bar" },
    playButton, labelled("at", speed), scrub, newest, place);
  const node = h("div", { className: "v4-routing" },
    h("div", { className: "v4-reader" },
      h("div", { className: "v4-left" }, controls, legend, text.node, travel),
      grid.node),
    h("div", { className: "v4-panels" }, token.node, expert.node),
    spoken);
  el.append(node);

  // ---- colours ---------------------------------------------------------------------------------

  /** The experts that have a colour in a layer; a colour that was given stays. */
  function palette(layer) {
    const given = palettes.get(layer) ?? [];
    if (given.length < categories.length) {
      const all = Array.from({ length: tape.about.nExperts }, (_, one) => one);
      const fresh = all.filter((one) => tape.lead(layer, one) && !given.includes(one));
      fresh.sort((a, b) => tape.lead(layer, b) - tape.lead(layer, a));
      given.push(...fresh.slice(0, categories.length - given.length));
      palettes.set(layer, given);
    }
    return given;
  }

  const ramp = (layer) =>
    [look().paper, ...look()[tape.about.kinds[layer] === "hash" ? "hash" : "learned"].slice(1)];

  function colour(row) {
    const { layer, expert } = state();
    if (layer === null) return null;
    if (expert !== null) {
      const found = tape.used(row, layer).find((one) => one.expert === expert);
      if (!found) return null;
      return mix(ramp(layer), found.weight === null ? 0.6 : found.weight / tape.about.weightTop);
    }
    const first = tape.leading(row, layer);
    if (first === null) return null;
    const at = palette(layer).indexOf(first.expert);
    return at < 0 ? look().other : categories[at];
  }

  function drawLegend() {
    const { layer, expert } = state();
    reset.hidden = expert === null;
    if (layer === null) return;
    const of = tape.routed[layer], part = (n) => percent(n / Math.max(of, 1));
    if (expert !== null) {
      mode.textContent = `coloured by expert ${expert}: ${tape.count(layer, expert)} of ${of} ` +
        `tokens (${part(tape.count(layer, expert))}, chance ${percent(tape.about.chance)})`;
      const strip = h("span", { className: "v4-ramp" });
      strip.style.background = `linear-gradient(to right, ${ramp(layer).join(", ")})`;
      legend.replaceChildren("weight 0 ", strip, ` ${tape.about.weightTop.toFixed(2)} and more`);
      return;
    }
    if (!tape.about.weighted) {
      mode.textContent = "without colours, for experts have no order; choose one to see its tokens";
      legend.replaceChildren();
      return;
    }
    mode.textContent = "coloured by the heaviest expert";
    const shown = palette(layer);
    const chips = shown.map((one, i) => {
      const chip = button(`${one} · ${part(tape.lead(layer, one))}`,
        () => choose({ layer, expert: one }), { className: "v4-chip", title: `expert ${one}` });
      Object.assign(chip.style, { background: categories[i], color: "#000" });
      return chip;
    });
    const rest = shown.reduce((left, one) => left - tape.lead(layer, one), of);
    const others = h("span", { className: "v4-hint" }, `all others (grey) ${part(rest)}`);
    legend.replaceChildren("expert", ...chips, ...(rest > 0 ? [others] : []));
  }

  const paceLegend = scope.paced(drawLegend, 500);

  // ---- drawing ---------------------------------------------------------------------------------

  function drawPlace() {
    scrub.max = Math.max(tape.rows - 1, 0);
    scrub.value = row();
    const following = model.get("token") === null && model.get("running");
    place.textContent = tape.rows ? `token ${row()} of ${tape.rows}` +
      (following ? ", following" : "") : "no tokens yet";
    scrub.setAttribute("aria-valuetext", `token ${row()}: ${tape.text(row()) ?? ""}`);
  }

  function drawToken() {
    token.show(tape, row(), state(), details?.row === row() ? details : null);
  }

  const paceToken = scope.paced(drawToken, 400);

  function drawChoice() {
    text.select(row(), { scroll: true });
    grid.select(row());
    grid.mark(state());
    drawPlace();
  }

  function drawAll() {
    text.show(tape);
    grid.show(tape);
    drawChoice();
    drawLegend();
    drawToken();
    expert.show(tape.about, state());
  }

  function hint(over) {
    const shown = over ?? row();
    grid.select(shown);
    token.show(tape, shown, state(), details?.row === shown ? details : null);
  }

  // ---- moving ----------------------------------------------------------------------------------

  function turn(by) {
    const at = tape.layers.indexOf(model.get("layer")) + by;
    if (at in tape.layers) choose({ layer: tape.layers[at], expert: null });
  }

  function play() {
    clearInterval(playing);
    playing = playing ? null : setInterval(step, 1000 / Number(speed.value));
    playButton.textContent = playing ? "❚❚ Pause" : "▶ Play";
    playButton.setAttribute("aria-pressed", String(Boolean(playing)));
    if (playing && row() >= tape.newest) choose({ token: 0 });
  }

  function step() {
    if (row() >= tape.newest) play();
    else choose({ token: row() + 1 });
  }

  scope.add(() => clearInterval(playing));
  scope.listen(node, "keydown", (event) => {
    if (event.target.closest("select, input, textarea") || event.ctrlKey || event.metaKey) return;
    if (event.key === "[") turn(-1);
    else if (event.key === "]") turn(1);
    else if (event.key === "Escape" && state().expert !== null) choose({ expert: null });
    else return;
    event.preventDefault();
    event.stopPropagation();
  });

  // ---- the kernel ------------------------------------------------------------------------------

  async function fetchRow() {
    const wanted = row();
    if (!tape.has(wanted) && wanted < tape.rows) {
      const page = await link.ask("page", { row: wanted });
      if (wanted !== row()) return;
      tape.turn(page);
      text.show(tape);
    }
    drawChoice();
    drawToken();
    describe();
  }

  /** Asks what else is known of the chosen token, once the choice has come to rest. */
  const describe = scope.paced(async () => {
    const wanted = row();
    if (model.get("running") || model.get("token") === null) return;
    const known = await link.ask("details", { row: wanted });
    if (wanted !== row()) return;
    details = { ...known, row: wanted };
    drawToken();
    const { layer } = state();
    const used = layer === null ? [] : tape.used(wanted, layer).map((one) => one.expert);
    spoken.textContent = `${tape.text(wanted) ?? ""}, token ${wanted}, layer ${layer}, experts ` +
      (used.join(", ") || "none");
  }, 150);

  function begin(snapshot) {
    const about = model.get("_about");
    if (about !== tape.about) {
      tape = new Tape(about);
      fillLayers();
    }
    if (snapshot.shows !== shows) {
      // Another trace, or another run: colours are given anew.
      [palettes, details, shows] = [new Map(), null, snapshot.shows];
    }
    tape.reset(snapshot);
    drawAll();
    if (!tape.has(row())) fetchRow();
  }

  function grow(page) {
    const changed = tape.grow(page);
    if (changed === undefined) refresh();
    else if (changed !== null) {
      tape.trim();
      text.extend(changed);
    }
    grid.grow();
    if (model.get("token") === null) {
      text.select(row(), { scroll: false });
      grid.select(row());
      paceToken();
    }
    paceLegend();
    drawPlace();
    view.grown?.();
  }

  let asking = false;
  async function refresh() {
    if (asking) return;
    asking = true;
    try {
      begin(await link.ask("snapshot"));
    } finally {
      asking = false;
    }
  }

  function fillLayers() {
    fill(layerBox, tape.layers.map((layer) => [layer, tape.about.names[layer]]));
    layerBox.value = model.get("layer");
  }

  link.on("snapshot", begin);
  link.on("rows", grow);
  scope.hear(model, "change:token", fetchRow);
  scope.hear(model, "change:running", () => {
    drawPlace();
    paceToken();
  });
  for (const name of ["layer", "expert"]) {
    scope.hear(model, `change:${name}`, () => {
      layerBox.value = model.get("layer");
      text.recolour();
      grid.mark(state());
      drawLegend();
      drawToken();
      expert.show(tape.about, state());
      const { layer, expert: one } = state();
      if (one !== null) spoken.textContent = grid.describe({ layer, expert: one });
    });
  }
  const view = { retheme: drawAll, rows: () => tape.rows };
  fillLayers();
  refresh();
  return view;
}
