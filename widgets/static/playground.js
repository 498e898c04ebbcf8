// A prompt and its settings above a run that is watched as it goes.

import { button, fill, h, labelled } from "./dom.js";
import { editList } from "./edit-list.js";
import { routing } from "./routing.js";

/** What a run is begun with. It goes with the click: what is kept in step by itself may come later. */
const SETTINGS = ["prompt", "chat", "max_new_tokens", "temperature", "top_p", "seed", "thinking",
  "_rows"];

/** Builds the view inside `el`. */
export function playground(context) {
  const { model, el, scope, link } = context;
  const act = (action) => {
    model.save_changes();
    const settings = Object.fromEntries(SETTINGS.map((name) => [name, model.get(name)]));
    return link.ask("do", { action, settings });
  };
  const busy = () => model.get("status") !== "idle";
  const began = { rows: 0, time: 0 };

  // ---- parts -----------------------------------------------------------------------------------

  const talk = h("div", { className: "v4-talk", role: "log", tabIndex: 0,
    "aria-label": "The chat so far" });
  const box = h("textarea", { rows: 4, spellcheck: false, "aria-label": "Prompt",
    "aria-keyshortcuts": "Control+Enter Alt+ArrowUp Alt+ArrowDown",
    oninput: () => model.set("prompt", box.value) });
  const kind = h("select", { onchange: () => set("chat", kind.value === "chat") });
  const effort = h("select", { onchange: () => set("thinking", effort.value || null) });
  const length = number("max_new_tokens", { min: 1, max: 1e6, step: 1 });
  const heat = number("temperature", { min: 0, max: 10, step: 0.1 });
  const nucleus = number("top_p", { min: 0.01, max: 1, step: 0.01 });
  const seed = number("seed", { min: 0, step: 1, placeholder: "new" });
  const earlier = h("select", { onchange: recall });
  const go = button("▶ Run", () => act("run"), { className: "v4-main", title: "Ctrl+Enter" });
  const stop = button("■ Stop", () => act("stop"), { title: "Escape" });
  const on = button("Continue", () => act("go_on"));
  const again = button("Retry", () => act("retry"));
  const clear = button("New chat", () => act("clear"));
  const state = h("span", { className: "v4-hint", role: "status" });
  const notice = h("p", { className: "v4-notice", role: "alert", hidden: true });
  const lacks = model.get("_lacks");
  const untold = h("p", { className: "v4-hint", hidden: !lacks },
    `${lacks} The ids come at the end of a run.`);
  const efforts = labelled("Reasoning", effort);
  const edits = editList({ model, scope, link,
    chosen: () => ({ layer: model.get("layer"), expert: model.get("expert") }) });
  const form = h("form", { className: "v4-form",
    "data-lm-suppress-shortcuts": "true", onsubmit: (event) => event.preventDefault() },
    talk, box,
    h("div", { className: "v4-bar" }, go, stop, on, again, clear, state),
    h("div", { className: "v4-bar" },
      labelled("Prompt is", kind), efforts, labelled("Length", length),
      labelled("Temperature", heat), labelled("Top-p", nucleus), labelled("Seed", seed),
      labelled("Earlier prompts", earlier)),
    edits, untold, notice);
  el.append(form);
  const view = routing(context);

  // ---- settings --------------------------------------------------------------------------------

  function set(name, value) {
    model.set(name, value);
    model.save_changes();
  }

  function number(name, limits) {
    const input = h("input", { type: "number", ...limits, onchange: () => {
      const empty = input.value === "", whole = name === "seed" || name === "max_new_tokens";
      const value = whole ? Math.round(input.valueAsNumber) : input.valueAsNumber;
      if (empty && name === "seed") set(name, null);
      else if (input.checkValidity() || input.validity.stepMismatch) set(name, value);
      else input.reportValidity();
    } });
    const show = () => { input.value = model.get(name) ?? ""; };
    scope.hear(model, `change:${name}`, show);
    show();
    return input;
  }

  function recall() {
    if (earlier.value === "") return;
    box.value = model.get("_prompts")[Number(earlier.value)];
    set("prompt", box.value);
    earlier.value = "";
    box.focus();
  }

  function browse(by) {
    const prompts = model.get("_prompts"), at = prompts.lastIndexOf(box.value);
    const next = (at < 0 ? prompts.length : at) + by;
    if (!(next in prompts)) return;
    box.value = prompts[next];
    model.set("prompt", box.value);
  }

  // ---- drawing ---------------------------------------------------------------------------------

  function drawSettings() {
    const chat = model.get("_chats") ? [["chat", "a chat"]] : [];
    fill(kind, [["text", "text to go on from"], ...chat]);
    kind.value = model.get("chat") ? "chat" : "text";
    fill(effort, [["", "off"], ...model.get("_efforts").map((name) => [name, name])]);
    effort.value = model.get("thinking") ?? "";
    efforts.hidden = !model.get("chat") || !model.get("_efforts").length;
    talk.hidden = clear.hidden = !model.get("chat") || !model.get("messages").length;
    if (box.value !== model.get("prompt")) box.value = model.get("prompt");
    const prompts = model.get("_prompts"), short = (text) => text.replace(/\s+/g, " ").slice(0, 50);
    fill(earlier, [["", prompts.length ? `${prompts.length} so far` : "none yet"],
      ...prompts.map((text, i) => [i, short(text)]).reverse()]);
    earlier.disabled = !prompts.length;
  }

  function drawTalk() {
    const lines = model.get("messages").map(({ role, content, reasoning }) =>
      h("p", { className: `v4-${role}` }, h("b", {}, `${role}: `),
        ...(reasoning ? [h("i", {}, `${reasoning} `)] : []), content));
    talk.replaceChildren(...lines);
    talk.scrollTop = talk.scrollHeight;
    drawSettings();
  }

  function drawStatus() {
    const status = model.get("status"), over = model.get("_ended"), open = model.get("_open");
    const greedy = model.get("temperature") === 0;
    const focused = [go, stop, on, again, clear].includes(document.activeElement);
    go.disabled = clear.disabled = busy();
    stop.disabled = !busy();
    on.disabled = busy() || !open;
    on.title = open || !over ? "Go on where the text ends" : `It can't go on. ${over}`;
    again.disabled = busy() || !over || greedy;
    again.title = greedy ? "Temperature 0 gives the same text with every seed"
      : "The same prompt with another seed";
    notice.textContent = model.get("message");
    notice.hidden = !notice.textContent;
    form.setAttribute("aria-busy", String(busy()));
    // A button that is disabled loses the focus, and with it all keys.
    if (focused && document.activeElement.disabled !== false) (busy() ? stop : go).focus();
    if (status === "waiting") state.textContent = "Waiting: the model is in use by another run.";
    else if (status === "running") drawSpeed();
    else state.textContent = over || "Ctrl+Enter runs, Escape stops.";
  }

  function drawSpeed() {
    const done = view.rows() - began.rows, seconds = (performance.now() - began.time) / 1000;
    const speed = done > 4 && seconds > 0.5 ? `, ${(done / seconds).toFixed(0)} tokens/s` : "";
    state.textContent = `Running${done > 0 ? `: ${done} tokens${speed}` : ""}`;
  }

  const paceSpeed = scope.paced(() => busy() && drawStatus(), 300);

  scope.hear(model, "change:status", () => {
    if (model.get("status") === "running") {
      Object.assign(began, { rows: view.rows(), time: performance.now() });
    }
    drawStatus();
  });
  view.grown = () => paceSpeed();
  for (const name of ["message", "_ended", "_open", "temperature"]) {
    scope.hear(model, `change:${name}`, drawStatus);
  }
  for (const name of ["prompt", "chat", "thinking", "_prompts"]) {
    scope.hear(model, `change:${name}`, drawSettings);
  }
  scope.hear(model, "change:messages", drawTalk);
  scope.listen(el, "keydown", (event) => {
    // In JupyterLab the key alone changes nothing: a box would keep it back until it is left.
    if (event.key === "Enter" && event.target.matches?.("input")) {
      event.target.dispatchEvent(new Event("change"));
    }
    if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) {
      if (!busy()) act("run");
    } else if (event.key === "Escape" && busy()) act("stop");
    else if (event.target === box && event.altKey && event.key === "ArrowUp") browse(-1);
    else if (event.target === box && event.altKey && event.key === "ArrowDown") browse(1);
    else return;
    event.preventDefault();
    event.stopPropagation();
  }, true);
  drawTalk();
  drawStatus();
  return view;
}
