// The race: a row for each path, the votes, and the verdict. Everything that a model wrote goes in as text.

const SVG = "http://www.w3.org/2000/svg";
const $ = (id) => document.getElementById(id);
const ENDS = { waiting: "waiting", running: "thinking", finished: "no answer", pruned: "pruned", truncated: "cut off" };
const HUES = 8;

function make(tag, className, text) {
  const node = document.createElement(tag);
  if (className) node.className = className;
  if (text !== undefined) node.textContent = text;
  return node;
}

function drawn(tag, className) {
  const node = document.createElementNS(SVG, tag);
  node.setAttribute("class", className);
  return node;
}

const plural = (count, noun) => `${count.toLocaleString("en")} ${noun}${count === 1 ? "" : "s"}`;
const hueClass = (run, answer) => (answer === null || !run.hues.has(answer) ? "" : `hue-${run.hues.get(answer) % HUES}`);

// -- a lane: the score of one path over its tokens, and the steps that explored -----------------------

class Lane {
  constructor() {
    this.node = make("span", "lane");
    this.svg = drawn("svg", "plot");
    this.svg.setAttribute("preserveAspectRatio", "none");
    this.svg.setAttribute("aria-hidden", "true");
    [this.fill, this.line, this.ticks] = ["fill", "line", "ticks"].map((name) => drawn("path", name));
    this.svg.append(this.fill, this.ticks, this.line);
    this.mark = make("i", "mark");
    this.node.append(this.svg, this.mark);
  }

  // Tokens go from 0 to `scale`, scores from 0 to `most`; a path without scores has a level line.
  draw(path, scale, most) {
    const y = (score) => (4 + 76 * (1 - Math.max(0, score) / most)).toFixed(1);
    const scored = path.scores.length ? path.scores : [[0, most / 2]];
    const points = [[0, scored[0][1]], ...scored, [path.tokens, scored[scored.length - 1][1]]];
    const line = points.map(([at, score]) => `${at} ${y(score)}`).join("L");
    this.svg.setAttribute("viewBox", `0 0 ${scale} 100`);
    this.line.setAttribute("d", `M${line}`);
    this.fill.setAttribute("d", `M0 84L${line}L${path.tokens} 84Z`);
    this.ticks.setAttribute("d", path.explored.map((at) => `M${at} 86v14`).join(""));
    this.mark.className = `mark ${path.status}`;
    this.mark.style.left = `${(100 * path.tokens) / scale}%`;
    this.mark.style.top = `${y(points[points.length - 1][1])}%`;
    this.mark.hidden = path.status === "waiting";
  }
}

// -- rows ----------------------------------------------------------------------------------------------

class Row {
  constructor(index) {
    this.node = make("li");
    this.button = make("button", "row");
    this.button.type = "button";
    this.button.dataset.index = index;
    this.lane = new Lane();
    [this.name, this.score, this.end] = ["name", "score", "end"].map((kind) => make("span", kind));
    this.name.textContent = index;
    this.button.append(this.name, this.lane.node, this.score, this.end);
    this.node.append(this.button);
  }

  draw(run, path, scale, most) {
    this.lane.draw(path, scale, most);
    const answered = path.answer !== null;
    this.button.className = `row ${path.status} ${hueClass(run, path.answer)}`;
    this.score.textContent = path.score === null ? "" : path.score.toFixed(2);
    this.end.textContent = answered ? path.answer : ENDS[path.status] || path.status;
    this.end.classList.toggle("given", answered);
    this.button.title = path.reason;
    this.button.setAttribute("aria-label", spoken(path));
  }
}

function spoken(path) {
  const score = path.score === null ? "" : `, score ${path.score.toFixed(2)}`;
  const end = path.answer !== null ? `, answer ${path.answer}` : "";
  const explored = path.explored.length ? `, explored in ${plural(path.explored.length, "step")}` : "";
  return `Path ${path.index}: ${ENDS[path.status] === "no answer" ? "finished" : ENDS[path.status] || path.status}${end}${score}, ${plural(path.tokens, "token")}${explored}`;
}

const rows = [];

// Tokens that the lanes are wide. While paths run there is room ahead of them, and it grows by halves.
function scaleOf(run, going) {
  let scale = 32;
  while (going && scale < run.longest) scale *= 1.5;
  return going ? scale : Math.max(scale, run.longest * 1.04);
}

function drawRace(run, order, going) {
  const scale = scaleOf(run, going);
  const most = highest(run);
  const list = $("paths");
  while (rows.length > run.paths.length) rows.pop().node.remove();
  for (const path of run.paths) {
    if (!rows[path.index]) list.append((rows[path.index] = new Row(path.index)).node);
    rows[path.index].draw(run, path, scale, most);
  }
  arrange(list, sorted(run.paths, order));
  drawAxis(scale);
  list.classList.toggle("many", run.paths.length > 24);
  const groups = [["running", "thinking"], ["finished", "finished"], ["pruned", "pruned"], ["truncated", "cut off"], ["waiting", "waiting"]];
  $("counts").textContent = groups.map(([status, word]) => [counted(run, status), word]).filter(([n]) => n).map((pair) => pair.join(" ")).join(" · ");
}

function sorted(paths, order) {
  const by = {
    index: () => 0,
    score: (a, b) => (b.score ?? -1) - (a.score ?? -1),
    answer: (a, b) => (a.answer === null) - (b.answer === null) || String(a.answer).localeCompare(String(b.answer), "en", { numeric: true }),
  }[order];
  return [...paths].sort((a, b) => by(a, b) || a.index - b.index);
}

