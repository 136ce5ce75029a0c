"use strict";
(() => {
  const root = document.documentElement;
  const system = matchMedia("(prefers-color-scheme: dark)");
  const isDark = () => (root.dataset.theme ? root.dataset.theme === "dark" : system.matches);

  /* Theme: the system's until the reader chooses; the choice is remembered. */
  const toggle = document.getElementById("theme");
  const nameToggle = () => {
    toggle.textContent = isDark() ? "Light" : "Dark";
    toggle.setAttribute("aria-label", `Use the ${isDark() ? "light" : "dark"} theme`);
  };
  const themeChanged = () => {
    nameToggle();
    redraw();
  };
  toggle.hidden = false;
  toggle.addEventListener("click", () => {
    root.dataset.theme = isDark() ? "light" : "dark";
    try {
      localStorage.setItem("gklbench-theme", root.dataset.theme);
    } catch {
      /* without storage the choice holds for this page */
    }
    themeChanged();
  });
  system.addEventListener("change", themeChanged);

  /* Tables: DataTables from itables' bundle sorts and filters the table that is in the page already. */
  const pageLength = 100;
  const tables = [];
  async function enhanceTables() {
    const { default: DataTable } = await window.tablesReady;
    for (const table of document.querySelectorAll("table.board")) {
      const rows = table.tBodies[0].rows.length;
      if (rows < 2) continue;
      const frame = table.closest(".scroll");
      const filters = document.querySelector(`form.filters[data-for="${table.id}"]`);
      const dt = new DataTable(table, {
        order: [],
        paging: rows > pageLength,
        pageLength,
        autoWidth: false,
        layout: {
          topStart: rows > 10 || filters ? "search" : null,
          topEnd: null,
          bottomStart: rows > pageLength ? ["info", "pageLength"] : "info",
          bottomEnd: rows > pageLength ? "paging" : null,
        },
        lengthMenu: [pageLength, 100, { label: "all", value: -1 }],
        language: { search: "Search", lengthMenu: "_MENU_ a page", info: "_START_ to _END_ of _TOTAL_ rows", infoEmpty: "no rows", infoFiltered: "(of _MAX_)", zeroRecords: "No row matches.", emptyTable: "No rows." },
      });
      tables.push(dt);
      const container = dt.table().container();
      /* The frame that scrolls holds the table alone, not its search field. */
      frame.replaceWith(container);
      table.replaceWith(frame);
      frame.append(table);
      dt.on("order.dt", () => table.classList.toggle("sorted", dt.order().length > 0));
      if (filters) enableFilters(filters, dt, container);
    }
  }
  function enableFilters(filters, dt, container) {
    const apply = () => {
      for (const select of filters.querySelectorAll("select"))
        dt.column(Number(select.dataset.column)).search(select.value, { exact: select.value !== "" });
      dt.draw();
    };
    filters.addEventListener("change", apply);
    filters.addEventListener("reset", () => setTimeout(apply));
    filters.addEventListener("submit", (event) => event.preventDefault());
    container.querySelector(".dt-layout-row").append(filters);
    filters.hidden = false;
  }

  /* Charts: drawn at once, in the colours of the page; one in a part that is closed when this is opened. */
  const drawn = new Set();
  const probe = document.createElement("span");
  const colour = (name) => {
    probe.style.color = `var(--${name})`;
    return getComputedStyle(probe).color;
  };
  /* On a narrow screen labels of neighbouring ticks would overlap: keep those that have room. */
  function thinned(axis, width) {
    const { tickvals, ticktext } = axis ?? {};
    if (!tickvals?.length || !ticktext) return axis;
    const room = (48 / width) * (tickvals.at(-1) - tickvals[0]);
    let last = -Infinity;
    const kept = tickvals.map((value) => value - last >= room && ((last = value), true));
    return { ...axis, tickvals: tickvals.filter((_, i) => kept[i]), ticktext: ticktext.filter((_, i) => kept[i]) };
  }
  /* Long names would leave no room for the bars; both ends are kept, as seeds stand at the end. */
  function shortened(axis, data, width) {
    if (axis?.type !== "category") return axis;
    const room = Math.max(15, Math.floor(width / 20));
    return { ...axis, tickvals: data[0].y, ticktext: data[0].y.map((name) => cut(name, room)) };
  }
  /* The legend stands below the picture and gets the height that it needs there. */
  function legendHeight(data, width) {
    const names = data.map((trace) => trace.name ?? "");
    const columns = Math.max(1, Math.floor(width / (60 + 7 * Math.max(...names.map((name) => name.length)))));
    return 24 * Math.ceil(names.length / columns);
  }
  function themed(layout, data, width) {
    const [text, muted, line, surface] = ["text", "muted", "line", "surface"].map(colour);
    const axis = (own) => ({
      gridcolor: line,
      linecolor: line,
      zerolinecolor: line,
      tickcolor: line,
      automargin: true,
      ...own,
      title: { ...own?.title, font: { size: 12, color: muted }, standoff: 8 },
    });
    return {
      ...layout,
      height: layout.height + (layout.showlegend ? legendHeight(data, width) : 0),
      font: { family: getComputedStyle(document.body).fontFamily, size: width < 500 ? 11 : 12.5, color: text },
      paper_bgcolor: "rgba(0,0,0,0)",
      plot_bgcolor: "rgba(0,0,0,0)",
      margin: { l: 12, r: 12, t: 26, b: 12 },
      xaxis: axis(thinned(layout.xaxis, width)),
      yaxis: axis(shortened(layout.yaxis, data, width)),
      legend: { orientation: "h", yref: "container", y: 0, yanchor: "bottom", x: 0, ...layout.legend },
      hoverlabel: { bgcolor: surface, bordercolor: muted, font: { color: text }, align: "left", namelength: -1 },
      dragmode: false,
    };
  }
  /* Names are escaped: "&lt;" is one letter. */
  function cut(name, length) {
    const letters = name.match(/&\w+;|./gsu) ?? [];
    if (letters.length <= length) return name;
    return `${letters.slice(0, Math.ceil(length / 2) - 1).join("")}…${letters.slice(1 - Math.floor(length / 2)).join("")}`;
  }
  /* Labels of points leave each other room on plots of their least width and wider; long names in a legend are cut. */
  function fitted({ data, layout }, width) {
    const labels = layout.meta?.labels.findLast(({ least }, i) => i === 0 || least + 80 <= width)?.traces ?? [];
    return data.map((trace, i) => ({ ...trace, ...labels[i], name: cut(trace.name ?? "", Math.floor((width - 70) / 7)) }));
  }
  const specs = new Map();
  const chosen = (figure) => specs.get(figure)[Number(figure.querySelector("select")?.value ?? 0)];
  function draw(figure) {
    const plot = figure.querySelector(".plot");
    const spec = chosen(figure);
    plot.hidden = false;
    plot.setAttribute("aria-label", spec.alt);
    const data = fitted(spec, plot.clientWidth);
    Plotly.react(plot, data, themed(structuredClone(spec.layout), data, plot.clientWidth), {
      responsive: true,
      displaylogo: false,
      displayModeBar: false,
    });
    if (!drawn.has(figure)) {
      drawn.add(figure);
      figure.classList.add("live");
      plot.on("plotly_click", ({ points }) => {
        if (typeof points[0].customdata === "string") location.href = points[0].customdata;
      });
    }
  }
  const pause = () => new Promise((resume) => setTimeout(resume));
  const isOpen = (figure) => figure.checkVisibility();
  function redraw() {
    for (const figure of drawn) if (isOpen(figure)) draw(figure);
  }
  async function drawCharts() {
    document.body.append(probe);
    probe.hidden = true;
    const figures = [...document.querySelectorAll("figure.chart")];
    for (const figure of figures) {
      specs.set(figure, JSON.parse(figure.querySelector("script").textContent));
      figure.querySelector("select")?.addEventListener("change", () => draw(figure));
      const setting = figure.querySelector("label.setting");
      if (setting) setting.hidden = false;
    }
    for (const details of document.querySelectorAll("details"))
      details.addEventListener("toggle", () => {
        for (const figure of details.querySelectorAll("figure.chart")) if (isOpen(figure)) draw(figure);
      });
    for (const figure of figures) {
      if (isOpen(figure)) draw(figure);
      await pause();
    }
  }
  /* A plot keeps its layout where the window grows, but not the room of its legend and labels. */
  let width = innerWidth;
  let resized;
  addEventListener("resize", () => {
    clearTimeout(resized);
    resized = setTimeout(() => {
      if (innerWidth !== width) redraw();
      width = innerWidth;
    }, 200);
  });

  /* Paper has all rows and records; the style sheet puts the still figures into the place of the live ones. */
  let closed = [];
  addEventListener("beforeprint", () => {
    closed = [...document.querySelectorAll("details.record:not([open])")];
    for (const details of closed) details.open = true;
    for (const dt of tables) dt.page.len(-1).draw();
  });
  addEventListener("afterprint", () => {
    for (const details of closed) details.open = false;
    for (const dt of tables) dt.page.len(pageLength).draw();
  });

  function enableCopying() {
    for (const button of document.querySelectorAll("button.copy")) {
      button.hidden = false;
      button.addEventListener("click", async () => {
        const code = button.closest(".command").querySelector("code");
        try {
          await navigator.clipboard.writeText(code.textContent);
          button.textContent = "Copied";
        } catch {
          getSelection().selectAllChildren(code);
          button.textContent = "Press Ctrl+C";
        }
        setTimeout(() => (button.textContent = "Copy"), 2000);
      });
    }
  }

  /* plotly.js is large: the page is read, sorted and filtered before it is loaded. */
  async function start() {
    try {
      await enhanceTables();
    } finally {
      root.dataset.ready = "tables";
      if (document.querySelector("figure.chart")) loadPlotly();
    }
  }
  function loadPlotly() {
    const script = document.createElement("script");
    script.src = document.body.dataset.plotly;
    script.addEventListener("load", async () => {
      await drawCharts();
      root.dataset.ready = "charts";
    });
    setTimeout(() => document.body.append(script), 50);
  }

  nameToggle();
  enableCopying();
  start();
})();
