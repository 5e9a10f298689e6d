"use strict";
/* The page: joins work list, images, panel and verdicts, and gives the keys their meaning. */
const Review = (() => {
  const FORMAT = 1;
  const KEPT_CASES = 3; // scripts of cases that stay in memory
  const at = (id) => document.getElementById(id);
  const review = window.REVIEW;
  const list = { order: "", label: 0, filter: "all", words: "" };
  const waiting = new Map(); // id of a case -> what to call when its script has run
  const loaded = new Map(); // id of a case -> promise of its volumes
  let ids = []; // of the list, in its order
  let current = null; // the case that is shown
  let focus = 0; // label value that metrics and worst slice speak of; 0 for all
  let broken = ""; // why there are no images

  const byId = (id) => review.cases.find((item) => item.id === id);
  const column = () => review.columns.find(({ name }) => name === list.order) ?? review.columns[0];

  function notice(text) {
    at("notice").textContent = text;
    at("notice").hidden = !text;
  }

  /* ---- loading a case ---------------------------------------------------------------- */

  window.REVIEW_CASE = (data) => {
    waiting.get(data.id)?.(data);
    waiting.delete(data.id);
  };

  function fetchCase(item) {
    if (loaded.has(item.id)) return loaded.get(item.id);
    const found = new Promise((resolve, reject) => {
      const script = document.createElement("script");
      const fail = () => reject(new Error(`${item.file} cannot be read; keep the folder together, or write it again.`));
      waiting.set(item.id, resolve);
      script.src = item.file;
      script.addEventListener("error", fail);
      script.addEventListener("load", () => {
        script.remove();
        if (waiting.delete(item.id)) fail();
      });
      document.head.append(script);
    });
    loaded.set(item.id, found);
    found.catch(() => loaded.delete(item.id));
    if (loaded.size > KEPT_CASES) loaded.delete(loaded.keys().next().value);
    return found;
  }

  async function open(id) {
    const item = byId(id);
    if (!item) return;
    current = item;
    document.body.dataset.case = "";
    showCase();
    say(item.file ? "Loading\u2026" : "This case has no images; the reasons are on the right.");
    Viewer.clear();
    if (broken || !item.file) {
      if (broken) say(broken);
      VerdictForm.ready();
      return;
    }
    try {
      const data = await fetchCase(item);
      if (current !== item || !(await Viewer.show(data, review.labels))) return;
      showImages(data);
      document.body.dataset.case = id; // the images of this case are there
      VerdictForm.ready();
      preload();
    } catch (error) {
      if (current !== item) return;
      say(error.message);
      VerdictForm.ready();
    }
  }

  /* Fetch the next case while the reviewer looks at this one. */
  function preload() {
    const next = byId(ids[ids.indexOf(current.id) + 1]);
    if (next?.file) setTimeout(() => fetchCase(next).catch(() => {}), 500);
  }

  function say(text) {
    at("message").textContent = text;
  }

  /* ---- showing a case ---------------------------------------------------------------- */

  function showCase() {
    const place = ids.indexOf(current.id);
    history.replaceState(null, "", `#${encodeURIComponent(current.id)}`);
    at("case-id").textContent = current.id;
    at("case-patient").textContent = current.patient && current.patient !== current.id ? `patient ${current.patient}` : "";
    at("previous").disabled = place <= 0;
    at("next").disabled = place === ids.length - 1;
    at("worst").disabled = true;
    at("place").textContent = at("reduced").textContent = "";
    Worklist.point(at("cases"), current.id);
    showPanel();
    VerdictForm.show(current);
  }

  function showPanel() {
    CasePanel.render(at("panel"), review, current, { column: column(), focus }, chooseLabel, open);
  }

  function showImages(data) {
    say("");
    at("worst").disabled = false;
    at("worst").textContent = current.has_reference ? "Worst slice" : "Largest slice";
    Controls.fillWindows();
    Controls.showOverlays();
    const [few, all] = [data.shape, data.original_shape].map((shape) => shape.join(" \u00d7 "));
    at("reduced").textContent = data.reduced ? "reduced for viewing" : "";
    at("reduced").title = `shown with ${few} of ${all} voxels; the scores are of all of them`;
    at("place").dataset.unit = data.modality === "CT" ? " HU" : "";
    moved(Viewer.place());
  }

  function moved({ voxel, mm, intensity, prediction, reference }) {
    const { unit = "" } = at("place").dataset;
    const position = mm.map((length) => length.toFixed(1)).join(", ");
    const value = Number(intensity.toPrecision(4));
    const parts = [unit ? `${value}${unit}` : `intensity ${value}`, `prediction: ${prediction}`];
    if (reference !== null) parts.push(`reference: ${reference}`);
    parts.push(`voxel ${voxel.join(", ")}`, `RAS ${position} mm`);
    at("place").textContent = parts.join(" \u00b7 ");
  }

  function chooseLabel(value) {
    focus = value;
    Viewer.set({ label: 1 + review.labels.findIndex((label) => label.value === value) });
    showPanel();
    Controls.showOverlays();
  }

  function nextLabel() {
    const values = [0, ...review.labels.map(({ value }) => value).filter((value) => current.labels?.[value])];
    chooseLabel(values[(values.indexOf(focus) + 1) % values.length]);
  }

  /* ---- the list ---------------------------------------------------------------------- */

  function renderList() {
    ids = Worklist.render(at("cases"), review, list, open);
    const all = review.cases.length;
    const cases = all === 1 ? "case" : "cases";
    at("count").textContent = ids.length === all ? `${all} ${cases}` : `${ids.length} of ${all} ${cases}`;
    if (!current) return;
    Worklist.point(at("cases"), current.id);
    const place = ids.indexOf(current.id);
    at("previous").disabled = place <= 0;
    at("next").disabled = place === ids.length - 1;
  }

  function go(by) {
    const place = ids.indexOf(current?.id);
    const next = place < 0 ? ids[0] : ids[place + by];
    if (next !== undefined) open(next);
  }

  /* ---- keys -------------------------------------------------------------------------- */

  const KEYS = {
    ...Controls.KEYS,
    ...VerdictForm.KEYS,
    n: () => go(1),
    b: () => go(-1),
    w: () => Viewer.worst(focus),
    l: () => current && nextLabel(),
    arrowup: () => Viewer.step(1),
    arrowdown: () => Viewer.step(-1),
    "+": () => Viewer.zoom(Mouse.ZOOM),
    "-": () => Viewer.zoom(1 / Mouse.ZOOM),
    z: Viewer.reset,
    " ": () => Viewer.set({ hidden: true }),
    "?": () => at("help").showModal(),
  };

  /* Keys that the element with the focus needs itself. */
  function typing({ target, key }) {
    if (!target.matches) return false;
    if (key === " " && target.matches("button:focus-visible, input:focus-visible")) return true;
    return target.matches("textarea, select, input:not([type=checkbox])");
  }

  function pressed(event) {
    if (event.key === "Escape") document.activeElement?.blur();
    if (event.ctrlKey || event.metaKey || event.altKey || typing(event) || at("help").open) return;
    const action = KEYS[event.key.toLowerCase()];
    if (!action || (event.key === " " && event.repeat)) {
      if (event.key === " ") event.preventDefault();
      return;
    }
    event.preventDefault();
    action();
  }

  function released(event) {
    if (event.key !== " " || typing(event) || at("help").open) return;
    event.preventDefault();
    Viewer.set({ hidden: false });
  }

  /* ---- start ------------------------------------------------------------------------- */

  function wire() {
    const on = (id, name, action) => at(id).addEventListener(name, action);
    on("order", "change", ({ target }) => ((list.order = target.value), renderList(), current && showPanel()));
    on("list-label", "change", ({ target }) => {
      list.label = Number(target.value);
      renderList();
      if (current) chooseLabel(list.label);
    });
    on("filter", "change", ({ target }) => ((list.filter = target.value), renderList()));
    on("words", "input", ({ target }) => ((list.words = target.value), renderList()));
    on("previous", "click", () => go(-1));
    on("next", "click", () => go(1));
    on("worst", "click", () => Viewer.worst(focus));
    Controls.wire(() => ({ labels: review.labels.filter(({ value }) => current?.labels?.[value]), focus }));
    VerdictForm.wire({
      cases: review.cases,
      notice,
      changed: (id) => Worklist.refresh(at("cases"), id),
      next: () => go(1),
    });
    on("help-button", "click", () => at("help").showModal());
    document.addEventListener("change", ({ target }) => {
      if (target.matches("select, [type=range]") && !target.matches(":focus-visible")) target.blur();
    });
    window.addEventListener("keydown", pressed, { capture: true });
    window.addEventListener("keyup", released, { capture: true });
    window.addEventListener("blur", () => Viewer.set({ hidden: false }));
  }

  function fillControls() {
    at("title").textContent = review.title || "Review";
    document.title = `${review.title || "Review"} \u2013 review`;
    at("title").title = review.created ? `written ${review.created}` : "";
    const orders = Worklist.orders(review);
    at("order").replaceChildren(...orders.map(([name, title]) => new Option(title, name)));
    list.order = orders.some(([name]) => name === review.sort) ? review.sort : orders[0][0];
    at("order").value = list.order;
    const labels = review.labels.map(({ value, name }) => new Option(name, value));
    at("list-label").replaceChildren(new Option("all, mean", 0), ...labels);
    at("list-label-field").hidden = labels.length < 2;
  }

  /* The case that the address names, else the worst one that has images. */
  function first() {
    const named = review.cases.find(({ id }) => location.hash === `#${encodeURIComponent(id)}`);
    return named?.id ?? ids.find((id) => byId(id).file) ?? ids[0];
  }

  /* A case that could not be written, as an entry of the list. */
  function failed(id, reason) {
    const nothing = { patient: "", file: null, thumbnail: null, has_reference: false, outlier: null, mean: {}, labels: {} };
    return { ...nothing, id, status: "failed", reasons: [reason] };
  }

  async function begin() {
    if (!review) {
      notice("cases.js cannot be read; open index.html in the folder that medseg3d review wrote.");
      return;
    }
    if (review.format !== FORMAT) {
      notice(`This folder has format ${review.format}, but this page reads ${FORMAT}; write it again.`);
      return;
    }
    review.cases.push(...(review.failed ?? []).map(({ id, reason }) => failed(id, reason)));
    Verdicts.open(review);
    fillControls();
    wire();
    renderList();
    Controls.showOverlays();
    document.body.dataset.list = String(ids.length); // the work list is there
    performance.mark("list");
    try {
      await Viewer.start(at("slices"), at("marks"), { moved, windowed: Controls.windowed });
    } catch (error) {
      broken = `No images: ${/webgl/i.test(error.message) ? "this browser has no WebGL 2; switch it on, or use another browser." : error.message}`;
    }
    if (ids.length) open(first());
    else say("There are no cases.");
  }

  begin();
  return { open };
})();
