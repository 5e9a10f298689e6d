"use strict";
/* Beside the images: volumes and metrics of the case, and where it lies among all cases. */
const CasePanel = (() => {
  const STATUS = {
    missed: "missed: the reference has it, the prediction does not",
    spurious: "spurious: the prediction has it, the reference does not",
    both_empty: "neither map has it",
  };

  /* Whether it has scores, which a table may hold where the page has no reference to show. */
  function isScored({ status }) {
    return status !== "unscored" && status !== "failed";
  }

  function make(name, text = "", className = "") {
    const found = document.createElement(name);
    if (className) found.className = className;
    found.textContent = text;
    return found;
  }

  function volume(ml) {
    if (!Number.isFinite(ml)) return "\u2013";
    return ml.toFixed(ml < 10 ? 2 : ml < 1000 ? 1 : 0);
  }

  function difference({ prediction_ml: ours, reference_ml: theirs }) {
    if (!Number.isFinite(ours) || !Number.isFinite(theirs) || theirs === 0) return "\u2013";
    const percent = (100 * (ours - theirs)) / theirs;
    const sign = percent > 0 ? "+" : percent < 0 ? "\u2212" : "";
    return `${sign}${Math.abs(percent).toFixed(Math.abs(percent) < 10 ? 1 : 0)} %`;
  }

  function swatch(color) {
    const found = make("span", "", "swatch");
    found.style.backgroundColor = `rgb(${color.map(Number).join(",")})`;
    return found;
  }

  /* The table of labels; a row chosen there is what metrics, worst slice and solo speak of. */
  function labelTable(review, item, column, focus, choose) {
    const table = make("table", "", "labels");
    const head = table.createTHead().insertRow();
    const titles = ["Label", "Pred. mL", ...(isScored(item) ? ["Ref. mL", "Diff."] : [])];
    if (isScored(item) && column) titles.push(column.title);
    for (const title of titles) head.append(make("th", title));
    const body = table.createTBody();
    const add = (value, name, color, cells, note) => {
      const row = body.insertRow();
      row.className = focus === value ? "chosen" : "";
      const button = make("button", "", "label");
      button.type = "button";
      button.setAttribute("aria-pressed", String(focus === value));
      if (color) button.append(swatch(color));
      button.append(make("span", name));
      button.addEventListener("click", () => choose(value));
      const first = make("th");
      first.append(button);
      row.append(first);
      for (const cell of cells) row.append(make("td", cell));
      if (!note) return;
      row.classList.add("problem");
      row.title = note;
      first.append(make("span", note.split(":")[0], "note"));
    };
    const mean = isScored(item) && column ? [Worklist.number(Worklist.score(item, column.name, 0), column)] : [];
    const all = Worklist.titled({ title: "All, mean", better: column?.better }, 0);
    if (review.labels.length > 1) add(0, all, null, [...titles.slice(1, titles.length - mean.length).map(() => ""), ...mean]);
    for (const { value, name, color } of review.labels) {
      const entry = item.labels?.[value];
      if (!entry) continue;
      const cells = [volume(entry.prediction_ml)];
      if (isScored(item)) cells.push(volume(entry.reference_ml), difference(entry));
      if (isScored(item) && column) cells.push(Worklist.number(Worklist.score(item, column.name, value), column));
      add(value, name, color, cells, isScored(item) ? STATUS[entry.status] : "");
    }
    return table;
  }

  /* One quantity: its value, its rank among the cases where that has a worse end, and the strip. */
  function quantity(title, points, item, write, better, open) {
    const found = make("div", "", "quantity");
    const line = make("div", "", "line");
    const mine = points.find(({ id }) => id === item.id);
    line.append(make("span", title, "title"), make("span", mine ? write(mine.value) : "\u2013", "number"));
    if (mine && better && points.length > 1) {
      const bad = Worklist.badness(mine.value, better);
      const place = 1 + points.filter(({ value }) => Worklist.badness(value, better) > bad).length;
      const rank = make("span", `${place} of ${points.length}`, "rank");
      rank.title = "Place among the cases; 1 is the worst";
      line.append(rank);
    }
    found.append(line);
    if (points.length > 1) found.append(Plots.strip(points, item.id, write, open));
    return found;
  }

  function points(review, value) {
    return review.cases
      .map((item) => ({ id: item.id, value: value(item) }))
      .filter((point) => Number.isFinite(point.value));
  }

  function quantities(review, item, focus, open) {
    const found = [];
    if (isScored(item)) {
      for (const column of review.columns) {
        const all = points(review, (other) => Worklist.score(other, column.name, focus) ?? NaN);
        found.push(quantity(Worklist.titled(column, focus), all, item, (value) => Worklist.number(value, column), column.better, open));
      }
    }
    if (Number.isFinite(item.outlier)) {
      const all = points(review, ({ outlier }) => outlier ?? NaN);
      found.push(quantity("Outlier score", all, item, (value) => value.toFixed(1), "lower", open));
    }
    for (const { value, name } of review.labels) {
      if (focus ? focus !== value : isScored(item)) continue;
      const all = points(review, (other) => other.labels?.[value]?.prediction_ml ?? NaN);
      found.push(quantity(`Volume of ${name}`, all, item, (ml) => `${volume(ml)} mL`, "", open));
    }
    return found;
  }

  /* Fill the panel. state: {column: column of the table, focus: label value or 0} */
  function render(panel, review, item, { column, focus }, choose, open) {
    const labels = make("section");
    labels.append(make("h2", "Labels"), labelTable(review, item, column, focus, choose));
    const single = review.labels.length === 1 ? review.labels[0] : undefined;
    const name = (review.labels.find(({ value }) => value === focus) ?? single)?.name ?? "mean";
    const measures = make("section", "", "quantities");
    const title = make("h2", isScored(item) ? `Metrics, ${name}` : "Among all cases");
    if (review.cases.length > 1) title.append(make("small", "rank, 1 is the worst"));
    measures.append(title);
    measures.append(...quantities(review, item, focus, open));
    const sections = [labels, measures];
    if (item.reasons?.length) {
      const reasons = make("section", "", "reasons");
      const list = make("ul");
      list.append(...item.reasons.map((reason) => make("li", reason)));
      reasons.append(make("h2", item.file ? "Why to look at it" : "What went wrong"), list);
      sections.unshift(reasons);
    }
    panel.replaceChildren(...(item.file ? sections : sections.slice(0, 1)));
  }

  return { render, swatch, make };
})();
