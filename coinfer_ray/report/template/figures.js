// Figures on the page: drawn one after another, zoomed, stepped through, saved.

function themeNow() {
  return Object.fromEntries(
    ["paper", "raised", "ink", "soft", "line", "grid", "low", "high"].map((name) => [name, colour("--" + name)]),
  );
}

function draw(figure) {
  const theme = themeNow();
  const family = getComputedStyle(document.body).fontFamily;
  const shown = new Map(
    figure.panels.map((panel) => [panel, figure.kind === "heat" ? [] : shownSeries(figure, panel)]),
  );
  const ranges = { x: extent(figure, "x", shown), y: extent(figure, "y", shown) };
  let visible = 0;
  for (const panel of figure.panels) {
    const { box, plot } = figure.boxes.get(panel);
    const list = shown.get(panel);
    const grids = figure.kind === "heat" ? shownGrids(figure, panel) : [];
    box.hidden = !list.length && !grids.length;
    if (box.hidden) continue;
    visible++;
    const categories = Object.fromEntries(
      ["x", "y"].map((axis) => {
        const words = new Set(list.flatMap(({ series, kept }) => kept.map((i) => series[axis][i])).filter(isWord));
        return [axis, figure.categories[panel][axis].filter((word) => words.has(word))];
      }),
    );
    const strong = ({ series }) => data.looks[series.label].strong;
    if (figure.kind !== "bars") list.sort((a, b) => strong(a) - strong(b)); // what is drawn last lies on top
    const traces =
      figure.kind === "heat"
        ? grids.map((grid) => heatTrace(figure, grid, theme))
        : list.flatMap((one, place) => tracesOf(figure, one, place, theme));
    const notes = notesOf(figure, panel, categories.y, theme);
    const longest = Math.max(0, ...notes.map((note) => note.text.length));
    const lying = categories.y.length > 0;
    if (figure.kind === "points" && lying) {
      const found = lifts(figure, list, ranges.x || [0, 1]); // rows as numbers, for a category has no place beside it
      list.forEach(({ series, kept }, n) => {
        traces[n].y = kept.map((i, k) => categories.y.indexOf(series.y[i]) + found.get(series)[k]);
      });
    }
    const thick =
      figure.kind === "bars" && !figure.stacked ? Math.max(28, 13 * list.length) : figure.kind === "points" ? 34 : 30;
    const heights = figure.grids.length ? 380 : 310;
    const layout = {
      height: lying ? thick * categories.y.length + 74 : heights,
      margin: { l: 8, r: notes.length ? 18 + 7.6 * longest : 14, t: 8, b: 8 },
      paper_bgcolor: "rgba(0,0,0,0)",
      plot_bgcolor: "rgba(0,0,0,0)",
      showlegend: false,
      hovermode: "closest",
      hoverdistance: 40,
      dragmode: coarse ? false : "zoom",
      barmode: figure.stacked ? "stack" : "group",
      bargap: 0.32,
      bargroupgap: 0.08,
      font: { family, size: 13, color: theme.ink },
      hoverlabel: {
        bgcolor: theme.raised,
        bordercolor: theme.soft,
        font: { family, size: 13, color: theme.ink },
        align: "left",
        namelength: -1,
      },
      xaxis: axisOf(figure, "x", ranges.x, categories.x, theme),
      yaxis: axisOf(figure, "y", ranges.y, categories.y, theme),
      annotations: figure.kind === "heat" ? areaNames(figure, grids, box.clientWidth, theme) : notes,
      shapes: figure.kind === "points" && lying ? connectors(list, categories.y, theme) : [],
    };
    if (figure.kind === "heat") {
      layout.xaxis.type = figure.xLog ? "log" : "linear";
      layout.yaxis.type = figure.yLog ? "log" : "linear";
      Object.assign(layout.xaxis, { showgrid: false, constrain: "domain" });
      Object.assign(layout.yaxis, { showgrid: false });
    }
    plot.drawn = {
      home: { x: layout.xaxis.range && [...layout.xaxis.range], y: layout.yaxis.range && [...layout.yaxis.range] },
    };
    Plotly.react(plot, traces, layout, {
      displayModeBar: false,
      responsive: true,
      showTips: false,
      doubleClick: "reset",
    });
    if (!plot.listens) {
      plot.listens = true;
      plot.on("plotly_relayout", (change) => retick(figure, plot, change));
    }
  }
  const present =
    figure.kind === "heat"
      ? new Set(figure.grids.flatMap((grid) => grid.words).filter((word) => wordShown(figure, word)))
      : new Set([...shown.values()].flat().map(({ series }) => series.label));
  for (const key of figure.node.querySelectorAll("button.key"))
    key.classList.toggle("away", !present.has(key.dataset.label));
  figure.grid.dataset.count = Math.min(visible, 5);
  figure.nothing.hidden = visible > 0;
}

