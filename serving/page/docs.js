// The API's own document, drawn without help from anywhere else.

const make = (tag, attributes = {}, ...children) => {
  const element = Object.assign(document.createElement(tag), attributes);
  element.append(...children.filter((child) => child != null));
  return element;
};

function exampleUrl(path, parameters) {
  const filled = path.replace(/\{([^}:]+)[^}]*\}/g, (_, name) =>
    encodeURIComponent(parameters.find((parameter) => parameter.name === name && parameter.in === "path")?.example ?? ""));
  const query = new URLSearchParams();
  for (const { name, in: place, example } of parameters) if (place === "query" && example !== undefined) for (const value of [example].flat()) query.append(name, value);
  return query.size ? `${filled}?${query}` : filled;
}

function operation(path, method, about) {
  const parameters = about.parameters ?? [];
  const json = about.requestBody?.content["application/json"];
  const isUpload = about.requestBody && !json;
  const url = make("input", { type: "text", value: exampleUrl(path, parameters), ariaLabel: "Address" });
  const body = json ? make("textarea", { value: JSON.stringify(json.example, null, 2), rows: 14, spellcheck: false, ariaLabel: "Body" }) : null;
  const file = isUpload ? make("input", { type: "file", accept: "image/jpeg,image/png,image/webp", ariaLabel: "Picture" }) : null;
  const answer = make("pre", { hidden: true });
  const run = make("button", { type: "button", className: "quiet", textContent: "Run" });
  run.addEventListener("click", async () => {
    const headers = json ? { "content-type": "application/json" } : {};
    const response = await fetch(url.value, { method: method.toUpperCase(), headers, body: body?.value ?? file?.files[0] });
    const text = await response.text();
    let shown = text;
    try { shown = JSON.stringify(JSON.parse(text), null, 2); } catch { /* not JSON: shown as it is */ }
    answer.textContent = `${response.status}\n${shown}`;
    answer.hidden = false;
  });
  const rows = parameters.map((parameter) => make("tr", {}, make("td", {}, parameter.name), make("td", {}, parameter.in),
    make("td", {}, parameter.description ?? (parameter.schema?.default !== undefined ? `default ${parameter.schema.default}` : ""))));
  return make("details", { className: "operation" },
    make("summary", {}, make("b", {}, method.toUpperCase()), make("code", {}, path), make("span", {}, about.summary ?? "")),
    make("div", {}, rows.length ? make("table", {}, ...rows) : null, url, body, file, run, answer));
}

const api = await (await fetch("/openapi.json")).json();
document.getElementById("operations").append(...Object.entries(api.paths).flatMap(([path, methods]) =>
  Object.entries(methods).map(([method, about]) => operation(path, method, about))));
