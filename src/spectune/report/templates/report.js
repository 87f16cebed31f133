"use strict";
(() => {
  const data = JSON.parse(document.getElementById("report-data").textContent);
  const byId = (id) => document.getElementById(id);

  // ---- plots: colours are CSS variables, so that a change of the colour scheme redraws them

  const resolved = (value, style) => {
    if (typeof value === "string")
      return value.startsWith("var(--") ? style.getPropertyValue(value.slice(4, -1)).trim() : value;
    if (Array.isArray(value)) return value.map((entry) => resolved(entry, style));
    if (value && typeof value === "object")
      return Object.fromEntries(Object.entries(value).map(([key, entry]) => [key, resolved(entry, style)]));
    return value;
  };
  const touch = matchMedia("(pointer: coarse)").matches;
  const config = {
    responsive: true,
    displayModeBar: false, // a double click undoes a zoom
  };
  const draw = (place) => {
    const figure = resolved(data.figures[place.dataset.figure], getComputedStyle(document.documentElement));
    if (touch) {
      // a finger that scrolls the page must not zoom
      figure.layout.dragmode = false;
      figure.layout.xaxis.fixedrange = figure.layout.yaxis.fixedrange = true;
    }
    return Plotly.react(place, figure.data, figure.layout, config);
  };
  const places = [...document.querySelectorAll("[data-figure]")];
  const drawAll = async () => {
    for (const place of places) {
      await draw(place);
      await new Promise((next) => setTimeout(next));
    }
    document.body.dataset.ready = "yes";
  };
  drawAll();
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", drawAll);

  // ---- ranks at the allocation that the slider stands at

  const slider = byId("frame");
  if (slider) {
    const cells = [...document.querySelectorAll('[data-heat="ranks"] [data-i]')];
    slider.addEventListener("input", () => {
      const { frames, texts, highest } = data.ranks;
      const frame = frames[slider.value];
      for (const cell of cells) {
        const rank = frame[cell.dataset.i];
        const share = Math.round((100 * rank) / highest);
        cell.textContent = rank;
        cell.style.setProperty("--v", share);
        cell.classList.toggle("hi", share > 57);
        cell.classList.toggle("top", share > 85);
      }
      byId("frame-text").textContent = texts[slider.value];
    });
  }

  // ---- predictions: filtered by right and wrong, by split, by a text

  const body = byId("rows");
  if (body) {
    const PAGE = 25;
    const search = byId("search"), split = byId("split"), more = byId("more");
    let found = [], shown = 0;
    const cell = (row, text, kind) => {
      const made = row.insertCell();
      made.textContent = text;
      if (kind) made.className = kind;
    };
    const showMore = () => {
      for (const [, number, text, target, prediction, right] of found.slice(shown, shown + PAGE)) {
        const row = body.insertRow();
        cell(row, number);
        cell(row, right ? "✓ right" : "✗ wrong");
        cell(row, target, "text");
        cell(row, prediction, "text");
        cell(row, text, "text long");
      }
      shown = Math.min(shown + PAGE, found.length);
      more.hidden = shown === found.length;
      byId("found").textContent = `${found.length.toLocaleString("en")} rows, ${shown.toLocaleString("en")} shown`;
    };
    const filter = () => {
      const wanted = document.querySelector('input[name="right"]:checked').value;
      const words = search.value.trim().toLowerCase();
      found = data.predictions.filter(
        ([part, , text, target, prediction, right]) =>
          (wanted === "all" || right === (wanted === "right" ? 1 : 0)) &&
          (!split || !split.value || part === split.value) &&
          (!words || [text, target, prediction].some((one) => one.toLowerCase().includes(words))),
      );
      body.replaceChildren();
      shown = 0;
      showMore();
    };
    for (const input of document.querySelectorAll('input[name="right"], #split')) input.addEventListener("change", filter);
    search.addEventListener("input", filter);
    more.addEventListener("click", showMore);
    filter();
  }
})();
