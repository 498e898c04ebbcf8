"use strict";
// The trace as the page holds it, and its colours.

const NONE = -1;

async function unpack(text, Type) {
  const bytes = Uint8Array.from(atob(text), (c) => c.charCodeAt(0));
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate"));
  return new Type(await new Response(stream).arrayBuffer());
}

/** The report's data with its arrays unpacked, and functions that read them. */
async function openTrace(data) {
  const { kinds, topK, nExperts, tokens } = data;
  const [experts, counts, ids, positions, generated, logprobs, entropies] = await Promise.all([
    unpack(data.experts, Int16Array), unpack(data.counts, Int32Array),
    unpack(tokens.id, Int32Array), unpack(tokens.position, Int32Array),
    unpack(tokens.generated, Uint8Array), unpack(tokens.logprob, Float32Array),
    unpack(tokens.entropy, Float32Array),
  ]);
  const levels = data.weights === null ? null : await unpack(data.weights, Uint16Array);

  /** The experts of a token in a layer, as recorded: [{slot, expert, rank, weight}]. */
  function used(row, layer) {
    const found = [];
    for (let slot = 0; slot < topK; slot++) {
      const place = (row * kinds.length + layer) * topK + slot;
      if (experts[place] === NONE) continue;
      const weight = levels === null ? null : data.weightLow + levels[place] * data.weightStep;
      const rank = data.ranked[layer] ? slot + 1 : null;
      found.push({ slot, expert: experts[place], rank, weight });
    }
    return found;
  }

  /** The heaviest expert of a token in a layer; without weights there is none. */
  function leading(row, layer) {
    if (levels === null) return null;
    const heavier = (best, one) => (best && !(one.weight > best.weight) ? best : one);
    return used(row, layer).reduce(heavier, null);
  }

  return {
    ...data, ids, positions, generated, logprobs, entropies, used, leading,
    weighted: levels !== null,
    texts: tokens.text,
    documents: tokens.documents,
    routedLayers: kinds.flatMap((kind, layer) => (kind === "dense" ? [] : [layer])),
    count: (layer, expert) => counts[layer * nExperts + expert],
  };
}
