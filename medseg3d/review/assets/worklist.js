"use strict";
/* The work list: cases sorted worst first by a metric, filtered, one row each. */
const Worklist = (() => {
  const PROBLEMS = {
    missed: "missed structure",
    spurious: "spurious structure",
    unscored: "not scored",
    both_empty: "empty",
    failed: "failed",
  };
  const MARKS = { accept: "Accepted", edit: "Edit", reject: "Rejected" };
  const FILTERS = {
    all: () => true,
    open: ({ id }) => !Verdicts.get(id).verdict,
    accept: ({ id }) => Verdicts.get(id).verdict === "accept",
    edit: ({ id }) => Verdicts.get(id).verdict === "edit",
    reject: ({ id }) => Verdicts.get(id).verdict === "reject",
    problem: ({ status, file }) => !file || ["missed", "spurious", "failed"].includes(status),
  };

  /* A score of a case: of one label, or the mean over the labels for label 0; else null. */
  function score(item, column, label) {
    const scores = label ? item.labels?.[label]?.scores : item.mean;
    const value = scores?.[column];
    return Number.isFinite(value) ? value : null;
  }

  /* The number to sort by: larger is worse. */
  function badness(value, better) {
    if (better === "higher") return -value;
    return better === "zero" ? Math.abs(value) : value;
  }

  function number(value, column) {
    if (value === null) return "\u2013";
    const text = value.toFixed(column.decimals ?? 3).replace("-", "\u2212");
    return column.unit && column.unit !== "1" ? `${text} ${column.unit}` : text;
  }

  /* What a score is called; the mean over the labels, label 0, is of sizes where 0 is best. */
  function titled({ title, better }, label) {
    return label || better !== "zero" ? title : `${title} without sign`;
  }

  /* Ways to sort, as [value of the choice, its text]. */
  function orders(review) {
    const WORST = { higher: "lowest first", lower: "highest first", zero: "farthest from 0 first" };
    const found = review.columns.map(({ name, title, better }) => [name, `${title}, ${WORST[better] ?? "worst first"}`]);
    if (review.cases.some(({ outlier }) => Number.isFinite(outlier))) {
      found.push(["outlier", "Outlier score, strangest first"]);
    }
    return [...found, ["case", "Name of the case"]];
  }

  function value(review, item, order, label) {
    if (order === "case") return null;
    if (order === "outlier") return Number.isFinite(item.outlier) ? item.outlier : null;
    return score(item, order, label);
  }

  /* Cases that could not be read come first, those without the value last. */
  function sorted(review, order, label) {
    const names = new Intl.Collator(undefined, { numeric: true });
    const better = review.columns.find(({ name }) => name === order)?.better ?? "lower";
    const rank = (item) => {
      if (!item.file) return -Infinity;
      const found = value(review, item, order, label);
      return found === null ? Infinity : -badness(found, better);
    };
    const ranks = new Map(review.cases.map((item) => [item, order === "case" ? 0 : rank(item)]));
    const compare = (a, b) => (ranks.get(a) === ranks.get(b) ? 0 : ranks.get(a) - ranks.get(b));
    return [...review.cases].sort((a, b) => compare(a, b) || names.compare(a.id, b.id));
  }

  function shown(review, { order, label, filter, words }) {
    const wanted = words.trim().toLowerCase();
    return sorted(review, order, label).filter(
      (item) => FILTERS[filter](item) && `${item.id} ${item.patient ?? ""}`.toLowerCase().includes(wanted),
    );
  }

  function mark(button, id) {
    const { verdict } = Verdicts.get(id);
    const found = button.querySelector(".verdict");
    found.className = `verdict ${verdict}`;
    found.textContent = MARKS[verdict] ?? "";
  }

  function row(review, item, { order, label }, open) {
    const button = document.createElement("button");
    button.type = "button";
    button.className = "case";
    button.dataset.id = item.id;
    button.append(picture(item), words(review, item, order, label));
    button.addEventListener("click", () => open(item.id));
    mark(button, item.id);
    const found = document.createElement("li");
    found.append(button);
    return found;
  }

  function picture(item) {
    const image = document.createElement(item.thumbnail ? "img" : "span");
    image.className = "thumbnail";
    if (item.thumbnail) Object.assign(image, { loading: "lazy", decoding: "async", alt: "", src: item.thumbnail });
    return image;
  }

  function words(review, item, order, label) {
    const found = document.createElement("span");
    found.className = "words";
    const line = (name, text) => {
      const part = document.createElement("span");
      part.className = name;
      part.textContent = text;
      found.append(part);
      return part;
    };
    line("id", item.id).title = item.patient && item.patient !== item.id ? `patient ${item.patient}` : item.id;
    const column = review.columns.find(({ name }) => name === order);
    if (column) line("value", `${titled(column, label)} ${number(score(item, order, label), column)}`);
    else if (Number.isFinite(item.outlier)) line("value", `outlier score ${item.outlier.toFixed(1)}`);
    else line("value", "");
    const problem = item.file ? PROBLEMS[item.status] : PROBLEMS.failed;
    if (problem && (item.has_reference || item.status !== "unscored")) line(`problem ${item.status}`, problem);
    line("verdict", "");
    return found;
  }

  function render(list, review, state, open) {
    const cases = shown(review, state);
    list.replaceChildren(...cases.map((item) => row(review, item, state, open)));
    return cases.map(({ id }) => id);
  }

  function point(list, id) {
    for (const button of list.querySelectorAll("button.case")) {
      const mine = button.dataset.id === id;
      button.toggleAttribute("aria-current", mine);
      if (mine) button.scrollIntoView({ block: "nearest" });
    }
  }

  function refresh(list, id) {
    for (const button of list.querySelectorAll("button.case")) {
      if (id === undefined || button.dataset.id === id) mark(button, button.dataset.id);
    }
  }

  return { PROBLEMS, score, badness, number, titled, orders, render, point, refresh };
})();
