"use strict";
/* The form for the verdict on a case, the name of the reviewer, export and import. */
const VerdictForm = (() => {
  const at = (id) => document.getElementById(id);
  let page = null; // {cases, notice(text), changed(case id or undefined), next()}
  let item = null; // the case
  let seen = false; // its images are there, or it has none

  /* Show the verdict on a case; nothing can be decided before ready(). */
  function show(shown) {
    item = shown;
    seen = false;
    at("comment").value = Verdicts.get(item.id).comment;
    refresh();
  }

  function ready() {
    seen = true;
    refresh();
  }

  function refresh() {
    const { verdict, comment, reviewer, time } = item ? Verdicts.get(item.id) : {};
    for (const button of at("verdict").querySelectorAll("[data-verdict]")) {
      button.setAttribute("aria-pressed", String(button.dataset.verdict === verdict));
      button.disabled = !seen;
    }
    if (document.activeElement !== at("comment")) at("comment").value = comment ?? "";
    at("comment").disabled = !seen;
    at("take-back").hidden = !verdict;
    at("signed").textContent = time ? `${reviewer || "no name"}, ${new Date(time).toLocaleString()}` : "";
    progress();
  }

  function progress() {
    const { all, accept, edit, reject } = Verdicts.count(page.cases);
    const parts = all ? `: ${accept} accepted, ${edit} to edit, ${reject} rejected` : "";
    at("progress").textContent = `${all} of ${page.cases.length} reviewed${parts}`;
    at("reviewer").classList.toggle("missing", all > 0 && !Verdicts.reviewer());
  }

  function keep(what) {
    if (!Verdicts.set(item.id, what)) warnOfLoss();
    page.changed(item.id);
    refresh();
  }

  function decide(verdict) {
    if (!item || !seen) return;
    keep({ verdict });
    if (verdict && at("advance").checked) page.next();
  }

  function warnOfLoss() {
    page.notice("This browser keeps nothing for this page: export review.csv before you close it.");
    window.addEventListener("beforeunload", (event) => event.preventDefault());
  }

  async function take(file) {
    try {
      const taken = Verdicts.load(await file.text(), page.cases);
      page.notice(`${file.name}: verdicts or comments of ${taken} cases were taken over.`);
    } catch (error) {
      page.notice(error.message);
    }
    page.changed();
    refresh();
  }

  function wire(around) {
    page = around;
    const on = (id, name, action) => at(id).addEventListener(name, action);
    on("verdict", "click", ({ target }) => target.dataset.verdict !== undefined && decide(target.dataset.verdict));
    on("verdict", "submit", (event) => event.preventDefault());
    on("comment", "input", ({ target }) => keep({ comment: target.value }));
    on("reviewer", "input", ({ target }) => (Verdicts.rename(target.value) || warnOfLoss(), progress()));
    on("export", "click", () => Verdicts.save(page.cases));
    on("import", "click", () => at("import-file").click());
    on("import-file", "change", ({ target }) => {
      if (target.files[0]) take(target.files[0]);
      target.value = "";
    });
    window.addEventListener("storage", ({ key }) => {
      if (!Verdicts.holds(key)) return;
      page.changed();
      refresh();
    });
    at("reviewer").value = Verdicts.reviewer();
    if (!Verdicts.keeps()) warnOfLoss();
    refresh();
  }

  const KEYS = {
    1: () => decide("accept"),
    2: () => decide("edit"),
    3: () => decide("reject"),
    0: () => decide(""),
    c: () => at("comment").focus(),
  };

  return { KEYS, wire, show, ready };
})();
