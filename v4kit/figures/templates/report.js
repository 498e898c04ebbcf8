"use strict";
// Token text reaches the page through textContent alone, and never reaches plotly.
(async () => {
  const $ = (id) => document.getElementById(id);
  const data = JSON.parse($("data").textContent);
  const NONE = -1;

  // ---- data ------------------------------------------------------------------------------------

  async function unpack(text, Type) {
    const bytes = Uint8Array.from(atob(text), (c) => c.charCodeAt(0));
    const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate"));
    return new Type(await new Response(stream).arrayBuffer());
  }

  const [experts, counts, ids, positions, generated, logprobs, entropies] = await Promise.all([
    unpack(data.experts, Int16Array), unpack(data.counts, Int32Array),
    unpack(data.tokens.id, Int32Array), unpack(data.tokens.position, Int32Array),
    unpack(data.tokens.generated, Uint8Array), unpack(data.tokens.logprob, Float32Array),
    unpack(data.tokens.entropy, Float32Array),
  ]);
  const levels = data.weights === null ? null : await unpack(data.weights, Uint16Array);
  const { kinds, topK, nExperts, shown } = data;
  const nLayers = kinds.length;
  const routedLayers = kinds.flatMap((kind, layer) => (kind === "dense" ? [] : [layer]));

  const at = (row, layer, slot) => (row * nLayers + layer) * topK + slot;
  const weightAt = (place) =>
    levels === null ? null : data.weightLow + levels[place] * data.weightStep;

  /** The experts of a token in a layer: [{expert, rank, weight}], as recorded. */
  function used(row, layer) {
    const found = [];
    for (let slot = 0; slot < topK; slot++) {
      const place = at(row, layer, slot);
      if (experts[place] === NONE) continue;
      const rank = data.ranked[layer] ? slot + 1 : null;
      found.push({ expert: experts[place], rank, weight: weightAt(place), slot });
    }
    return found;
  }

  function leading(row, layer) {
    const found = used(row, layer);
    return found.reduce((best, one) => (best && !(one.weight > best.weight) ? best : one), null);
  }

  // ---- state -----------------------------------------------------------------------------------

  const state = { layer: data.start, expert: null, row: data.first ?? 0, theme: "light" };
  const dark = matchMedia("(prefers-color-scheme: dark)");
  const config = {
    displaylogo: false, responsive: true, showSendToCloud: false, plotlyServerURL: "",
    modeBarButtonsToRemove: ["lasso2d", "select2d", "sendChartToCloud"],
  };
  const look = () => data.themes[state.theme];
  const steps = () => (kinds[state.layer] === "hash" ? look().hash : look().learned);
  const percent = (share) => (100 * share).toFixed(share < 0.1 ? 2 : 1) + " %";

  function element(tag, text = "", properties = {}) {
    const made = Object.assign(document.createElement(tag), properties);
    made.textContent = text;
    return made;
  }

  // ---- colours ---------------------------------------------------------------------------------

  const rgb = (colour) => [1, 3, 5].map((i) => parseInt(colour.slice(i, i + 2), 16));

  function mix(colours, share) {
    const place = Math.min(Math.max(share, 0), 1) * (colours.length - 1);
    const low = Math.min(Math.floor(place), colours.length - 2);
    const [a, b] = [rgb(colours[low]), rgb(colours[low + 1])];
    const mixed = a.map((channel, i) => Math.round(channel + (b[i] - channel) * (place - low)));
    return "#" + mixed.map((channel) => channel.toString(16).padStart(2, "0")).join("");
  }

  function inkOn(colour) {
    const [r, g, b] = rgb(colour).map((channel) => {
      const c = channel / 255;
      return c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4;
    });
    return 0.2126 * r + 0.7152 * g + 0.0722 * b > 0.18 ? "#000000" : "#ffffff";
  }

  function fill(row) {
    if (state.expert === null) {
      const first = leading(row, state.layer);
      if (first === null) return null;
      const place = data.leaders[state.layer].top.indexOf(first.expert);
      return place < 0 ? look().other : data.categories[place];
    }
    const found = used(row, state.layer).find((one) => one.expert === state.expert);
    if (!found) return null;
    if (found.weight === null) return steps()[3];
    return mix([look().paper, ...steps().slice(1)], found.weight / data.weightTop);
  }

  // ---- text ------------------------------------------------------------------------------------

  const spans = [];

  function buildText() {
    const breaks = new Set(data.tokens.breaks);
    const starts = new Map(data.tokens.documents.map(([row, ...rest]) => [row, rest]));
    const parts = document.createDocumentFragment();
    for (let row = 0; row < shown; row++) {
      const start = starts.get(row);
      if (start && starts.size > 1) {
        const name = `document ${start[0]}` + (start[1] ? ` · ${start[1]}` : "");
        const head = element("div", name, { className: "document" });
        head.setAttribute("role", "presentation");
        parts.append(head);
      }
      const span = element("span", data.tokens.text[row], { id: `t${row}` });
      span.dataset.row = row;
      span.setAttribute("role", "option");
      span.setAttribute("aria-selected", "false");
      if (generated[row]) span.classList.add("generated");
      spans.push(span);
      parts.append(span);
      if (breaks.has(row)) parts.append("\n");
    }
    $("tokens").append(parts);
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
    const box = $("legend"), found = data.leaders[state.layer];
    box.replaceChildren();
    $("reset").hidden = state.expert === null;
    if (state.expert !== null) {
      const hits = counts[state.layer * nExperts + state.expert], n = data.routed[state.layer];
      $("mode").textContent = `coloured by expert ${state.expert}: used by ` +
        `${hits} of ${n} tokens (${percent(hits / n)}, chance ${percent(data.chance)})`;
      if (levels === null) return;
      const ramp = element("span", "", { className: "ramp" });
      ramp.style.background =
        `linear-gradient(to right, ${[look().paper, ...steps().slice(1)].join(", ")})`;
      box.append("weight 0", ramp, `${data.weightTop.toFixed(2)} and more`);
      return;
    }
    $("mode").textContent = `coloured by the ${found.how}`;
    let rest = found.tokens;
    found.top.forEach((expert, i) => {
      const share = percent(found.counts[i] / found.tokens);
      const chip = element("button", `expert ${expert} · ${share}`, { type: "button" });
      chip.style.background = data.categories[i];
      chip.onclick = () => choose({ expert });
      box.append(chip);
      rest -= found.counts[i];
    });
    const others = element("span", `all others · ${percent(rest / Math.max(found.tokens, 1))}`);
    others.className = "chip";
    others.style.background = look().other;
    others.style.color = inkOn(look().other);
    if (rest) box.append(others);
  }

  // ---- the panel -------------------------------------------------------------------------------

  function expertTable(row, layer) {
    const table = element("table"), head = table.createTHead().insertRow();
    const names = [data.ranked[layer] ? "rank" : "slot", "expert", "weight", "of all tokens"];
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
        bar.style.width = `${Math.min(100, (100 * one.weight) / data.weightTop)}%`;
        cell.append(bar);
      }
      line.insertCell().textContent =
        percent(counts[layer * nExperts + one.expert] / Math.max(data.routed[layer], 1));
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
    const start = data.tokens.documents.findLast(([first]) => first <= row);
    const lines = [`token ${row} · position ${positions[row]}` +
      (data.tokens.documents.length > 1 ? ` of document ${start[1]}` : "")];
    lines.push((generated[row] ? "generated" : "prompt") + (ids[row] < 0 ? "" : ` · id ${ids[row]}`));
    const read = [];
    if (!Number.isNaN(logprobs[row])) read.push(`log-probability ${logprobs[row].toFixed(3)}`);
    if (!Number.isNaN(entropies[row])) read.push(`entropy ${entropies[row].toFixed(3)} nats`);
    if (read.length) lines.push(read.join(" · "));
    return lines;
  }

  function panel(row) {
    const box = $("panel"), layer = state.layer;
    const open = box.querySelector("details")?.open ?? false;
    box.replaceChildren(element("div", data.tokens.text[row], { className: "token" }));
    about(row).forEach((line) => box.append(element("p", line, { className: "hint" })));
    box.append(element("h3", data.layers[layer] + (data.ranked[layer] ? "" : ", unranked")));
    if (!used(row, layer).length) {
      box.append(element("p", "No experts: this token was not routed here."));
      return;
    }
    box.append(expertTable(row, layer));
    box.append(element("p", `chance ${percent(data.chance)}`, { className: "hint" }));
    const all = everyLayer(row);
    all.open = open;
    box.append(all);
  }

  // ---- figures ---------------------------------------------------------------------------------

  const figure = (name) => structuredClone(look().figures[name]);

  function draw(name, drawn) {
    return Plotly.react(name, drawn.data, drawn.layout, config);
  }

  /** Refill the barcode's traces, made for another token, with a token's experts. */
  function barcode() {
    const drawn = figure("barcode"), row = state.row;
    const point = (layer, one) =>
      [row, layer, one.expert, one.rank ?? 0, one.weight ?? NaN];
    for (const trace of drawn.data) {
      const slot = /^slot (\d+)$/.exec(trace.name)?.[1];
      const layers = routedLayers.filter((layer) => slot !== undefined || kinds[layer] === trace.name);
      if (trace.name === "shared expert") continue;
      const marks = layers.flatMap((layer) => {
        let base = 0;
        return used(row, layer).map((one) => {
          const mark = { layer, one, base };
          base += one.weight ?? 0;
          return mark;
        });
      }).filter((mark) => slot === undefined || mark.one.slot === Number(slot));
      trace.customdata = marks.map(({ layer, one }) => point(layer, one));
      trace.y = marks.map(({ layer }) => data.positions[layer]);
      if (slot !== undefined) {
        trace.x = marks.map(({ one }) => one.weight);
        trace.base = marks.map((mark) => mark.base);
        const colour = Object.fromEntries(routedLayers.map((layer, i) => [layer, i]));
        trace.marker.color = marks.map(({ layer }) => trace.marker.color[colour[layer]]);
        trace.hovertemplate = marks.map(({ layer }) => trace.hovertemplate[colour[layer]]);
        continue;
      }
      trace.x = marks.map(({ one }) => one.expert);
      trace.text = marks.map(({ one }) => String(one.rank ?? ""));
      if (levels === null) continue;
      const scale = (kinds[marks[0]?.layer] === "hash" ? look().hash : look().learned).slice(1);
      const share = ({ one }) => one.weight / drawn.layout.coloraxis.cmax;
      trace.marker.color = marks.map(({ one }) => one.weight);
      trace.textfont.color = marks.map((mark) => inkOn(mix(scale, share(mark))));
    }
    $("barcode-note").textContent = `Token ${row}: “${data.tokens.text[row]}”. At the left the ` +
      `experts it used, ${topK} of ${nExperts} in each layer` +
      (levels === null ? "." : ", at the right their weights.");
    return draw("barcode", drawn);
  }

  /** Refill the load figure, made for one layer, with the counts of the chosen one. */
  function load() {
    const drawn = figure("load"), layer = state.layer, n = data.routed[layer];
    const own = counts.slice(layer * nExperts, (layer + 1) * nExperts);
    const [low, high] = data.bands[layer], [bars] = drawn.data;
    const outside = Array.from(own, (count) => count < low || count > high);
    bars.y = Array.from(own, (count) => count / Math.max(n, 1));
    bars.customdata = Array.from(own, (count, expert) => [NONE, layer, expert, count, n]);
    bars.marker.color = outside.map((out) => steps()[out ? 4 : 2]);
    bars.hovertemplate = `${data.layers[layer]}<br>expert %{customdata[2]}<br>used by ` +
      "%{customdata[3]:,} of %{customdata[4]:,} tokens (%{y:.2%})" +
      `<br>chance ${(n * data.chance).toFixed(1)}, band ${low}–${high}<extra></extra>`;
    Object.assign(drawn.layout.shapes[0], { y0: low / Math.max(n, 1), y1: high / Math.max(n, 1) });
    drawn.layout.yaxis.range = [0, 1.06 * Math.max(...bars.y, high / Math.max(n, 1), data.chance)];
    const few = n * data.chance < data.enough;
    $("load-note").textContent = (few ? `n too small: ${(n * data.chance).toFixed(1)} uses per ` +
      `expert on average, ${data.enough} needed. ` : "") +
      `${data.layers[layer]}, n = ${n} tokens. ${outside.filter(Boolean).length} of ${nExperts} ` +
      "experts lie outside the band; by chance at most 5 % would.";
    return draw("load", drawn);
  }

  async function drawAll() {
    if (data.first === null) return;
    await Promise.all([draw("map", figure("map")), barcode(), load()]);
  }

  function listen() {
    const pick = (event) => {
      const [, layer, expert] = event.points[0].customdata ?? [];
      if (expert >= 0) choose({ layer, expert });
    };
    for (const name of ["map", "load", "barcode"]) $(name).on("plotly_click", pick);
  }

  // ---- choosing --------------------------------------------------------------------------------

  function choose(change) {
    const before = { ...state };
    Object.assign(state, change);
    if (state.layer !== before.layer || state.expert !== before.expert) paint();
    if (state.layer !== before.layer) load();
    $("layer").value = state.layer;
    mark(before.row);
    panel(state.row);
    if (state.row !== before.row) barcode();
    const said = used(state.row, state.layer).map((one) => one.expert).join(", ") || "none";
    $("spoken").textContent =
      `${data.tokens.text[state.row]}, token ${state.row}, layer ${state.layer}, experts ${said}`;
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
    if (!shown || state.layer === null) return;
    paint();
    await drawAll();
  }

  function buildHeader() {
    for (const [name, value] of data.summary) {
      const pair = element("div");
      pair.append(element("dt", name), element("dd", value));
      $("summary").append(pair);
    }
    data.notes.forEach((note) => $("notes").append(element("li", note)));
    if (shown < data.total) {
      $("partial").textContent = data.notes[0];
      $("partial").hidden = false;
    }
    for (const layer of routedLayers) {
      $("layer").append(element("option", data.layers[layer], { value: layer }));
    }
  }

  buildHeader();
  $("theme").onchange = applyTheme;
  dark.addEventListener("change", applyTheme);
  const usable = shown > 0 && state.layer !== null && data.first !== null;
  $("main").hidden = !usable;
  $("empty").hidden = usable;
  if (usable) {
    buildText();
    wire();
  }
  await applyTheme();
  if (usable) {
    listen();
    choose({});
  }
  document.documentElement.dataset.ready = "yes";
})();
