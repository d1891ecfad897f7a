// The same program (see ../python/program.py) with the typescript-fetch client of
// openapi-generator. Node.js takes the CA certificate from NODE_EXTRA_CA_CERTS.

import { createHash } from "node:crypto";
import { argv, env } from "node:process";
import { setTimeout as sleep } from "node:timers/promises";
import {
  Configuration,
  DevicesApi,
  type Event,
  EventFromJSON,
  EventsApi,
  MetricsApi,
  OperationsApi,
  type Action,
  Role,
  TokensApi,
  UploadsApi,
} from "muster-client";

const device = "robot";
const client = "typescript-fetch";

function required(name: string): string {
  const value = env[name];
  if (value === undefined) throw new Error(`${name} is not set`);
  return value;
}

function connect(accessToken: string): Configuration {
  return new Configuration({ basePath: required("MUSTER_URL"), accessToken });
}

const configuration = connect(required("MUSTER_TOKEN"));
const operations = new OperationsApi(configuration);
const uploads = new UploadsApi(configuration);

/** Reads all pages of the list; a page has one device here. */
async function listNames(selector: string): Promise<string[]> {
  const devices = new DevicesApi(configuration);
  const names: string[] = [];
  let cursor: string | undefined;
  do {
    const page = await devices.listDevices({ selector, limit: 1, cursor });
    names.push(...page.items.map((item) => item.name));
    cursor = page.next;
  } while (cursor !== undefined);
  return names;
}

/** Sets a label; returns the position of the event in the log. */
async function label(): Promise<number> {
  const changeDevice = { labels: { client } };
  return (await new DevicesApi(configuration).changeDevice({ device, changeDevice })).updatedPosition;
}

/** Requests an operation; returns its id. */
async function request(action: Action): Promise<string> {
  const requestOperation = { target: { kind: "devices" as const, devices: [device] }, action };
  return (await operations.requestOperation({ requestOperation })).id;
}

/** Runs a program, waits for its end and returns its output. */
async function execute(argv: string[]): Promise<string> {
  const operation = await request({ kind: "exec", argv });
  const get = () => operations.getOperation({ operation });
  while (!["finished", "aborted"].includes((await get()).status)) {
    await sleep(100);
  }
  return (await operations.getRunOutput({ operation, device, stream: "stdout" })).text();
}

/** Follows the log. The generator has no server-sent events: the body of the raw response is read
 * as a stream, and the data is parsed with the generated function. */
async function* events(after: number): AsyncGenerator<Event> {
  const { raw } = await new EventsApi(configuration).streamEventsRaw({ after, device });
  if (raw.body === null) return;
  let rest = "";
  for await (const chunk of raw.body.pipeThrough(new TextDecoderStream())) {
    const lines = (rest + chunk).split("\n");
    rest = lines.pop() ?? "";
    for (const line of lines) {
      if (line.startsWith("data:")) yield EventFromJSON(JSON.parse(line.slice("data:".length)));
    }
  }
}

async function first<T>(items: AsyncGenerator<T>): Promise<T> {
  for await (const item of items) return item;
  throw new Error("the stream has ended");
}

/** Creates a token, and returns the role that it has. */
async function createViewer(): Promise<Role> {
  const createToken = { name: client, role: Role.Viewer };
  const { secret } = await new TokensApi(configuration).createToken({ createToken });
  return (await new TokensApi(connect(secret)).getWhoami()).role;
}

/** Has the device upload a file, and downloads it. */
async function fetchFile(path: string): Promise<Uint8Array> {
  const operation = await request({ kind: "upload", path });
  while ((await uploads.getUpload({ operation, device })).status !== "stored") {
    await sleep(100);
  }
  return (await uploads.getUploadContent({ operation, device })).bytes();
}

const devices = await listNames("env=test");
const position = await label();
const output = await execute(["sh", "-c", "printf 'from %s' robot"]);
const requested = await first(events(position - 1));
const { series } = await new MetricsApi(configuration).queryMetrics({
  device,
  field: "mem.used_percent",
  since: "1h",
  fn: "mean",
});
const [path] = argv.slice(2);
if (path === undefined) throw new Error("usage: program PATH");
const result = {
  devices,
  output,
  event: requested.type,
  points: series.reduce((sum, { points }) => sum + points.length, 0),
  role: await createViewer(),
  sha256: createHash("sha256").update(await fetchFile(path)).digest("hex"),
};
console.log(JSON.stringify(result));
