"use strict";
(() => {
  const SVG = "http://www.w3.org/2000/svg";
  const REACH = 32; // pixels between the pointer and a point that it still reaches
  const find = (selector, root = document) => [...root.querySelectorAll(selector)];
  const make = (tag, properties = {}, ...children) => {
    const node = Object.assign(document.createElement(tag), properties);
    node.append(...children);
    return node;
  };
  const data = JSON.parse(document.getElementById("data").textContent);
  const tip = make("div", { id: "tip" });
  tip.setAttribute("role", "status");
  document.body.append(tip);
  let shownAt = 0; // a point that is reached by a key may be scrolled into view, which keeps its tooltip

  // ---------------------------------------------------------------- files and the clipboard

  const save = (name, content) => {
    const link = make("a", { href: URL.createObjectURL(content), download: name });
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 10000);
  };
  const saveText = (name, text, type) => save(name, new Blob([text], { type: type + ";charset=utf-8" }));
  const copy = async (text, button) => {
    const label = button.textContent;
    try {
      await navigator.clipboard.writeText(text);
    } catch {
      const area = make("textarea", { value: text });
      document.body.append(area);
      area.select();
      document.execCommand("copy");
      area.remove();
    }
    button.textContent = "Copied";
    setTimeout(() => { button.textContent = label; }, 1500);
  };
  const csvCell = (text) => {
    const safe = /^\s*[=+\-@]/.test(text) && isNaN(text) ? "'" + text : text;
    return /[",\n]/.test(safe) ? '"' + safe.replaceAll('"', '""') + '"' : safe;
  };
  const toCsv = (rows) => rows.map((row) => row.map((cell) => csvCell(String(cell))).join(",")).join("\n") + "\n";

  // ---------------------------------------------------------------- tables

  const cellText = (cell) => (cell.querySelector("button") ?? cell).textContent.trim();
  const readTable = (table) => {
    const rows = [];
    for (const row of table.rows) {
      if (row.classList.contains("about")) rows.at(-1).push(cellText(row.cells[0]));
      else if (!row.hidden) rows.push([...row.cells].map(cellText));
    }
    if (table.querySelector(".about")) rows[0].push("Interpretation");
    return rows;
  };
  const toMarkdown = (rows) => {
    const width = rows[0].length;
    const lines = rows.map((row) => {
      const cells = [...row, ...Array(width - row.length).fill("")];
      return "| " + cells.map((cell) => cell.replaceAll("\\", "\\\\").replaceAll("|", "\\|")).join(" | ") + " |";
    });
    lines.splice(1, 0, "|" + " --- |".repeat(width));
    return lines.join("\n") + "\n";
  };
  const numberOf = (text) => parseFloat(text.replaceAll(",", "").replace("−", "-").replace(/^[^\d.+-]+/, ""));
  const sortTable = (table, index, heading) => {
    const direction = heading.getAttribute("aria-sort") === "ascending" ? -1 : 1;
    for (const other of table.tHead.rows[0].cells) other.removeAttribute("aria-sort");
    heading.setAttribute("aria-sort", direction === 1 ? "ascending" : "descending");
    const body = table.tBodies[0];
    const rows = [...body.rows].map((row) => {
      const text = row.cells[index].textContent;
      return { row, text, number: numberOf(text) };
    });
    rows.sort((a, b) => {
      if (isNaN(a.number) || isNaN(b.number)) {
        return isNaN(a.number) && isNaN(b.number) ? direction * a.text.localeCompare(b.text) : isNaN(a.number) - isNaN(b.number);
      }
      return direction * (a.number - b.number);
    });
    body.append(...rows.map((entry) => entry.row));
  };
  const makeSortable = (table, tools) => {
    const headings = [...table.tHead.rows[0].cells];
    const rows = [...table.tBodies[0].rows];
    const choices = [];
    const count = make("span");
    count.setAttribute("aria-live", "polite");
    const apply = () => {
      let shown = 0;
      for (const row of rows) {
        row.hidden = choices.some(([index, input]) => input.value && row.cells[index].textContent !== input.value);
        shown += !row.hidden;
      }
      count.textContent = `${shown} of ${rows.length} rows`;
    };
    headings.forEach((heading, index) => {
      const label = heading.textContent;
      if (heading.classList.contains("choice")) {
        const values = [...new Set(rows.map((row) => row.cells[index].textContent))];
        if (values.length > 1) {
          const select = make("select", { onchange: apply }, new Option("all", ""), ...values.map((value) => new Option(value)));
          choices.push([index, select]);
          tools.append(make("label", {}, label, select));
        }
      }
      heading.replaceChildren(make("button", { type: "button", textContent: label, onclick: () => sortTable(table, index, heading) }));
    });
    tools.append(count);
    apply();
  };
  for (const block of find(".table-block")) {
    const table = block.querySelector("table");
    const name = block.dataset.name || block.closest("figure")?.id || "table";
    const tools = make("div", { className: "tools" });
    if (table.classList.contains("sortable")) makeSortable(table, tools);
    const markdown = make("button", { type: "button", textContent: "Copy as Markdown" });
    markdown.onclick = () => copy(toMarkdown(readTable(table)), markdown);
    const csv = make("button", { type: "button", textContent: "CSV" });
    csv.onclick = () => saveText(name + ".csv", data.csv[name] ?? toCsv(readTable(table)), "text/csv");
    tools.append(markdown, csv);
    block.prepend(tools);
  }

  // ---------------------------------------------------------------- plots

  const scaleOf = (svg, name) => {
    const [low, high, start, end] = svg.dataset[name].split(" ").map(Number);
    return { at: (value) => start + ((value - low) / (high - low)) * (end - start), low, high };
  };
  const path = (points) => "M" + points.map(([x, y]) => `${x.toFixed(1)} ${y.toFixed(1)}`).join("L");
  const percent = (value) => (100 * value).toFixed(1) + "%";
  const isShown = (node) => !node.closest(".off, .none");

  class Chart {
    constructor(figure) {
      this.figure = figure;
      this.plots = find("svg.plot", figure);
      this.profiles = data[figure.dataset.kind] ?? [];
      this.p = "";
      this.marks = [];
      this.current = -1;
      for (const svg of this.plots) this.readMarks(svg);
      this.figure.querySelector(".plots").addEventListener("keydown", (event) => this.onKey(event));
      this.makeLegend();
      this.makeTools();
    }

    readMarks(svg) {
      for (const title of find("title", svg)) {
        const node = title.parentNode;
        const place = /translate\(([-\d.]+) ([-\d.]+)\)/.exec(node.getAttribute("transform") ?? "");
        this.marks.push({ svg, node, text: title.textContent, x: place && +place[1], y: place && +place[2] });
        title.remove();
      }
      svg.addEventListener("pointermove", (event) => this.onPoint(svg, event));
      svg.addEventListener("pointerdown", (event) => this.onPoint(svg, event));
      svg.addEventListener("pointerleave", (event) => { if (event.pointerType !== "touch") this.show(null); });
    }

    onPoint(svg, event) {
      const box = svg.getBoundingClientRect();
      const zoom = svg.viewBox.baseVal.width / box.width;
      const x = (event.clientX - box.left) * zoom;
      const y = (event.clientY - box.top) * zoom;
      const row = event.target.closest(".r");
      let best = row && this.marks.find((mark) => mark.node === row);
      let distance = REACH * zoom;
      for (const mark of row ? [] : [...this.marks, ...this.linePoints(svg, x)]) {
        if (mark.svg !== svg || mark.x === null || !isShown(mark.node)) continue;
        const other = mark.isBetween ? Math.abs(mark.y - y) : Math.hypot(mark.x - x, mark.y - y);
        if (other < distance) [best, distance] = [mark, other];
      }
      this.show(best ?? null, event);
    }

    linePoints(svg, x) {
      // The points of lines of layers have no marks. Their numbers are in the data of the page.
      const points = [];
      for (const node of find("path[data-k]", svg)) {
        const profile = this.profiles[node.dataset.k];
        const value = profile && this.valuesOf(profile, profile.mean ? "mean" : "sparsity");
        if (!value || !isShown(node)) continue;
        const xScale = scaleOf(svg, "x");
        const yScale = scaleOf(svg, "y");
        const places = profile.layer.map((layer) => Math.abs(xScale.at(layer) - x));
        const index = places.indexOf(Math.min(...places));
        const layer = profile.layer[index];
        let text = `${this.nameOf(profile)} · layer ${layer} · sparsity ${percent(value.list[index])} · p = ${value.p}`;
        if (profile.mean) {
          text += ` · experts ${percent(profile.lowest[value.index][index])} to ${percent(profile.highest[value.index][index])}`;
        }
        points.push({ svg, node, text, layer, x: xScale.at(layer), y: yScale.at(value.list[index]), isBetween: true });
      }
      return points;
    }

    nameOf(profile) {
      return profile.vector === profile.site ? profile.site : `${profile.site}: ${profile.vector}`;
    }

    valuesOf(profile, name) {
      const index = profile.p.indexOf(this.p === "" ? profile.shown : Number(this.p));
      return index < 0 ? null : { list: profile[name][index], p: profile.p[index], index };
    }

    show(mark, event) {
      for (const node of find(".at", this.figure)) node.classList.remove("at");
      this.figure.classList.toggle("focus", Boolean(mark));
      for (const group of find(".s.on", this.figure)) group.classList.remove("on");
      tip.textContent = mark ? mark.text : "";
      if (!mark) return;
      shownAt = performance.now();
      mark.node.classList.add("at");
      mark.node.querySelector(".hc")?.classList.add("at");
      this.highlight(mark.node.closest(".s"));
      const box = mark.svg.getBoundingClientRect();
      const zoom = box.width / mark.svg.viewBox.baseVal.width;
      const row = mark.node.getBoundingClientRect();
      const x = event?.clientX ?? (mark.x === null ? row.left + row.width / 2 : box.left + mark.x * zoom);
      const y = event?.clientY ?? (mark.x === null ? row.top + row.height / 2 : box.top + mark.y * zoom);
      const left = Math.min(Math.max(8, x + 14), innerWidth - tip.offsetWidth - 8);
      const above = y - tip.offsetHeight - 14;
      tip.style.left = left + "px";
      tip.style.top = (above < 8 ? y + 18 : above) + "px";
    }

    highlight(group) {
      if (!group) {
        this.figure.classList.remove("focus");
        return;
      }
      const selector = this.hasLegend ? `.s[data-s="${group.dataset.s}"]` : null;
      for (const other of selector ? find(selector, this.figure) : [group]) other.classList.add("on");
    }

    onKey(event) {
      if (event.key === "Escape") this.show(null);
      const step = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 }[event.key];
      if (!step || event.target !== event.currentTarget) return;
      const marks = this.marks.concat(...this.plots.map((svg) => this.allLinePoints(svg))).filter((mark) => isShown(mark.node));
      if (!marks.length) return;
      event.preventDefault();
      this.current = (this.current + step + marks.length) % marks.length;
      const mark = marks[this.current];
      mark.svg.scrollIntoView({ block: "nearest", inline: "nearest" });
      this.show(mark);
    }

    allLinePoints(svg) {
      const nodes = svg.dataset.x ? find("path[data-k]", svg) : [];
      return nodes.flatMap((node) => this.profiles[node.dataset.k].layer.flatMap((layer) => (
        this.linePoints(svg, scaleOf(svg, "x").at(layer)).filter((point) => point.node === node))));
    }

    makeLegend() {
      const items = find(".legend li", this.figure);
      this.hasLegend = items.length > 0;
      for (const item of items) {
        const groups = find(`.s[data-s="${item.dataset.s}"]`, this.figure);
        const button = make("button", { type: "button" }, ...item.childNodes);
        const mark = (isOn) => {
          this.figure.classList.toggle("focus", isOn);
          for (const group of groups) group.classList.toggle("on", isOn);
        };
        button.setAttribute("aria-pressed", "true");
        button.onclick = () => {
          const isOn = button.getAttribute("aria-pressed") === "false";
          button.setAttribute("aria-pressed", String(isOn));
          for (const group of groups) group.classList.toggle("off", !isOn);
          mark(isOn);
        };
        button.onpointerenter = () => mark(true);
        button.onpointerleave = () => mark(false);
        button.onfocus = () => mark(true);
        button.onblur = () => mark(false);
        item.append(button);
      }
    }

    makeTools() {
      const tools = make("div", { className: "tools" });
      if (this.figure.dataset.p) {
        const select = make("select", {}, new Option("nearest to each critical sparsity", ""));
        for (const p of JSON.parse(this.figure.dataset.p)) select.append(new Option(p, p));
        select.onchange = () => this.setP(select.value);
        tools.append(make("label", {}, "p", select));
        const all = make("button", { type: "button", textContent: "CSV of every p" });
        all.onclick = () => saveText(this.figure.id + ".csv", toCsv(this.profileRows()), "text/csv");
        tools.append(all);
      }
      const svg = make("button", { type: "button", textContent: "SVG" });
      svg.onclick = () => saveText(this.figure.id + ".svg", this.drawFile(), "image/svg+xml");
      const png = make("button", { type: "button", textContent: "PNG" });
      png.onclick = () => this.savePng();
      tools.append(svg, png);
      this.figure.querySelector("figcaption").after(tools);
    }

    profileRows() {
      const keys = new Set(find("[data-k],[data-h]", this.figure).map((node) => node.dataset.k ?? node.dataset.h));
      const lists = this.profiles[0].mean ? ["lowest", "mean", "highest"] : ["sparsity"];
      const labels = ["model", "rule", "layers", "task", "site", "vector", "phase"];
      const rows = [[...labels, "p", "layer", ...lists]];
      for (const key of keys) {
        const profile = this.profiles[key];
        profile.p.forEach((p, index) => profile.layer.forEach((layer, position) => {
          rows.push([...labels.map((name) => profile[name]), p, layer, ...lists.map((name) => profile[name][index][position])]);
        }));
      }
      return rows;
    }

    setP(value) {
      this.p = value;
      this.show(null);
      for (const svg of this.plots) {
        const xScale = scaleOf(svg, "x");
        const yScale = scaleOf(svg, "y");
        for (const node of find("[data-k],[data-b],[data-h]", svg)) {
          node.dataset.d ??= node.getAttribute("d");
          const group = node.closest(".s");
          const profile = this.profiles[node.dataset.k ?? node.dataset.b ?? node.dataset.h];
          const index = value === "" ? -1 : profile.p.indexOf(Number(value));
          group.classList.toggle("none", value !== "" && index < 0);
          if (index < 0) {
            node.setAttribute("d", node.dataset.d);
            continue;
          }
          const line = (name) => profile.layer.map((layer, i) => [xScale.at(layer), yScale.at(profile[name][index][i])]);
          if (node.dataset.k) node.setAttribute("d", path(line(profile.mean ? "mean" : "sparsity")));
          else if (node.dataset.b) node.setAttribute("d", path([...line("highest"), ...line("lowest").reverse()]) + "Z");
          else node.setAttribute("d", this.bars(profile.histogram[index], xScale, yScale));
        }
      }
    }

    bars(counts, xScale, yScale) {
      const bottom = yScale.at(0).toFixed(1);
      return counts.map((count, index) => {
        if (!count) return "";
        const left = (xScale.at(index / counts.length) + 0.5).toFixed(1);
        const right = (xScale.at((index + 1) / counts.length) - 0.5).toFixed(1);
        return `M${left} ${bottom}V${yScale.at(count).toFixed(1)}H${right}V${bottom}Z`;
      }).join("") || "M0 0";
    }

    drawFile() {
      const node = (tag, attributes, text = "") => {
        const created = document.createElementNS(SVG, tag);
        for (const [name, value] of Object.entries(attributes)) created.setAttribute(name, value);
        created.textContent = text;
        return created;
      };
      const sizes = this.plots.map((svg) => svg.viewBox.baseVal);
      const widest = Math.max(...sizes.map((size) => size.width));
      const columns = sizes.length > 1 && widest <= 400 ? 2 : 1;
      const width = Math.max(520, columns * widest + (columns - 1) * 20) + 32;
      const root = node("svg", { xmlns: SVG, width });
      root.append(node("style", {}, data.style), node("rect", { width, height: "100%", fill: "#fff" }));
      let y = 32;
      root.append(node("text", { x: 16, y, class: "n", "font-size": 16, "font-weight": 600 }, this.figure.querySelector("h3").textContent));
      const notes = this.figure.querySelector(".notes").textContent.match(new RegExp(`.{1,${Math.floor((width - 32) / 6.2)}}(\\s|$)`, "g"));
      for (const line of notes ?? []) root.append(node("text", { x: 16, y: (y += 17), class: "t" }, line.trim()));
      y += 12;
      let x = 16;
      for (const item of find(".legend li", this.figure)) {
        const label = item.textContent.trim();
        const needed = 60 + 7.3 * label.length;
        if (x > 16 && x + needed > width - 16) [x, y] = [16, y + 24];
        const key = node("g", { class: item.className, transform: `translate(${x} ${y})` });
        for (const part of item.querySelector("svg").childNodes) key.append(part.cloneNode());
        root.append(key, node("text", { x: x + 40, y: y + 11, class: "n" }, label));
        x += needed;
      }
      if (x > 16) y += 28;
      for (let start = 0; start < sizes.length; start += columns) {
        const row = sizes.slice(start, start + columns);
        row.forEach((size, index) => {
          const copied = this.plots[start + index].cloneNode(true);
          for (const hidden of find(".off, .none", copied)) hidden.remove();
          for (const name of ["class", "role", "aria-label"]) copied.removeAttribute(name);
          for (const [name, value] of Object.entries({ x: 16 + index * 420, y, width: size.width, height: size.height })) {
            copied.setAttribute(name, value);
          }
          root.append(copied);
        });
        y += Math.max(...row.map((size) => size.height)) + 20;
      }
      root.setAttribute("height", y);
      root.setAttribute("viewBox", `0 0 ${width} ${y}`);
      return new XMLSerializer().serializeToString(root);
    }

    async savePng() {
      const image = new Image();
      image.src = "data:image/svg+xml;charset=utf-8," + encodeURIComponent(this.drawFile());
      await image.decode();
      const canvas = make("canvas", { width: 2 * image.width, height: 2 * image.height });
      canvas.getContext("2d").drawImage(image, 0, 0, canvas.width, canvas.height);
      canvas.toBlob((blob) => save(this.figure.id + ".png", blob));
    }
  }
  for (const figure of find("figure.chart")) new Chart(figure);
  addEventListener("pointerdown", (event) => { if (!event.target.closest("svg.plot")) tip.textContent = ""; });
  addEventListener("scroll", () => { if (performance.now() - shownAt > 300) tip.textContent = ""; }, { passive: true });

  // ---------------------------------------------------------------- models and printing

  const sections = find("section.of-model");
  if (sections.length > 1) {
    const select = make("select", {}, new Option("all models", ""));
    for (const section of sections) select.append(new Option(section.dataset.model, section.id));
    const apply = () => {
      for (const section of sections) section.classList.toggle("other", select.value !== "" && section.id !== select.value);
    };
    const choose = () => {
      const target = document.getElementById(location.hash.slice(1));
      const section = target?.closest("section.of-model");
      if (section) select.value = section.id;
      apply();
      if (section) target.scrollIntoView();
    };
    select.value = sections[0].id;
    select.onchange = apply;
    sections[0].before(make("div", { className: "switch tools" }, make("label", {}, "Model", select)));
    addEventListener("hashchange", choose);
    choose();
  }
  for (const link of find('a[href^="#"]')) {
    link.addEventListener("click", () => {
      const details = document.getElementById(link.hash.slice(1))?.querySelector("details");
      if (details) details.open = true;
    });
  }
  addEventListener("beforeprint", () => { for (const details of find("details:not(.numbers)")) details.open = true; });
  document.documentElement.classList.add("script");
})();
