// The same program (see ../python/program.py) with openapi-fetch, whose types openapi-typescript
// generates. Node.js takes the CA certificate from NODE_EXTRA_CA_CERTS.

import { createHash } from "node:crypto";
import { argv, env } from "node:process";
import { setTimeout as sleep } from "node:timers/promises";
import createClient, { type Client } from "openapi-fetch";
import type { components, paths } from "./muster-client.js";

type Schemas = components["schemas"];

const device = "robot";
const name = "openapi-fetch";

function required(name: string): string {
  const value = env[name];
  if (value === undefined) throw new Error(`${name} is not set`);
  return value;
}

function connect(token: string): Client<paths> {
  const headers = { Authorization: `Bearer ${token}` };
  return createClient<paths>({ baseUrl: required("MUSTER_URL"), headers });
}

const client = connect(required("MUSTER_TOKEN"));

/** Returns the data of a response, unless it is a problem. */
function ok<T>({ data, error }: { data?: T; error?: Schemas["Problem"] }): T {
  if (data === undefined) throw new Error(`the request failed: ${error?.type} ${error?.detail}`);
  return data;
}

/** Reads all pages of the list; a page has one device here. */
async function listNames(selector: string): Promise<string[]> {
  const names: string[] = [];
  let cursor: string | undefined;
  do {
    const query = { selector, limit: 1, cursor };
    const page = ok(await client.GET("/api/v1/devices", { params: { query } }));
    names.push(...page.items.map((item) => item.name));
    cursor = page.next;
  } while (cursor !== undefined);
  return names;
}

/** Sets a label; returns the position of the event in the log. */
async function label(): Promise<number> {
  const params = { path: { device } };
  const body = { labels: { client: name } };
  return ok(await client.PATCH("/api/v1/devices/{device}", { params, body })).updated_position;
}

/** Requests an operation; returns its id. */
async function request(action: Schemas["Action"]): Promise<string> {
  const body = { target: { kind: "devices" as const, devices: [device] }, action };
  return ok(await client.POST("/api/v1/operations", { body })).id;
}

/** Runs a program, waits for its end and returns its output. */
async function execute(argv: string[]): Promise<string> {
  const operation = await request({ kind: "exec", argv });
  const status = async () => {
    const params = { path: { operation } };
    return ok(await client.GET("/api/v1/operations/{operation}", { params })).status;
  };
  while (!["finished", "aborted"].includes(await status())) {
    await sleep(100);
  }
  const params = { path: { operation, device }, query: { stream: "stdout" as const } };
  const path = "/api/v1/operations/{operation}/runs/{device}/output";
  return ok(await client.GET(path, { params, parseAs: "text" }));
}

/** Follows the log: openapi-fetch returns the body as a stream, and the data has the generated
 * type. */
async function* events(after: number): AsyncGenerator<Schemas["Event"]> {
  const options = { params: { query: { after, device } }, parseAs: "stream" as const };
  const body = ok(await client.GET("/api/v1/events/stream", options));
  if (body === null) return;
  let rest = "";
  for await (const chunk of body.pipeThrough(new TextDecoderStream())) {
    const lines = (rest + chunk).split("\n");
    rest = lines.pop() ?? "";
    for (const line of lines) {
      if (line.startsWith("data:")) {
        yield JSON.parse(line.slice("data:".length)) as Schemas["Event"];
      }
    }
  }
}

async function first<T>(items: AsyncGenerator<T>): Promise<T> {
  for await (const item of items) return item;
  throw new Error("the stream has ended");
}

/** Creates a token, and returns the role that it has. */
async function createViewer(): Promise<Schemas["Role"]> {
  const body = { name, role: "viewer" as const };
  const { secret } = ok(await client.POST("/api/v1/tokens", { body }));
  return ok(await connect(secret).GET("/api/v1/whoami")).role;
}

/** Has the device upload a file, and downloads it. */
async function fetchFile(file: string): Promise<Uint8Array> {
  const operation = await request({ kind: "upload", path: file });
  const params = { path: { operation, device } };
  const path = "/api/v1/uploads/{operation}/{device}";
  while (ok(await client.GET(path, { params })).status !== "stored") {
    await sleep(100);
  }
  const content = await client.GET(`${path}/content`, { params, parseAs: "arrayBuffer" });
  return new Uint8Array(ok(content));
}

const devices = await listNames("env=test");
const position = await label();
const output = await execute(["sh", "-c", "printf 'from %s' robot"]);
const requested = await first(events(position - 1));
const query = { field: "mem.used_percent", since: "1h", fn: "mean" as const };
const metrics = { params: { path: { device }, query } };
const { series } = ok(await client.GET("/api/v1/devices/{device}/metrics", metrics));
const [file] = argv.slice(2);
if (file === undefined) throw new Error("usage: program PATH");
const result = {
  devices,
  output,
  event: requested.type,
  points: series.reduce((sum, { points }) => sum + points.length, 0),
  role: await createViewer(),
  sha256: createHash("sha256").update(await fetchFile(file)).digest("hex"),
};
console.log(JSON.stringify(result));
