// The page: a form that becomes jobs, their progress, and the runs so far.

import { api, byId, element, ENDED } from "./api.js";
import { Viewer } from "./viewer.js";

const SLOTS = [ // clip, what it is called, whether it has a prompt
  ["foreground", "Foreground", true], ["alpha", "Its alpha", false], ["background", "Background", true], ["blended", "Blended", true],
];
const TASKS = { "": "generate", blended: "decompose", "alpha+foreground": "add-background", background: "add-foreground" };
const NUMBERS = ["seed", "steps", "guidance", "noise_scale", "frames", "upscale"];
const HINTS = ["object", "not_object", "trimap"]; // fields of jobs that the form keeps, but cannot change
const POLL = 400; // ms

const given = {}; // clip to {source: {upload} or {job, clip}, label}
let hints = {}; // clicks and trimaps of the job that filled the form
let batch = []; // ids of the jobs of the last request
const viewer = new Viewer(keep);

function say(message) {
  byId("error").textContent = message;
  byId("error").hidden = !message;
}

// What is given

function makeSlots() {
  for (const [clip, name, prompted] of SLOTS) {
    const input = element("input", { type: "file", id: `file-${clip}`, accept: "video/*,image/*,.mkv,.mov,.avif" });
    const pick = element("label", { className: "pick", htmlFor: input.id, textContent: "Give a clip" });
    const text = element("output", { id: `given-${clip}` });
    const drop = element("button", { type: "button", textContent: "Take away", hidden: true, id: `drop-${clip}` });
    const slot = element("div", { className: "slot", id: `slot-${clip}` });
    pick.prepend(element("span", { textContent: "" }));
    input.setAttribute("aria-label", `Give a clip as ${name.toLowerCase()}`);
    slot.append(element("label", { htmlFor: prompted ? clip : input.id, textContent: name }));
    if (prompted) slot.append(element("textarea", { id: clip, rows: 1, maxLength: 1000, placeholder: prompt(clip) }));
    slot.append(element("div", { className: "row" }, input, pick, text, drop));
    input.addEventListener("change", () => { if (input.files[0]) take(clip, input.files[0]); input.value = ""; });
    drop.addEventListener("click", () => give(clip, null));
    for (const kind of ["dragover", "dragleave", "drop"]) {
      slot.addEventListener(kind, (event) => {
        event.preventDefault();
        slot.classList.toggle("over", kind === "dragover");
        if (kind === "drop" && event.dataTransfer.files[0]) take(clip, event.dataTransfer.files[0]);
      });
    }
    byId("slots").append(slot);
  }
}

function prompt(clip) {
  return clip === "blended" ? "The whole scene; else written from the others" : `What the ${clip} shows`;
}

async function take(clip, file) {
  say("");
  byId(`given-${clip}`).textContent = `sending ${file.name} …`;
  try {
    const facts = await api.upload(file);
    const size = `${facts.frames} frame${facts.frames > 1 ? "s" : ""} of ${facts.width}×${facts.height}`;
    give(clip, { source: { upload: facts.id }, label: `${file.name}: ${facts.note || size}${facts.alpha ? ", with alpha" : ""}`, alpha: facts.alpha });
  } catch (error) {
    give(clip, null);
    say(`${file.name}: ${error.message}`);
  }
}

function give(clip, what) {
  if (what) given[clip] = what;
  else delete given[clip];
  byId(`given-${clip}`).textContent = what?.label ?? "";
  byId(`drop-${clip}`).hidden = !what;
  const clips = new Set(Object.keys(given));
  if (given.foreground?.alpha) clips.add("alpha");
  if (clip === "blended") hints = {}; // they point at the clip before
  byId("task").textContent = TASKS[[...clips].sort().join("+")] ?? "complete";
}

function keep(job, layer) {
  const numbered = /^(?:foreground|alpha)(-\d+)?$/.exec(layer); // any foreground becomes the next run's first
  for (const clip of numbered ? ["foreground", "alpha"] : [layer]) {
    const from = numbered ? clip + (numbered[1] ?? "") : clip;
    give(clip, { source: { job: job.id, clip: from }, label: `${from === clip ? "" : `${from} `}of the run with seed ${job.result.seed}` });
  }
  byId("form").scrollIntoView({ behavior: "smooth" });
}

// Asking

function request() {
  const foregrounds = byId("foreground").value.split(/\n\s*\n/); // a blank line between two
  const values = { foreground: foregrounds.length > 1 ? foregrounds : foregrounds[0], background: byId("background").value, given: {}, ...hints };
  if (byId("blended").value) values.blended = byId("blended").value;
  for (const id of NUMBERS) if (byId(id).value !== "") values[id] = Number(byId(id).value);
  for (const [clip, { source }] of Object.entries(given)) values.given[clip] = source;
  return values;
}

function fill(values) {
  for (const id of ["foreground", "background", "blended", ...NUMBERS]) byId(id).value = Array.isArray(values[id]) ? values[id].join("\n\n") : values[id] ?? "";
  for (const [clip] of SLOTS) {
    const source = values.given?.[clip];
    const label = source?.upload ? "as uploaded" : source?.job ? "of another run" : `at frames ${Object.keys(source ?? {}).join(", ")}`;
    give(clip, source ? { source, label, alpha: clip === "foreground" && !values.given.alpha } : null);
  }
  hints = Object.fromEntries(HINTS.filter((name) => values[name] && values.given?.blended).map((name) => [name, values[name]]));
}

