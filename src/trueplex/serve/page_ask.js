// Asking: the form, the request as code, the stream of a run, its replay, and the keyboard.

const GENERAL = [
  { label: "Divisors of 196", problem: "How many positive divisors does 196 have?" },
  { label: "A trap", problem: "A bat and a ball cost 1.10 in total. The bat costs 1.00 more than the ball. How many cents does the ball cost?" },
  { label: "Count carefully", problem: "How many integers from 1 to 1000 are divisible by 3 or by 7, but not by both?" },
];
const EMBEDDED = [ // what the model that ships has learned to do
  { label: "Half of the paths slip", problem: "Gita has 36 shells. Gita nearly loses 22, but keeps them. Gita gives away 9. The number doubles. Half of them are lost. The number doubles. How many shells are there now?", temperature: 1.3 },
  { label: "Where most paths are wrong", problem: "Reach 41 with three of the numbers 10, 5, 3, 12 once, using +, - and *, from left to right. What is the value before the last step?", temperature: 1.3 },
  { label: "Prune early", problem: "Reach 46 with three of the numbers 11, 6, 4, 2 once, using +, - and *, from left to right. What is the value before the last step?", temperature: 1.3, prune: "half:48/4" },
];
const OWN_FIELDS = ["temperature", "top_p", "seed"]; // of a chat completion itself; the rest goes into its `trueplex` object
const REPLAY_SECONDS = 7;
const BETWEEN_FRAMES = 60; // milliseconds
const SAY_EVERY = 4000; // milliseconds between two sentences read aloud while a race runs

const form = $("ask");
const race = { run: newRun(), events: [], controller: null, drawn: false, playing: 0, model: "reference" };

// -- the request -----------------------------------------------------------------------------------------

function asked() {
  const request = {};
  for (const field of form.elements) {
    if (!field.name || field.value.trim() === "") continue;
    const text = field.value.trim();
    request[field.name] = field.type === "number" || (field.name === "paths" && /^\d+$/.test(text)) ? Number(text) : text;
  }
  return request;
}

function fill(values) {
  for (const field of form.elements) if (field.name) field.value = values[field.name] ?? field.defaultValue ?? "";
  for (const field of form.querySelectorAll("select")) field.value = values[field.name] ?? "";
  drawCode();
}

function headers() {
  const key = $("key").value.trim();
  return { "Content-Type": "application/json", ...(key ? { Authorization: `Bearer ${key}` } : {}) };
}

function curlOf(request) {
  const quoted = `'${JSON.stringify(request, null, 1).replaceAll("'", "'\\''")}'`;
  const key = $("key").value.trim() ? " \\\n  -H \"Authorization: Bearer $TRUEPLEX_API_KEY\"" : "";
  return `curl ${location.origin}/v1/solve \\\n  -H 'Content-Type: application/json'${key} \\\n  -d ${quoted}`;
}

function pythonOf({ problem, max_tokens: most, ...options }) {
  const literal = (value) => JSON.stringify(value); // numbers and texts are written alike in both
  const own = OWN_FIELDS.filter((name) => name in options).map((name) => `    ${name}=${literal(options[name])},\n`);
  if (most) own.push(`    max_completion_tokens=${most},\n`);
  const rest = Object.entries(options).filter(([name]) => !OWN_FIELDS.includes(name)).map(([name, value]) => `${literal(name)}: ${literal(value)}`);
  const key = $("key").value.trim() ? 'os.environ["TRUEPLEX_API_KEY"]' : '"none"';
  return `${key.startsWith("os") ? "import os\n\n" : ""}from openai import OpenAI

client = OpenAI(base_url=${literal(`${location.origin}/v1`)}, api_key=${key})
reply = client.chat.completions.create(
    model=${literal(race.model)},
    messages=[{"role": "user", "content": ${literal(problem || "")}}],
${own.join("")}    extra_body={"trueplex": {${rest.join(", ")}}},
)
print(reply.choices[0].message.content)
print(reply.trueplex["confidence"], reply.trueplex["votes"])
`;
}

