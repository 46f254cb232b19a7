"use strict";
(() => {
  // Sorting: by data-sort where a cell has one, else by its text. What has no value stays last,
  // pinned rows stay first, and each tbody is sorted by itself.
  const keyOf = (row, column) => {
    const cell = row.cells[column];
    if (cell.dataset.sort !== undefined) {
      const number = Number(cell.dataset.sort);
      return Number.isNaN(number) ? cell.dataset.sort : number;
    }
    return cell.classList.contains("words") ? cell.textContent.trim() : null;
  };
  const compare = (one, other) =>
    typeof one === "number" && typeof other === "number"
      ? one - other
      : String(one).localeCompare(String(other), "en", { numeric: true });

  const sort = (table, column, direction) => {
    for (const body of table.tBodies) {
      const rows = [...body.rows].filter((row) => "item" in row.dataset);
      const pinned = rows.filter((row) => "pinned" in row.dataset);
      const keyed = rows
        .filter((row) => !("pinned" in row.dataset))
        .map((row) => ({ row, key: keyOf(row, column) }));
      const known = keyed.filter(({ key }) => key !== null);
      known.sort((a, b) => direction * compare(a.key, b.key));
      const unknown = keyed.filter(({ key }) => key === null);
      body.append(...pinned, ...[...known, ...unknown].map(({ row }) => row));
    }
  };

  for (const table of document.querySelectorAll("table")) {
    const heads = [...table.tHead.rows[0].cells];
    heads.forEach((head, column) => {
      const button = document.createElement("button");
      button.type = "button";
      button.append(...head.childNodes);
      head.append(button);
      head.setAttribute("aria-sort", "none");
      button.addEventListener("click", () => {
        const first = head.dataset.good === "up" ? "descending" : "ascending";
        const second = first === "ascending" ? "descending" : "ascending";
        const order = head.getAttribute("aria-sort") === first ? second : first;
        for (const other of heads) other.setAttribute("aria-sort", "none");
        head.setAttribute("aria-sort", order);
        sort(table, column, order === "ascending" ? 1 : -1);
      });
    });
  }

  // Filtering: an item is shown where all words occur in it and every chosen tag fits. The
  // un-erased model stays as long as a row of its group does.
  for (const filters of document.querySelectorAll(".filters")) {
    const target = document.getElementById(filters.dataset.for);
    const search = filters.querySelector("[data-search]");
    const choices = [...filters.querySelectorAll("[data-tag]")];
    const output = filters.querySelector("output");
    const items = [...target.querySelectorAll("[data-item]")];
    const texts = new Map(
      items.map((item) => {
        const group = item.closest("tbody")?.querySelector(".group");
        return [item, `${group?.textContent ?? ""} ${item.textContent}`.toLowerCase()];
      }),
    );
    const apply = () => {
      const words = (search?.value ?? "").toLowerCase().split(/\s+/).filter(Boolean);
      let shown = 0;
      for (const item of items) {
        const fits =
          words.every((word) => texts.get(item).includes(word)) &&
          choices.every((choice) => !choice.value || item.dataset[choice.dataset.tag] === choice.value);
        item.hidden = !fits;
        shown += fits ? 1 : 0;
      }
      for (const body of target.tBodies ?? []) {
        const open = body.querySelector("[data-item]:not([hidden])") !== null;
        for (const row of body.querySelectorAll(".group")) row.hidden = !open;
        if (open) for (const row of body.querySelectorAll("[data-pinned]")) row.hidden = false;
      }
      const narrowed = words.length > 0 || choices.some((choice) => choice.value);
      if (narrowed) for (const more of target.querySelectorAll(".more")) more.open = true;
      output.textContent = `${shown} of ${items.length}`;
    };
    filters.addEventListener("input", apply);
    filters.hidden = false;
    apply();
  }
})();