async function make(event) {
  event.preventDefault();
  say("");
  byId("make").disabled = true;
  try {
    const values = request();
    const seeds = Math.min(4, Math.max(1, Number(byId("seeds").value) || 1));
    batch = [];
    for (let n = 0; n < seeds; n++) batch.push((await api.submit({ ...values, seed: (values.seed ?? 0) + n })).id);
  } catch (error) {
    say(error.message);
  }
  byId("make").disabled = false;
  await look();
}

// Watching

async function look() {
  const jobs = await api.jobs();
  viewer.jobs = jobs;
  showHistory(jobs);
  showProgress(batch.map((id) => jobs.find((job) => job.id === id)).filter(Boolean));
  if (viewer.run) viewer.listRuns();
}

function showProgress(jobs) {
  const busy = jobs.filter((job) => !ENDED.includes(job.state));
  byId("working").hidden = byId("cancel").hidden = !busy.length;
  if (busy.length) {
    const job = busy.find((one) => one.state === "running") ?? busy.at(-1);
    const { stage, step, steps, seconds_left: left, preview } = job.progress;
    const many = jobs.length > 1 ? `${jobs.length - busy.length + 1} of ${jobs.length}: ` : "";
    const status = job.state === "queued" ? `waiting, ${job.before} before it`
      : stage === "denoising" ? `step ${step} of ${steps}${left != null ? `, ${Math.ceil(left)} s left` : ""}` : stage ?? "loading the model";
    byId("progress-text").textContent = many + status;
    byId("progress").value = steps ? step / steps : 0;
    const picture = `/api/jobs/${job.id}/preview?n=${preview}`;
    byId("preview").hidden = !preview;
    if (preview && !byId("preview").src.endsWith(picture)) byId("preview").src = picture;
    return;
  }
  if (!jobs.length) return;
  batch = [];
  const failed = jobs.find((job) => job.error);
  if (failed) say(failed.error);
  const done = jobs.filter((job) => job.state === "done");
  if (done.length) viewer.open(done).catch((error) => say(error.message));
}

let drawn = "";
function showHistory(jobs) {
  const now = jobs.map((job) => job.id + job.state).join();
  if (now === drawn) return; // keep the focus where it is
  drawn = now;
  byId("history").replaceChildren(...jobs.map(card));
}

function card(job) {
  const { foreground, background, given: from = {} } = job.request;
  const name = [[foreground].flat().join(" and "), background].filter(Boolean).join(" / ") || job.result.task || `given ${Object.keys(from).join(", ")}`;
  const changes = NUMBERS.filter((key) => job.request[key] != null).map((key) => `${key.replace("_", " ")} ${job.request[key]}`).join(", ");
  const item = element("li", {}, element("strong", { textContent: name }), element("div", { textContent: changes }));
  const button = (text, what) => {
    const made = element("button", { type: "button", textContent: text });
    made.setAttribute("aria-label", `${text}: ${name}`);
    made.addEventListener("click", () => Promise.resolve(what()).catch((error) => say(error.message)));
    return made;
  };
  const row = element("div", { className: "row" });
  if (job.state === "done") {
    item.append(element("img", { src: `/api/jobs/${job.id}/files/preview.webp`, alt: "", loading: "lazy" }));
    row.append(button("Look", () => viewer.open([job]).then(() => byId("viewer").scrollIntoView({ behavior: "smooth" }))));
  } else {
    item.append(element("div", { className: job.error ? "failed" : "", textContent: job.error || job.state }));
  }
  row.append(button("Again with a change", () => { fill(job.request); byId("form").scrollIntoView({ behavior: "smooth" }); byId("foreground").focus(); }));
  row.append(button(ENDED.includes(job.state) ? "Remove" : "Stop", () => api.remove(job.id).then(look)));
  item.append(row);
  return item;
}

// Starting

async function start() {
  makeSlots();
  const { model, examples, version } = await api.studio();
  byId("facts").textContent = `${model.model ?? "no model"}, version ${version}`;
  byId("upscale").append(...(model.upscale ?? [1]).map((n) => element("option", { value: n, textContent: n })));
  byId("upscale").value = model.upscale?.at(-1) ?? 1;
  byId("steps").placeholder = model.steps ?? "";
  byId("guidance").placeholder = model.guidance ?? "";
  byId("frames").placeholder = model.frames ?? "";
  byId("examples").append(...examples.map((example) => {
    const made = element("button", { type: "button", textContent: `${example.foreground}, ${example.background}` });
    made.addEventListener("click", () => { fill({ ...request(), blended: "", ...example, given: {} }); byId("make").focus(); });
    return made;
  }));
  byId("form").addEventListener("submit", make);
  byId("cancel").addEventListener("click", () => Promise.all(batch.map(api.cancel)).then(look));
  for (;;) {
    await look().catch(() => { byId("facts").textContent = "the server does not answer; trying again"; });
    await new Promise((wake) => setTimeout(wake, document.hidden ? 5 * POLL : POLL));
  }
}

start().catch((error) => say(error.message));
