"use strict";
(() => {
  const all = (selector, inside = document) => [...inside.querySelectorAll(selector)];
  const tables = all("table.sortable");

  // Sorting: a table's bodies are its rows, since the notes of a row go with it.
  const value = (body, column) => {
    const cell = body.rows[0].cells[column];
    if (!cell || cell.matches(".note")) return null;
    if (!cell.matches(".num")) return cell.textContent.trim();
    const raw = cell.dataset.value ?? cell.querySelector("[data-value]")?.dataset.value;
    return raw === undefined ? null : parseFloat(raw);
  };
  // Numbers inside of names count as numbers: poison_rate=0.02 comes before poison_rate=0.1.
  const split = text => text.split(/(\d+(?:\.\d+)?(?:e[+-]?\d+)?)/);
  const compare = (a, b) => {
    if (typeof a === "number") return a - b;
    const [left, right] = [split(a), split(b)];
    const place = left.findIndex((part, at) => part !== right[at]);
    if (place < 0) return left.length - right.length;
    return place % 2 ? left[place] - right[place] : left[place].localeCompare(right[place] ?? "", "en");
  };
  for (const table of tables) {
    const bodies = [...table.tBodies];
    const heads = [...table.tHead.rows[table.tHead.rows.length - 1].cells];
    heads.forEach((head, column) => {
      const button = document.createElement("button");
      button.type = "button";
      button.append(...head.childNodes);
      head.append(button);
      const first = head.matches(".num") ? "descending" : "ascending";
      const second = first === "ascending" ? "descending" : "ascending";
      button.addEventListener("click", () => {
        const next = { [first]: second, [second]: "" }[head.getAttribute("aria-sort")] ?? first;
        for (const each of heads) each.removeAttribute("aria-sort");
        if (next) head.setAttribute("aria-sort", next);
        table.classList.toggle("sorted", Boolean(next));
        const keyed = bodies.map(body => [value(body, column), body]);
        if (next) {
          const sign = next === "ascending" ? 1 : -1;
          keyed.sort(([a], [b]) => (a === null) - (b === null) || (a === null ? 0 : sign * compare(a, b)));
        }
        table.append(...keyed.map(([, body]) => body));
      });
    });
  }

  // Filtering: cells match or not, and a row is shown where one of its cells is.
  const form = document.getElementById("filter");
  const count = form.querySelector("output");
  const total = form.getAttribute("data-total");
  const facts = element => ({
    attack: element.closest("[data-attack]")?.dataset.attack,
    defense: element.dataset.defense,
    dataset: element.closest("[data-dataset]")?.dataset.dataset,
    status: (element.dataset.status ?? "").split("|"),
  });
  const cells = all("[data-cell]").map(element => {
    const about = facts(element);
    const heading = element.closest(".trojan")?.querySelector("summary").textContent ?? "";
    const text = [about.dataset, about.attack, about.defense, ...about.status, heading, element.textContent];
    return { element, ...about, text: text.join(" ").toLowerCase() };
  });
  const rows = all("[data-cells]").map(element => {
    const about = facts(element);
    const text = [about.dataset, about.attack, about.defense, ...about.status].join(" ").toLowerCase();
    return { element, ids: element.dataset.cells.split(" ").filter(Boolean), ...about, text };
  });
  const matches = (about, wanted, words) =>
    ["attack", "defense", "dataset"].every(field => !wanted[field] || about[field] === wanted[field]) &&
    (!wanted.status || about.status.includes(wanted.status)) &&
    words.every(word => about.text.includes(word));
  const hasShown = (element, selector) => all(selector, element).some(each => !each.hidden);
  const filter = () => {
    const wanted = Object.fromEntries(new FormData(form));
    const words = wanted.text.toLowerCase().split(/\s+/).filter(Boolean);
    const active = Object.values(wanted).some(Boolean);
    const shown = new Set();
    for (const cell of cells) {
      cell.element.hidden = !matches(cell, wanted, words);
      if (!cell.element.hidden) shown.add(cell.element.dataset.cell);
    }
    for (const row of rows) {
      const visible = row.ids.length ? row.ids.some(id => shown.has(id)) : matches(row, wanted, words);
      if (row.element.matches(".square")) row.element.classList.toggle("dim", !visible);
      else row.element.hidden = !visible;
    }
    for (const matrix of all(".matrix")) showSquares(matrix);
    for (const trojan of all(".trojan")) trojan.hidden = !hasShown(trojan, "[data-cell]");
    for (const table of tables) table.classList.toggle("filtered", active);
    for (const block of all(".block")) block.hidden = !hasShown(block, ".row, [data-cell]");
    for (const group of all(".group")) group.hidden = !hasShown(group, ".block");
    count.value = (active ? `${shown.size.toLocaleString("en")} of ` : "") + `${total} cells`;
    form.querySelector("[type=reset]").hidden = !active;
    document.getElementById("nothing").hidden = !active || hasShown(document, ".group");
  };
  // Defenses without a square to show are left out, and the heads of their families become narrower.
  const showSquares = matrix => {
    const bodies = [...matrix.tBodies];
    for (const body of bodies) body.hidden = !all(".square:not(.dim)", body).length;
    const [families, heads] = matrix.tHead.rows;
    const kept = [...heads.cells].map((_, column) =>
      !column || bodies.some(body => !body.rows[0].cells[column].matches(".dim")));
    for (const row of [heads, ...bodies.map(body => body.rows[0])])
      [...row.cells].forEach((cell, column) => { cell.hidden = !kept[column]; });
    let column = 1;
    for (const family of [...families.cells].slice(1)) {
      const width = Number(family.dataset.width);
      const span = kept.slice(column, column + width).filter(Boolean).length;
      family.hidden = !span;
      family.colSpan = span || 1;
      column += width;
    }
  };
  for (const kind of ["input", "change"]) form.addEventListener(kind, filter);
  form.addEventListener("reset", () => setTimeout(filter));
  form.addEventListener("submit", event => event.preventDefault());
  form.hidden = false;
  filter();

  // A link shows what it leads to, folded or filtered away as it may be.
  const reveal = hash => {
    const target = document.getElementById(hash.slice(1));
    if (!target) return;
    if (target.closest("[hidden]")) {
      form.reset();
      filter();
    }
    for (let each = target.closest("details"); each; each = each.parentElement.closest("details")) each.open = true;
    target.scrollIntoView();
  };
  document.addEventListener("click", event => {
    const link = event.target.closest?.('a[href^="#"]');
    if (link) reveal(link.hash);
  });
  addEventListener("hashchange", () => reveal(location.hash));
  if (location.hash) reveal(location.hash);

  if (navigator.clipboard) {
    for (const command of all("details.again")) {
      const button = document.createElement("button");
      button.type = "button";
      button.textContent = "Copy";
      button.addEventListener("click", async () => {
        await navigator.clipboard.writeText(command.querySelector("code").textContent);
        button.textContent = "Copied";
        setTimeout(() => { button.textContent = "Copy"; }, 2000);
      });
      command.append(button);
    }
  }
})();