// A logarithmic axis that is zoomed into a decade needs ticks within it.
function retick(figure, plot, change) {
  const wanted = {};
  for (const axis of ["x", "y"]) {
    if (
      !(axis === "x" ? figure.xLog : figure.yLog) ||
      !(`${axis}axis.range[0]` in change || `${axis}axis.range` in change)
    )
      continue;
    const full = plot.layout[axis + "axis"];
    const step = logStep(full.range);
    if (full.dtick !== step) wanted[`${axis}axis.dtick`] = step;
  }
  if (Object.keys(wanted).length) Plotly.relayout(plot, wanted);
}

// Figures are drawn one at a time, those in view first, so that a long page answers at once.
const waiting = new Set();
let running = false;
const distance = (figure) => {
  const box = figure.node.getBoundingClientRect();
  return Math.max(0, box.top - innerHeight, -box.bottom);
};
function step() {
  if (!waiting.size) {
    running = false;
    root.dataset.drawn = "1";
    return;
  }
  const next = [...waiting].reduce((a, b) => (distance(b) < distance(a) ? b : a));
  waiting.delete(next);
  draw(next);
  setTimeout(step, 0);
}
function redraw(figures = data.figures) {
  for (const figure of figures) waiting.add(figure);
  delete root.dataset.drawn;
  if (!running) {
    running = true;
    setTimeout(step, 0);
  }
}

// ------------------------------------------------------------------------------------------------ zoom and keyboard

function zoom(figure, factor) {
  for (const { box, plot } of figure.boxes.values()) {
    if (box.hidden || !plot.layout) continue;
    const wanted = {};
    for (const axis of ["x", "y"]) {
      const full = plot._fullLayout[axis + "axis"];
      if (full.fixedrange) continue;
      if (factor === 0) {
        const home = plot.drawn.home[axis];
        if (home) wanted[`${axis}axis.range`] = [...home];
        else wanted[`${axis}axis.autorange`] = true;
        continue;
      }
      const [low, high] = full.range.map(Number);
      const [middle, half] = [(low + high) / 2, ((high - low) / 2) * factor];
      wanted[`${axis}axis.range`] = [middle - half, middle + half];
    }
    Plotly.relayout(plot, wanted);
  }
}

function stepThrough(figure, plot, key) {
  if (figure.kind === "heat") return;
  const curves = plot.data.map((trace, i) => i).filter((i) => plot.data[i].customdata);
  const at = plot.at || { place: 0, point: -1 };
  at.place = (at.place + curves.length + ({ ArrowUp: -1, ArrowDown: 1 }[key] || 0)) % curves.length;
  const trace = plot.data[curves[at.place]];
  at.point = Math.max(0, Math.min(trace.x.length - 1, at.point + ({ ArrowLeft: -1, ArrowRight: 1 }[key] || 0)));
  plot.at = at;
  Plotly.Fx.hover(plot, [{ curveNumber: curves[at.place], pointNumber: at.point }]);
  const [lines, y] = trace.customdata[at.point];
  figure.spoken.textContent = `${trace.name}: ${trace.x[at.point]}, ${y}${lines.replace(/<[^>]*>/g, ", ")}`;
}

