"use strict";
/* The bars above the images: what is filled and outlined, planes, window, and the legend. */
const Controls = (() => {
  const at = (id) => document.getElementById(id);
  let about = () => ({ labels: [], focus: 0 }); // the labels of the case, and the chosen one

  function showOverlays() {
    const { state } = Viewer;
    const fill = Viewer.fillShown();
    const has = !Viewer.isShowing() || Viewer.hasReference();
    for (const button of at("fills").querySelectorAll("button")) {
      button.setAttribute("aria-pressed", String(button.dataset.fill === fill));
      button.disabled = !has && ["reference", "errors"].includes(button.dataset.fill);
    }
    at("opacity").value = state.opacity[fill] ?? 0;
    at("opacity").disabled = fill === "none";
    at("outline-prediction").checked = state.outlines.prediction;
    at("outline-reference").checked = has && state.outlines.reference;
    at("outline-reference").disabled = !has;
    at("only").checked = state.only;
    at("view").value = state.view;
    showLegend(fill, has);
  }

  function showLegend(fill, has) {
    const entry = (name, color, kind = "swatch") => {
      const found = CasePanel.make("span", "", "entry");
      const mark = CasePanel.swatch(color);
      mark.className = kind;
      found.append(mark, CasePanel.make("span", name));
      return found;
    };
    const { labels: present, focus } = about();
    const labels = Viewer.state.only && focus ? present.filter(({ value }) => value === focus) : present;
    const entries = (fill === "errors" ? Viewer.ERRORS : labels).map(({ name, color }) => entry(name, color));
    if (fill === "errors" && Viewer.state.outlines.prediction) entries.push(entry("prediction", Viewer.PLAIN, "stroke"));
    if (has && Viewer.state.outlines.reference) entries.push(entry("reference", [255, 255, 255], "stroke"));
    at("legend").replaceChildren(...(Viewer.isShowing() ? entries : []));
  }

  function change(what) {
    Viewer.set(what);
    showOverlays();
  }

  function fill(kind) {
    if (["reference", "errors"].includes(kind) && !Viewer.hasReference()) return;
    change({ fill: kind === Viewer.state.fill ? "none" : kind });
  }

  function outlines() {
    const { prediction, reference } = Viewer.state.outlines;
    change({ outlines: { prediction: !(prediction || reference), reference: !(prediction || reference) } });
  }

  function setOpacity(value) {
    const inside = Math.min(1, Math.max(0, Math.round(value * 20) / 20));
    change({ opacity: { ...Viewer.state.opacity, [Viewer.fillShown()]: inside } });
  }

  function opacity(by) {
    setOpacity((Viewer.state.opacity[Viewer.fillShown()] ?? 0) + by);
  }

  function nextView() {
    change({ view: Viewer.VIEWS[(Viewer.VIEWS.indexOf(Viewer.state.view) + 1) % Viewer.VIEWS.length] });
  }

  function fillWindows() {
    const options = Viewer.presets().map(([name, low, high]) => new Option(name, JSON.stringify([low, high])));
    at("window").replaceChildren(...options, new Option("Own", ""));
  }

  function windowed(low, high) {
    const digits = high - low < 10 ? 3 : 0;
    at("width").value = (high - low).toFixed(digits);
    at("level").value = ((high + low) / 2).toFixed(digits);
    const named = [...at("window").options].find(({ value }) => value === JSON.stringify([low, high]));
    at("window").value = named?.value ?? "";
  }

  function typedWindow() {
    const [width, level] = [at("width"), at("level")].map(({ valueAsNumber }) => valueAsNumber);
    Viewer.setWindow(level - width / 2, level + width / 2);
  }

  function nextWindow() {
    const all = Viewer.presets();
    if (!all.length) return;
    const now = all.findIndex(([, low, high]) => JSON.stringify([low, high]) === at("window").value);
    const [, low, high] = all[(now + 1) % all.length];
    Viewer.setWindow(low, high);
  }

  /* labels() gives what is known of the case: {labels: entries of the list, focus: label value}. */
  function wire(labels) {
    about = labels;
    const on = (id, name, action) => at(id).addEventListener(name, action);
    on("view", "change", ({ target }) => change({ view: target.value }));
    on("fills", "click", ({ target }) => target.dataset.fill && change({ fill: target.dataset.fill }));
    on("opacity", "input", ({ target }) => setOpacity(target.valueAsNumber));
    for (const map of ["prediction", "reference"]) {
      on(`outline-${map}`, "change", ({ target }) =>
        change({ outlines: { ...Viewer.state.outlines, [map]: target.checked } }));
    }
    on("only", "change", ({ target }) => change({ only: target.checked }));
    on("window", "change", ({ target }) => target.value && Viewer.setWindow(...JSON.parse(target.value)));
    on("width", "change", typedWindow);
    on("level", "change", typedWindow);
  }

  const KEYS = {
    s: () => change({ only: !Viewer.state.only }),
    p: () => fill("prediction"),
    r: () => fill("reference"),
    e: () => fill("errors"),
    f: () => change({ fill: "none" }),
    o: outlines,
    "[": () => opacity(-0.05),
    "]": () => opacity(0.05),
    v: nextView,
    d: nextWindow,
    x: () => change({ crosshair: !Viewer.state.crosshair }),
  };

  return { KEYS, wire, showOverlays, fillWindows, windowed };
})();
