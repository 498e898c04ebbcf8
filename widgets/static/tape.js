// The rows that a page has of a trace or of a run, and what was counted over all of them.

import { numbers } from "./link.js";

export const NONE = -1;
const KEPT = 512;

export class Tape {
  constructor(about) {
    this.about = about;
    const { kinds, nExperts } = about;
    this.cells = kinds.length * nExperts;
    this.width = kinds.length * about.topK;
    this.layers = kinds.flatMap((kind, layer) => (kind === "dense" ? [] : [layer]));
    this._clear(0);
    this._count({ counts: new Int32Array(this.cells), leads: new Int32Array(this.cells),
      routed: new Int32Array(kinds.length), counted: 0, rows: 0 });
  }

  /** First row of the window that the page has, and the row after its last. */
  get first() {
    return this._first;
  }

  get end() {
    return this._first + this.texts.length;
  }

  /** The newest row that has experts; the newest of all if none has. */
  get newest() {
    return Math.max(Math.min(this.counted, this.rows) - 1, 0);
  }

  has(row) {
    return row >= this.first && row < this.end;
  }

  text(row) {
    return this.texts[row - this.first];
  }

  breaks(row) {
    return this.ends[row - this.first];
  }

  generated(row) {
    return this.made[row - this.first];
  }

  /** The experts of a row in a layer, as recorded: [{slot, expert, rank, weight}]. */
  used(row, layer) {
    if (!this.has(row)) return [];
    const { topK, ranked, weighted } = this.about, place = row - this.first;
    const found = [];
    for (let slot = 0; slot < topK; slot++) {
      const expert = this.experts[place][layer * topK + slot];
      if (expert === NONE) continue;
      const weight = weighted ? this.weights[place][layer * topK + slot] : NaN;
      const rank = ranked[layer] ? slot + 1 : null;
      found.push({ slot, expert, rank, weight: Number.isNaN(weight) ? null : weight });
    }
    return found;
  }

  /** The heaviest expert of a row in a layer; null for none, and where weights are not told. */
  leading(row, layer) {
    if (!this.about.weighted) return null;
    const heavier = (best, one) => (best && !(one.weight > best.weight) ? best : one);
    return this.used(row, layer).reduce(heavier, null);
  }

  count(layer, expert) {
    return this.counts[layer * this.about.nExperts + expert];
  }

  lead(layer, expert) {
    return this.leads[layer * this.about.nExperts + expert];
  }

  /** Share of a layer's tokens that use an expert. */
  share(layer, expert) {
    return this.count(layer, expert) / Math.max(this.routed[layer], 1);
  }

  /** Begins anew with everything that was counted, and a window of rows. */
  reset({ buffers, counted, ...page }) {
    const [experts, weights, made, counts, leads, routed] = buffers;
    this._clear(page.start);
    this._append(page, [experts, weights, made], 0);
    const [all, led, fed] = [counts, leads, routed].map((view) => numbers(Int32Array, view));
    this._count({ counts: all, leads: led, routed: fed, counted, rows: page.rows });
  }

  /** Makes another page of rows the window. */
  turn({ buffers, ...page }) {
    this._clear(page.start);
    this._append(page, buffers, 0);
    this.rows = Math.max(this.rows, page.rows);
  }

  /**
   * Takes new rows in. Returns the first row that changed in the window, null if none did, and
   * undefined if rows before them are missing.
   */
  grow({ buffers, ...page }) {
    this.rows = page.rows;
    if (page.start > this.counted) return undefined;
    const whole = this._read(page, buffers);
    let changed = null;
    if (page.start >= this.first && page.start <= this.end) {
      changed = page.start;
      this._cut(page.start - this.first);
      this._push(whole);
    }
    this._add(page.start, whole);
    return changed;
  }

  /** Lets the oldest rows of a window that has grown long go; returns how many. */
  trim() {
    const over = this.texts.length > KEPT ? this.texts.length - KEPT / 2 : 0;
    for (const list of this._lists()) list.splice(0, over);
    this._first += over;
    return over;
  }

  _lists() {
    return [this.texts, this.ends, this.made, this.experts, this.weights];
  }

  _clear(start) {
    this._first = start;
    [this.texts, this.ends, this.made, this.experts, this.weights] = [[], [], [], [], []];
  }

  _count(sums) {
    Object.assign(this, sums);
  }

  _append(page, buffers) {
    this._push(this._read(page, buffers));
  }

  _cut(length) {
    for (const list of this._lists()) list.length = length;
  }

  _push(whole) {
    this._lists().forEach((list, i) => list.push(...whole[i]));
  }

  /** A page as lists over its rows. */
  _read({ texts, breaks }, [experts, weights, made]) {
    const ids = numbers(Int16Array, experts), heavy = numbers(Float32Array, weights);
    const rows = texts.map((_, i) => [i * this.width, (i + 1) * this.width]);
    const ends = new Set(breaks);
    return [
      texts,
      texts.map((_, i) => ends.has(i)),
      [...numbers(Uint8Array, made)],
      rows.map(([from, to]) => ids.subarray(from, to)),
      rows.map(([from, to]) => heavy.subarray(from, to)),
    ];
  }

  /** Counts the rows that are complete and were not counted yet. */
  _add(start, [texts, , , experts, weights]) {
    const { topK, nExperts, weighted } = this.about;
    for (let i = this.counted - start; i < texts.length; i++) {
      if (experts[i].every((expert) => expert === NONE)) break;
      for (const layer of this.layers) {
        let best = NONE;
        for (let slot = layer * topK; slot < (layer + 1) * topK; slot++) {
          if (experts[i][slot] === NONE) continue;
          this.counts[layer * nExperts + experts[i][slot]] += 1;
          if (best === NONE || weights[i][slot] > weights[i][best]) best = slot;
        }
        if (best === NONE) continue;
        this.routed[layer] += 1;
        if (weighted) this.leads[layer * nExperts + experts[i][best]] += 1;
      }
      this.counted += 1;
    }
  }
}
