// Figures of the page as plotly draws them. What the page says comes from #data.
const data = JSON.parse(document.getElementById("data").textContent);
const root = document.documentElement;
const coarse = matchMedia("(pointer: coarse)").matches;
const chosen = {}; // filter -> Set of the values that are shown alone; empty: all of them
for (const name of data.filters) chosen[name] = new Set();

const passes = (name, value) => !chosen[name] || !chosen[name].size || chosen[name].has(value);
const colour = (name) => getComputedStyle(root).getPropertyValue(name).trim();
const safe = (text) => String(text).replace(/&/g, "&amp;").replace(/</g, "&lt;");
const element = (tag, attributes = {}, text = "") => {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  made.textContent = text;
  return made;
};

// ---------------------------------------------------------------------------------------------------- what is shown

const isWord = (value) => typeof value === "string";

function shownSeries(figure, panel) {
  const found = [];
  for (const series of figure.series) {
    if (series.panel !== panel || figure.off.has(series.label)) continue;
    const filters = Object.entries(series.filters);
    if (!filters.every(([name, value]) => Array.isArray(value) || passes(name, value))) continue;
    const each = filters.filter(([, value]) => Array.isArray(value));
    const kept = [];
    for (let i = 0; i < series.x.length; i++)
      if (each.every(([name, values]) => passes(name, values[i]))) kept.push(i);
    if (kept.length) found.push({ series, kept });
  }
  return found;
}

function shownGrids(figure, panel) {
  return figure.grids.filter(
    (grid) => grid.panel === panel && Object.entries(grid.filters).every(([name, value]) => passes(name, value)),
  );
}

const wordShown = (figure, word) => !figure.off.has(word) && passes("method", word);

// ----------------------------------------------------------------------------------------------------------- drawing

const MANY = 20; // points of a line beyond which no more than some are marked
const HOVER_NUMBER = ":,.4~r";
const decades = (range) => Math.abs(range[1] - range[0]);
const logStep = (range) => (decades(range) > 2.5 ? 1 : decades(range) > 0.7 ? "D2" : null);

// The outer edges of a matrix's cells; plotly puts an edge half-way between two places, on the axis' own scale.
function edges(lists, log) {
  const ends = lists.map((list) => {
    const places = log ? list.map(Math.log10) : list;
    const last = places.length - 1;
    if (last < 1) return [places[0] - 0.5, places[0] + 0.5];
    return [places[0] - (places[1] - places[0]) / 2, places[last] + (places[last] - places[last - 1]) / 2];
  });
  return [Math.min(...ends.map((end) => end[0])), Math.max(...ends.map((end) => end[1]))];
}

function extent(figure, axis, shown) {
  if (figure.kind === "heat")
    return edges(
      figure.grids.map((grid) => grid[axis]),
      axis === "x" ? figure.xLog : figure.yLog,
    );
  let low = Infinity,
    high = -Infinity;
  const log = axis === "x" ? figure.xLog : figure.yLog;
  const sums = new Map();
  for (const [panel, list] of shown)
    for (const { series, kept } of list)
      for (const i of kept) {
        let value = series[axis][i];
        if (value === null || isWord(value) || (log && value <= 0)) continue;
        if (figure.kind === "bars") low = Math.min(low, 0);
        if (figure.stacked) {
          const key = panel + "\n" + series[axis === "x" ? "y" : "x"][i];
          value += sums.get(key) || 0;
          sums.set(key, value);
        }
        low = Math.min(low, value);
        high = Math.max(high, value);
      }
  if (low > high) return null;
  if (log) {
    const [a, b] = [Math.log10(low), Math.log10(high)];
    const pad = axis === "x" && figure.kind === "line" ? 0.02 : 0.06;
    return [a - pad * Math.max(b - a, 0.5), b + pad * Math.max(b - a, 0.5)];
  }
  if (figure.kind === "bars") return [low === 0 ? 0 : 1.05 * low, figure.stacked ? high : 1.05 * high];
  const pad = 0.05 * (high - low || Math.abs(high) || 1);
  return [low >= 0 && low < 0.35 * high && axis === "y" ? 0 : low - pad, high + pad];
}

