"use strict";
/* The page's own mouse and keys above NiiVue's canvas; the rest goes on to NiiVue. */
const Mouse = (() => {
  const ZOOM = 1.15;
  const PIXELS_PER_FOLD = 200; // right drag across: the window becomes e times as wide
  const PIXELS_PER_WIDTH = 300; // right drag down: the level rises by the width

  /* viewer: {nv, shown(), reset(), zoom(factor), setWindow(low, high), hovered(plane)} */
  function listen(stage, viewer) {
    const early = { capture: true, passive: false };
    const take = (event) => {
      event.preventDefault();
      event.stopPropagation();
    };
    for (const name of ["keydown", "keyup"]) stage.addEventListener(name, (event) => event.stopPropagation(), early);
    stage.addEventListener("dblclick", (event) => (take(event), viewer.reset()), early);
    stage.addEventListener("contextmenu", take, early);
    stage.addEventListener("mousedown", (event) => event.button === 2 && take(event), early);
    stage.addEventListener(
      "wheel",
      (event) => {
        if (!event.ctrlKey) return;
        take(event);
        viewer.zoom(event.deltaY < 0 ? ZOOM : 1 / ZOOM);
      },
      early,
    );
    listenToDrag(stage, viewer);
  }

  function listenToDrag(stage, viewer) {
    let from = null;
    stage.addEventListener("pointerdown", (event) => {
      if (event.button !== 2 || !viewer.shown()) return;
      const { cal_min: low, cal_max: high } = viewer.shown().image;
      from = { x: event.clientX, y: event.clientY, low, high };
      event.target.setPointerCapture(event.pointerId);
    });
    stage.addEventListener("pointermove", (event) => {
      hover(event, viewer);
      if (!from) return;
      const width = from.high - from.low;
      const wider = Math.max(width * Math.exp((event.clientX - from.x) / PIXELS_PER_FOLD), width / 1000);
      const level = (from.low + from.high) / 2 + ((event.clientY - from.y) / PIXELS_PER_WIDTH) * width;
      viewer.setWindow(level - wider / 2, level + wider / 2);
    });
    for (const name of ["pointerup", "pointercancel"]) stage.addEventListener(name, () => (from = null));
  }

  function hover({ offsetX, offsetY }, { nv, hovered }) {
    const [x, y] = [offsetX, offsetY].map((length) => length * nv.uiData.dpr);
    const tile = nv.screenSlices.find(
      ({ leftTopWidthHeight: [left, top, width, height] }) =>
        x >= left && x <= left + width && y >= top && y <= top + height,
    );
    if (tile) hovered(tile.axCorSag);
  }

  return { ZOOM, listen };
})();