function arrange(list, paths) {
  const focused = document.activeElement;
  paths.forEach((path, place) => {
    const node = rows[path.index].node;
    if (list.children[place] !== node) list.insertBefore(node, list.children[place]);
  });
  if (document.activeElement !== focused) focused.focus({ preventScroll: true }); // a node that moves loses it
}

function drawAxis(scale) {
  const width = $("axis").clientWidth || 600;
  const rough = scale / Math.max(2, width / 110);
  const unit = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 5, 10].map((n) => n * unit).find((n) => n >= rough);
  const at = [];
  for (let tick = 0; tick <= scale; tick += step) at.push(tick);
  const placed = (tag) => at.map((tick) => {
    const node = make(tag, "", tag === "span" ? (tick ? tick.toLocaleString("en") : "0 tokens") : undefined);
    node.style.left = `${(100 * tick) / scale}%`;
    return node;
  });
  $("axis").replaceChildren(...placed("span"));
  $("rules").replaceChildren(...placed("i"));
}

// -- votes and verdict ------------------------------------------------------------------------------------

function drawVotes(run) {
  const most = Math.max(1e-9, ...run.votes.map((vote) => vote.weight));
  const plain = run.votes.every((vote) => vote.weight === vote.paths);
  $("votes-title").hidden = !run.votes.length;
  $("votes").replaceChildren(...run.votes.slice(0, 12).map((vote, place) => {
    const node = make("li", `vote ${hueClass(run, vote.answer)}${place ? "" : " leading"}`);
    const bar = make("span", "bar-of");
    bar.append(make("i"));
    bar.firstChild.style.width = `${(100 * vote.weight) / most}%`;
    const figure = plural(vote.paths, "path") + (plain ? "" : ` · ${vote.weight.toFixed(2)}`);
    node.append(make("span", "vote-answer", vote.answer), make("span", "vote-figure", figure), bar);
    return node;
  }));
  const other = upset(run.votes);
  $("upset").hidden = !other;
  if (other) $("upset").textContent = `By plain count ${other.answer} would have won, with ${plural(other.paths, "path")}. The scores say otherwise.`;
}

function drawVerdict(run, going) {
  const { solution } = run;
  const leading = run.votes.length ? run.votes[0].answer : null;
  const answer = solution ? solution.answer : null;
  const words = solution
    ? { answered: "Answer", uncertain: "Not sure enough to answer", none: "No path came to an answer" }[solution.state] || "Answer"
    : going ? (leading === null ? "Thinking" : "Leading so far") : leading === null ? "Stopped" : "Stopped; leading was";
  $("state").textContent = words;
  const shown = answer ?? leading;
  $("answer").textContent = shown ?? (solution ? "–" : going ? "…" : "–");
  $("answer").className = `answer ${hueClass(run, shown)}${answer === null ? " open" : ""}${String(shown ?? "").length > 16 ? " long" : ""}`;
  $("sure").className = `sure ${hueClass(run, shown)}`;
  drawCertainty(solution);
  drawUsage(run);
}

function drawCertainty(solution) {
  $("sure").hidden = !solution || solution.state === "none";
  if (!solution) return;
  const calibrated = typeof solution.confidence === "number";
  const part = calibrated ? solution.confidence : solution.agreement;
  $("ring").style.strokeDasharray = `${100 * part} 100`;
  const all = (solution.paths || []).length;
  $("sure-figure").textContent = calibrated ? `${Math.round(100 * part)} %` : `${solution.votes.length ? solution.votes[0].paths : 0} of ${all}`;
  $("sure-words").textContent = calibrated ? "calibrated confidence that this is right" : "paths agree (not calibrated)";
}

function drawUsage(run) {
  const usage = run.solution && run.solution.usage;
  const facts = [["tokens", usage ? usage.thinking_tokens + usage.answer_tokens : spent(run)], ["steps that explored", run.paths.reduce((n, p) => n + p.explored.length, 0)]];
  if (usage && usage.probe_tokens) facts.push(["probe tokens", usage.probe_tokens]);
  if (usage && usage.saved_tokens) facts.push(["tokens saved, about", usage.saved_tokens]);
  if (run.solution) facts.push(["seconds", run.solution.seconds.toFixed(1)]);
  $("usage").replaceChildren(...facts.flatMap(([name, figure]) => {
    const pair = make("div");
    pair.append(make("dt", "", name), make("dd", "", typeof figure === "number" ? figure.toLocaleString("en") : figure));
    return pair;
  }));
}

// What is said aloud: seldom enough to be listened to.
function summary(run) {
  const { solution, votes } = run;
  if (run.error) return "";
  if (!solution) {
    const ended = run.paths.length - counted(run, "running") - counted(run, "waiting");
    return `${ended} of ${plural(run.paths.length, "path")} have stopped, ${counted(run, "pruned")} of them pruned.` + (votes.length ? ` Leading: ${votes[0].answer}.` : "");
  }
  const sure = typeof solution.confidence === "number"
    ? `Confidence ${Math.round(100 * solution.confidence)} percent.`
    : votes.length ? `${votes[0].paths} of ${plural(run.paths.length, "path")} agree.` : "";
  if (solution.state === "none") return "No path came to an answer.";
  return solution.answer === null ? `Not sure enough to answer. Leading: ${votes[0].answer}. ${sure}` : `Answer: ${solution.answer}. ${sure}`;
}