function drawCode() {
  const request = asked();
  $("curl").textContent = curlOf(request);
  $("python").textContent = pythonOf(request);
}

async function copy(text) {
  try {
    await navigator.clipboard.writeText(text);
  } catch { // no clipboard without https
    const area = make("textarea");
    area.value = text;
    document.body.append(area);
    area.select();
    document.execCommand("copy");
    area.remove();
  }
  toast("Copied");
}

function toast(text) {
  $("toast").textContent = text;
  clearTimeout(toast.timer);
  toast.timer = setTimeout(() => ($("toast").textContent = ""), 1800);
}

// -- a run -----------------------------------------------------------------------------------------------------

async function start() {
  if (race.controller) race.controller.abort();
  const controller = (race.controller = new AbortController());
  const request = asked();
  history.replaceState(null, "", `#${new URLSearchParams(request)}`);
  Object.assign(race, { run: newRun(), events: [], playing: 0 });
  complain("");
  for (const id of ["hero", "how", "replay-bar"]) $(id).hidden = true;
  $("run").hidden = $("stop").hidden = false;
  if ($("path").open) $("path").close();
  $("more").open = $("code").open = false;
  draw();
  say("Asked.");
  try {
    await watch(request, controller.signal);
  } catch (error) {
    if (race.controller !== controller) return; // another question has been asked
    if (error.name !== "AbortError") complain(error.told || `The connection was lost (${error.message}). Try: ask again`);
  }
  if (race.controller === controller) ended();
}

async function watch(request, signal) {
  const body = JSON.stringify({ ...request, stream: true, candidates: true });
  const response = await fetch("/v1/solve", { method: "POST", headers: headers(), body, signal });
  if (!response.ok) throw Object.assign(new Error(response.statusText), { told: await refusal(response) });
  for await (const event of eventsOf(response)) {
    signal.throwIfAborted();
    race.events.push(event);
    reduce(race.run, event);
    changed();
  }
  if (!race.run.solution && !race.run.error) throw new Error("the stream ended early");
}

async function refusal(response) {
  const told = await response.json().catch(() => ({}));
  if (response.status === 401) {
    $("more").open = true;
    $("key").focus();
  }
  const wait = response.headers.get("retry-after");
  const message = (told.error && told.error.message) || (typeof told.detail === "string" && told.detail) || `The server said ${response.status} ${response.statusText}.`;
  return wait ? `${message} (Free again in about ${wait} s.)` : message;
}

function ended() {
  race.controller = null;
  $("stop").hidden = true;
  if (race.run.error) complain(race.run.error);
  draw();
  const shown = race.run.paths.length > 0;
  $("replay-bar").hidden = !shown;
  $("run").hidden = !shown;
  $("scrub").max = race.events.length;
  $("scrub").value = race.events.length;
  URL.revokeObjectURL($("save").href);
  $("save").href = URL.createObjectURL(new Blob([JSON.stringify(race.run.solution || race.events, null, 1)], { type: "application/json" }));
  say(summary(race.run));
}

function complain(text) {
  $("alert").textContent = text;
  $("alert").hidden = !text;
}

function say(text) {
  $("told").textContent = text;
  say.last = performance.now();
}

// Draw now and then, however many events come: the model may share this machine's cores.
function changed() {
  if (race.drawn) return;
  race.drawn = true;
  setTimeout(() => {
    race.drawn = false;
    draw();
    if (race.controller && performance.now() - say.last > SAY_EVERY && !race.run.solution) say(summary(race.run));
  }, BETWEEN_FRAMES);
}

function draw() {
  const { run } = race;
  const going = Boolean(race.controller) || race.playing > 0;
  $("run").classList.toggle("going", going);
  drawRace(run, $("sort").value, Boolean(race.controller));
  drawVotes(run);
  drawVerdict(run, going);
  if ($("path").open) drawPath(run);
}

