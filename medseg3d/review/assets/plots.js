"use strict";
/* Where one case lies among all of them: a strip of dots as SVG. */
const Plots = (() => {
  const WIDTH = 300;
  const HEIGHT = 26;
  const MARGIN = 6;
  const SPACE = "http://www.w3.org/2000/svg";

  function element(name, attributes) {
    const found = document.createElementNS(SPACE, name);
    for (const [key, value] of Object.entries(attributes)) found.setAttribute(key, value);
    return found;
  }

  function quantile(sorted, share) {
    const place = (sorted.length - 1) * share;
    const low = Math.floor(place);
    const next = sorted[Math.min(low + 1, sorted.length - 1)];
    return sorted[low] + (place - low) * (next - sorted[low]);
  }

  function range(sorted) {
    let [low, high] = [sorted[0], sorted.at(-1)];
    if (low === high) [low, high] = [low - 0.5, high + 0.5];
    return [low, high];
  }

  /* points: [{id, value}], all of them finite. select(id) is called for the dot nearest a click. */
  function strip(points, current, write, select) {
    const svg = element("svg", { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, class: "strip", role: "img" });
    const sorted = points.map(({ value }) => value).sort((a, b) => a - b);
    if (sorted.length === 0) return svg;
    const [low, high] = range(sorted);
    const x = (value) => MARGIN + ((value - low) / (high - low)) * (WIDTH - 2 * MARGIN);
    const middle = HEIGHT / 2;
    svg.append(element("line", { x1: MARGIN, x2: WIDTH - MARGIN, y1: middle, y2: middle, class: "axis" }));
    if (sorted.length >= 4) {
      const [first, median, third] = [0.25, 0.5, 0.75].map((share) => x(quantile(sorted, share)));
      const box = { x: first, y: 5, width: Math.max(1, third - first), height: HEIGHT - 10, class: "box" };
      svg.append(element("rect", box));
      svg.append(element("line", { x1: median, x2: median, y1: 5, y2: HEIGHT - 5, class: "median" }));
    }
    for (const { value } of points) svg.append(element("circle", { cx: x(value), cy: middle, r: 2.5, class: "dot" }));
    const mine = points.find(({ id }) => id === current);
    if (mine) {
      const at = x(mine.value);
      svg.append(element("line", { x1: at, x2: at, y1: 1, y2: HEIGHT - 1, class: "mine" }));
      svg.append(element("circle", { cx: at, cy: middle, r: 4.5, class: "mine" }));
    }
    const title = element("title", {});
    title.textContent = `${points.length} cases from ${write(sorted[0])} to ${write(sorted.at(-1))}, the box holds the middle half; click a dot to open its case`;
    svg.append(title);
    svg.addEventListener("click", (event) => {
      const { left, width } = svg.getBoundingClientRect();
      const at = ((event.clientX - left) / width) * WIDTH;
      const near = points.reduce((a, b) => (Math.abs(x(b.value) - at) < Math.abs(x(a.value) - at) ? b : a));
      if (Math.abs(x(near.value) - at) < 12) select(near.id);
    });
    return svg;
  }

  return { strip };
})();
