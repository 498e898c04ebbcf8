"use strict";
// Python laid the figures out, for one token and one layer; these functions refill them.

const CONFIG = {
  displaylogo: false, responsive: true, showSendToCloud: false, plotlyServerURL: "",
  modeBarButtonsToRemove: ["lasso2d", "select2d", "sendChartToCloud"],
};

function draw(name, figure) {
  return Plotly.react(name, figure.data, figure.layout, CONFIG);
}

/** Every expert that a token used: {layer, slot, expert, rank, weight, base}. */
function marksOf(trace, row) {
  return trace.routedLayers.flatMap((layer, line) => {
    let base = 0;
    return trace.used(row, layer).map((one) => {
      const mark = { ...one, layer, line, base };
      base += one.weight ?? 0;
      return mark;
    });
  });
}

/** The barcode of one token. */
function barcodeOf(trace, look, row) {
  const figure = structuredClone(look.figures.barcode), { layout } = figure;
  const all = marksOf(trace, row);
  if (trace.weighted) {
    layout.coloraxis.cmax = layout.coloraxis2.cmax = trace.weightTop;
    const ends = all.map((mark) => 1.01 * (mark.base + mark.weight));
    layout.xaxis3.range[1] = Math.max(layout.xaxis3.range[1], ...ends);
  }
  for (const drawn of figure.data) {
    if (drawn.name === "shared expert") continue;
    const slot = /^slot (\d+)$/.exec(drawn.name)?.[1];
    const marks = all.filter((mark) =>
      slot === undefined ? trace.kinds[mark.layer] === drawn.name : mark.slot === Number(slot));
    drawn.y = marks.map((mark) => trace.rows[mark.layer]);
    drawn.customdata = marks.map((mark) =>
      [row, mark.layer, mark.expert, mark.rank ?? 0, mark.weight ?? NaN]);
    if (slot === undefined) fillMarks(trace, look, drawn, marks);
    else fillStack(drawn, marks);
  }
  return figure;
}

function fillMarks(trace, look, drawn, marks) {
  drawn.x = marks.map((mark) => mark.expert);
  drawn.text = marks.map((mark) => String(mark.rank ?? ""));
  if (!trace.weighted) return;
  const scale = (drawn.name === "hash" ? look.hash : look.learned).slice(1);
  drawn.marker.color = marks.map((mark) => mark.weight);
  drawn.textfont.color = marks.map((mark) => inkOn(mix(scale, mark.weight / trace.weightTop)));
}

function fillStack(drawn, marks) {
  const { hovertemplate, marker: { color } } = drawn;
  drawn.x = marks.map((mark) => mark.weight);
  drawn.base = marks.map((mark) => mark.base);
  drawn.marker.color = marks.map((mark) => color[mark.line]);
  drawn.hovertemplate = marks.map((mark) => hovertemplate[mark.line]);
}

/** The load of one layer, and what is to be said of it: {figure, note}. */
function loadOf(trace, look, layer) {
  const figure = structuredClone(look.figures.load), [bars] = figure.data;
  const n = trace.routed[layer], [low, high] = trace.bands[layer], even = n * trace.chance;
  const own = Array.from({ length: trace.nExperts }, (_, expert) => trace.count(layer, expert));
  const outside = own.map((count) => count < low || count > high);
  const steps = trace.kinds[layer] === "hash" ? look.hash : look.learned;
  bars.y = own.map((count) => count / Math.max(n, 1));
  bars.customdata = own.map((count, expert) => [NONE, layer, expert, count, n]);
  bars.marker.color = outside.map((out) => steps[out ? 4 : 2]);
  bars.hovertemplate = `${trace.layers[layer]}<br>expert %{customdata[2]}<br>used by ` +
    "%{customdata[3]:,} of %{customdata[4]:,} tokens (%{y:.2%})" +
    `<br>chance ${even.toFixed(1)}, band ${low}–${high}<extra></extra>`;
  const [y0, y1] = [low / Math.max(n, 1), high / Math.max(n, 1)];
  Object.assign(figure.layout.shapes[0], { y0, y1 });
  figure.layout.yaxis.range = [0, 1.06 * Math.max(...bars.y, y1, trace.chance)];
  const few = even >= trace.enough ? "" : `n too small: ${even.toFixed(1)} uses per expert on ` +
    `average, ${trace.enough} needed. `;
  const note = `${few}${trace.layers[layer]}, n = ${n} tokens. ${outside.filter(Boolean).length} ` +
    `of ${trace.nExperts} experts lie outside the band; by chance at most 5 % would.`;
  return { figure, note };
}