// -- replay: the same events once more, as slowly as one likes ----------------------------------------------------

function seek(place) {
  race.run = newRun();
  for (const event of race.events.slice(0, place)) reduce(race.run, event);
  draw();
}

function replay() {
  if (race.playing) return pause();
  const from = Number($("scrub").value) >= race.events.length ? 0 : Number($("scrub").value);
  const began = performance.now();
  const perSecond = race.events.length / REPLAY_SECONDS;
  $("replay").textContent = "Pause";
  const frame = (now) => {
    const place = Math.min(race.events.length, Math.round(from + ((now - began) / 1000) * perSecond));
    $("scrub").value = place;
    race.playing = place < race.events.length ? requestAnimationFrame(frame) : 0;
    seek(place);
    if (!race.playing) pause();
  };
  race.playing = requestAnimationFrame(frame);
}

function pause() {
  cancelAnimationFrame(race.playing);
  race.playing = 0;
  $("replay").textContent = "Replay";
  draw();
}

// -- what the visitor does -----------------------------------------------------------------------------------------

form.addEventListener("submit", (event) => {
  event.preventDefault();
  if ($("problem").value.trim()) start();
});
form.addEventListener("input", drawCode);
$("problem").addEventListener("keydown", (event) => {
  const typing = event.shiftKey || event.isComposing || matchMedia("(pointer: coarse)").matches;
  if (event.key === "Enter" && !typing) {
    event.preventDefault();
    form.requestSubmit();
  }
});
$("stop").addEventListener("click", () => {
  race.controller.abort();
  $("go").focus();
});
$("replay").addEventListener("click", replay);
$("scrub").addEventListener("input", () => {
  if (race.playing) pause();
  seek(Number($("scrub").value));
});
$("sort").addEventListener("change", draw);
$("paths").addEventListener("click", (event) => {
  const row = event.target.closest(".row");
  if (row) openPath(race.run, Number(row.dataset.index));
});
$("paths").addEventListener("keydown", (event) => {
  const buttons = [...$("paths").querySelectorAll(".row")];
  const at = buttons.indexOf(document.activeElement);
  const to = { ArrowDown: at + 1, ArrowUp: at - 1, Home: 0, End: buttons.length - 1 }[event.key];
  if (to === undefined || !buttons[to]) return;
  event.preventDefault();
  buttons[to].focus();
});
document.addEventListener("keydown", (event) => {
  if (event.key !== "/" || event.ctrlKey || event.metaKey || $("path").open || event.target.matches("input, textarea, select")) return;
  event.preventDefault();
  $("problem").focus();
  $("problem").select();
});
for (const button of document.querySelectorAll("[data-copy]")) button.addEventListener("click", () => copy($(button.dataset.copy).textContent));
addEventListener("resize", changed);

// -- the start --------------------------------------------------------------------------------------------------------

async function model() {
  try {
    const response = await fetch("/v1/models", { headers: headers() });
    if (response.status === 401) {
      $("model").textContent = "needs an API key";
      $("more").open = true;
      return;
    }
    race.model = (await response.json()).data[0].id;
    $("model").textContent = race.model;
  } catch {
    $("model").textContent = "no connection";
  }
}

function drawExamples() {
  const examples = race.model.startsWith("reference") ? EMBEDDED : GENERAL;
  $("examples").replaceChildren(...examples.map(({ label, ...values }) => {
    const chip = make("button", "chip", label);
    chip.type = "button";
    chip.title = values.problem;
    chip.addEventListener("click", () => {
      fill(values);
      $("problem").focus();
    });
    return chip;
  }));
}

$("key").addEventListener("change", () => model().then(drawExamples).then(drawCode));
fill(Object.fromEntries(new URLSearchParams(location.hash.slice(1))));
model().then(drawExamples).then(drawCode);
if (!matchMedia("(pointer: coarse)").matches) $("problem").focus();
