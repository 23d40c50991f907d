// What is said to the person: what was done, and what went wrong.
const byId = (id) => document.getElementById(id);

export const say = (text) => (byId("status").textContent = text);
export const unsay = () => (byId("error").hidden = true);

export function fail(error) {
  byId("error").hidden = false;
  byId("error").textContent = error.message;
  if (error.status === 401) byId("token-dialog").showModal();
}

// Runs what a person asked for; what goes wrong is told in one line.
export async function attempt(work) {
  unsay();
  try {
    return await work();
  } catch (error) {
    return fail(error);
  }
}
