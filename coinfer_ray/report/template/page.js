// What a reader does with the page: tables, filters, theme.

// ------------------------------------------------------------------------------------------------------------- tables

function filterTables() {
  for (const table of document.querySelectorAll("table")) {
    const heads = [...table.tHead.rows[0].cells];
    const gone = heads.map(
      (head) =>
        !Object.entries(JSON.parse(head.dataset.filters || "{}")).every(([name, value]) => passes(name, value)),
    );
    heads.forEach((head, i) => {
      head.hidden = gone[i];
    });
    for (const row of table.tBodies[0].rows) {
      row.hidden = !Object.entries(JSON.parse(row.dataset.filters || "{}")).every(([name, value]) =>
        passes(name, value),
      );
      [...row.cells].forEach((cell, i) => {
        cell.hidden = gone[i];
      });
    }
  }
  hint();
}

// Where a table is wider than its place, it says so.
function hint() {
  for (const scroll of document.querySelectorAll(".scroll")) {
    scroll.previousElementSibling.hidden = scroll.scrollWidth <= scroll.clientWidth + 1;
  }
}

function sortBy(head) {
  const table = head.closest("table");
  const numeric = head.classList.contains("num");
  const before = head.getAttribute("aria-sort");
  const direction = before === "ascending" ? "descending" : "ascending";
  for (const other of table.tHead.rows[0].cells) other.removeAttribute("aria-sort");
  head.setAttribute("aria-sort", direction);
  const sign = direction === "ascending" ? 1 : -1;
  const key = (row) => {
    const cell = row.cells[head.cellIndex];
    return numeric ? ("value" in cell.dataset ? Number(cell.dataset.value) : NaN) : cell.textContent;
  };
  const compare = (a, b) => {
    if (!numeric) return sign * a.localeCompare(b, "en", { numeric: true });
    if (Number.isNaN(a) || Number.isNaN(b)) return Number.isNaN(a) - Number.isNaN(b); // what has no value stays last
    return sign * (a - b);
  };
  const rows = [...table.tBodies[0].rows].map((row) => [key(row), row]).sort((a, b) => compare(a[0], b[0]));
  table.tBodies[0].append(...rows.map(([, row]) => row));
}

// ------------------------------------------------------------------------------------------------------------ filters

const bar = document.querySelector(".filters");

// What is scrolled to, by a link or by the focus, must not end up behind the bar.
const clear = () => {
  root.style.scrollPaddingTop = `${bar.offsetHeight + 12}px`;
};

function filtered() {
  const parts = Object.entries(chosen)
    .filter(([, values]) => values.size)
    .map(([name, values]) => `${name} ${[...values].join(", ")}`);
  bar.querySelector("summary b").textContent = parts.join(" · ") || "everything";
  bar.querySelector("#everything").hidden = !parts.length;
  for (const chip of bar.querySelectorAll(".chip[data-filter]")) {
    chip.setAttribute("aria-pressed", String(chosen[chip.dataset.filter].has(chip.dataset.value)));
  }
  for (const select of bar.querySelectorAll("select")) select.value = [...chosen[select.dataset.filter]][0] ?? "";
  filterTables();
  redraw();
}

if (bar) {
  bar.open = matchMedia("(min-width: 48rem)").matches;
  new ResizeObserver(clear).observe(bar);
  for (const chip of bar.querySelectorAll(".chip[data-filter]")) {
    chip.addEventListener("click", () => {
      const { filter, value } = chip.dataset;
      chosen[filter][chosen[filter].has(value) ? "delete" : "add"](value);
      filtered();
    });
  }
  for (const select of bar.querySelectorAll("select")) {
    select.addEventListener("change", () => {
      chosen[select.dataset.filter] = new Set(select.value ? [select.value] : []);
      filtered();
    });
  }
  bar.querySelector("#everything").addEventListener("click", () => {
    for (const values of Object.values(chosen)) values.clear();
    filtered();
    bar.querySelector("summary").focus();
  });
}

// -------------------------------------------------------------------------------------------------------------- theme

const system = matchMedia("(prefers-color-scheme: dark)");
const toggle = document.getElementById("theme");
const isDark = () => (root.dataset.theme ? root.dataset.theme === "dark" : system.matches);
function themed() {
  toggle.textContent = isDark() ? "Light" : "Dark";
  toggle.setAttribute("aria-label", `Switch to ${isDark() ? "light" : "dark"} colours`);
  redraw();
}
toggle.addEventListener("click", () => {
  root.dataset.theme = isDark() ? "light" : "dark";
  try {
    localStorage.setItem("coinfer-theme", root.dataset.theme);
  } catch {
    /* not kept then */
  }
  themed();
});
system.addEventListener("change", themed);

for (const head of document.querySelectorAll("th button"))
  head.addEventListener("click", () => sortBy(head.parentElement));
for (const button of document.querySelectorAll("[data-copy]")) {
  button.addEventListener("click", async () => {
    try {
      await navigator.clipboard.writeText(button.previousElementSibling.textContent);
      button.textContent = "Copied";
    } catch {
      getSelection().selectAllChildren(button.previousElementSibling);
      button.textContent = "Selected";
    }
    setTimeout(() => {
      button.textContent = "Copy";
    }, 1500);
  });
}
let width = innerWidth;
addEventListener("resize", () => {
  hint();
  if (innerWidth !== width) redraw(); // names and marks that fit at one width may not at another
  width = innerWidth;
});
hint();
data.figures.forEach(prepare);
themed();
