// Draws a page from the report in it. No network: Chart.js stands above in the same file.
"use strict";
(() => {
  const report = JSON.parse(document.getElementById("report").textContent);
  const main = document.querySelector("main");
  const colours = {
    computation: "#0072b2", bubble: "#c9ced4", "exposed all-to-alls": "#d55e00",
    "exposed gathers": "#e69f00", "step's end": "#009e73", waiting: "#cc79a7",
    parameters: "#0072b2", gradients: "#56b4e9", optimizer: "#009e73", activations: "#e69f00",
    passing: "#d55e00", reserve: "#c9ced4",
  };
  const cellColours = ["#0072b2", "#d55e00", "#e69f00", "#009e73", "#cc79a7"];
  Chart.defaults.animation = false;
  Chart.defaults.maintainAspectRatio = false;
  Chart.defaults.font.family = "system-ui, sans-serif";

  // --- elements
  function add(parent, tag, text, attributes = {}) {
    const e = document.createElement(tag);
    if (text !== undefined) e.textContent = text;
    for (const [k, v] of Object.entries(attributes)) e.setAttribute(k, v);
    parent.append(e);
    return e;
  }
  function section(title, note) {
    const s = add(main, "section");
    add(s, "h2", title);
    if (note) add(s, "p", note, {class: "note"});
    return s;
  }
  function canvas(parent, id, label, wide) {
    const box = add(parent, "div", undefined, {class: wide ? "chart wide" : "chart"});
    return add(box, "canvas", undefined, {id, role: "img", "aria-label": label});
  }
  function tiles(parent, list) {
    const box = add(parent, "div", undefined, {class: "tiles"});
    for (const [label, value] of list) {
      const t = add(box, "div", undefined, {class: "tile"});
      add(t, "b", value);
      add(t, "span", label);
    }
  }

  // --- figures
  const gb = (bytes) => bytes * 1e-9;
  const fixed = (x, n) => (x === null || x === undefined ? "-" : x.toFixed(n));
  const percent = (x) => `${(100 * x).toFixed(1)}%`;
  const signed = (x) => (x > 0 ? "+" : "") + percent(x);
  function seconds(x) {
    if (x === 0) return "0 s";
    if (x >= 0.9995) return `${x.toPrecision(4)} s`;
    return x >= 0.9995e-3 ? `${(1e3 * x).toPrecision(4)} ms` : `${(1e6 * x).toPrecision(3)} µs`;
  }
  function thousands(x) {
    return x.toLocaleString("en-US", {maximumFractionDigits: 0});
  }
  // A figure of a report by its key, which tells its unit: times, signed ones, signed shares, and
  // counts.
  function figure(x, key) {
    if (key === "difference_s") return (x < 0 ? "-" : "+") + seconds(Math.abs(x));
    if (key.endsWith("_s")) return seconds(x);
    if (key === "error") return signed(x);
    return Number.isInteger(x) ? thousands(x) : x.toPrecision(4);
  }

  // --- a table that sorts and filters
  // columns: {key, head, text, value(row), show(row), class(row)}.
  function table(parent, id, columns, rows, onChoose) {
    const box = add(parent, "div", undefined, {class: "scroll"});
    const t = add(box, "table", undefined, {id});
    const head = add(add(t, "thead"), "tr");
    const body = add(t, "tbody");
    let by = null, down = false, kept = () => true, chosen = null;
    const heads = columns.map((c) => {
      const th = add(head, "th", undefined, {"aria-sort": "none", scope: "col"});
      if (c.text) th.className = "text";
      const button = add(th, "button", c.head, {type: "button", title: c.title || `sort by ${c.head}`});
      button.addEventListener("click", () => {
        down = by === c ? !down : false;
        by = c;
        heads.forEach((h) => h.setAttribute("aria-sort", "none"));
        th.setAttribute("aria-sort", down ? "descending" : "ascending");
        draw();
      });
      return th;
    });
    function draw() {
      const shown = rows.filter(kept);
      if (by) {
        shown.sort((a, b) => {
          const x = by.value(a), y = by.value(b);
          const order = typeof x === "string" ? x.localeCompare(y) : x - y;
          return down ? -order : order;
        });
      }
      body.replaceChildren();
      for (const row of shown) {
        const tr = add(body, "tr");
        for (const c of columns) {
          const td = add(tr, "td", c.show(row));
          td.className = `${c.text ? "text" : ""} ${c.class ? c.class(row) : ""}`.trim();
        }
        if (!onChoose) continue;
        tr.className = "choice";
        tr.tabIndex = 0;
        tr.setAttribute("aria-selected", row === chosen);
        const choose = () => {
          chosen = row;
          draw();
          onChoose(row);
        };
        tr.addEventListener("click", choose);
        tr.addEventListener("keydown", (e) => e.key === "Enter" && choose());
      }
      return shown.length;
    }
    return {
      draw,
      filter(f) { kept = f; return draw(); },
      choose(row) { chosen = row; draw(); onChoose(row); },
    };
  }

  // --- charts
  const charts = new Map();
  function chart(id, config) {
    charts.get(id)?.destroy();
    charts.set(id, new Chart(document.getElementById(id), config));
  }
  // parts: name -> value for each label; stacked to the right.
  function stacked(id, labels, parts, unit, onClick) {
    chart(id, {
      type: "bar",
      data: {
        labels,
        datasets: Object.entries(parts).filter(([, data]) => data.some((x) => x > 0)).map(
            ([label, data]) => ({label, data, backgroundColor: colours[label] || "#777"})),
      },
      options: {
        indexAxis: "y",
        onClick: (e, hit) => hit.length && onClick && onClick(hit[0].index),
        scales: {x: {stacked: true, title: {display: true, text: unit}},
                 y: {stacked: true, ticks: {autoSkip: labels.length > 40}}},
        plugins: {tooltip: {callbacks: {
          label: (c) => `${c.dataset.label}: ${c.parsed.x.toPrecision(4)} ${unit}`}}},
      },
    });
  }
  // Cells of pipeline ranks: flat, six numbers each (rank, kind, micro-batch forward and backward
  // or -1, begin and length in microseconds). end: where the axis ends, in microseconds; default:
  // where its ticks do.
  function timeline(id, cells, kinds, end) {
    const sets = kinds.map((label, i) => (
        {label, data: [], backgroundColor: cellColours[i], borderWidth: 0.5, borderColor: "#fff",
         barPercentage: 1, categoryPercentage: 0.9, grouped: false}));
    let ranks = 0;
    for (let i = 0; i < cells.length; i += 6) {
      const [rank, kind, forward, backward, begin, length] = cells.slice(i, i + 6);
      ranks = Math.max(ranks, rank + 1);
      const of = [forward >= 0 ? `F${forward}` : "", backward >= 0 ? `B${backward}` : ""].join(" ");
      sets[kind].data.push({x: [begin / 1e3, (begin + length) / 1e3], y: `${rank}`, of: of.trim()});
    }
    chart(id, {
      type: "bar",
      data: {labels: Array.from({length: ranks}, (_, r) => `${r}`),
             datasets: sets.filter((s) => s.data.length > 0)},
      options: {
        indexAxis: "y",
        parsing: {xAxisKey: "x", yAxisKey: "y"},
        scales: {x: {title: {display: true, text: "ms"}, beginAtZero: true,
                     ...(end ? {max: end / 1e3} : {})},
                 y: {title: {display: true, text: "pipeline rank"}}},
        plugins: {tooltip: {callbacks: {label: (c) => {
          const [b, e] = c.raw.x;
          return `${c.dataset.label} ${c.raw.of}: ${seconds((e - b) / 1e3)} from ${seconds(b / 1e3)}`;
        }}}},
      },
    });
  }
  function bars(id, labels, values, text) {
    chart(id, {
      type: "bar",
      data: {labels, datasets: [{label: text, data: values,
        backgroundColor: values.map((v) => (v < 0 ? "#009e73" : "#d55e00"))}]},
      options: {indexAxis: "y", plugins: {legend: {display: false}},
                scales: {x: {title: {display: true, text}}}},
    });
  }
  const stepParts = (rows) => {
    const of = (f) => rows.map((r) => f(r) * r.step_time_s);
    const busy = (r) => 1 - r.bubble_fraction - r.exposed_comm_fraction -
        r.exposed_shared_fraction - r.optimizer_fraction;
    return {computation: of(busy), bubble: of((r) => r.bubble_fraction),
            "exposed all-to-alls": of((r) => r.exposed_comm_fraction),
            "exposed gathers": of((r) => r.exposed_shared_fraction),
            "step's end": of((r) => r.optimizer_fraction)};
  };
  const memoryKinds = ["parameters", "gradients", "optimizer", "activations", "passing", "reserve"];

  // --- pages
  const shortText = (l) => ["pp", "ep", "etp", "tp", "cp"].filter((k) => l[k] > 1 || k === "pp")
      .map((k) => `${k.toUpperCase()}${l[k]}`).join(" ") +
      ` ${l.schedule}${l.chunks > 1 ? `x${l.chunks}` : ""} ${l.microbatches}x${l.micro_batch_size} Z${l.zero}`;

  function planPage() {
    const rows = report.best;
    const first = rows[0];
    tiles(main, [
      ["legal layouts screened", thousands(report.layouts_legal)],
      ["fit in memory", thousands(report.layouts_fit)],
      ["simulated", thousands(report.layouts_simulated)],
      ["fastest step", seconds(first.step_time_s)],
      ["GPU-hours per 10¹² tokens", thousands(first.gpu_hours_per_trillion)],
      ["tied with the first", thousands(report.tied)],
    ]);
    const s = section("Layouts", "Click a heading to sort, a row to see its memory and timeline below. " +
        "MFU: layers and head, causal attention, of the BF16 peak. DP is what the GPUs leave; Z: ZeRO stage.");
    const controls = add(s, "div", undefined, {class: "controls"});
    const search = add(controls, "input", undefined,
        {type: "search", id: "filter", placeholder: "filter, such as: pp16 dualpipe fits", "aria-label": "filter"});
    const runnable = add(add(controls, "label", "runnable only "), "input", undefined, {type: "checkbox", id: "runnable"});
    const count = add(controls, "span", "", {id: "count"});
    const col = (head, value, show, more = {}) => ({head, value, show: (r) => show(value(r)), ...more});
    const columns = [
      col("#", (r) => r.rank, (x) => `${x}`),
      col("layout", (r) => shortText(r.layout), (x) => x, {text: true}),
      col("GPUs", (r) => r.gpus, thousands),
      {head: "step", value: (r) => r.step_time_s, show: (r) => fixed(r.step_time_s, 2), title: "seconds"},
      {head: "90%", value: (r) => r.interval_s[0],
       show: (r) => `${fixed(r.interval_s[0], 1)}–${fixed(r.interval_s[1], 1)}${r.tied ? " =" : ""}`},
      col("tok/s", (r) => r.tokens_per_s_per_gpu, (x) => fixed(x, 0), {title: "tokens per second and GPU"}),
      col("MFU", (r) => r.mfu_causal, percent),
      col("exposed", (r) => r.exposed_comm_fraction + r.exposed_shared_fraction, percent),
      col("bubble", (r) => r.bubble_fraction, percent),
      col("GB", (r) => gb(r.memory_bytes), (x) => fixed(x, 1), {title: "of the fullest rank"}),
      col("memory", (r) => r.memory_verdict, (x) => x,
          {text: true, class: (r) => (r.memory_verdict === "fits" ? "" : r.memory_verdict)}),
      col("h/Ttok", (r) => r.gpu_hours_per_trillion, thousands, {title: "GPU-hours per 10¹² tokens"}),
      col("days", (r) => r.days ?? 0, (x) => (x ? fixed(x, 1) : "-")),
      col("limited by", (r) => r.limited_by, (x) => x, {text: true}),
    ];
    const detail = (row) => {
      document.getElementById("chosen").textContent =
          `Layout ${row.rank}: ${shortText(row.layout)}, recompute ${row.layout.recompute}, stages ` +
          `${row.layout.layers_per_stage.join(",")}${row.runnable ? "" : " — simulate only"}`;
      document.getElementById("command").textContent = row.command;
      const cells = report.timelines?.[row.rank - 1];
      const box = document.getElementById("timeline").parentElement;
      box.hidden = !cells;
      document.getElementById("timeline-note").textContent = cells
          ? cells.note : "Timelines are in this page for the first layouts only: see --show.";
      if (cells) timeline("timeline", cells.cells, report.cell_kinds);
      stacked("memory-one", ["fullest rank"],
          Object.fromEntries(memoryKinds.map((k) => [k, [gb(row.memory_by_kind_bytes[k])]])), "GB");
    };
    const t = table(s, "layouts", columns, rows, detail);
    const refilter = () => {
      const words = search.value.toLowerCase().split(/\s+/).filter(Boolean);
      const n = t.filter((r) => (!runnable.checked || r.runnable) && words.every((w) =>
        `${shortText(r.layout)} ${r.layout.recompute} ${r.memory_verdict} ${r.limited_by} ${r.gpus}gpus`
            .toLowerCase().includes(w)));
      count.textContent = `${n} of ${rows.length}`;
    };
    search.addEventListener("input", refilter);
    runnable.addEventListener("change", refilter);

    const c = section("The chosen layout");
    add(c, "p", "", {id: "chosen"});
    add(add(c, "p", "again: "), "code", "", {id: "command"});
    canvas(c, "memory-one", "memory of the fullest rank by kind").parentElement.style.height = "9rem";
    add(c, "p", "", {id: "timeline-note", class: "note"});
    canvas(c, "timeline", "cells of every pipeline rank over time", true);

    const o = section("Memory against time");
    const grid = add(o, "div", undefined, {class: "charts"});
    canvas(grid, "pareto", "memory against step time");
    canvas(grid, "memory", "memory by kind");
    canvas(grid, "parts", "what the step goes to");
    if (report.sensitivities) canvas(grid, "sensitivities", "sensitivities");
    const pareto = report.pareto || [];
    const near = pareto.filter((p) => gb(p.memory_bytes) < 2.5 * gb(report.device_memory_bytes) &&
                                      p.estimated_s < 4 * first.step_time_s);
    chart("pareto", {
      type: "scatter",
      data: {datasets: [
        {label: "simulated", data: rows.map((r) => ({x: gb(r.memory_bytes), y: r.step_time_s, text: shortText(r.layout)})),
         backgroundColor: "#0072b2"},
        {label: "no other needs less and is faster (formulas)", showLine: true, borderColor: "#d55e00",
         data: near.map((p) => ({x: gb(p.memory_bytes), y: p.estimated_s, text: shortText(p.layout)})),
         backgroundColor: "#d55e00"},
        {label: "what a device has", type: "line", borderColor: "#777", borderDash: [6, 4], pointRadius: 0,
         data: [{x: gb(report.device_memory_bytes), y: 0},
                {x: gb(report.device_memory_bytes), y: Math.max(...near.map((p) => p.estimated_s), first.step_time_s)}]},
      ]},
      options: {scales: {x: {title: {display: true, text: "GB of the fullest rank"}},
                         y: {title: {display: true, text: "step, s"}}},
                plugins: {tooltip: {callbacks: {label: (p) => p.raw.text
                    ? `${p.raw.text}: ${p.raw.x.toFixed(1)} GB, ${seconds(p.raw.y)}` : ""}}}},
    });
    const top = rows.slice(0, 12);
    const labels = top.map((r) => `${r.rank} ${shortText(r.layout)}`);
    stacked("memory", labels, Object.fromEntries(memoryKinds.map(
        (k) => [k, top.map((r) => gb(r.memory_by_kind_bytes[k]))])), "GB", (i) => t.choose(top[i]));
    stacked("parts", labels, stepParts(top), "s", (i) => t.choose(top[i]));
    if (report.sensitivities) {
      const known = report.sensitivities.filter((x) => x.slope !== null);
      bars("sensitivities", known.map((x) => x.knob), known.map((x) => x.slope),
           "per cent of the step for one per cent of the knob (first layout)");
    }
    for (const w of report.what_ifs || []) {
      add(o, "p", `What if: ${w.what}: ${seconds(w.step_time_s)}.`);
    }
    if (report.not_modelled) {
      const n = section("What this rests on");
      const list = add(n, "ul");
      for (const line of report.not_modelled) add(list, "li", line);
    }
    refilter();
    t.choose(first);
  }

  function simulatePage() {
    tiles(main, [
      [report.calibrated === false ? "step, uncalibrated" : "step", seconds(report.step_time_s)],
      ["90% interval", report.interval_s[0] < report.interval_s[1]
          ? report.interval_s.map(seconds).join(" – ") : "not known"],
      ["tokens per second", thousands(report.tokens_per_s)],
      ["bubble", percent(report.bubble_fraction)],
      ["exposed communication", percent(report.exposed_comm_fraction)],
      ["fits in memory", report.fits_memory ? "yes" : "no"],
    ]);
    const s = section("Timeline", report.timeline.note);
    canvas(s, "timeline", "cells of every pipeline rank over time", true);
    timeline("timeline", report.timeline.cells, report.cell_kinds);
    const g = add(section("By pipeline rank"), "div", undefined, {class: "charts"});
    canvas(g, "parts", "what each rank's step goes to");
    canvas(g, "memory", "memory of each rank by kind");
    const ranks = report.breakdown_ranks_s;
    const keys = Object.keys(ranks[0] || {});
    stacked("parts", ranks.map((_, i) => `${i}`),
            Object.fromEntries(keys.map((k, i) => [nameOf(k, i), ranks.map((r) => r[k])])), "s");
    stacked("memory", report.memory_bytes.map((_, i) => `${i}`), Object.fromEntries(memoryKinds.map(
        (k) => [k, report.memory_bytes.map((r) => gb(r[k] || 0))])), "GB");
    sortable(main, "ranks", ranks, seconds, "rank");
  }
  const partColours = ["#0072b2", "#56b4e9", "#009e73", "#e69f00", "#d55e00", "#cc79a7", "#f0e442", "#c9ced4"];
  function nameOf(key, i) {
    const name = key.replace(/_s$/, "").replaceAll("_", " ");
    colours[name] = colours[name] || partColours[i % partColours.length];
    return name;
  }
  // Rows of equal objects as a table that sorts and filters. show(value, key).
  function sortable(parent, id, rows, show, first) {
    if (!rows || rows.length === 0) return;
    const controls = add(parent, "div", undefined, {class: "controls"});
    const search = add(controls, "input", undefined,
        {type: "search", id: `${id}-filter`, placeholder: `filter by ${first}`, "aria-label": "filter"});
    const withIndex = rows.map((r, i) => ({"": r[""] ?? `${i}`, ...r}));
    const keys = Object.keys(withIndex[0]).filter((k) => k !== "");
    const numeric = (k) => typeof rows[0][k] === "number";
    const t = table(parent, id, [
      {head: first, text: true, value: (r) => (isNaN(+r[""]) ? r[""] : +r[""]), show: (r) => r[""]},
      ...keys.map((k) => ({head: k.replace(/_s$/, "").replaceAll("_", " "), text: !numeric(k),
        value: (r) => r[k] ?? 0, show: (r) => (typeof r[k] === "number" ? show(r[k], k) : r[k] ?? "-")}))], withIndex);
    search.addEventListener("input", () => t.filter((r) => r[""].includes(search.value)));
    t.draw();
  }

  // What a reader must know before any figure.
  function warnings() {
    for (const text of report.warnings || []) {
      add(main, "p", `Warning: ${text}.`, {class: "warning", role: "alert"});
    }
  }

  function comparePage() {
    warnings();
    const predicted = report.calibrated === false ? "predicted, uncalibrated" : "predicted";
    tiles(main, [
      [`step ${predicted}`, seconds(report.step_time_predicted_s)],
      ["step measured", seconds(report.step_time_measured_s)],
      ["error of the step", signed(report.step_time_error)],
      ["median error of ops", signed(report.op_time_error_median)],
      ["mean absolute error of ops", percent(report.op_time_error_mean_abs)],
      [`bubble ${predicted}`, percent(report.bubble_predicted)],
      ["bubble measured", percent(report.bubble_measured)],
    ]);
    add(main, "p", "Error: predicted / measured - 1, below 0 where the prediction is too short. " +
        "Difference: measured - predicted. -: nothing was measured.", {class: "note"});
    const s = section("Timelines", `Above as ${predicted}, below as measured, on the same time axis.`);
    canvas(s, "predicted", `${predicted} cells`, true);
    canvas(s, "measured", "measured cells", true);
    const end = 1e6 * Math.max(report.step_time_predicted_s, report.step_time_measured_s);
    timeline("predicted", report.timelines[0].cells, report.cell_kinds, end);
    timeline("measured", report.timelines[1].cells, report.cell_kinds, end);
    const named = (pairs) => Object.entries(pairs || {}).map(([name, r]) => ({"": name, ...r}));
    for (const [title, key, note] of [
      ["Ops by kind", "ops_by_kind", "Times of all ops of a kind, summed over ranks; ops: how many."],
      ["Phases", "phases", "Mean over ranks."], ["Compute lane", "compute_lane", "Mean over ranks."],
      ["Ranks", "ranks", "Each rank's compute lane."]]) {
      const rows = Array.isArray(report[key]) ? report[key] : named(report[key]);
      if (rows.length) sortable(section(title, note), key.replaceAll("_", "-"), rows, figure, title.toLowerCase());
    }
  }

  // A matrix of colours. m: {rows, columns, values}; label(row, column, value) tells of one.
  function heatmap(id, m, {x, y, most, label}) {
    const c = document.getElementById(id);
    const left = 46, bottom = 34, top = 8;
    let right = 4;
    const some = (n) => new Set([0, 1, 2, 3, 4].map((i) => Math.round((i * (n - 1)) / 4)));
    const column = (k) => `${label.column ? label.column(k) : k}`;
    const draw = () => {
      const ratio = window.devicePixelRatio || 1;
      const width = c.parentElement.clientWidth, height = c.parentElement.clientHeight;
      c.width = width * ratio;
      c.height = height * ratio;
      c.style.width = `${width}px`;
      c.style.height = `${height}px`;
      const g = c.getContext("2d");
      g.scale(ratio, ratio);
      g.font = "12px system-ui, sans-serif";
      // The last column's number is wider than the column.
      right = 2 + Math.ceil(g.measureText(column(m.columns - 1)).width / 2);
      const w = (width - left - right) / m.columns, h = (height - top - bottom) / m.rows;
      for (let r = 0; r < m.rows; r++) {
        for (let k = 0; k < m.columns; k++) {
          const of = Math.min(1, m.values[r * m.columns + k] / most);
          g.fillStyle = `hsl(${205 + 15 * of} 75% ${97 - 72 * of}%)`;
          g.fillRect(left + k * w, top + r * h, w + 0.5, h + 0.5);
        }
      }
      g.fillStyle = getComputedStyle(document.body).color;
      g.textAlign = "center";
      g.fillText(x, left + (m.columns * w) / 2, height - 4);
      for (const k of some(m.columns)) g.fillText(column(k), left + (k + 0.5) * w, height - bottom + 14);
      g.textAlign = "right";
      for (const r of some(m.rows)) {
        g.fillText(`${label.row ? label.row(r) : r}`, left - 4, top + (r + 0.5) * h + 4);
      }
      g.save();
      g.translate(11, top + (m.rows * h) / 2);
      g.rotate(-Math.PI / 2);
      g.textAlign = "center";
      g.fillText(y, 0, 0);
      g.restore();
    };
    c.addEventListener("mousemove", (e) => {
      const k = Math.floor(((e.offsetX - left) / (c.clientWidth - left - right)) * m.columns);
      const r = Math.floor(((e.offsetY - top) / (c.clientHeight - top - bottom)) * m.rows);
      const inside = r >= 0 && k >= 0 && r < m.rows && k < m.columns;
      c.title = inside ? label.cell(r, k, m.values[r * m.columns + k]) : "";
    });
    window.addEventListener("resize", draw);
    draw();
  }

  function replayPage() {
    tiles(main, [
      ...(report.step_time_s === undefined ? [] : [
        ["step", seconds(report.step_time_s)],
        ["with balanced routing", seconds(report.step_time_balanced_s)],
        ["lost to imbalance", percent(report.lost_to_imbalance)],
        ["waiting in all-to-alls", percent(report.exchange_wait_fraction)],
      ]),
      ["hottest expert over the mean", fixed(Math.max(...report.layers.map((l) => l.load_max_over_mean)), 2)],
      ["placement", report.placement],
    ]);
    const lost = (l) => 3e3 * (l.experts_s - l.experts_of_mean_rank_s);
    const s = section("Layers", "Click a heading to sort. Loads: tokens of experts over their mean; rank: rows of the " +
        "fullest rank of an EP group over the mean; bytes: of a step, all ranks; times: of a micro-batch, forward, " +
        "busiest port and fullest rank; lost: a micro-batch's experts, forward and backward, to the mean rank.");
    const number = (head, value, digits, title) => ({head, value, show: (r) => fixed(value(r), digits), title});
    table(s, "layers", [
      number("layer", (l) => l.layer, 0),
      number("max", (l) => l.load_max_over_mean, 2), number("p99", (l) => l.load_p99_over_mean, 2),
      number("p50", (l) => l.load_p50_over_mean, 2), number("Gini", (l) => l.gini, 3),
      number("rank", (l) => l.rank_load_max_over_mean, 3),
      {head: "fullest", value: (l) => l.fullest_rank,
       show: (l) => `${l.fullest_rank} (${percent(l.fullest_rank_share)})`, title: "which, and how often"},
      number("IB GB", (l) => gb(l.ib_bytes), 2), number("NVLink GB", (l) => gb(l.nvlink_bytes), 2),
      number("port", (l) => l.busiest_link_over_mean, 2, "busiest port over the mean"),
      number("dispatch ms", (l) => 1e3 * l.dispatch_s, 3), number("combine ms", (l) => 1e3 * l.combine_s, 3),
      number("experts ms", (l) => 1e3 * l.experts_s, 3), number("lost ms", lost, 3),
    ], report.layers).draw();
    const of = (l) => report.layer_numbers[l];
    const e = section("Experts", "Tokens of every expert over its layer's mean, over the whole trace: white none, dark twice " +
        "the mean and more. Point at a place to read it.");
    canvas(e, "experts", "load of every expert of every layer", true).parentElement.style.height =
        `${Math.min(30, 5 + 2 * report.expert_load.rows)}rem`;
    heatmap("experts", report.expert_load, {x: "expert", y: "layer", most: 2, label: {
      row: of, cell: (r, k, v) => `layer ${of(r)}, expert ${k}: ${v} of the mean`}});
    const grid = add(section("Over time and between ranks",
        "Left: each step's hottest expert over the mean, by layer. Right: bytes of a step's all-to-alls from " +
        `${report.traffic_between} (down) to ${report.traffic_between} (across) of an EP group.`), "div", undefined, {class: "charts"});
    canvas(grid, "over-time", "hottest expert by step");
    canvas(grid, "traffic", "bytes between ranks");
    const layerColour = (l) => `hsl(${215 - (195 * l) / Math.max(1, report.load_over_time.rows - 1)} 70% 45%)`;
    chart("over-time", {
      type: "line",
      data: {labels: report.step_numbers, datasets: report.layer_numbers.map((layer, l) => ({
        label: `layer ${layer}`, borderColor: layerColour(l), borderWidth: 1,
        pointRadius: report.step_numbers.length > 1 ? 0 : 3,
        data: report.step_numbers.map((_, i) => report.load_over_time.values[l * report.load_over_time.columns + i])}))},
      options: {plugins: {legend: {display: report.layer_numbers.length <= 8}},
                scales: {x: {title: {display: true, text: "step"}}, y: {title: {display: true, text: "max over mean"}}}},
    });
    const traffic = report.traffic_bytes;
    heatmap("traffic", traffic, {x: `to ${report.traffic_between}`, y: "from",
      most: Math.max(1, ...traffic.values), label: {
        cell: (r, k, v) => `${report.traffic_between} ${r} to ${k}: ${(v * 1e-6).toPrecision(3)} MB`}});
  }

  ({plan: planPage, simulate: simulatePage, compare: comparePage, replay: replayPage})[document.body.dataset.page]();
  const d = add(main, "details");
  add(d, "summary", "As text");
  d.append(document.getElementById("text"));
  document.getElementById("text").hidden = false;
  document.body.dataset.drawn = "yes";
})();
