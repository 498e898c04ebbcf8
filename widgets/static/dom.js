// Elements, made short. Text of tokens reaches the page as text alone.

/** What arrow keys and Enter are for; JupyterLab leaves keys to the very element that says so. */
const KEYED = new Set(["input", "select", "summary"]);

/** A new element: what it knows as a property is set as one, everything else is an attribute. */
export function h(tag, properties = {}, ...children) {
  const made = document.createElement(tag);
  if (KEYED.has(tag)) made.setAttribute("data-lm-suppress-shortcuts", "true");
  for (const [name, value] of Object.entries(properties)) {
    if (name in made) made[name] = value;
    else if (value !== null && value !== undefined) made.setAttribute(name, value);
  }
  made.append(...children);
  return made;
}

let count = 0;

/** A name for an element that no other on the page has. */
export const unique = (what) => `v4-${what}-${++count}`;

/** A button with a name for those who can't see it. */
export function button(text, onclick, properties = {}) {
  return h("button", { type: "button", onclick, ...properties }, text);
}

/** A control with its label in front of it. */
export function labelled(text, control) {
  return h("label", {}, h("span", {}, text), control);
}

/** Where the things that happen are said aloud. */
export function speaker() {
  return h("p", { className: "v4-unseen", role: "status", "aria-live": "polite" });
}

/** Fills a select element; keeps what was chosen where it is still there. */
export function fill(select, options) {
  const chosen = select.value;
  select.replaceChildren(...options.map(([value, text]) => h("option", { value }, text)));
  if (options.some(([value]) => String(value) === chosen)) select.value = chosen;
}
