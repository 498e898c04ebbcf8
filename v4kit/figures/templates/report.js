"use strict";
// What the page shows and how it answers. Token text reaches it through textContent alone, and
// never reaches plotly.
(async () => {
  const $ = (id) => document.getElementById(id);
  const trace = await openTrace(JSON.parse($("data").textContent));
  const { kinds, routedLayers, shown, used } = trace;
  const state = { layer: trace.start, expert: null, row: trace.first ?? 0, theme: "light" };
  const dark = matchMedia("(prefers-color-scheme: dark)");
  const look = () => trace.themes[state.theme];
  const steps = () => (kinds[state.layer] === "hash" ? look().hash : look().learned);
  const ramp = () => [look().paper, ...steps().slice(1)];
  const share = (layer, expert) => trace.count(layer, expert) / Math.max(trace.routed[layer], 1);

  function element(tag, text = "", properties = {}) {
    const made = Object.assign(document.createElement(tag), properties);
    made.textContent = text;
    return made;
  }

  // ---- text ------------------------------------------------------------------------------------

  const spans = [];

  function buildText() {
    const breaks = new Set(trace.tokens.breaks);
    const starts = new Map(trace.documents.map(([row, ...rest]) => [row, rest]));
    const parts = document.createDocumentFragment();
    for (let row = 0; row < shown; row++) {
      const start = starts.get(row);
      if (start && starts.size > 1) {
        const name = `document ${start[0]}` + (start[1] ? ` · ${start[1]}` : "");
        const head = element("div", name, { className: "document" });
        head.setAttribute("role", "presentation");
        parts.append(head);
      }
      const span = element("span", trace.texts[row], { id: `t${row}` });
      span.dataset.row = row;
      span.setAttribute("role", "option");
      span.setAttribute("aria-selected", "false");
      if (trace.generated[row]) span.classList.add("generated");
      spans.push(span);
      parts.append(span);
      if (breaks.has(row)) parts.append("\n");
    }
    $("tokens").append(parts);
  }

  function fill(row) {
    if (state.expert === null) {
      const first = trace.leading(row, state.layer);
      if (first === null) return null;
      const place = trace.leaders[state.layer].top.indexOf(first.expert);
      return place < 0 ? look().other : trace.categories[place];
    }
    const found = used(row, state.layer).find((one) => one.expert === state.expert);
    if (!found) return null;
    return found.weight === null ? steps()[3] : mix(ramp(), found.weight / trace.weightTop);
  }

  function paint() {
    spans.forEach((span, row) => {
      const colour = fill(row);
      span.style.background = colour ?? "";
      span.style.color = colour ? inkOn(colour) : "";
    });
    legend();
  }

  function legend() {
    $("legend").replaceChildren();
    $("reset").hidden = state.expert === null;
    if (state.expert === null) legendOfLeaders();
    else legendOfExpert();
  }

  function legendOfExpert() {
    const { layer, expert } = state;
    $("mode").textContent = `coloured by expert ${expert}: used by ` +
      `${trace.count(layer, expert)} of ${trace.routed[layer]} tokens ` +
      `(${percent(share(layer, expert))}, chance ${percent(trace.chance)})`;
    if (!trace.weighted) return;
    const strip = element("span", "", { className: "ramp" });
    strip.style.background = `linear-gradient(to right, ${ramp().join(", ")})`;
    $("legend").append("weight 0", strip, `${trace.weightTop.toFixed(2)} and more`);
  }

  function legendOfLeaders() {
    const found = trace.leaders[state.layer], part = (n) => percent(n / Math.max(found.tokens, 1));
    $("mode").textContent = found.how ? `coloured by the ${found.how}`
      : "without colours, for experts have no order; choose one to see where it is used";
    found.top.forEach((expert, i) => {
      const text = `expert ${expert} · ${part(found.counts[i])}`;
      const chip = element("button", text, { type: "button" });
      chip.style.background = trace.categories[i];
      chip.onclick = () => choose({ expert });
      $("legend").append(chip);
    });
    const rest = found.counts.reduce((left, count) => left - count, found.tokens);
    if (!rest) return;
    const others = element("span", `all others · ${part(rest)}`, { className: "chip" });
    others.style.background = look().other;
    others.style.color = inkOn(look().other);
    $("legend").append(others);
  }

  // ---- the panel -------------------------------------------------------------------------------

  function expertTable(row, layer) {
    const table = element("table"), head = table.createTHead().insertRow();
    const names = [trace.ranked[layer] ? "rank" : "slot", "expert", "weight", "of all tokens"];
    names.forEach((name) => head.append(element("th", name, { scope: "col" })));
    for (const one of used(row, layer)) {
      const line = table.insertRow();
      line.insertCell().textContent = one.rank ?? `(${one.slot})`;
      const button = element("button", String(one.expert), { type: "button" });
      button.setAttribute("aria-label", `Colour the text by expert ${one.expert}`);
      button.onclick = () => choose({ layer, expert: one.expert });
      line.insertCell().append(button);
      const cell = line.insertCell();
      cell.className = `weight ${kinds[layer]}`;
      cell.textContent = one.weight === null ? "not recorded" : one.weight.toFixed(4);
      if (one.weight !== null) {
        const bar = element("i");
        bar.style.width = `${Math.min(100, (100 * one.weight) / trace.weightTop)}%`;
        cell.append(bar);
      }
      line.insertCell().textContent = percent(share(layer, one.expert));
    }
    return table;
  }

  function everyLayer(row) {
    const box = element("details"), table = element("table");
    box.append(element("summary", "All layers of this token"), table);
    box.ontoggle = () => {
      if (!box.open || table.rows.length) return;
      for (const layer of routedLayers) {
        const line = table.insertRow();
        line.append(element("th", `${layer} ${kinds[layer]}`, { scope: "row" }));
        line.insertCell().textContent = used(row, layer)
          .map((one) => one.expert + (one.weight === null ? "" : ` (${one.weight.toFixed(3)})`))
          .join(", ");
      }
    };
    return box;
  }

  function about(row) {
    const [, document] = trace.documents.findLast(([first]) => first <= row);
    const where = trace.documents.length > 1 ? ` of document ${document}` : "";
    const id = trace.ids[row] < 0 ? "" : ` · id ${trace.ids[row]}`;
    const lines = [
      `token ${row} · position ${trace.positions[row]}${where}`,
      (trace.generated[row] ? "generated" : "prompt") + id,
    ];
    const [logprob, entropy] = [trace.logprobs[row], trace.entropies[row]];
    const read = [];
    if (!Number.isNaN(logprob)) read.push(`log-probability ${logprob.toFixed(3)}`);
    if (!Number.isNaN(entropy)) read.push(`entropy ${entropy.toFixed(3)} nats`);
    return read.length ? [...lines, read.join(" · ")] : lines;
  }

  function panel(row) {
    const box = $("panel"), layer = state.layer;
    const open = box.querySelector("details")?.open ?? false;
    box.replaceChildren(element("div", trace.texts[row], { className: "token" }));
    about(row).forEach((line) => box.append(element("p", line, { className: "hint" })));
    box.append(element("h3", trace.layers[layer] + (trace.ranked[layer] ? "" : ", unranked")));
    if (!used(row, layer).length) {
      box.append(element("p", "No experts: this token was not routed here."));
      return;
    }
    box.append(expertTable(row, layer));
    box.append(element("p", `chance ${percent(trace.chance)}`, { className: "hint" }));
    const all = everyLayer(row);
    all.open = open;
    box.append(all);
  }

  // ---- figures ---------------------------------------------------------------------------------

  function drawToken() {
    $("barcode-note").textContent = `Token ${state.row}: “${trace.texts[state.row]}”. At the left ` +
      `the experts it used, ${trace.topK} of ${trace.nExperts} in each layer` +
      (trace.weighted ? ", at the right their weights." : ".");
    return draw("barcode", barcodeOf(trace, look(), state.row));
  }

  function drawLoad() {
    const { figure, note } = loadOf(trace, look(), state.layer);
    $("load-note").textContent = note;
    return draw("load", figure);
  }

  function drawAll() {
    const map = structuredClone(look().figures.map);
    return Promise.all([draw("map", map), drawToken(), drawLoad()]);
  }

  function pick(event) {
    const [, layer, expert] = event.points[0].customdata ?? [];
    if (expert >= 0) choose({ layer, expert });
  }

  // ---- choosing --------------------------------------------------------------------------------

  function choose(change) {
    const before = { ...state };
    Object.assign(state, change);
    if (state.layer !== before.layer || state.expert !== before.expert) paint();
    if (state.layer !== before.layer) drawLoad();
    $("layer").value = state.layer;
    mark(before.row);
    panel(state.row);
    if (state.row !== before.row) drawToken();
    const said = used(state.row, state.layer).map((one) => one.expert).join(", ") || "none";
    $("spoken").textContent =
      `${trace.texts[state.row]}, token ${state.row}, layer ${state.layer}, experts ${said}`;
  }

  function mark(before) {
    spans[before].classList.remove("chosen");
    spans[before].setAttribute("aria-selected", "false");
    spans[state.row].classList.add("chosen");
    spans[state.row].setAttribute("aria-selected", "true");
    $("tokens").setAttribute("aria-activedescendant", spans[state.row].id);
  }

  function turn(by) {
    const place = routedLayers.indexOf(state.layer) + by;
    if (place in routedLayers) choose({ layer: routedLayers[place], expert: null });
  }

  /** The token above or below the chosen one. */
  function beside(direction) {
    const here = spans[state.row], edge = here.offsetTop;
    let row = state.row;
    while (row in spans && spans[row].offsetTop === edge) row += direction;
    if (!(row in spans)) return state.row;
    const line = spans[row].offsetTop;
    let best = row;
    for (; row in spans && spans[row].offsetTop === line; row += direction) {
      const off = (i) => Math.abs(spans[i].offsetLeft - here.offsetLeft);
      if (off(row) < off(best)) best = row;
    }
    return best;
  }

  function keys(event) {
    const moves = {
      ArrowRight: () => state.row + 1, ArrowLeft: () => state.row - 1,
      ArrowDown: () => beside(1), ArrowUp: () => beside(-1),
      Home: () => 0, End: () => shown - 1,
    };
    if (!(event.key in moves) || event.ctrlKey || event.metaKey || event.altKey) return;
    event.preventDefault();
    choose({ row: Math.min(Math.max(moves[event.key](), 0), shown - 1) });
    spans[state.row].scrollIntoView({ block: "nearest" });
  }

  function wire() {
    const tokens = $("tokens");
    const rowOf = (event) => event.target.closest?.("[data-row]")?.dataset.row;
    tokens.addEventListener("click", (event) => {
      if (rowOf(event) !== undefined) choose({ row: Number(rowOf(event)) });
    });
    tokens.addEventListener("pointerover", (event) => {
      if (rowOf(event) !== undefined) panel(Number(rowOf(event)));
    });
    tokens.addEventListener("pointerleave", () => panel(state.row));
    tokens.addEventListener("keydown", keys);
    $("layer").onchange = (event) => choose({ layer: Number(event.target.value), expert: null });
    $("previous").onclick = () => turn(-1);
    $("next").onclick = () => turn(1);
    $("reset").onclick = () => choose({ expert: null });
    document.addEventListener("keydown", (event) => {
      if (event.target.closest("select, input") || event.ctrlKey || event.metaKey) return;
      if (event.key === "[") turn(-1);
      if (event.key === "]") turn(1);
    });
  }

  // ---- theme and start -------------------------------------------------------------------------

  async function applyTheme() {
    const wish = $("theme").value;
    state.theme = wish === "auto" ? (dark.matches ? "dark" : "light") : wish;
    document.documentElement.dataset.theme = state.theme;
    if (!usable) return;
    paint();
    await drawAll();
  }

  function buildHeader() {
    for (const [name, value] of trace.summary) {
      const pair = element("div");
      pair.append(element("dt", name), element("dd", value));
      $("summary").append(pair);
    }
    trace.notes.forEach((note) => $("notes").append(element("li", note)));
    if (shown < trace.total) {
      $("partial").textContent = trace.notes[0];
      $("partial").hidden = false;
    }
    for (const layer of routedLayers) {
      $("layer").append(element("option", trace.layers[layer], { value: layer }));
    }
  }

  const usable = shown > 0 && state.layer !== null && trace.first !== null;
  buildHeader();
  $("theme").onchange = applyTheme;
  dark.addEventListener("change", applyTheme);
  $("main").hidden = !usable;
  $("empty").hidden = usable;
  if (usable) {
    buildText();
    wire();
  }
  await applyTheme();
  if (usable) {
    for (const name of ["map", "load", "barcode"]) $(name).on("plotly_click", pick);
    choose({});
  }
  document.documentElement.dataset.ready = "yes";
})();