function onKey(figure, plot, event) {
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  if (event.key === "+" || event.key === "=") zoom(figure, 0.7);
  else if (event.key === "-") zoom(figure, 1 / 0.7);
  else if (event.key === "0") zoom(figure, 0);
  else if (event.key === "Escape") Plotly.Fx.unhover(plot);
  else if (event.key.startsWith("Arrow")) stepThrough(figure, plot, event.key);
  else return;
  event.preventDefault();
}

// ------------------------------------------------------------------------------------------------------------ figures

function csvOf(figure) {
  const quote = (value) =>
    value === null || value === undefined
      ? ""
      : /[",\n]/.test(value)
        ? `"${String(value).replace(/"/g, '""')}"`
        : value;
  const rows = [
    [
      "panel",
      "series",
      figure.xLabel || "x",
      figure.yLabel || "y",
      figure.kind === "heat" ? figure.zLabel || "value" : "verified",
    ],
  ];
  for (const series of figure.series) {
    series.x.forEach((x, i) =>
      rows.push([series.panel, series.label, x, series.y[i], series.hollow ? !series.hollow[i] : ""]),
    );
  }
  for (const grid of figure.grids) {
    grid.z.forEach((row, i) =>
      row.forEach((value, j) =>
        rows.push([
          grid.panel,
          "",
          grid.x[j],
          grid.y[i],
          grid.words.length && value !== null ? grid.words[value] : value,
        ]),
      ),
    );
  }
  return rows.map((row) => row.map(quote).join(",")).join("\n") + "\n";
}

function prepare(figure) {
  figure.node = document.getElementById(figure.name);
  figure.off = new Set();
  figure.grid = figure.node.querySelector(".panels");
  figure.nothing = figure.node.querySelector(".nothing");
  figure.spoken = figure.node.querySelector(".unseen");
  figure.panels = [...new Set([...figure.series, ...figure.grids].map((one) => one.panel))];
  figure.boxes = new Map();
  figure.categories = {};
  for (const panel of figure.panels) {
    const box = element("div", { class: "panel" });
    if (panel) box.append(element("h4", {}, panel));
    if (figure.yLabel) box.append(element("p", { class: "axis" }, figure.yLabel));
    const plot = element("div", {
      class: "plot",
      tabindex: "0",
      role: "group",
      "aria-roledescription": "chart",
      "aria-label":
        `${figure.title}${panel ? ", " + panel : ""}. ` +
        "Arrow keys go from point to point; plus and minus zoom, 0 resets.",
    });
    plot.addEventListener("keydown", (event) => onKey(figure, plot, event));
    plot.addEventListener("blur", () => plot.layout && Plotly.Fx.unhover(plot));
    box.append(plot);
    figure.grid.append(box);
    figure.boxes.set(panel, { box, plot });
    const all = figure.series.filter((one) => one.panel === panel);
    figure.categories[panel] = Object.fromEntries(
      ["x", "y"].map((axis) => [axis, [...new Set(all.flatMap((one) => one[axis]).filter(isWord))]]),
    );
  }
  for (const key of figure.node.querySelectorAll("button.key")) {
    key.addEventListener("click", () => {
      const off = key.getAttribute("aria-pressed") === "true";
      key.setAttribute("aria-pressed", String(!off));
      figure.off[off ? "add" : "delete"](key.dataset.label);
      redraw([figure]);
    });
  }
  for (const button of figure.node.querySelectorAll("[data-zoom]")) {
    button.addEventListener("click", () => zoom(figure, Number(button.dataset.zoom)));
  }
  figure.node.querySelector("[data-csv]").addEventListener("click", () => {
    const link = element("a", {
      download: figure.name + ".csv",
      href: URL.createObjectURL(new Blob([csvOf(figure)], { type: "text/csv" })),
    });
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 1000);
  });
}
