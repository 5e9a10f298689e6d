"use strict";
/* What the reviewer decides: kept in this browser, one entry per case, and as a table (CSV). */
const Verdicts = (() => {
  const CHOICES = ["accept", "edit", "reject"];
  const COLUMNS = ["case", "patient", "status", "verdict", "comment", "reviewer", "time"];
  const NAME_KEY = "medseg3d-review/reviewer";
  const NOTHING = Object.freeze({ verdict: "", comment: "", reviewer: "", time: "" });
  const unsaved = new Map(); // where the browser keeps nothing
  let prefix = "";
  let works = true;

  function open(review) {
    prefix = `medseg3d-review/${review.id || location.pathname}/`;
    try {
      localStorage.setItem(prefix, "");
      localStorage.removeItem(prefix);
    } catch {
      works = false;
    }
  }

  function read(key) {
    return works ? localStorage.getItem(key) : (unsaved.get(key) ?? null);
  }

  /* False where the browser keeps nothing (its store is full or switched off). */
  function write(key, value) {
    try {
      if (works) {
        localStorage.setItem(key, value);
        return true;
      }
    } catch {
      for (const [name, kept] of Object.entries(localStorage)) unsaved.set(name, kept);
      works = false;
    }
    unsaved.set(key, value);
    return false;
  }

  function get(id) {
    try {
      return { ...NOTHING, ...JSON.parse(read(prefix + id) ?? "{}") };
    } catch {
      return { ...NOTHING };
    }
  }

  function set(id, change) {
    const entry = { ...get(id), ...change, reviewer: reviewer(), time: new Date().toISOString() };
    return write(prefix + id, JSON.stringify(entry));
  }

  function reviewer() {
    return read(NAME_KEY) ?? "";
  }

  function rename(name) {
    return write(NAME_KEY, name.trim());
  }

  function count(cases) {
    const found = { accept: 0, edit: 0, reject: 0, all: 0 };
    for (const { id } of cases) {
      const { verdict } = get(id);
      if (!CHOICES.includes(verdict)) continue;
      found[verdict] += 1;
      found.all += 1;
    }
    return found;
  }

  /* What people typed or called a file must not run as a formula in a spreadsheet. */
  function typed(text) {
    return /^[=+\-@\t\r]/.test(text) ? `'${text}` : text;
  }

  function quoted(value) {
    const text = String(value ?? "");
    return /[",\r\n]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text;
  }

  function csv(cases) {
    const rows = cases.map((item) => {
      const { verdict, comment, reviewer: who, time } = get(item.id);
      return [typed(item.id), typed(item.patient), item.status, verdict, typed(comment), typed(who), time];
    });
    return [COLUMNS, ...rows].map((row) => `${row.map(quoted).join(",")}\r\n`).join("");
  }

  function save(cases) {
    const file = new Blob(["\ufeff", csv(cases)], { type: "text/csv;charset=utf-8" });
    const link = document.createElement("a");
    link.href = URL.createObjectURL(file);
    link.download = "review.csv";
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 60000);
  }

  /* Rows of a table as text: quotes, doubled quotes and line ends inside quotes are understood. */
  function rowsOf(text) {
    const cell = /("(?:[^"]|"")*"|[^",\r\n]*)(,|\r\n|\n|\r|$)/g;
    const rows = [[]];
    for (const [all, value, end] of text.replace(/^\ufeff/, "").matchAll(cell)) {
      if (all === "" && rows.at(-1).length === 0) break;
      rows.at(-1).push(value.startsWith('"') ? value.slice(1, -1).replaceAll('""', '"') : value);
      if (end === "") break;
      if (end !== ",") rows.push([]);
    }
    return rows.filter((row) => row.length > 0);
  }

  /* Take over the verdicts of a saved table; gives how many cases it had something for. */
  function load(text, cases) {
    const [head = [], ...rows] = rowsOf(text);
    const place = Object.fromEntries(COLUMNS.map((name) => [name, head.indexOf(name)]));
    if (place.case < 0 || place.verdict < 0) {
      throw new Error("This table has no columns case and verdict; choose a review.csv that this page wrote.");
    }
    const known = new Map(cases.flatMap(({ id }) => [[id, id], [typed(id), id]]));
    let taken = 0;
    for (const row of rows) {
      const at = (name) => (row[place[name]] ?? "").replace(/^'(?=[=+\-@\t\r])/, "");
      const entry = { verdict: at("verdict"), comment: at("comment"), reviewer: at("reviewer"), time: at("time") };
      const useful = entry.comment || CHOICES.includes(entry.verdict);
      const id = known.get(row[place.case]);
      if (!useful || id === undefined) continue;
      write(prefix + id, JSON.stringify(entry));
      taken += 1;
    }
    return taken;
  }

  const keeps = () => works;
  const holds = (key) => key === null || key.startsWith(prefix) || key === NAME_KEY;
  return { CHOICES, open, get, set, reviewer, rename, count, csv, save, load, keeps, holds };
})();
