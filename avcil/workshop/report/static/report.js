// Pictures open in full; what scrolls is reached by keyboard; heads of tables sort, and a field filters long ones.
addEventListener("DOMContentLoaded", () => {
  for (const image of document.querySelectorAll("article img:not(a img)")) {
    const link = Object.assign(document.createElement("a"), { href: image.src });
    image.replaceWith(link);
    link.append(image);
  }
  for (const caption of document.querySelectorAll(".caption[role=heading]")) caption.ariaLevel = 2; // which furo leaves out
  for (const box of document.querySelectorAll(".table-wrapper, .cell_output .output, article pre")) box.tabIndex = 0;
  for (const table of document.querySelectorAll("article table:not(:has([colspan], [rowspan]))")) {
    const body = table.tBodies[0], rows = [...body.rows], heads = [...(table.tHead?.rows[0]?.cells ?? [])];
    if (rows.length < 4 || table.tHead?.rows.length != 1) continue;
    const text = (row, column) => row.cells[column].textContent.trim();
    let group = "";
    const whole = rows.filter((row) => {
      const title = heads.slice(1).every((_, column) => !text(row, column + 1));
      if (!title) row.dataset.group = group = text(row, 0) || group;
      return !title;
    });
    // lines that only make sense under the one above say what they belong to, before they move
    const apart = () => {
      for (const row of rows) if (!whole.includes(row)) row.remove();
      for (const row of whole) if (!text(row, 0)) row.cells[0].textContent = row.dataset.group;
    };
    heads.forEach((head, column) => {
      const button = document.createElement("button");
      button.append(...(head.textContent.trim() ? head.childNodes : ["#"]));
      head.append(button);
      button.onclick = () => {
        apart();
        const down = head.ariaSort == "ascending" ? -1 : 1;
        for (const other of heads) other.removeAttribute("aria-sort");
        head.setAttribute("aria-sort", down > 0 ? "ascending" : "descending");
        const number = (row) => parseFloat(text(row, column).replaceAll(",", ""));
        const order = (a, b) => number(a) - number(b) || isNaN(number(a)) - isNaN(number(b));
        body.append(...whole.sort((a, b) => down * (order(a, b) || text(a, column).localeCompare(text(b, column)))));
      };
    });
    if (rows.length < 12 || table.closest("#the-stages")) continue;
    const field = Object.assign(document.createElement("input"), { type: "search", placeholder: "filter rows", className: "filter" });
    field.setAttribute("aria-label", "filter the rows of this table");
    field.oninput = () => {
      apart();
      for (const row of whole) row.hidden = !row.textContent.toLowerCase().includes(field.value.toLowerCase());
    };
    (table.closest(".table-wrapper") ?? table).before(field);
  }
});
