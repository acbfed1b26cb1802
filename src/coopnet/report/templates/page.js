"use strict";
// Without this script everything is readable. With it, long tables can be sorted and filtered, and a link to a row that
// is folded away unfolds it.
// On a telephone the terms, and tables of two rows or more, begin folded.
if (matchMedia("screen and (max-width: 40rem)").matches) {
  for (const box of document.querySelectorAll("details.folds")) box.open = false;
}
addEventListener("beforeprint", () => {
  for (const box of document.querySelectorAll("details.folds")) box.open = true;
});
const unfold = () => {
  const target = document.getElementById(decodeURIComponent(location.hash.slice(1)));
  for (let box = target; box; box = box.parentElement) if (box.tagName === "DETAILS") box.open = true;
  if (target) target.scrollIntoView();
};
addEventListener("hashchange", unfold);
unfold();

const number = (cell) => {
  const text = (cell.firstChild ? cell.firstChild.textContent : "").replace("−", "-").replaceAll(",", "");
  return parseFloat(cell.dataset.value ?? text);
};
const compare = (a, b) => {
  const [first, second] = [number(a), number(b)];
  if (isNaN(first) && isNaN(second)) return b.textContent.localeCompare(a.textContent);
  return isNaN(first) ? 1 : isNaN(second) ? -1 : second - first;
};
for (const table of document.querySelectorAll("table")) {
  const rows = table.querySelectorAll("tbody tr:not(.part)");
  if (rows.length < 6) continue;
  // A row without a name goes on with the row above. Such rows are found by that name, and never sorted away from it.
  const words = new Map();
  let name = "", whole = true;
  for (const row of rows) {
    const own = row.cells[0].textContent.trim();
    if (!own) whole = false;
    name = own || name;
    words.set(row, `${name} ${row.textContent}`.toLowerCase());
  }
  for (const head of whole ? table.querySelectorAll("th[data-column]") : []) {
    const button = document.createElement("button");
    button.type = "button";
    button.title = "Sort by this column";
    button.append(...head.childNodes);
    head.append(button);
    button.addEventListener("click", () => {
      const column = Number(head.dataset.column);
      const sign = head.getAttribute("aria-sort") === "descending" ? -1 : 1;
      for (const other of table.querySelectorAll("th[aria-sort]")) other.removeAttribute("aria-sort");
      head.setAttribute("aria-sort", sign === 1 ? "descending" : "ascending");
      for (const body of table.tBodies) {
        const own = [...body.querySelectorAll("tr:not(.part)")];
        own.sort((a, b) => sign * compare(a.cells[column], b.cells[column]));
        body.append(...own);
      }
    });
  }
  if (rows.length < 24) continue;
  const label = document.createElement("label");
  label.className = "filter";
  const input = document.createElement("input");
  input.type = "search";
  label.append("Filter ", input);
  table.parentElement.before(label);
  input.addEventListener("input", () => {
    const wanted = input.value.toLowerCase();
    for (const row of rows) row.hidden = !words.get(row).includes(wanted);
  });
}
