// The job API, as docs/studio.md describes it.

async function call(method, path, body, type = "application/json") {
  const headers = body === undefined ? {} : { "content-type": type };
  const answer = await fetch(path, { method, headers, body: type === "application/json" ? JSON.stringify(body) : body });
  const data = await answer.json().catch(() => ({}));
  if (!answer.ok) throw new Error(data.error ?? `the server answered ${answer.status}`);
  return data;
}

// A name for this browser, so that each sees its own runs.
function sessionName() {
  let name = localStorage.getItem("layerflow-session");
  if (!name) {
    name = Array.from(crypto.getRandomValues(new Uint8Array(16)), (byte) => byte.toString(16).padStart(2, "0")).join("");
    localStorage.setItem("layerflow-session", name);
  }
  return name;
}

export const session = sessionName();
export const ENDED = ["done", "failed", "cancelled", "interrupted"];
export const api = {
  studio: () => call("GET", "/api/studio"),
  upload: (file) => call("POST", "/api/uploads", file, "application/octet-stream"),
  submit: (request) => call("POST", "/api/jobs", { ...request, session }),
  jobs: () => call("GET", `/api/jobs?session=${session}`),
  cancel: (id) => call("POST", `/api/jobs/${id}/cancel`),
  remove: (id) => call("DELETE", `/api/jobs/${id}`),
  export: (id, request) => call("POST", `/api/jobs/${id}/exports`, request),
};

// A run's layers, fetched once: a sheet of all frames for each, and where each frame is.
export async function loadRun(job) {
  const sheets = {};
  await Promise.all(job.result.sheets.map(async (layer) => {
    const path = `/api/jobs/${job.id}/sheets/${layer}`;
    const [picture, where] = await Promise.all([
      fetch(`${path}.png`).then((answer) => answer.blob()),
      fetch(`${path}.json`).then((answer) => answer.json()),
    ]);
    sheets[layer] = {
      image: await createImageBitmap(picture, { colorSpaceConversion: "none" }),
      frames: where.frames.map((entry) => entry.frame),
    };
  }));
  const { width, height, frames, fps } = job.result;
  return { job, sheets, width, height, frames, fps };
}

export function element(name, properties = {}, ...children) {
  const made = Object.assign(document.createElement(name), properties);
  made.append(...children);
  return made;
}

export const byId = (id) => document.getElementById(id);
