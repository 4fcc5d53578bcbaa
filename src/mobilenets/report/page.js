for (const table of document.querySelectorAll("table.sortable")) {
  const heads = [...table.tHead.rows[0].cells];
  heads.forEach((head, column) => head.addEventListener("click", () => {
    const body = table.tBodies[0];
    const value = row => row.cells[column].dataset.value;
    const numeric = head.classList.contains("number");
    const up = head.ariaSort ? head.ariaSort !== "ascending" : true;
    const compare = numeric ? (a, b) => value(a) - value(b) : (a, b) => value(a).localeCompare(value(b), undefined, { numeric: true });
    const rows = [...body.rows].sort((a, b) => (up ? compare(a, b) : compare(b, a)));
    heads.forEach(other => { other.ariaSort = null; });
    head.ariaSort = up ? "ascending" : "descending";
    body.append(...rows);
  }));
}
