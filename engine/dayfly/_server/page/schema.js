// The documentation page: reads the OpenAPI document and shows it, as text nodes only.
"use strict";

function element(name, ...children) {
  const made = document.createElement(name);
  made.append(...children);
  return made;
}

function named(schema) {
  if (!schema) return "";
  if (schema.$ref) return schema.$ref.split("/").pop();
  const some = schema.oneOf || schema.anyOf;
  if (some) return some.map(named).join(" or ");
  if (schema.type === "array") return "list of " + (named(schema.items) || "anything");
  return [].concat(schema.type || "anything").join(" or ");
}

function fields(schema) {
  const list = Object.entries(schema.properties || {}).map(([name, value]) => {
    const needed = (schema.required || []).includes(name) ? ", required" : "";
    return element("li", element("code", name), `: ${named(value)}${needed}`);
  });
  return element("ul", ...list);
}

(async () => {
  const api = await (await fetch("/schema/openapi.json")).json();
  document.getElementById("about").textContent = `${api.info.description} Version ${api.info.version}.`;
  const main = document.getElementById("operations");
  for (const [path, methods] of Object.entries(api.paths)) {
    for (const [method, operation] of Object.entries(methods)) {
      const details = element("details", element("summary", element("code", `${method.toUpperCase()} ${path}`), ` ${operation.description || ""}`));
      if (operation.security) details.append(element("p", "Needs a key: X-API-Key, or Authorization: Bearer."));
      const body = operation.requestBody && Object.values(operation.requestBody.content)[0];
      if (body) details.append(element("p", `Body: ${named(body.schema)}`));
      const answers = Object.entries(operation.responses || {}).map(([status, answer]) => {
        const [type, content] = Object.entries(answer.content || {})[0] || ["", {}];
        return element("li", element("code", status), ` ${answer.description} ${named(content.schema)} ${type}`);
      });
      details.append(element("ul", ...answers));
      main.append(details);
    }
  }
  main.append(element("h2", "Bodies"));
  for (const [name, schema] of Object.entries(api.components.schemas || {})) {
    main.append(element("details", element("summary", name), element("p", schema.description || ""), fields(schema)));
  }
})();