function axisOf(figure, axis, range, categories, theme) {
  const log = axis === "x" ? figure.xLog : figure.yLog;
  const words = categories.length > 0;
  const made = {
    automargin: true,
    zeroline: false,
    fixedrange: words,
    linecolor: theme.line,
    tickfont: { size: 13, color: theme.soft },
    gridcolor: theme.grid,
    showgrid: !words,
    tickformat: words ? undefined : ",.4~r",
    hoverformat: ",.4~r",
    ticklen: words ? 0 : 4,
    tickcolor: theme.line,
    showline: axis === "x" && !words,
    nticks: axis === "x" ? 6 : 7,
  };
  const places =
    figure.kind === "points" && axis === "y"
      ? { type: "linear", tickmode: "array", tickvals: categories.map((_, i) => i), ticktext: categories.map(safe) }
      : { type: "category", categoryorder: "array", categoryarray: categories };
  if (words)
    Object.assign(made, places, {
      autorange: false,
      range: axis === "y" ? [categories.length - 0.45, -0.55] : [-0.55, categories.length - 0.45],
      tickfont: { size: 13, color: theme.ink },
      ticklabelstandoff: 6,
    });
  else if (range)
    Object.assign(made, { type: log ? "log" : "linear", range: [...range], dtick: log ? logStep(range) : undefined });
  if (axis === "x" && figure.xLabel)
    made.title = { text: safe(figure.xLabel), font: { size: 13, color: theme.soft }, standoff: 10 };
  return made;
}

function tracesOf(figure, { series, kept }, place, theme) {
  const look = data.looks[series.label];
  const tone = colour(`--look-${look.number}`);
  const pick = (list) => kept.map((i) => list[i]);
  const open = kept.map((i) => Boolean(series.hollow && series.hollow[i]));
  const lines = kept.map(
    (i, k) =>
      (series.text && series.text[i] ? "<br>" + safe(series.text[i]).replace(/\n/g, "<br>") : "") +
      (open[k] ? "<br><i>not verified</i>" : ""),
  );
  const template = (axis, label) => {
    const value = !isWord(series[axis][0]) ? axis + HOVER_NUMBER : axis === "y" ? "customdata[1]" : axis;
    return `<br>${label ? safe(label) + ": " : ""}%{${value}}`;
  };
  const trace = {
    name: series.label,
    x: pick(series.x),
    y: pick(series.y),
    customdata: kept.map((i, k) => [lines[k], series.y[i]]),
    hovertemplate:
      `<b>${safe(series.label)}</b>${template("x", figure.xLabel)}${template("y", figure.yLabel)}` +
      "%{customdata[0]}<extra></extra>",
  };
  const fill = open.map((hollow) => (hollow ? theme.paper : tone));
  if (figure.kind === "bars") {
    return [
      {
        ...trace,
        type: "bar",
        orientation: isWord(series.y[0]) ? "h" : "v",
        marker: {
          color: fill,
          line: { color: open.some(Boolean) ? tone : theme.paper, width: open.map((hollow) => (hollow ? 1.5 : 0.5)) },
          pattern: {
            shape: look.hatch,
            fgcolor: open.map((hollow) => (hollow ? tone : theme.paper)),
            fillmode: "overlay",
            size: 6,
            solidity: 0.22,
          },
        },
      },
    ];
  }
  const size = figure.kind === "points" ? (look.strong ? 10 : Math.max(13 - 1.5 * place, 8)) : look.strong ? 8 : 7;
  const marked = (list) => ({
    symbol: look.shape,
    color: list.map((k) => fill[k]),
    opacity: 1,
    size,
    line: { color: list.map((k) => (open[k] ? tone : theme.paper)), width: list.map((k) => (open[k] ? 1.8 : 1)) },
  });
  const all = kept.map((i, k) => k);
  const scatter = {
    ...trace,
    type: "scatter",
    mode: figure.kind === "line" ? "lines+markers" : "markers",
    connectgaps: false,
    line: { color: tone, dash: look.dash, width: look.strong ? 3 : 2 },
    cliponaxis: figure.kind === "line",
  };
  if (figure.kind !== "line" || kept.length <= MANY) return [{ ...scatter, marker: marked(all) }];
  // On a long line some points are marked, other ones for each series, and all that are not verified.
  const sure = all.filter((k) => !open[k]);
  const every = Math.max(1, Math.floor(sure.length / 8));
  const marks = new Set(sure.filter((k, i) => i % every === (3 * place) % every));
  const some = all.filter((k) => open[k] || marks.has(k));
  return [
    { ...scatter, mode: "lines" },
    {
      type: "scatter",
      mode: "markers",
      hoverinfo: "skip",
      marker: marked(some),
      x: some.map((k) => trace.x[k]),
      y: some.map((k) => trace.y[k]),
    },
  ];
}

