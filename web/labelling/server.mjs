// What the page asks the server for. Addresses are relative, so that it works behind any prefix.

/** Return the server's JSON; an Error with its sentence if it refuses or does not answer. */
async function ask(path, options) {
  let answer;
  try {
    answer = await fetch(path, options);
  } catch {
    throw new Error("the server does not answer; nothing is lost: start it and press a key again");
  }
  const values = await answer.json().catch(() => ({}));
  if (!answer.ok) {
    throw new Error(values.error ?? `the server answers ${answer.status}; reload the page`);
  }
  return values;
}

export function get(action, values) {
  return ask(`api/${action}?${new URLSearchParams(values)}`, { cache: "no-store" });
}

export function post(action, values) {
  return ask(`api/${action}`, {
    method: "POST",
    headers: { "Content-Type": "application/json" },
    body: JSON.stringify(values),
  });
}

export function imageUrl(folder, group, image) {
  return `api/image?${new URLSearchParams({ folder, group, image })}`;
}
