"use strict";
/* What is drawn above NiiVue's slices: outlines along voxel edges, crosshair, sides of the
   patient, plane and scale. All of it follows the tiles that NiiVue has drawn. */
const Outlines = (() => {
  const PLANES = [
    { name: "Axial", across: 0, up: 1, through: 2 },
    { name: "Coronal", across: 0, up: 2, through: 1 },
    { name: "Sagittal", across: 1, up: 2, through: 0 },
  ];
  const LOW = ["L", "P", "I"]; // where each axis of RAS+ begins
  const HIGH = ["R", "A", "S"]; // and where it ends
  const RULERS_MM = [1, 2, 5, 10, 20, 50, 100, 200];
  const REMEMBERED = 48;
  const REFERENCE = "rgb(255,255,255)";

  /* Edges between voxels of different labels in one slice, as one path per label in voxels. */
  function trace(labels, dims, plane, index, only) {
    const strides = [1, dims[0], dims[0] * dims[1]];
    const [stepA, stepB] = [strides[plane.across], strides[plane.up]];
    const [numA, numB] = [dims[plane.across], dims[plane.up]];
    const start = index * strides[plane.through];
    const paths = new Map();
    const at = (a, b) => (a < 0 || b < 0 || a >= numA || b >= numB ? 0 : labels[start + a * stepA + b * stepB]);
    const edge = (label, a, b, toA, toB) => {
      if (!paths.has(label)) paths.set(label, new Path2D());
      paths.get(label).moveTo(a, b);
      paths.get(label).lineTo(toA, toB);
    };
    for (let b = 0; b < numB; b += 1) {
      for (let a = 0; a < numA; a += 1) {
        const label = labels[start + a * stepA + b * stepB];
        if (label === 0 || (only && label !== only)) continue;
        if (at(a - 1, b) !== label) edge(label, a, b, a, b + 1);
        if (at(a + 1, b) !== label) edge(label, a + 1, b, a + 1, b + 1);
        if (at(a, b - 1) !== label) edge(label, a, b, a + 1, b);
        if (at(a, b + 1) !== label) edge(label, a, b + 1, a + 1, b + 1);
      }
    }
    return paths;
  }

  /* trace, but a slice that was traced lately is not traced again. */
  function tracer() {
    const known = new Map();
    return (name, labels, dims, plane, index, only) => {
      const key = `${name} ${plane.name} ${index} ${only}`;
      const found = known.get(key) ?? trace(labels, dims, plane, index, only);
      known.delete(key);
      known.set(key, found);
      if (known.size > REMEMBERED) known.delete(known.keys().next().value);
      return found;
    };
  }

  /* From voxel edges of a slice to pixels of the canvas: x = a * i + e, y = d * j + f. */
  function mapping(nv, tile, plane, dims) {
    const [first, last] = [nv.frac2mm([0, 0, 0]), nv.frac2mm([1, 1, 1])];
    const [left, top, width, height] = tile.leftTopWidthHeight;
    const x = (mm) => left + ((mm - tile.leftTopMM[0]) / tile.fovMM[0]) * width;
    const y = (mm) => top + height - ((mm - tile.leftTopMM[1]) / tile.fovMM[1]) * height;
    const [x0, x1] = [x(first[plane.across]), x(last[plane.across])];
    const [y0, y1] = [y(first[plane.up]), y(last[plane.up])];
    return { a: (x1 - x0) / dims[plane.across], e: x0, d: (y1 - y0) / dims[plane.up], f: y0 };
  }

  function stroke(pen, path, color, width, scale) {
    pen.lineWidth = (width + 2) * scale;
    pen.strokeStyle = "rgba(0,0,0,0.55)";
    pen.stroke(path);
    pen.lineWidth = width * scale;
    pen.strokeStyle = color;
    pen.stroke(path);
  }

  function drawOutlines(pen, paths, map, colorOf, width, scale) {
    pen.lineCap = "round";
    for (const [label, path] of paths) {
      const onScreen = new Path2D();
      onScreen.addPath(path, new DOMMatrix([map.a, 0, 0, map.d, map.e, map.f]));
      stroke(pen, onScreen, colorOf(label), width, scale);
    }
  }

  function drawCrosshair(pen, box, x, y, scale) {
    const [left, top, width, height] = box;
    const gap = 14 * scale;
    pen.lineWidth = scale;
    pen.strokeStyle = "rgba(140,235,235,0.7)";
    pen.beginPath();
    for (const [fromX, fromY, toX, toY] of [
      [left, y, x - gap, y],
      [x + gap, y, left + width, y],
      [x, top, x, y - gap],
      [x, y + gap, x, top + height],
    ]) {
      if (toX < fromX || toY < fromY) continue;
      pen.moveTo(fromX, fromY);
      pen.lineTo(toX, toY);
    }
    pen.stroke();
  }

  function write(pen, text, x, y, align, baseline) {
    pen.textAlign = align;
    pen.textBaseline = baseline;
    pen.strokeText(text, x, y);
    pen.fillText(text, x, y);
  }

  function drawWords(pen, box, plane, map, index, count, scale) {
    const [left, top, width, height] = box;
    const inset = 7 * scale;
    pen.lineJoin = "round";
    pen.lineWidth = 3 * scale;
    pen.strokeStyle = "rgba(0,0,0,0.85)";
    pen.fillStyle = "#e8e8e8";
    pen.font = `600 ${15 * scale}px system-ui, sans-serif`;
    const [first, last] = map.a > 0 ? [LOW, HIGH] : [HIGH, LOW];
    const [above, below] = map.d < 0 ? [HIGH, LOW] : [LOW, HIGH];
    const [x, y] = [left + width / 2, top + height / 2];
    write(pen, first[plane.across], left + inset, y, "left", "middle");
    write(pen, last[plane.across], left + width - inset, y, "right", "middle");
    write(pen, above[plane.up], x, top + inset, "center", "top");
    write(pen, below[plane.up], x, top + height - inset, "center", "bottom");
    pen.font = `${12 * scale}px system-ui, sans-serif`;
    write(pen, `${plane.name} ${index + 1}/${count}`, left + inset, top + inset, "left", "top");
  }

  /* A bar of round length, about a fifth of the slice wide at most. */
  function drawRuler(pen, box, tile, scale) {
    const [left, top, width, height] = box;
    const perMm = width / Math.abs(tile.fovMM[0]);
    const fitting = RULERS_MM.filter((length) => length * perMm <= width / 4);
    if (fitting.length === 0) return;
    const length = fitting.at(-1);
    const [x, y] = [left + 7 * scale, top + height - 8 * scale];
    for (const [color, thick] of [["rgba(0,0,0,0.85)", 4], ["#e8e8e8", 2]]) {
      pen.strokeStyle = color;
      pen.lineWidth = thick * scale;
      pen.beginPath();
      pen.moveTo(x, y);
      pen.lineTo(x + length * perMm, y);
      pen.stroke();
    }
    pen.lineWidth = 3 * scale;
    pen.strokeStyle = "rgba(0,0,0,0.85)";
    const text = length >= 10 ? `${length / 10} cm` : `${length} mm`;
    write(pen, text, x, y - 5 * scale, "left", "bottom");
  }

  /* Draw above one tile.
     shows: {dims, voxel, maps: [{name, labels, color(label), width}], only, crosshair, trace} */
  function drawTile(pen, nv, tile, shows, scale) {
    const plane = PLANES[tile.axCorSag];
    if (!plane) return;
    const { dims, voxel } = shows;
    const map = mapping(nv, tile, plane, dims);
    const box = tile.leftTopWidthHeight;
    const index = voxel[plane.through];
    pen.save();
    pen.beginPath();
    pen.rect(...box);
    pen.clip();
    for (const { name, labels, color, width } of shows.maps) {
      const paths = shows.trace(name, labels, dims, plane, index, shows.only);
      drawOutlines(pen, paths, map, color, width, scale);
    }
    const [x, y] = [map.a * (voxel[plane.across] + 0.5) + map.e, map.d * (voxel[plane.up] + 0.5) + map.f];
    if (shows.crosshair) drawCrosshair(pen, box, x, y, scale);
    drawWords(pen, box, plane, map, index, dims[plane.through], scale);
    drawRuler(pen, box, tile, scale);
    pen.restore();
  }

  return { PLANES, REFERENCE, tracer, mapping, drawTile };
})();