function heatTrace(figure, grid, theme) {
  const base = { type: "heatmap", x: grid.x, y: grid.y, hoverongaps: false, xgap: 0, ygap: 0 };
  const place = (axis, label) => `<br>${safe(label)}: %{${axis}${HOVER_NUMBER}}`;
  const places = place("x", figure.xLabel) + place("y", figure.yLabel) + "<extra></extra>";
  if (!grid.words.length) {
    const all = figure.grids.flatMap((one) => one.z.flat()).filter((value) => value !== null); // panels compare
    const [zmin, zmax] = all.reduce(
      ([low, high], value) => [Math.min(low, value), Math.max(high, value)],
      [Infinity, -Infinity],
    );
    return {
      ...base,
      z: grid.z,
      zmin,
      zmax,
      colorscale: [
        [0, theme.low],
        [1, theme.high],
      ],
      hovertemplate: `<b>%{z${HOVER_NUMBER}}</b> ${safe(figure.zLabel)}` + places,
      colorbar: {
        title: { text: safe(figure.zLabel), side: "right", font: { size: 13, color: theme.soft } },
        thickness: 10,
        outlinewidth: 0,
        tickfont: { size: 13, color: theme.soft },
        tickformat: ",.3~r",
        len: 1,
        ypad: 0,
      },
    };
  }
  const scale = [];
  const count = grid.words.length;
  grid.words.forEach((word, i) => {
    const tone = colour(`--look-${data.looks[word].number}`);
    scale.push([i / count, tone], [(i + 1) / count, tone]);
  });
  const z = grid.z.map((row) =>
    row.map((place) => (place === null || !wordShown(figure, grid.words[place]) ? null : place)),
  );
  return {
    ...base,
    z,
    text: z.map((row) => row.map((place) => (place === null ? "" : safe(grid.words[place])))),
    zmin: -0.5,
    zmax: count - 0.5,
    colorscale: scale,
    showscale: false,
    hovertemplate: "<b>%{text}</b>" + places,
  };
}

function notesOf(figure, panel, categories, theme) {
  return figure.notes
    .filter((note) => note.panel === panel && categories.includes(note.at))
    .map((note) => ({
      xref: "paper",
      x: 1,
      xanchor: "left",
      xshift: 10,
      yref: "y",
      y: categories.indexOf(note.at),
      text: safe(note.text),
      showarrow: false,
      font: { size: 13, color: theme.ink },
    }));
}

// Names of a matrix's areas, each at its deepest point, in a box that can be read on any colour.
function areaNames(figure, grids, width, theme) {
  const fits = (name) => name.span * (width - 75) > 8 * name.word.length + 8;
  return grids.flatMap((grid) =>
    grid.names
      .filter((name) => wordShown(figure, name.word) && fits(name))
      .map((name) => ({
        x: figure.xLog ? Math.log10(name.x) : name.x,
        y: figure.yLog ? Math.log10(name.y) : name.y,
        text: safe(name.word),
        showarrow: false,
        font: { size: 13, color: theme.ink },
        bgcolor: theme.paper,
        borderpad: 3,
        opacity: 0.92,
      })),
  );
}

// How far each point moves off its category, in rows, so that none hides another at the same place.
function lifts(figure, list, range) {
  const scale = (value) => (figure.xLog ? Math.log10(value) : value);
  const near = 0.035 * (range[1] - range[0]);
  const found = new Map(list.map(({ series, kept }) => [series, kept.map(() => 0)]));
  const rows = new Map();
  for (const { series, kept } of list)
    kept.forEach((i, k) => {
      if (series.x[i] === null) return;
      if (!rows.has(series.y[i])) rows.set(series.y[i], []);
      rows.get(series.y[i]).push({ at: scale(series.x[i]), series, k });
    });
  for (const row of rows.values()) {
    row.sort((a, b) => a.at - b.at);
    let group = [];
    for (const point of [...row, { at: Infinity }]) {
      if (group.length && point.at - group[group.length - 1].at > near) {
        const step = Math.min(0.28, 0.5 / Math.max(group.length - 1, 1));
        group.forEach(({ series, k }, number) => {
          found.get(series)[k] = step * (number - (group.length - 1) / 2);
        });
        group = [];
      }
      group.push(point);
    }
  }
  return found;
}

function connectors(panelShown, categories, theme) {
  return categories.flatMap((category) => {
    const values = panelShown.flatMap(({ series, kept }) =>
      kept.filter((i) => series.y[i] === category && series.x[i] !== null).map((i) => series.x[i]),
    );
    if (values.length < 2) return [];
    return [
      {
        type: "line",
        layer: "below",
        x0: Math.min(...values),
        x1: Math.max(...values),
        y0: categories.indexOf(category),
        y1: categories.indexOf(category),
        line: { color: theme.line, width: 2 },
      },
    ];
  });
}
