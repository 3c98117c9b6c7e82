// The viewer: panes side by side that share one clock and one view.

import { api, byId, element, loadRun } from "./api.js";
import { draw, findEdge, foregroundsOf, freshView, isForeground, isShown, layersOf } from "./compositor.js";

const SCALES = { min: 0.2, max: 3 };

export class Viewer {
  constructor(onKeep) {
    this.onKeep = onKeep; // called when a layer is to be given to the next run
    this.view = freshView();
    this.runs = []; // side by side; the first is what layers, export and facts are about
    this.input = false; // show what was given beside it
    this.frame = 0;
    this.playing = false;
    this.known = new Map(); // runs that were fetched, by id
    this.jobs = []; // that can be put beside or under
    this.connect();
    new ResizeObserver(() => this.resize()).observe(byId("panes"));
  }

  get run() { return this.runs[0]; }

  async fetch(job) {
    if (!this.known.has(job.id)) {
      this.known.set(job.id, await loadRun(job));
      if (this.known.size > 8) this.known.delete([...this.known.keys()].find((id) => !this.runs.some((run) => run.job.id === id)));
    }
    return this.known.get(job.id);
  }

  async open(jobs) {
    this.runs = await Promise.all(jobs.map((job) => this.fetch(job)));
    this.view = freshView();
    this.frame = 0;
    this.input = false;
    byId("nothing").hidden = true;
    byId("controls").hidden = false;
    byId("export-text").replaceChildren();
    if (!this.run.sheets.background || !layersOf(this.run, this.view).some(isForeground)) this.view.shown.blended = true;
    this.listLayers();
    this.listRuns();
    this.showControls();
    this.makePanes();
    const { result } = jobs[0];
    byId("facts-run").textContent = `${result.task}: ${result.frames} frames of ${result.width}×${result.height}, seed ${result.seed}, `
      + `${result.steps} steps, guidance ${result.guidance}, ${result.seconds} s. ${result.notes.join("; ")}`;
    this.play(!matchMedia("(prefers-reduced-motion: reduce)").matches);
  }

  makePanes() {
    this.panes = this.runs.map((run) => this.pane(run, `seed ${run.job.result.seed}`, null));
    if (this.input) {
      const given = this.run.job.result.given;
      const one = given.includes("blended") ? ["blended"] : given.includes("background") ? ["background"] : ["foreground"];
      this.panes.push(this.pane(this.run, "given", one));
    }
    byId("panes").replaceChildren(...this.panes.map((pane) => pane.figure));
    this.resize();
  }

  pane(run, caption, only) {
    const canvas = element("canvas", { role: "img" });
    canvas.setAttribute("aria-label", `${caption}: ${run.job.result.prompts.blended || run.job.result.task}`);
    canvas.style.maxWidth = `calc(65vh * ${run.width / run.height})`; // so that the controls are in sight
    this.followPointer(canvas, run);
    return { run, only, canvas, figure: element("figure", {}, canvas, element("figcaption", { textContent: caption })) };
  }

  resize() {
    for (const { canvas, run } of this.panes ?? []) {
      const width = Math.max(1, Math.round(canvas.clientWidth * devicePixelRatio)) || run.width;
      if (canvas.width === width && canvas.dataset.sized) continue;
      canvas.width = width;
      canvas.height = Math.round(width * run.height / run.width);
      canvas.dataset.sized = "yes";
    }
    this.draw();
  }

  draw() {
    for (const { canvas, run, only } of this.panes ?? []) draw(canvas, run, this.frame % run.frames, this.view, only);
    byId("scrub").value = this.frame;
    byId("frame-text").textContent = `${this.frame + 1}/${this.run?.frames ?? 0}`;
  }

  // Time

  go(frame) {
    const { frames } = this.run;
    this.frame = ((frame % frames) + frames) % frames;
    this.draw();
  }

  play(on) {
    this.playing = on;
    byId("play").textContent = on ? "Pause" : "Play";
    byId("play").setAttribute("aria-pressed", on);
    if (!on || this.ticking) return;
    const started = performance.now();
    const first = this.frame;
    const tick = (now) => {
      this.ticking = this.playing && this.run;
      if (!this.ticking) return;
      const frame = (first + Math.floor((now - started) / 1000 * this.run.fps)) % this.run.frames;
      if (frame >= 0 && frame !== this.frame) this.go(frame);
      requestAnimationFrame(tick);
    };
    this.ticking = true;
    requestAnimationFrame(tick);
  }

