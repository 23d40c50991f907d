// Requests to the service. Addresses are relative to the page: nothing goes to any other host.

const TOKEN = "lungsound-token";

export class ServiceError extends Error {
  constructor(message, status = 0) {
    super(message);
    this.status = status;
  }
}

export const setToken = (token) => sessionStorage.setItem(TOKEN, token);

async function ask(path, options = {}) {
  const token = sessionStorage.getItem(TOKEN);
  const headers = { ...options.headers, ...(token && { Authorization: `Bearer ${token}` }) };
  let response;
  try {
    response = await fetch(path, { ...options, headers });
  } catch {
    throw new ServiceError("The service does not respond: is lungsound still running?");
  }
  if (response.ok) return response;
  const body = await response.json().catch(() => ({}));
  throw new ServiceError(body.error ?? `The service responded ${response.status} ${response.statusText}.`, response.status);
}

const sendJson = (path, value, options) =>
  ask(path, { headers: { "Content-Type": "application/json" }, body: JSON.stringify(value), ...options });
const recordingPath = (id) => `v1/recordings/${encodeURIComponent(id)}`;

export const getModel = async () => (await ask("v1/model")).json();
export const getRecordings = async () => (await ask("v1/recordings")).json();
export const getRecording = async (id) => (await ask(recordingPath(id))).json();
export const getAudio = async (id) => (await ask(`${recordingPath(id)}/audio`)).arrayBuffer();
// Kept alive: what was changed last is saved although the tab is being closed.
export const putCycles = (id, cycles) => sendJson(`${recordingPath(id)}/cycles`, cycles, { method: "PUT", keepalive: true });

export async function getAnswerFile(format, answer) {
  return (await sendJson(`v1/answers/${format}`, answer, { method: "POST" })).blob();
}

// `stated`: {age_years, stethoscope}, of which any may be blank.
export async function predict(sound, annotation, stated) {
  const form = new FormData();
  form.append("file", sound, sound.name);
  if (annotation) form.append("annotation", annotation, annotation.name);
  return (await ask(`v1/predictions?${new URLSearchParams(stated)}`, { method: "POST", body: form })).json();
}
