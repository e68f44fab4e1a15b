// Starts Swagger UI with examples that work as they stand: an e-mail address that nobody has yet, and, in place of each
// example of an id, the id of what was created last.

const CREATED = [201, 202];
const UPDATE = "spec_update_json"; // the action itself: specActions.updateJsonSpec would also clear the answers on show

const fresh = () => `ada-${Math.random().toString(36).slice(2, 10)}@example.com`;

/** An example of the answer to a POST at this path; undefined if there is none. */
function exampleOf(spec, path) {
  const answers = spec.paths[path]?.post?.responses ?? {};
  const content = CREATED.map((status) => answers[status]?.content?.["application/json"]).find(Boolean);
  return content?.example ?? Object.values(content?.examples ?? {})[0]?.value;
}

async function start() {
  let address = fresh();
  let text = (await (await fetch("/openapi.json")).text()).replaceAll("ada@example.com", address);

  function learn(response) {
    const path = new URL(response.url, location.href).pathname;
    const example = exampleOf(JSON.parse(text), path);
    if (!CREATED.includes(response.status) || !example?.id) return response;
    const [used, pathMethod] = [address, [path, "post"]];
    address = fresh();
    text = text.replaceAll(example.id, JSON.parse(response.text).id).replaceAll(used, address);
    ui.getStore().dispatch({ type: UPDATE, payload: JSON.parse(text) });
    const body = ui.oas3Selectors.requestBodyValue(...pathMethod);
    ui.oas3Actions.setRequestBodyValue({ value: body?.replaceAll(used, address), pathMethod });
    return response;
  }

  const ui = SwaggerUIBundle({ spec: JSON.parse(text), dom_id: "#swagger-ui", responseInterceptor: learn });
}

start();