  step(by) {
    this.play(false);
    this.go(this.frame + by);
  }

  // Layers

  listLayers() {
    const foregrounds = foregroundsOf(this.run, this.view);
    const rows = layersOf(this.run, this.view).map((layer) => {
      const box = element("input", { type: "checkbox", checked: isShown(this.view, layer), id: `show-${layer}` });
      box.addEventListener("input", () => this.show(layer, box.checked));
      const solo = element("button", { type: "button", textContent: "Solo" });
      solo.setAttribute("aria-label", `${layer} alone`);
      solo.addEventListener("click", () => this.solo(layer));
      const keep = element("button", { type: "button", textContent: "Keep", title: "Give this layer to the next run" });
      keep.setAttribute("aria-label", `keep ${layer} for the next run`);
      keep.addEventListener("click", () => this.onKeep(this.run.job, layer));
      const row = element("div", { className: "row" }, element("label", {}, box, ` ${layer}`), solo, keep);
      const place = foregrounds.indexOf(layer);
      if (place > 0) {
        const nearer = element("button", { type: "button", textContent: "Nearer", title: "Move before the next nearer foreground" });
        nearer.setAttribute("aria-label", `move ${layer} nearer`);
        nearer.addEventListener("click", () => this.moveNearer(layer));
        row.append(nearer);
      }
      return row;
    });
    byId("layers").replaceChildren(...rows);
  }

  show(layer, on) {
    this.view.shown[layer] = on;
    this.draw();
  }

  moveNearer(layer) {
    const order = foregroundsOf(this.run, this.view);
    const place = order.indexOf(layer);
    [order[place - 1], order[place]] = [order[place], order[place - 1]];
    this.view.order = order;
    this.listLayers();
    this.draw();
  }

  solo(layer) {
    const layers = layersOf(this.run, this.view);
    const alone = layers.every((one) => isShown(this.view, one) === (one === layer));
    this.view.shown = alone ? {} : Object.fromEntries(layers.map((one) => [one, one === layer]));
    this.showControls();
    this.draw();
  }

  // Other runs, under the foreground or beside

  listRuns() {
    const others = this.jobs.filter((job) => job.state === "done" && job.id !== this.run?.job.id);
    const option = (value, text) => element("option", { value, textContent: text });
    const name = (job) => `${(job.result.prompts.background || job.result.prompts.blended || job.result.task).slice(0, 40)} (seed ${job.result.seed})`;
    const fill = (id, first, matches) => {
      const select = byId(id), chosen = select.value;
      select.replaceChildren(...first, ...others.filter(matches).map((job) => option(job.id, name(job))));
      select.value = [...select.options].some((one) => one.value === chosen) ? chosen : first[0].value;
    };
    fill("swap", [option("own", "its own"), option("image", "my image")], (job) => job.result.sheets.includes("background"));
    const given = this.run?.job.result.given.length ? [option("input", "what was given")] : [];
    fill("beside", [option("", "nothing"), ...given], () => true);
  }

  async swap(value) {
    const job = this.jobs.find((one) => one.id === value);
    if (job) this.view.other = await this.fetch(job);
    this.view.swap = job ? "run" : value;
    this.draw();
  }

  async beside(value) {
    const job = this.jobs.find((one) => one.id === value);
    this.input = value === "input";
    this.runs = [this.run, ...(job ? [await this.fetch(job)] : [])];
    this.makePanes();
  }

  // View

  set(values) {
    Object.assign(this.view, values);
    this.showControls();
    this.draw();
  }

  edge() {
    const edge = findEdge(this.run, this.frame);
    if (edge) this.set({ zoom: Math.min(16, Math.max(2, this.run.width / 24)), panX: edge.dx, panY: edge.dy });
  }

  reset() {
    const { zoom, panX, panY, scale, moveX, moveY } = freshView();
    this.set({ zoom, panX, panY, scale, moveX, moveY });
  }

  showControls() {
    const { view } = this;
    for (const layer of layersOf(this.run, view)) byId(`show-${layer}`).checked = isShown(view, layer);
    for (const id of ["behind", "colour", "zoom", "scale"]) byId(id).value = view[id];
    if (view.swap !== "run") byId("swap").value = view.swap;
    byId("beside").value = this.input ? "input" : this.runs[1]?.job.id ?? "";
    byId("scrub").max = this.run.frames - 1;
  }

