// The container that JupyterLab loads, written by hand: there is no build step. JupyterLab calls
// init() with the packages it shares, then get() for each module that package.json names.
(() => {
  // Browsers may keep files for days. Each module is asked for with the version that stands in our
  // own address, so that after an update nobody mixes old files with new ones.
  const here = new URL(document.currentScript.src);
  const load = (name) => import(new URL(name, here).href + here.search);
  let packages;

  /** JupyterLab's own copy of one of its packages. */
  async function shared(name) {
    const copies = Object.values(packages[name] ?? {});
    const copy = copies.find((one) => one.loaded) ?? copies[0];
    if (!copy) throw new Error(`v4kit: this JupyterLab does not share ${name}.`);
    return (await copy.get())();
  }

  /** Resolves when the style sheet is there: the map takes its colours from it. */
  const style = () =>
    new Promise((resolve, reject) => {
      const link = document.createElement("link");
      Object.assign(link, { rel: "stylesheet", onload: resolve, onerror: reject });
      link.href = new URL("style.css", here).href + here.search;
      document.head.append(link);
    });

  const modules = {
    "./style": style,
    "./extension": async () => (await load("extension.js")).plugin(shared, load),
    "./mimeExtension": async () => (await load("mime.js")).plugin(shared, load),
  };

  (window._JUPYTERLAB ??= {}).v4kit = {
    init: (scope) => {
      packages = scope;
    },
    // JupyterLab writes into what it gets and asks for __esModule; without it the page stays blank.
    get: async (name) => {
      const module = { __esModule: true, default: await modules[name]() };
      return () => module;
    },
  };
})();
