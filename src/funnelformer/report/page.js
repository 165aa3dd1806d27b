"use strict";
// Sort by a column: the button in its header, by a click, Enter or Space. Again turns the order round.
const table = document.getElementById("runs");
const said = document.getElementById("said");
const headers = [...table.tHead.rows[0].cells];

function compare(left, right, isNumber) {
  if (left === "" || right === "") return (left === "") - (right === "");
  if (isNumber) return Number(left) - Number(right);
  return left < right ? -1 : Number(left > right);
}

headers.forEach((header, column) => {
  header.querySelector("button").addEventListener("click", () => {
    const order = header.getAttribute("aria-sort") === "ascending" ? "descending" : "ascending";
    headers.forEach((other) => other.removeAttribute("aria-sort"));
    header.setAttribute("aria-sort", order);
    const isNumber = header.dataset.type === "number";
    const turn = order === "ascending" ? 1 : -1;
    const rows = [...table.tBodies[0].rows].sort((one, two) => {
      const left = one.cells[column].dataset.value;
      const right = two.cells[column].dataset.value;
      // What is not known stays last in both orders.
      return compare(left, right, isNumber) * (left === "" || right === "" ? 1 : turn);
    });
    table.tBodies[0].append(...rows);
    said.textContent = `sorted by ${header.textContent.trim()}, ${order}`;
  });
});

// Columns in which all rows are alike are shown on demand.
const all = document.getElementById("all");
all?.addEventListener("click", () => {
  const shown = table.classList.toggle("all");
  all.setAttribute("aria-pressed", String(shown));
  all.textContent = shown ? "Hide these columns" : "Show these columns";
});
