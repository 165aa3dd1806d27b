// The OpenAPI document as a page, without anything from elsewhere.
"use strict";

function make(tag, className, ...children) {
  const element = document.createElement(tag);
  if (className) element.className = className;
  element.append(...children);
  return element;
}

function resolve(schema, all) {
  return schema.$ref ? resolve(all[schema.$ref.split("/").at(-1)], all) : schema;
}

// What a field may hold, in words.
function describe(schema, all) {
  schema = resolve(schema, all);
  const kinds = schema.anyOf ?? schema.oneOf;
  if (kinds) return kinds.map((part) => describe(part, all)).join(" or ");
  if (schema.const !== undefined) return JSON.stringify(schema.const);
  if (schema.enum) return schema.enum.map((value) => JSON.stringify(value)).join(" or ");
  if (schema.type === "array") {
    const { minItems: least, maxItems: most } = schema;
    const number = most === undefined ? "" : least === most ? ` of ${most}` : ` of ${least ?? 0} to ${most}`;
    return `list${number}: ${describe(schema.items ?? {}, all)}`;
  }
  const limits = [];
  if (schema.maxLength !== undefined) limits.push(`at most ${schema.maxLength.toLocaleString("en")} characters`);
  if (schema.minimum !== undefined) limits.push(`${schema.minimum} to ${schema.maximum}`);
  if (schema.pattern) limits.push("not blank");
  return (schema.type ?? "any") + (limits.length ? ` (${limits.join(", ")})` : "");
}

function table(heads, rows) {
  const head = make("tr", "", ...heads.map((text) => make("th", "", text)));
  const body = rows.map((cells) => make("tr", "", ...cells.map((cell) => make("td", "", cell))));
  return make("table", "", make("thead", "", head), make("tbody", "", ...body));
}

function fields(schema, all) {
  schema = resolve(schema, all);
  const needed = schema.required ?? [];
  return Object.entries(schema.properties ?? {}).map(([name, field]) => {
    const preset = needed.includes(name) ? "needed" : `default ${JSON.stringify(field.default ?? null)}`;
    return [make("code", "", name), describe(field, all), preset, field.description ?? ""];
  });
}

// The forms of a body or an answer: one, or those of the protocols that its route speaks.
function forms(schema, all) {
  schema = resolve(schema, all);
  const kinds = schema.anyOf ?? schema.oneOf;
  return kinds ? kinds.flatMap((part) => forms(part, all)) : [schema];
}

function example(path, schema, all) {
  const values = {};
  for (const [name, field] of Object.entries(schema.properties ?? {})) {
    if (name === "texts") values.texts = ["A first text.", "Another one."];
    else if (field.default === null) continue;
    else if (field.default === undefined) values[name] = field.enum?.[0] ?? "A text.";
    else values[name] = field.default;
  }
  const header = "-H 'Content-Type: application/json'";
  // Below a proxy's path the routes stand beside this page.
  const address = new URL(`.${path}`, location.href).href;
  return `curl ${address} ${header} -d '${JSON.stringify(values)}'`;
}

function section(path, verb, route, all) {
  const title = make("h2", "", make("span", "verb", verb.toUpperCase()), make("code", "", path));
  const card = make("section", "card", title, make("p", "", route.description ?? ""));
  const body = route.requestBody?.content["application/json"].schema;
  for (const [number, form] of (body ? forms(body, all) : []).entries()) {
    card.append(make("h3", "", number ? "Or it reads" : "It reads"));
    card.append(table(["field", "what", "", ""], fields(form, all)));
    card.append(make("pre", "", example(path, form, all)));
  }
  const answer = route.responses["200"].content?.["application/json"]?.schema;
  for (const [number, form] of (answer ? forms(answer, all) : []).entries()) {
    const inner = form.properties?.results?.items ?? form.items;
    const rows = fields(inner ?? form, all).map(([name, what, , meaning]) => [name, what, meaning]);
    const what = form.properties?.results ? "results, a list of" : form.items ? "a list of" : "";
    card.append(make("h3", "", `${number ? "Or it answers" : "It answers"} ${what}`.trim()));
    card.append(rows.length ? table(["field", "what", ""], rows) : make("p", "", describe(inner ?? form, all)));
  }
  const others = Object.entries(route.responses).filter(([status]) => status !== "200");
  if (others.length) {
    const rows = others.map(([status, { description }]) => [status, description]);
    card.append(make("details", "", make("summary", "", "Other statuses"), table(["status", "why"], rows)));
  }
  return card;
}

async function begin() {
  const place = document.getElementById("routes");
  try {
    const { paths, components } = await (await fetch("openapi.json")).json();
    for (const [path, verbs] of Object.entries(paths)) {
      for (const [verb, route] of Object.entries(verbs)) place.append(section(path, verb, route, components.schemas));
    }
  } catch {
    place.append(make("p", "error", "The service cannot be reached."));
  }
}

begin();