  followPointer(canvas, run) {
    let from = null;
    canvas.addEventListener("pointerdown", (event) => {
      from = [event.clientX, event.clientY];
      canvas.setPointerCapture(event.pointerId);
    });
    canvas.addEventListener("pointermove", (event) => {
      if (!from) return;
      const one = canvas.clientWidth * this.view.zoom / run.width; // screen pixels of a clip's pixel
      const [dx, dy] = [(event.clientX - from[0]) / one, (event.clientY - from[1]) / one];
      from = [event.clientX, event.clientY];
      if (event.shiftKey) this.set({ panX: this.view.panX - dx / run.width, panY: this.view.panY - dy / run.height });
      else this.set({ moveX: this.view.moveX + dx, moveY: this.view.moveY + dy });
    });
    for (const end of ["pointerup", "pointercancel"]) canvas.addEventListener(end, () => { from = null; });
    canvas.addEventListener("wheel", (event) => {
      if (!event.ctrlKey && !event.altKey) return; // the page scrolls
      event.preventDefault();
      const scale = this.view.scale * Math.exp(-event.deltaY / 500);
      this.set({ scale: Math.min(SCALES.max, Math.max(SCALES.min, scale)) });
    }, { passive: false });
  }

  key(event) {
    if (!this.run || event.ctrlKey || event.metaKey) return;
    const layer = layersOf(this.run, this.view)[/^Digit([1-9])$/.exec(event.code)?.[1] - 1];
    const step = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] }[event.key];
    if (event.altKey && step) this.set({ moveX: this.view.moveX + step[0], moveY: this.view.moveY + step[1] });
    else if (event.key === " ") this.play(!this.playing);
    else if (step && step[0]) this.step(step[0]);
    else if (event.key === "Home") this.step(-this.frame);
    else if (event.key === "End") this.step(this.run.frames - 1 - this.frame);
    else if (layer !== undefined && event.shiftKey) this.solo(layer);
    else if (layer !== undefined) { this.show(layer, !isShown(this.view, layer)); this.showControls(); }
    else if (event.key === "+" || event.key === "=") this.set({ zoom: Math.min(16, this.view.zoom + 1) });
    else if (event.key === "-") this.set({ zoom: Math.max(1, this.view.zoom - 1) });
    else if (event.key === "0") this.reset();
    else return;
    event.preventDefault();
  }

  async export(event) {
    event.preventDefault();
    const { id } = this.run.job;
    const text = byId("export-text");
    byId("export-make").disabled = true;
    text.textContent = "writing …";
    try {
      const body = { preset: byId("preset").value, edges: byId("clean").checked ? 1 : 0 };
      if (this.view.order) body.order = this.view.order;
      const { url } = await api.export(id, body);
      text.replaceChildren(element("a", { href: url, textContent: `Download layerflow-${body.preset}.zip`, download: "" }));
    } catch (error) {
      text.textContent = error.message;
    }
    byId("export-make").disabled = false;
  }

  connect() {
    const on = (id, kind, what) => byId(id).addEventListener(kind, (event) => what(event.target, event));
    on("play", "click", () => this.play(!this.playing));
    on("back", "click", () => this.step(-1));
    on("forward", "click", () => this.step(1));
    on("scrub", "input", (input) => { this.play(false); this.go(Number(input.value)); });
    on("behind", "input", (input) => this.set({ behind: input.value }));
    on("colour", "input", (input) => this.set({ colour: input.value, behind: "colour" }));
    on("zoom", "input", (input) => this.set({ zoom: Number(input.value) }));
    on("scale", "input", (input) => this.set({ scale: Number(input.value) }));
    on("swap", "input", (input) => this.swap(input.value));
    on("beside", "input", (input) => this.beside(input.value));
    on("edge", "click", () => this.edge());
    on("reset", "click", () => this.reset());
    on("image", "change", async (input) => {
      if (!input.files[0]) return;
      const image = await createImageBitmap(input.files[0]).catch(() => null); // it stays in this browser
      this.set(image ? { image, swap: this.view.swap === "own" ? "image" : this.view.swap } : {});
    });
    byId("export").addEventListener("submit", (event) => this.export(event));
    byId("panes").addEventListener("keydown", (event) => this.key(event));
  }
}
