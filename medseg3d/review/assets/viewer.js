"use strict";
/* The images of one case. NiiVue draws the slices and fills labels; Outlines draws above them. */
const Viewer = (() => {
  const { Niivue, DRAG_MODE, SHOW_RENDER, SLICE_TYPE } = window.niivue ?? {};
  const VIEWS = ["planes", "axial", "coronal", "sagittal"];
  const SPLIT = 0.62; // share of the axial slice in the view of three planes
  const PLAIN = [255, 214, 102]; // outline of the prediction above colors of errors
  const OTHER = [150, 150, 150]; // for a label that the list of labels does not name
  const ERRORS = [
    { name: "right", color: [0, 158, 115] },
    { name: "false positive", color: [230, 97, 0] },
    { name: "false negative", color: [60, 140, 255] },
    { name: "wrong label", color: [214, 90, 190] },
  ];
  const PRESETS = {
    CT: [
      ["Soft tissue", -160, 240],
      ["Liver", -45, 105],
      ["Lung", -1350, 150],
      ["Bone", -450, 1050],
      ["Brain", 0, 80],
      ["Vessels", -100, 500],
    ],
  };
  const state = {
    view: "planes",
    fill: "prediction",
    opacity: { prediction: 0.25, reference: 0.25, errors: 0.55 },
    outlines: { prediction: true, reference: true },
    label: 0, // place in the list of labels counted from 1; 0 for all
    only: false,
    hidden: false,
    crosshair: true,
  };
  const hooks = { moved: () => {}, windowed: () => {} };
  let nv = null;
  let marks = null;
  let shown = null; // {data, image, fill, maps, dims, labels, trace}
  let ticket = 0;
  let pending = 0;
  let hovered = 0;

  async function start(canvas, above, { moved, windowed }) {
    if (!Niivue) throw new Error("assets/niivue.umd.js is missing; write this folder again.");
    Object.assign(hooks, { moved, windowed });
    marks = above;
    nv = new Niivue({
      logLevel: "error",
      loadingText: "",
      backColor: [0, 0, 0, 1],
      crosshairWidth: 0,
      dragAndDropEnabled: false,
      invertScrollDirection: true, // wheel down goes down the body
      isForceMouseClickToVoxelCenters: true,
      isNearestInterpolation: true, // of labels; the image is smoothed below
      isOrientationTextVisible: false, // Outlines writes the sides
      isRadiologicalConvention: true,
      measureLineColor: [1, 0.84, 0.4, 1],
      measureTextColor: [1, 0.94, 0.75, 1],
      multiplanarShowRender: SHOW_RENDER.NEVER,
      rulerColor: [1, 0.84, 0.4, 1],
      sagittalNoseLeft: true,
    });
    nv.setMouseEventConfig({
      leftButton: { primary: DRAG_MODE.crosshair, withShift: DRAG_MODE.pan, withCtrl: DRAG_MODE.measurement },
      rightButton: DRAG_MODE.none,
      centerButton: DRAG_MODE.pan,
    });
    const interpolate = nv.updateInterpolation.bind(nv);
    nv.updateInterpolation = (layer) => interpolate(layer, layer === 0);
    const draw = nv.drawScene.bind(nv);
    nv.drawScene = () => {
      const position = draw();
      paint();
      return position;
    };
    nv.onLocationChange = () => shown && hooks.moved(place());
    Mouse.listen(canvas.parentElement, { nv, shown: () => shown, reset, zoom, setWindow, hovered: hover });
    await nv.attachToCanvas(canvas);
    lay();
  }

  /* Show a case; false if another one was asked for meanwhile. */
  async function show(data, labels) {
    const mine = ++ticket;
    const found = await Volumes.load(data, labels);
    if (mine !== ticket) return false;
    shown = { ...found, trace: Outlines.tracer() };
    const { image, fill, dims } = shown;
    nv.volumes = [image, fill];
    nv.back = image;
    nv.overlays = [fill];
    nv.scene.pan2Dxyzmm = [0, 0, 0, 1];
    nv.document.completedMeasurements = [];
    prepareFill();
    nv.gl.deleteTexture(nv.overlayTexture);
    nv.updateGLVolume();
    lay();
    hooks.windowed(image.cal_min, image.cal_max);
    if (!worst(0)) goTo(dims.map((length) => length >> 1));
    return true;
  }

  function clear() {
    ticket += 1;
    shown = null;
    if (!nv) return;
    nv.volumes = [];
    nv.overlays = [];
    nv.back = null;
    nv.drawScene();
  }

  /* Which fill is really shown: without a reference there are no errors. */
  function fillShown() {
    return state.fill === "none" || shown.maps[state.fill] ? state.fill : "prediction";
  }

  function prepareFill() {
    const { fill, maps, labels } = shown;
    const kind = fillShown();
    const only = state.only ? state.label : 0;
    if (kind === "errors") {
      fill.img = only ? Volumes.errorsOf(maps, only) : maps.errors;
      fill.setColormapLabel(Volumes.table(ERRORS.map(({ color }) => color)));
    } else {
      const map = maps[kind] ?? maps.prediction; // with "none" it is there, but not seen
      fill.img = only ? Volumes.alone(map, only) : map;
      fill.setColormapLabel(Volumes.table([...labels.map(({ color }) => color), OTHER]));
    }
    nv.overlayAlphaShader = state.hidden || kind === "none" ? 0 : state.opacity[kind];
  }

  /* Change what is shown of the case: any of the names of state. */
  function set(change) {
    const before = filled();
    Object.assign(state, change);
    if (!shown) return;
    prepareFill();
    if (filled() !== before && fillShown() !== "none") {
      nv.gl.deleteTexture(nv.overlayTexture);
      nv.refreshLayers(shown.fill, 1);
    }
    if ("view" in change) lay();
    else nv.drawScene();
  }

  /* What the texture of the fill was made of. */
  const filled = () => `${state.fill} ${state.only ? state.label : 0}`;

  function hover(plane) {
    if (Outlines.PLANES[plane]) hovered = plane;
  }

  function lay() {
    const place = VIEWS.indexOf(state.view) - 1;
    if (place >= 0) {
      nv.clearCustomLayout();
      hovered = place;
      nv.setSliceType([SLICE_TYPE.AXIAL, SLICE_TYPE.CORONAL, SLICE_TYPE.SAGITTAL][place]);
      return;
    }
    const wide = nv.canvas.width >= nv.canvas.height;
    const boxes = wide
      ? [[0, 0, SPLIT, 1], [SPLIT, 0, 1 - SPLIT, 0.5], [SPLIT, 0.5, 1 - SPLIT, 0.5]]
      : [[0, 0, 1, SPLIT], [0, SPLIT, 0.5, 1 - SPLIT], [0.5, SPLIT, 0.5, 1 - SPLIT]];
    nv.opts.sliceType = SLICE_TYPE.MULTIPLANAR;
    nv.setCustomLayout(boxes.map((position, sliceType) => ({ sliceType, position })));
  }

  function voxel() {
    return Array.from(nv.frac2vox(nv.scene.crosshairPos), (place, axis) =>
      Math.min(Math.max(place, 0), shown.dims[axis] - 1));
  }

  function goTo(wanted) {
    const inside = wanted.map((place, axis) => Math.min(Math.max(Math.round(place), 0), shown.dims[axis] - 1));
    nv.scene.crosshairPos = nv.vox2frac(inside);
    nv.createOnLocationChange();
    nv.drawScene();
  }

  /* Go to the worst slice of a label value, 0 for any; gives what is known of it, else null. */
  function worst(value) {
    const found = shown?.data.worst?.[value] ?? shown?.data.worst?.[0];
    if (!found) return null;
    const plane = Outlines.PLANES.findIndex(({ through }) => through === found.axis);
    if (state.view !== "planes" && VIEWS[plane + 1] !== state.view) set({ view: VIEWS[plane + 1] });
    goTo(found.voxel);
    return { ...found, plane: Outlines.PLANES[plane].name.toLowerCase() };
  }

  /* Move through the slices of the plane under the mouse. */
  function step(slices) {
    if (!shown) return;
    const place = voxel();
    place[Outlines.PLANES[hovered].through] += slices;
    goTo(place);
  }

  function zoom(factor) {
    if (!shown) return;
    const [x, y, z, before] = nv.scene.pan2Dxyzmm;
    const after = Math.min(Math.max(before * factor, 0.5), 30);
    const mm = nv.frac2mm(nv.scene.crosshairPos);
    const pan = [x, y, z].map((length, axis) => length + (before - after) * mm[axis]);
    nv.setPan2Dxyzmm([...pan, after]);
  }

  function reset() {
    if (!shown) return;
    nv.setPan2Dxyzmm([0, 0, 0, 1]);
    nv.clearAllMeasurements();
    setWindow(...shown.data.window);
  }

  function presets() {
    if (!shown) return [];
    const { data, image } = shown;
    const own = PRESETS[data.modality] ?? [["Whole range", image.global_min, image.global_max]];
    return [["Default", ...data.window], ...own];
  }

  function setWindow(low, high) {
    if (!shown || !(high > low)) return;
    [shown.image.cal_min, shown.image.cal_max] = [low, high];
    hooks.windowed(low, high);
    pending ||= requestAnimationFrame(() => {
      pending = 0;
      if (!shown) return;
      nv.refreshLayers(shown.image, 0);
      nv.drawScene();
    });
  }

  /* What lies under the crosshair; the voxel is that of the file, counted from 0. */
  function place() {
    const at = voxel();
    const { data, image, maps, dims, labels } = shown;
    const offset = at[0] + dims[0] * (at[1] + dims[1] * at[2]);
    const named = (map) => {
      if (!map) return null;
      if (map[offset] === 0) return "background";
      return labels[map[offset] - 1]?.name ?? "other label";
    };
    const mapped = (rows) => rows.map(([i, j, k, shift]) => i * at[0] + j * at[1] + k * at[2] + shift);
    return {
      voxel: mapped(data.voxel_to_file),
      mm: mapped(data.voxel_to_mm),
      intensity: image.getValue(...at),
      prediction: named(maps.prediction),
      reference: named(maps.reference),
    };
  }

  function paint() {
    const pen = marks.getContext("2d");
    const { width, height } = nv.canvas;
    if (marks.width !== width || marks.height !== height) Object.assign(marks, { width, height });
    pen.clearRect(0, 0, width, height);
    // a browser may put off clearRect until something is drawn
    marks.style.visibility = shown && nv.volumes[0]?.dims ? "visible" : "hidden";
    if (!shown || !nv.volumes[0]?.dims) return;
    const shows = {
      dims: shown.dims,
      voxel: voxel(),
      maps: state.hidden ? [] : outlined(),
      only: state.only ? state.label : 0,
      crosshair: state.crosshair && !state.hidden,
      trace: shown.trace,
    };
    for (const tile of nv.screenSlices) Outlines.drawTile(pen, nv, tile, shows, nv.uiData.dpr);
  }

  function outlined() {
    const { maps, labels } = shown;
    const plain = fillShown() === "errors";
    const own = (label) => `rgb(${plain ? PLAIN : (labels[label - 1]?.color ?? OTHER)})`;
    const found = [];
    if (state.outlines.reference && maps.reference) {
      found.push({ name: "reference", labels: maps.reference, color: () => Outlines.REFERENCE, width: 1.4 });
    }
    if (state.outlines.prediction) {
      found.push({ name: "prediction", labels: maps.prediction, color: own, width: 1.8 });
    }
    return found;
  }

  const isShowing = () => shown !== null;
  const hasReference = () => Boolean(shown?.maps.reference);
  return {
    VIEWS, ERRORS, PLAIN, state, start, show, clear, set, worst, step, goTo, zoom, reset, presets, setWindow, place,
    isShowing, hasReference, fillShown: () => (shown ? fillShown() : state.fill),
  };
})();
